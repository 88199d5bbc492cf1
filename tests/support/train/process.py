"""A trainer to be killed: ``run_trainer`` with the arguments of the command line, and a way to die on cue.

``--dies before:training`` kills the process (as kill -9 does) just before the transaction that moves a run
into ``training`` is committed, ``after:training`` just after; the same for every status, and for ``update``.
``--dies abort:each`` aborts the first transaction of each of these and lives on.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from driftloop.infra.cli.roles import stop_on_signals
from driftloop.schemas.runs import TrainingRun
from driftloop.schemas.serving import ModelUpdate
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.transactions import Aborted, Consumed
from driftloop.streams.train.shell import run_trainer
from driftloop.streams.train.step import Output
from driftloop.streams.train.step_writer import StepWriter

from tests.support.train.world import trainer_config


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("bootstrap", "prefix", "state", "instance", "clock"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--dies", default="")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if given.dies == "abort:each":
        _abort_each_once()
    elif given.dies:
        _die(*given.dies.split(":"))
    config = trainer_config(Path(given.state), given.instance, given.clock)
    run_trainer(Connection(given.bootstrap, given.prefix), config, stop_on_signals())


def _die(when: str, at: str) -> None:
    """Dies in the transaction that it concerns: once the offsets are sent, at the commit, or after it."""
    write = StepWriter.write

    def die(step: str = "offsets sent") -> None:
        if step == "offsets sent":
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(self: StepWriter, outputs: Iterable[Output], consumed: Consumed) -> None:
        written = tuple(outputs)
        met = any(_concerns(output, at) for output in written)
        if met and when == "before":
            self._transactions.run(lambda: self._send(written), consumed, observe=die)
        write(self, written, consumed)
        if met:
            die()

    StepWriter.write = dying  # type: ignore[method-assign]


def _abort_each_once() -> None:
    """As if the broker had aborted them: written, and nothing of it is there."""
    write = StepWriter.write
    due = {"waiting", "training", "evaluating", "update"}

    def aborting(self: StepWriter, outputs: Iterable[Output], consumed: Consumed) -> None:
        written = tuple(outputs)
        met = {at for at in due if any(_concerns(output, at) for output in written)}
        if not met:
            write(self, written, consumed)
            return
        due.difference_update(met)
        self._transactions.rehearse(lambda: self._send(written))
        raise Aborted(f"on cue: {met}")

    StepWriter.write = aborting  # type: ignore[method-assign]


def _concerns(output: Output, at: str) -> bool:
    if at == "update":
        return isinstance(output.event, ModelUpdate)
    return isinstance(output.event, TrainingRun) and output.event.status == at


if __name__ == "__main__":
    main()
