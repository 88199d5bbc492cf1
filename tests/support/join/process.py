"""A joiner as a process of its own, for tests to kill.

``--die STEP N`` ends it as kill -9 does, the Nth time that a batch has come through that step.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from driftloop.infra.cli.roles import stop_on_signals
from driftloop.streams.join.config import JoinTuning
from driftloop.streams.join.shell import run_joiner
from driftloop.streams.kafka.connection import Connection


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "prefix", "folder", "name"):
        parser.add_argument(name)
    parser.add_argument("--die", nargs=2, metavar=("STEP", "N"), default=("", "0"))
    parser.add_argument("--max-batch", type=int, default=500)
    parser.add_argument("--flush-s", type=float, default=0.3)
    parser.add_argument("--store")
    parser.add_argument("--checkpoint-s", type=float, default=300.0)
    given = parser.parse_args()
    stop = stop_on_signals()
    left = int(given.die[1])

    def observe(step: str) -> None:
        nonlocal left
        if step == given.die[0]:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    run_joiner(
        Connection(given.bootstrap, given.prefix),
        state_dir=Path(given.folder),
        instance_id=given.name,
        stop=stop,
        store_url=given.store,
        tuning=JoinTuning(
            max_batch=given.max_batch,
            flush_interval_s=given.flush_s,
            memory_ids=200,
            linger_s=0.005,
            backlog=20,
            max_held=50,
            checkpoint_interval_s=given.checkpoint_s,
        ),
        observe=observe,
    )


if __name__ == "__main__":
    main()
