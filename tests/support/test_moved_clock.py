"""A moved wall clock: what a process sees of it, and what stays true."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.moved_clock import HOUR_S, MovedClocks
from tests.support.waiting import wait_until

_PROCESS = """
import ctypes, sys, threading, time
from confluent_kafka import Consumer
print(time.time(), time.monotonic(), flush=True)
sys.stdin.readline()
print(time.time(), time.monotonic(), flush=True)
time.sleep(0.01)
assert not threading.Event().wait(0.01)
consumer = Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "g", "log_level": 0})
consumer.subscribe(["t"])
assert consumer.poll(0.01) is None
print(time.time(), time.monotonic(), flush=True)
consumer.close()
"""
_WAITS = """
import ctypes, time
libc = ctypes.CDLL(None)
def later():
    until = (ctypes.c_long * 2)(int(time.time()) + 3_000, 0)
    print("waits", flush=True)
    return until
sem, condition, mutex = (ctypes.create_string_buffer(128) for _ in range(3))
libc.pthread_mutex_lock(mutex)
assert libc.sem_timedwait(sem, later()) == -1
until = later()
while not libc.pthread_cond_timedwait(condition, mutex, until):
    pass
until = later()
while not libc.cnd_timedwait(condition, mutex, until):
    pass
print("waited", flush=True)
"""


@pytest.fixture
def clocks(tmp_path: Path) -> MovedClocks:
    clocks = MovedClocks(tmp_path)
    if clocks.missing:
        pytest.skip(clocks.missing)
    return clocks


def is_asleep(process: subprocess.Popen[str]) -> bool:
    """Whether Linux says of it, which has one thread, that it waits for something."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def started(clocks: MovedClocks, program: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | clocks.environment("p"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("moved_s", [-HOUR_S, HOUR_S])
def test_only_the_wall_clock_moves_and_waits_last_as_long_as_ever(clocks: MovedClocks, moved_s: int) -> None:
    with started(clocks, _PROCESS) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        before = [float(number) for number in process.stdout.readline().split()]
        clocks.move("p", moved_s)
        process.stdin.write("\n")
        process.stdin.flush()
        after, later = ([float(number) for number in line.split()] for line in process.stdout)
    assert process.returncode == 0
    assert after[0] - before[0] - moved_s == pytest.approx(after[1] - before[1], abs=0.1)
    assert later[0] - after[0] == pytest.approx(later[1] - after[1], abs=0.1)
    assert later[1] - before[1] < HOUR_S / 2


def test_a_wait_for_a_time_of_the_wall_clock_ends_when_the_clock_gets_there(clocks: MovedClocks) -> None:
    with started(clocks, _WAITS) as process:
        assert process.stdout is not None
        for number, _ in enumerate(("semaphore", "condition of POSIX", "condition of C"), 1):
            assert process.stdout.readline() == "waits\n"
            wait_until(lambda: is_asleep(process), "it waits")
            clocks.move("p", number * HOUR_S)
        assert process.stdout.readline() == "waited\n"
    assert process.returncode == 0
