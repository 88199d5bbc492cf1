"""The fixtures' own promises: an exception that dies unseen fails the test it happened in."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.stopwatch import Stopwatch
from tests.support.waiting import wait_until

THREAD = """
import threading

def test_it():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
"""
FINALISER = """
class Thing:
    def __del__(self):
        raise ValueError("nobody sees this")

def test_it():
    Thing()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("source", "dies_of"), [(THREAD, "ZeroDivisionError"), (FINALISER, "ValueError")])
def test_an_exception_that_nobody_caught_fails_the_test(tmp_path: Path, source: str, dies_of: str) -> None:
    (tmp_path / "conftest.py").symlink_to(ROOT / "tests" / "conftest.py")
    (tmp_path / "test_inner.py").write_text(source, "utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", ".", "."],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout + result.stderr
    assert dies_of in result.stdout


def test_waiting_ends_at_its_deadline_and_says_for_what() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.05 s: rain; last value: 0"):
        wait_until(lambda: 0, "rain", deadline_s=0.05)
    assert wait_until(lambda: "at once", deadline_s=0) == "at once"


def test_a_stopwatch_counts_a_wait_and_counts_it_shorter_on_a_busy_machine() -> None:
    with Stopwatch() as watch:
        threading.Event().wait(0.1)
    assert watch.seconds == watch.wall_s / watch.slowness
    assert watch.wall_s >= 0.1
    watch._works = [10.0]  # each piece of work took ten seconds
    assert watch.seconds < watch.wall_s / 100
