"""A measurement in a process of its own, and the CPU time of any process."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from driftloop.streams.kafka.connection import Connection

ROOT = Path(__file__).parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of all threads of a process so far; 0 once it is gone. Resolution: 10 ms."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_mb(pid: int | None = None) -> float:
    """Resident memory of a process (by default this one) now, in MB."""
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def peak_rss_mb(pid: int | None = None) -> float:
    status = Path(f"/proc/{pid or 'self'}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


@contextmanager
def driftloop(
    role: str, connection: Connection, folder: Path, *arguments: str, **settings: str
) -> Generator[subprocess.Popen[bytes]]:
    """``driftloop ROLE`` as a user starts it, its output in ``folder``; it is asked to stop at the end."""
    environment = os.environ | {
        "DRIFTLOOP_BOOTSTRAP_SERVERS": connection.bootstrap_servers,
        "DRIFTLOOP_TOPIC_PREFIX": connection.prefix,
        "DRIFTLOOP_STATE_DIR": str(folder),
        "DRIFTLOOP_INSTANCE_ID": f"{role}-0",
        **{f"DRIFTLOOP_{name.upper()}": value for name, value in settings.items()},
    }
    command = [str(Path(sys.executable).with_name("driftloop")), role, *arguments]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
        try:
            yield process
        finally:
            ended(process)


def ended(process: subprocess.Popen[bytes], within_s: float = 15) -> None:
    """Asks a process to stop, and makes it if it does not."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def arguments(doc: str | None, *roles: str) -> argparse.ArgumentParser:
    """A benchmark's options; ``roles``: what its own processes are started as (see ``in_process``)."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--bootstrap", help="a cluster that runs; by default one is embedded")
    if roles:
        parser.add_argument("--role", choices=roles, help=argparse.SUPPRESS)
        parser.add_argument("--prefix", default="", help=argparse.SUPPRESS)
        parser.add_argument("--records", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def in_process(
    module: str, role: str, connection: Connection, extra: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """What ``python -m MODULE --role ROLE --bootstrap … --prefix … [--NAME VALUE]`` prints last, as JSON."""
    arguments = [
        f"--role={role}",
        f"--bootstrap={connection.bootstrap_servers}",
        f"--prefix={connection.prefix}",
    ]
    arguments += [f"--{name.replace('_', '-')}={value}" for name, value in (extra or {}).items()]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return orjson.loads(done.stdout.splitlines()[-1])
