"""A monitor that is slower than its vitals falls behind in the log, not in memory, and misses nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path

from driftloop.streams.kafka.connection import Connection

from tests.soak.monitor.run import Report, VitalsWriter, Worker, compare
from tests.soak.monitor.subjects import SLOW_RECORD_BYTES, SUBJECTS
from tests.support.monitor.progress import MonitorProgress
from tests.support.waiting import wait_until

TRANSACTIONS = 400


def memory_bytes(pid: int, which: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024
    raise LookupError(which)


def test_a_slow_monitor_holds_a_bounded_part_of_what_waits_for_it(topics: Connection, tmp_path: Path) -> None:
    writer = VitalsWriter(topics, SUBJECTS["slow"], seed=1, rate=5_000.0)
    writer.start()
    wait_until(lambda: writer.committed >= TRANSACTIONS, "the backlog is written")
    writer.stop()
    worker = Worker(topics, "monitor-0", tmp_path, "slow")
    worker.wait_applying()
    at_first = memory_bytes(worker.process.pid, "VmRSS")
    with contextlib.closing(MonitorProgress(topics)) as progress:
        assert progress.behind() > 0  # else it was not slow
        wait_until(lambda: progress.behind() == 0, "the monitor has caught up")
    grown = memory_bytes(worker.process.pid, "VmHWM") - at_first
    worker.terminate()
    report = Report()
    compare(topics, SUBJECTS["chain"], report)  # the same core, without the delay
    assert report.exact, report
    backlog = report.records * SLOW_RECORD_BYTES
    assert grown < backlog / 6, f"{grown / 2**20:.0f} MiB for a backlog of {backlog / 2**20:.0f} MiB"
