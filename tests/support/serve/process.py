"""The reference server: ``driftloop serve`` as people start it, and an app behind uvicorn in a thread."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from driftloop.infra.settings import Settings

from tests.support.cli import environment_of
from tests.support.waiting import wait_until


@contextmanager
def server_process(settings: Settings, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``driftloop serve`` on a free port, and its address."""
    own = {"DRIFTLOOP_INSTANCE_ID": "serve-0", "DRIFTLOOP_HTTP_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "driftloop", "serve", *arguments],
        env=os.environ | environment_of(settings) | own, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        found = next(filter(None, (re.search(r"on http://\S+:(\d+)", line) for line in process.stderr)), None)
        assert found, "the server ended before it served"
        threading.Thread(target=process.stderr.read, daemon=True).start()  # so that it never blocks on us
        yield process, f"http://127.0.0.1:{found[1]}"
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def wait_ready(address: str) -> None:
    wait_until(lambda: httpx.get(f"{address}/health/ready", timeout=5).status_code == 200, "readiness")


@contextmanager
def uvicorn_thread(app: Any, **config: Any) -> Iterator[int]:
    """Serve the app from a thread; gives the port."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False, **config)
    )
    listening = server.config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
