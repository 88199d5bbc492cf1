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
from collections.abc import Callable, Iterable
from pathlib import Path

from driftloop.infra.cli.roles import stop_on_signals
from driftloop.schemas.runs import TrainingRun
from driftloop.schemas.serving import ModelUpdate
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.train import rebuild as trainer_log
from driftloop.streams.train.shell import TrainerTuning, run_trainer
from driftloop.streams.train.step import Output


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
    stop = stop_on_signals()
    state = Path(given.state)
    run_trainer(
        Connection(given.bootstrap, given.prefix),
        store_url=str(state / "artifacts"),
        keys_dir=state / "keys",
        state_dir=state / given.instance,
        instance_id=given.instance,
        clock=given.clock,
        stop=stop,
        tuning=TrainerTuning(custom_learners=frozenset({"tests.support.train.learners"})),
    )


def _die(when: str, at: str) -> None:
    """Replaces the commit by one that is the last thing this process does."""
    write = trainer_log.Transactions.write

    def dying(self: trainer_log.Transactions, outputs: Iterable[Output], *rest: object) -> None:
        written = tuple(outputs)
        if not any(_concerns(output, at) for output in written):
            write(self, written, *rest)  # type: ignore[arg-type]
            return
        if when == "after":
            write(self, written, *rest)  # type: ignore[arg-type]
        else:
            patiently = self._patiently
            calls = iter((patiently, lambda _call: os.kill(os.getpid(), signal.SIGKILL)))

            def until_commit(call: Callable[[], object]) -> None:
                next(calls)(call)  # the offsets are sent; at the commit all ends

            self._patiently = until_commit  # type: ignore[method-assign]
            write(self, written, *rest)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGKILL)

    trainer_log.Transactions.write = dying  # type: ignore[method-assign]


def _abort_each_once() -> None:
    """As if the broker had aborted them: written, and nothing of it is there."""
    write = trainer_log.Transactions.write
    due = {"waiting", "training", "evaluating", "update"}

    def aborting(self: trainer_log.Transactions, outputs: Iterable[Output], *rest: object) -> None:
        written = tuple(outputs)
        met = {at for at in due if any(_concerns(output, at) for output in written)}
        if not met:
            write(self, written, *rest)  # type: ignore[arg-type]
            return
        due.difference_update(met)
        self._producer.begin_transaction()
        for output in written:
            self._produce(output)
        self._producer.abort_transaction()
        raise trainer_log.Aborted(f"on cue: {met}")

    trainer_log.Transactions.write = aborting  # type: ignore[method-assign]


def _concerns(output: Output, at: str) -> bool:
    if at == "update":
        return isinstance(output.event, ModelUpdate)
    return isinstance(output.event, TrainingRun) and output.event.status == at


if __name__ == "__main__":
    main()
