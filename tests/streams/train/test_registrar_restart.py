"""What a registrar takes over from the log, in whatever order it is read, and what its updates carry."""

from __future__ import annotations

from driftloop.schemas.runs import TrainingRun
from driftloop.schemas.serving import ModelUpdate
from driftloop.streams.train.registrar import Registrar

from tests.support.train.core import MODEL, SIGNER, Bench


def with_versions(count: int) -> Bench:
    bench = Bench()
    for _ in range(count):
        bench.version()
    return bench


def test_an_older_update_that_is_read_later_changes_nothing() -> None:
    updates = with_versions(3).of(ModelUpdate)
    registrar = Registrar(MODEL, SIGNER)
    for update in (*updates, updates[0]):
        registrar.restore(update)
    assert (registrar.serving.generation, registrar.serving.champion) == (3, 3)


def test_an_update_never_takes_back_a_number_that_a_run_was_given() -> None:
    bench = with_versions(3)
    registrar = Registrar(MODEL, SIGNER)
    for run in bench.of(TrainingRun):
        registrar.know(run)
    registrar.restore(bench.of(ModelUpdate)[1])
    assert (registrar.serving.champion, registrar.serving.last_version) == (2, 3)


def test_a_pin_is_in_the_update_and_ends_with_the_models_retirement() -> None:
    bench = with_versions(1)
    assert bench.command("pin").status == "done"
    assert bench.of(ModelUpdate)[-1].pinned
    assert bench.command("retire").status == "done"
    assert not bench.of(ModelUpdate)[-1].pinned
    assert not bench.runs.registrar.serving.pinned
