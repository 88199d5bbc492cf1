"""Whether the cost of an event stays flat: by pending predictions, by models, by features.

    python -m benchmarks.scale [--pending 10000000] [--pairs 60000] [--rounds 3]

- pending: one joiner is given ever more predictions that nobody labels yet; at each step pairs pass, the
  label 1,000 events after its prediction, and then labels of predictions from anywhere in the past
  (``far``). Memory and disk are those at that step.
- models: the same traffic shared by 1 to 1,000 models, each round with joiners of its own.
- features: 5 to 100 per prediction, beside the floor on the same records: what parsing alone grows by.

CPU time of the joiner's process per record (all threads), with default settings and state on disk; the
joiner is held (SIGSTOP) while a step's records are written, so that it meets them as a backlog. Writes
``.driftloop/bench/scale.json`` with a fit of each curve, and ``scale.png``.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from driftloop.schemas.topics import LABELS, PREDICTIONS
from driftloop.streams.kafka.connection import Connection

from .floor import floor_in_process
from .join import join_in_process, joiner
from .support.cluster import cluster, fresh
from .support.curves import draw, fitted
from .support.events import APART, Shape, Writer, fill, label_of, prediction_of
from .support.process import ROOT, arguments, peak_rss_mb, rss_mb
from .support.results import show, write

PENDING = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
MODELS = (1, 10, 100, 1_000)
FEATURES = (5, 20, 50, 100)
_CHUNK = 1_000_000  # written at once while the joiner runs
_SETTLING_S = 60.0


class HeldJoiner:
    """A joiner in a process of its own that tells its CPU time at a record count, and can be held."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.records = 0

    @contextmanager
    def held(self) -> Generator[None]:
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def after(self, records: int) -> dict[str, float]:
        """Waits until so many more have been joined: process time so far, and memory now."""
        self.records += records
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self.records}\n".encode())
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the joiner ended; its words are above")
        return orjson.loads(line)

    def settled(self) -> dict[str, float]:
        """As ``after(0)``, once RocksDB has compacted what was written for the records so far."""
        usage, deadline = self.after(0), time.monotonic() + _SETTLING_S
        while time.monotonic() < deadline:
            time.sleep(1.0)
            before, usage = usage, self.after(0)
            if usage["cpu_s"] - before["cpu_s"] < 0.1:
                break
        return usage


@contextmanager
def held_joiner(connection: Connection, folder: Path) -> Generator[HeldJoiner]:
    command = [sys.executable, "-m", "benchmarks.scale", "--role=join", f"--folder={folder}"]
    command += [f"--bootstrap={connection.bootstrap_servers}", f"--prefix={connection.prefix}"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield HeldJoiner(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


def be_held(connection: Connection, folder: Path) -> None:
    """The other side of HeldJoiner."""
    with joiner(connection, folder) as running:
        for line in sys.stdin:
            running.wait_for(int(line))
            usage = {"cpu_s": time.process_time(), "rss_mb": rss_mb(), "peak_rss_mb": peak_rss_mb()}
            print(orjson.dumps(usage).decode(), flush=True)


def by_pending(bootstrap: str, most: int, pairs: int) -> list[dict[str, float]]:
    connection = fresh(bootstrap)
    predictions, labels = connection.topic(PREDICTIONS), connection.topic(LABELS)
    points: list[dict[str, float]] = []
    written = pending = far = 0
    with tempfile.TemporaryDirectory() as folder, held_joiner(connection, Path(folder)) as joining:
        for step in (step for step in PENDING if step <= most):
            while pending < step:
                count = min(_CHUNK, step - pending)
                with Writer(connection) as send:
                    for i in range(written, written + count):
                        send(predictions, i, prediction_of(i, ("late",), 5))
                written, pending = written + count, pending + count
                joining.after(count)
            start = joining.settled()
            with joining.held(), Writer(connection) as send:
                for i in range(written, written + pairs + APART):
                    if i < written + pairs:
                        send(predictions, i, prediction_of(i, ("late",), 5))
                    if i >= written + APART:
                        send(labels, i - APART, label_of(i - APART))
            written += pairs
            near_end = joining.after(2 * pairs)
            # Each once, from anywhere among what was pending before; these are few, and not made up for.
            apart = max(1, step // (pairs // 4)) | 1
            late = [i for i in range(far % apart, step, apart)][: pairs // 4]
            far += 1
            with joining.held(), Writer(connection) as send:
                for i in late:
                    send(labels, i, label_of(i))
            far_end = joining.after(len(late))
            points.append(
                {
                    "pending": step,
                    "us": round((near_end["cpu_s"] - start["cpu_s"]) / (2 * pairs) * 1e6, 3),
                    "far_us": round((far_end["cpu_s"] - near_end["cpu_s"]) / len(late) * 1e6, 3),
                    "rss_mb": round(far_end["rss_mb"]),
                    "peak_rss_mb": round(far_end["peak_rss_mb"]),
                    "disk_mb": round(_size(Path(folder)) / 2**20),
                }
            )
            print(points[-1], file=sys.stderr)
    return points


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # RocksDB has just compacted it away
            continue
    return total


def by_shape(
    bootstrap: str, shapes: Sequence[Shape], pairs: int, rounds: int
) -> list[tuple[Shape, float, float]]:
    """Per shape the joiner's and the floor's CPU µs per record, medians of interleaved rounds."""
    joins: dict[Shape, list[float]] = {shape: [] for shape in shapes}
    floors: dict[Shape, list[float]] = {shape: [] for shape in shapes}
    for _ in range(rounds):
        for shape in shapes:
            connection = fresh(bootstrap, models=shape.models)
            fill(connection, pairs, shape)
            floors[shape].append(floor_in_process(connection, 2 * pairs)["us"])
            joins[shape].append(join_in_process(connection, 2 * pairs)["us"])
            print(f"{shape}: {joins[shape][-1]:.2f}, floor {floors[shape][-1]:.2f}", file=sys.stderr)
    return [(shape, statistics.median(joins[shape]), statistics.median(floors[shape])) for shape in shapes]


def measure(bootstrap: str, most: int, pairs: int, rounds: int) -> dict[str, Any]:
    models = by_shape(bootstrap, [Shape(models=count) for count in MODELS], pairs, rounds)
    features = by_shape(bootstrap, [Shape(features=count) for count in FEATURES], pairs, rounds)
    pending = by_pending(bootstrap, most, pairs)
    few, many = features[0], features[-1]
    return {
        "pairs": pairs,
        "rounds": rounds,
        "pending": pending,
        "models": [{"models": s.models, "us": round(us, 3), "floor_us": round(f, 3)} for s, us, f in models],
        "features": [
            {"features": s.features, "us": round(us, 3), "floor_us": round(f, 3)} for s, us, f in features
        ],
        "pending_ratio": round(pending[-1]["us"] / pending[0]["us"], 2),
        "models_ratio": round(models[-1][1] / models[0][1], 2),
        # What a hundred features add to the joiner, over what they add to reading and parsing.
        "features_ratio": round((many[1] - few[1]) / (many[2] - few[2]), 2),
        "peak_rss_mb": max(point["peak_rss_mb"] for point in pending),
        "bytes_per_pending": round(
            (pending[-1]["disk_mb"] - pending[0]["disk_mb"]) * 2**20
            / max(1, pending[-1]["pending"] - pending[0]["pending"])
        ),
        "fits": {
            "pending": fitted([(p["pending"], p["us"]) for p in pending], logarithmic=True),
            "models": fitted([(s.models, us) for s, us, _ in models], logarithmic=False),
            "features": fitted([(s.features, us) for s, us, _ in features], logarithmic=False),
        },
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__, "join")
    parser.add_argument("--pending", type=int, default=PENDING[-1], help="the most pending predictions")
    parser.add_argument("--pairs", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        be_held(Connection(given.bootstrap, given.prefix), given.folder)
        return
    with cluster(given.bootstrap) as bootstrap:
        result = measure(bootstrap, given.pending, given.pairs, given.rounds)
    picture = write("scale", result).with_suffix(".png")
    draw(result, picture)
    report(result, picture)


def report(result: dict[str, Any], picture: Path) -> None:
    rows: list[tuple[object, ...]] = []
    for point in result["pending"]:
        what = f"{point['pending']:,} pending"
        rows.append((what, point["us"], f"far {point['far_us']}", f"{point['rss_mb']} MB"))
    for point in result["models"]:
        rows.append((f"{point['models']:,} models", point["us"], f"floor {point['floor_us']}", ""))
    for point in result["features"]:
        rows.append((f"{point['features']} features", point["us"], f"floor {point['floor_us']}", ""))
    note = (
        f"pending {result['pending_ratio']} (≤ 1.3), models {result['models_ratio']} (≤ 1.5), "
        f"features {result['features_ratio']} of parsing's growth (≤ 1.2); {picture}"
    )
    show("cost of an event", ("", "CPU µs per event", "", "memory"), rows, note)


if __name__ == "__main__":
    main()
