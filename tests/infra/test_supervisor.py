"""The supervisor starts roles, passes on what they say, restarts what dies and leaves nothing running."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from driftloop.infra import supervisor as module
from driftloop.infra.supervisor import RoleProcess, Supervisor

from tests.support.waiting import wait_until


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.05)


@pytest.mark.usefixtures("fake_driftloop")
def test_what_a_role_prints_comes_with_its_name() -> None:
    said: list[tuple[str, str]] = []
    running = Supervisor(
        (RoleProcess("join", ("join", "x"), {"GREETING": "hi"}),), lambda r, line: said.append((r, line))
    )
    running.start()
    try:
        wait_until(lambda: ("join", "hello join x hi") in said)
    finally:
        running.stop()


@pytest.mark.slow
@pytest.mark.usefixtures("fake_driftloop")
def test_a_killed_role_is_restarted_and_said_so() -> None:
    said: list[str] = []
    running = Supervisor((RoleProcess("join", ("join",)),), lambda _, line: said.append(line))
    running.start()
    try:
        wait_until(lambda: "hello join " in said)
        first = running.pid("join")
        os.kill(first, signal.SIGKILL)

        def restarted() -> bool:
            running.watch()
            return running.pid("join") != first and said.count("hello join ") == 2

        wait_until(restarted)
        assert any("ended with signal SIGKILL" in line for line in said)
    finally:
        running.stop()


@pytest.mark.usefixtures("fake_driftloop")
def test_stopping_leaves_nothing_running_not_even_the_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", 0.5)
    said: list[str] = []
    running = Supervisor(
        (RoleProcess("good", ("good",)), RoleProcess("stubborn", ("stubborn",))),
        lambda _, line: said.append(line),
    )
    stop = threading.Event()
    running.start()
    pids = [running.pid("good"), running.pid("stubborn")]
    wait_until(lambda: "deaf" in said and "hello good " in said)
    stop.set()
    running.run(stop)
    assert not any(alive(pid) for pid in pids)
    assert any("did not stop" in line for line in said)
