"""The supervisor starts roles, passes on what they say, restarts what dies and leaves nothing running."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from driftloop.infra import restarts
from driftloop.infra import supervisor as module
from driftloop.infra.supervisor import RoleProcess, Supervisor

from tests.support.waiting import wait_until


@pytest.fixture
def fake_driftloop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `driftloop` in front of the real one whose __main__ says its arguments and waits."""
    package = tmp_path / "driftloop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        "import os, signal, sys\n"
        "print('hello', *sys.argv[1:], os.environ.get('GREETING', ''))\n"
        "if sys.argv[1] == 'stubborn': signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf')\n"
        "signal.pause()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restarts, "FIRST_PAUSE_S", 0.05)


@contextmanager
def supervised(*roles: RoleProcess) -> Iterator[tuple[Supervisor, list[str]]]:
    """Run the roles; the list has what they print, each line after its role's name."""
    printed: list[str] = []
    running = Supervisor(roles, lambda role, line: printed.append(f"{role}: {line}"))
    running.start()
    try:
        yield running, printed
    finally:
        running.stop()


@pytest.mark.usefixtures("fake_driftloop")
def test_what_a_role_prints_comes_with_its_name() -> None:
    with supervised(RoleProcess("join", ("join", "x"), {"GREETING": "hi"})) as (_, printed):
        wait_until(lambda: "join: hello join x hi" in printed)


@pytest.mark.slow
@pytest.mark.usefixtures("fake_driftloop")
def test_a_killed_role_is_restarted_and_said_so() -> None:
    with supervised(RoleProcess("join", ("join",))) as (running, printed):
        wait_until(lambda: "join: hello join " in printed)
        first = running.pid("join")
        os.kill(first, signal.SIGKILL)

        def restarted() -> bool:
            running.watch()
            return running.pid("join") != first and printed.count("join: hello join ") == 2

        wait_until(restarted)
        assert any("ended with signal SIGKILL" in line for line in printed)


@pytest.mark.usefixtures("fake_driftloop")
def test_stopping_leaves_nothing_running_not_even_the_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", 0.5)
    roles = [RoleProcess(name, (name,)) for name in ("good", "stubborn")]
    stop = threading.Event()
    with supervised(*roles) as (running, printed):
        pids = [running.pid("good"), running.pid("stubborn")]
        wait_until(lambda: {"stubborn: deaf", "good: hello good "} <= {*printed})
        stop.set()
        running.run(stop)
        assert not any(map(psutil.pid_exists, pids))
        assert any("did not stop" in line for line in printed)
