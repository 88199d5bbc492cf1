"""A server never gets worse by an update, whatever the update, the store or the model do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from driftloop.schemas.errors import NoModelError
from driftloop.schemas.serving import Manifest
from driftloop.streams.serve.hot.swap import Current, HotSwap

from tests.support.meanwhile import meanwhile
from tests.support.serve.broken_updates import FAILURES
from tests.support.serve.hot_bench import INPUTS, ROW, HotBench, answers, ref


@pytest.fixture
def bench(tmp_path: Path) -> HotBench:
    return HotBench(tmp_path)


def test_an_update_goes_live_and_answers_as_its_version(bench: HotBench) -> None:
    with pytest.raises(NoModelError, match="no live version yet"):
        bench.swap.predict([ROW])
    with pytest.raises(NoModelError, match="no live version yet"):
        bench.swap.predict_one(ROW, "a")
    for generation, version in ((1, 1), (2, 2), (7, 1)):
        applied = bench.apply(bench.update(generation, version))
        assert (applied.status, applied.reason) == ("live", "")
        assert (applied.version, applied.refresh, applied.generation) == (version, 0, generation)
        assert applied.load_ms > 0
        served = bench.swap.predict(INPUTS[:50])
        assert [one.answer for one in served] == answers(bench, version)
        assert {(one.version, one.refresh, one.role) for one in served} == {(version, 0, "champion")}
        assert bench.swap.current == Current(version, 0, generation)
        assert bench.swap.champion == bench.manifests[version]
        assert bench.swap.last_generation == generation


def test_a_retired_model_does_not_answer(bench: HotBench) -> None:
    bench.apply(bench.update(1, 1))
    applied = bench.apply(bench.update(2, None))
    assert (applied.status, applied.version) == ("live", 0)
    assert bench.swap.champion is None
    with pytest.raises(NoModelError):
        bench.swap.predict([ROW])


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__.strip("_"))
def test_the_old_version_serves_on_and_the_refusal_says_why(bench: HotBench, failure: Any) -> None:
    bench.apply(bench.update(1, 1))
    before = bench.swap.predict(INPUTS[:50])
    reason, retriable = FAILURES[failure]
    applied = bench.apply(failure(bench))
    assert applied.status == "refused"
    assert reason in applied.reason
    assert applied.retriable == retriable
    assert (applied.version, bench.swap.current) == (1, Current(1, 0, 1))
    assert bench.swap.predict(INPUTS[:50]) == before


def test_a_store_that_fails_in_its_own_way_takes_nothing_down(bench: HotBench) -> None:
    class Broken:
        def get_manifest(self, model: str, sha256: str) -> Manifest:
            raise ConnectionResetError("the bucket is gone")

        def get_artifact(self, model: str, sha256: str, max_bytes: int = 0) -> bytes:
            raise AssertionError("not reached")

    bench.apply(bench.update(1, 1))
    update = bench.update(2, 2)
    applied = bench.swap.apply(update, store=Broken(), verifier=bench.verifier)
    assert (applied.status, applied.retriable, applied.version) == ("refused", True, 1)
    assert "the bucket is gone" in applied.reason
    assert bench.apply(update).status == "live"  # the same update, once the store is back


def test_a_generation_not_above_the_last_is_stale(bench: HotBench) -> None:
    bench.apply(bench.update(5, 1))
    for generation in (5, 4, 1):
        applied = bench.apply(bench.update(generation, 2))
        assert (applied.status, applied.version) == ("refused", 1)
        assert f"generation {generation} is stale" in applied.reason
    assert bench.swap.last_generation == 5


def test_an_authentic_update_that_failed_still_bars_older_ones(bench: HotBench) -> None:
    bench.apply(bench.update(1, 1))
    bench.artifact(3).write_bytes(b"junk")
    assert bench.apply(bench.update(9, 3)).status == "refused"
    assert bench.swap.last_generation == 9
    assert "stale" in bench.apply(bench.update(8, 2)).reason


def test_a_forged_generation_bars_nothing(bench: HotBench) -> None:
    bench.apply(bench.update(1, 1))
    bench.apply(bench.update(2, 2).model_copy(update={"generation": 2**40}))
    assert bench.swap.last_generation == 1
    assert bench.apply(bench.update(2, 2)).status == "live"


def test_a_restarted_server_loads_its_last_generation_again_and_none_before(bench: HotBench) -> None:
    bench.swap = HotSwap("m", last_generation=6)
    assert "stale" in bench.apply(bench.update(5, 1)).reason
    assert bench.apply(bench.update(6, 2)).status == "live"
    assert "stale" in bench.apply(bench.update(6, 1)).reason
    assert bench.swap.current.version == 2


def test_what_is_loaded_already_is_not_read_again(bench: HotBench) -> None:
    bench.apply(bench.update(1, 1, shadows=[ref(bench, 2)]))
    bench.artifact(1).unlink()
    bench.artifact(2).unlink()
    # Shadow and champion change places, and a canary joins: only that one is read.
    applied = bench.apply(bench.update(2, 2, shadows=[ref(bench, 1)], canary=ref(bench, 3, fraction=0.2)))
    assert (applied.status, applied.reason) == ("live", "")
    assert bench.swap.current == Current(2, 0, 2, shadows=(1,), canary=3)


def test_shadows_answer_beside_and_are_named(bench: HotBench) -> None:
    bench.apply(bench.update(1, 1, shadows=[ref(bench, 2), ref(bench, 3)]))
    assert {one.role for one in bench.swap.predict(INPUTS[:50])} == {"champion"}
    shadows = bench.swap.predict_shadows(INPUTS[:50])
    assert [{(one.version, one.role) for one in of_one} for of_one in shadows] == [
        {(2, "shadow")},
        {(3, "shadow")},
    ]
    assert [one.answer for one in shadows[1]] == answers(bench, 3)


def test_the_canary_answers_its_share_of_ids_and_always_the_same(bench: HotBench) -> None:
    ids = [f"request-{i}" for i in range(2000)]
    rows = [INPUTS[i % len(INPUTS)] for i in range(2000)]
    champion, canary = answers(bench, 1), answers(bench, 2)
    chosen: dict[float, set[str]] = {}
    for generation, fraction in ((1, 0.1), (2, 0.3)):
        bench.apply(bench.update(generation, 1, canary=ref(bench, 2, fraction=fraction)))
        served = bench.swap.predict(rows, ids)
        for i, one in enumerate(served[:50]):
            assert one.answer == (canary if one.role == "canary" else champion)[i]
            assert one.version == (2 if one.role == "canary" else 1)
        chosen[fraction] = {i for i, one in zip(ids, served, strict=True) if one.role == "canary"}
        assert len(chosen[fraction]) == pytest.approx(2000 * fraction, rel=0.25)
        alone = {
            i for i, row in zip(ids, rows, strict=True) if bench.swap.predict([row], [i])[0].role == "canary"
        }
        assert alone == chosen[fraction]
        one_by_one = [bench.swap.predict_one(row, i) for i, row in zip(ids[:300], rows, strict=False)]
        for one, among_others in zip(one_by_one, served, strict=False):
            # One row and many take different paths through BLAS, which may differ in the last bit.
            assert (one.version, one.role) == (among_others.version, among_others.role)
            assert one.answer.prediction == among_others.answer.prediction
            assert one.answer.scores == pytest.approx(among_others.answer.scores, rel=1e-12)
    assert chosen[0.1] < chosen[0.3]
    assert {one.role for one in bench.swap.predict(rows)} == {"champion"}


def test_requests_from_many_threads_meet_one_whole_version_each(bench: HotBench) -> None:
    expected = {version: answers(bench, version) for version in (1, 2)}
    bench.apply(bench.update(1, 1))
    wrong: list[str] = []

    def ask() -> None:
        served = bench.swap.predict(INPUTS[:50])
        versions = {one.version for one in served}
        if len(versions) != 1 or [one.answer for one in served] != expected[versions.pop()]:
            wrong.append("a batch was answered by more than one version")

    with meanwhile(ask, threads=4):
        for generation in range(2, 30):
            assert bench.apply(bench.update(generation, 1 + generation % 2)).status == "live"
    assert wrong == []
