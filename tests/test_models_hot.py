"""A server never gets worse by an update, whatever the update, the store or the model do."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from driftloop.models.artifacts import ArtifactStore
from driftloop.models.features import infer_features
from driftloop.models.fitted import Fitted
from driftloop.models.hot import Applied, Current, HotSwap, Served
from driftloop.models.learners import make_learner
from driftloop.models.signing import load_or_create_keypair
from driftloop.schemas.errors import NoModelError
from driftloop.schemas.serving import Manifest, ModelUpdate, SelfTestRow
from driftloop.schemas.spec import HistGradientBoosting, ModelSpec, RiverLinear
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from .model_worlds import manifest_of, update_to, world

ROWS = world(600, seed=4)
INPUTS = [row.features for row in ROWS]
ROW = INPUTS[0]


def _fit(seed: int, *, flipped: bool = False) -> Fitted:
    rows = world(600, seed=seed, flipped=flipped)
    inputs = [row.features for row in rows]
    spec = HistGradientBoosting(max_iter=5) if seed % 2 else RiverLinear()
    return make_learner(spec).fit(
        inputs,
        [row.label for row in rows],
        features=infer_features(ModelSpec(), inputs),
        classes=None,
        task="classification",
        seed=seed,
    )


FITTED = {version: _fit(version, flipped=version % 3 == 0) for version in range(1, 6)}


class Bench:
    """A trainer's keys and store, with versions 1–5 in it, and a server's swap."""

    def __init__(self, folder: Path) -> None:
        self.signer = load_or_create_keypair(folder / "keys")
        self.verifier = self.signer.verifier()
        self.store = ArtifactStore(str(folder / "store"))
        self.folder = folder / "store"
        self.digests: dict[int, str] = {}
        self.manifests: dict[int, Manifest] = {}
        for version, fitted in FITTED.items():
            self.publish(version, fitted)
        self.swap = HotSwap("m")

    def publish(self, version: int, fitted: Fitted, **changes: Any) -> str:
        self.store.put_artifact("m", fitted.data)
        manifest = manifest_of(fitted, version=version).model_copy(update=changes)
        self.manifests[version] = self.signer.sign(manifest)
        self.digests[version] = self.store.put_manifest(self.manifests[version])
        return self.digests[version]

    def update(self, generation: int, version: int | None, **plan: Any) -> ModelUpdate:
        champion = None if version is None else (version, self.digests[version])
        return update_to(self.signer, generation, champion, **plan)

    def apply(self, update: ModelUpdate) -> Applied:
        return self.swap.apply(update, store=self.store, verifier=self.verifier)

    def artifact(self, version: int) -> Path:
        return self.folder / "m" / "artifacts" / self.manifests[version].artifact_sha256


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def ref(bench: Bench, version: int, **more: Any) -> dict[str, Any]:
    return {"version": version, "manifest_sha256": bench.digests[version], **more}


def answers(bench: Bench, version: int) -> list[Any]:
    """What that version should answer, by a swap of its own."""
    other = HotSwap("m")
    applied = other.apply(bench.update(1, version), store=bench.store, verifier=bench.verifier)
    assert applied.status == "live"
    return [served.answer for served in other.predict(INPUTS[:50])]


def test_an_update_goes_live_and_answers_as_its_version(bench: Bench) -> None:
    with pytest.raises(NoModelError, match="no live version yet"):
        bench.swap.predict([ROW])
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


def test_a_retired_model_answers_nobody(bench: Bench) -> None:
    bench.apply(bench.update(1, 1))
    applied = bench.apply(bench.update(2, None))
    assert (applied.status, applied.version) == ("live", 0)
    assert bench.swap.champion is None
    with pytest.raises(NoModelError):
        bench.swap.predict([ROW])


def _tamper_artifact(bench: Bench) -> ModelUpdate:
    data = bytearray(bench.artifact(2).read_bytes())
    data[len(data) // 2] ^= 1
    bench.artifact(2).write_bytes(data)
    return bench.update(2, 2)


def _lose_artifact(bench: Bench) -> ModelUpdate:
    bench.artifact(2).unlink()
    return bench.update(2, 2)


def _lose_manifest(bench: Bench) -> ModelUpdate:
    (bench.folder / "m" / "manifests" / f"{bench.digests[2]}.json").unlink()
    return bench.update(2, 2)


def _unsigned_manifest(bench: Bench) -> ModelUpdate:
    manifest = bench.manifests[2].model_copy(update={"signature": ""})
    bench.digests[2] = bench.store.put_manifest(manifest)
    return bench.update(2, 2)


def _altered_manifest(bench: Bench) -> ModelUpdate:
    manifest = bench.manifests[2].model_copy(update={"version": 3})
    bench.digests[3] = bench.store.put_manifest(manifest)
    return bench.update(2, 3)


def _other_version(bench: Bench) -> ModelUpdate:
    bench.digests[4] = bench.digests[2]
    return bench.update(2, 4)


def _known_as_other_version(bench: Bench) -> ModelUpdate:
    bench.digests[4] = bench.digests[1]
    return bench.update(2, 4)


def _strange_update(bench: Bench) -> ModelUpdate:
    stranger = load_or_create_keypair(bench.folder / "stranger")
    return update_to(stranger, 2, (2, bench.digests[2]))


def _altered_update(bench: Bench) -> ModelUpdate:
    return bench.update(2, 2).model_copy(update={"generation": 3})


def _other_model(bench: Bench) -> ModelUpdate:
    return update_to(bench.signer, 2, (2, bench.digests[2]), model="other")


def _barred(bench: Bench) -> ModelUpdate:
    return bench.signer.sign(bench.update(2, 2).model_copy(update={"barred": (2,)}))


def _wrong_answer(bench: Bench) -> ModelUpdate:
    wrong = [
        row.model_copy(update={"prediction": "no" if row.prediction == "yes" else "yes"})
        for row in bench.manifests[2].self_test
    ]
    bench.publish(2, FITTED[2], self_test=tuple(wrong))
    return bench.update(2, 2)


def _wrong_score(bench: Bench) -> ModelUpdate:
    rows = bench.manifests[2].self_test
    off = [row.model_copy(update={"scores": tuple(s + 2e-4 for s in row.scores or ())}) for row in rows]
    bench.publish(2, FITTED[2], self_test=tuple(off))
    return bench.update(2, 2)


def _no_self_test(bench: Bench) -> ModelUpdate:
    bench.publish(2, FITTED[2], self_test=())
    return bench.update(2, 2)


def _unanswerable_self_test(bench: Bench) -> ModelUpdate:
    bench.publish(2, FITTED[2], self_test=(SelfTestRow(features={"x": "text"}, prediction="yes"),))
    return bench.update(2, 2)


def _wrong_size(bench: Bench) -> ModelUpdate:
    bench.publish(2, FITTED[2], artifact_bytes=3)
    return bench.update(2, 2)


def _too_large(bench: Bench) -> ModelUpdate:
    bench.publish(2, FITTED[2], artifact_bytes=2**40)
    return bench.update(2, 2)


def _wrong_format(bench: Bench) -> ModelUpdate:
    bench.publish(2, FITTED[2], format="onnx")
    return bench.update(2, 2)


def _bad_shadow(bench: Bench) -> ModelUpdate:
    bench.artifact(3).write_bytes(b"junk")
    return bench.update(2, 2, shadows=[ref(bench, 3)])


def _bad_canary(bench: Bench) -> ModelUpdate:
    bench.artifact(3).write_bytes(b"junk")
    return bench.update(2, 2, canary=ref(bench, 3, fraction=0.5))


FAILURES: dict[Any, tuple[str, bool]] = {
    _tamper_artifact: ("altered", False),
    _lose_artifact: ("not in the store", True),
    _lose_manifest: ("not in the store", True),
    _unsigned_manifest: ("the Manifest carries no signature", False),
    _altered_manifest: ("the Manifest's signature is wrong", False),
    _other_version: ("plan names version 4.0, and its manifest is of version 2.0", False),
    _known_as_other_version: ("plan names version 4.0, and its manifest is of version 1.0", False),
    _strange_update: ("not trusted", False),
    _altered_update: ("the ModelUpdate's signature is wrong", False),
    _other_model: ("for model other", False),
    _barred: ("version 2 is barred", False),
    _wrong_answer: ("self-test row 0: it answers", False),
    _wrong_score: ("a score is 0.0002 off", False),
    _no_self_test: ("no self-test rows", False),
    _unanswerable_self_test: ("fails in its self-test", False),
    _wrong_size: ("the manifest says 3", False),
    _too_large: ("more than the", False),
    _wrong_format: ("version 2:", False),
    _bad_shadow: ("altered", False),
    _bad_canary: ("altered", False),
}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__.strip("_"))
def test_the_old_version_serves_on_and_the_refusal_says_why(bench: Bench, failure: Any) -> None:
    bench.apply(bench.update(1, 1))
    before = bench.swap.predict(INPUTS[:50])
    reason, retriable = FAILURES[failure]
    applied = bench.apply(failure(bench))
    assert applied.status == "refused"
    assert reason in applied.reason
    assert applied.retriable == retriable
    assert (applied.version, bench.swap.current) == (1, Current(1, 0, 1))
    assert bench.swap.predict(INPUTS[:50]) == before


def test_a_store_that_fails_in_its_own_way_takes_nothing_down(bench: Bench) -> None:
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


def test_a_generation_not_above_the_last_is_stale(bench: Bench) -> None:
    bench.apply(bench.update(5, 1))
    for generation in (5, 4, 1):
        applied = bench.apply(bench.update(generation, 2))
        assert (applied.status, applied.version) == ("refused", 1)
        assert f"generation {generation} is stale" in applied.reason
    assert bench.swap.last_generation == 5


def test_an_authentic_update_that_failed_still_bars_older_ones(bench: Bench) -> None:
    bench.apply(bench.update(1, 1))
    bench.artifact(3).write_bytes(b"junk")
    assert bench.apply(bench.update(9, 3)).status == "refused"
    assert bench.swap.last_generation == 9
    assert "stale" in bench.apply(bench.update(8, 2)).reason


def test_a_forged_generation_bars_nothing(bench: Bench) -> None:
    bench.apply(bench.update(1, 1))
    bench.apply(bench.update(2, 2).model_copy(update={"generation": 2**40}))
    assert bench.swap.last_generation == 1
    assert bench.apply(bench.update(2, 2)).status == "live"


def test_a_restarted_server_loads_its_last_generation_again_and_none_before(bench: Bench) -> None:
    bench.swap = HotSwap("m", last_generation=6)
    assert "stale" in bench.apply(bench.update(5, 1)).reason
    assert bench.apply(bench.update(6, 2)).status == "live"
    assert "stale" in bench.apply(bench.update(6, 1)).reason
    assert bench.swap.current.version == 2


def test_what_is_loaded_already_is_not_read_again(bench: Bench) -> None:
    bench.apply(bench.update(1, 1, shadows=[ref(bench, 2)]))
    bench.artifact(1).unlink()
    bench.artifact(2).unlink()
    # Shadow and champion change places, and a canary joins: only that one is read.
    applied = bench.apply(bench.update(2, 2, shadows=[ref(bench, 1)], canary=ref(bench, 3, fraction=0.2)))
    assert (applied.status, applied.reason) == ("live", "")
    assert bench.swap.current == Current(2, 0, 2, shadows=(1,), canary=3)


def test_shadows_answer_beside_and_are_named(bench: Bench) -> None:
    bench.apply(bench.update(1, 1, shadows=[ref(bench, 2), ref(bench, 3)]))
    assert {one.role for one in bench.swap.predict(INPUTS[:50])} == {"champion"}
    shadows = bench.swap.predict_shadows(INPUTS[:50])
    assert [{(one.version, one.role) for one in of_one} for of_one in shadows] == [
        {(2, "shadow")},
        {(3, "shadow")},
    ]
    assert [one.answer for one in shadows[1]] == answers(bench, 3)


def test_the_canary_answers_its_share_of_ids_and_always_the_same(bench: Bench) -> None:
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
    assert chosen[0.1] < chosen[0.3]
    assert {one.role for one in bench.swap.predict(rows)} == {"champion"}


def test_requests_from_many_threads_meet_one_whole_version_each(bench: Bench) -> None:
    expected = {version: answers(bench, version) for version in (1, 2)}
    bench.apply(bench.update(1, 1))
    wrong: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            served = bench.swap.predict(INPUTS[:50])
            versions = {one.version for one in served}
            if len(versions) != 1 or [one.answer for one in served] != expected[versions.pop()]:
                wrong.append("a batch was answered by more than one version")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for generation in range(2, 30):
        assert bench.apply(bench.update(generation, 1 + generation % 2)).status == "live"
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


class SwapMachine(RuleBasedStateMachine):
    """Updates good and bad, in any order, against the simplest oracle: what serves, and since when."""

    bench: Bench
    live: int
    generation: int
    seen: int

    @initialize(folder=st.uuids())
    def start(self, folder: Any) -> None:
        self.bench = Bench(Path(self.root) / str(folder))
        self.live, self.generation, self.seen = 0, 0, 0

    root = "set by the test"

    @rule(
        step=st.integers(-2, 3),
        version=st.none() | st.integers(1, 5),
        role=st.sampled_from(["none", "shadow", "canary"]),
    )
    def good_update(self, step: int, version: int | None, role: str) -> None:
        generation = max(self.seen + step, 1)
        plan: dict[str, Any] = {}
        if role == "shadow":
            plan["shadows"] = [ref(self.bench, 4)]
        if role == "canary":
            plan["canary"] = ref(self.bench, 5, fraction=0.5)
        applied = self.bench.apply(self.bench.update(generation, version, **plan))
        if generation < self.seen or generation == self.generation:
            assert applied.status == "refused"
        else:
            assert applied.status == "live"
            self.live, self.generation, self.seen = version or 0, generation, generation

    @rule(step=st.integers(1, 3), failure=st.sampled_from(sorted(FAILURES, key=lambda f: f.__name__)))
    def bad_update(self, step: int, failure: Any) -> None:
        other = Bench(Path(self.root) / f"{self.bench.folder.parent.name}-bad-{failure.__name__}")
        other.signer, other.verifier = self.bench.signer, self.bench.verifier
        for version, fitted in FITTED.items():
            other.publish(version, fitted)
        update = failure(other)
        authentic = failure not in (_strange_update, _altered_update, _other_model)
        if authentic:
            update = self.bench.signer.sign(update.model_copy(update={"generation": self.seen + step}))
        applied = self.bench.swap.apply(update, store=other.store, verifier=self.bench.verifier)
        known = {self.live, *self.bench.swap.current.shadows, self.bench.swap.current.canary}
        if applied.status == "live":
            # What is loaded already is not read again, so a damaged copy in the store does no harm.
            assert {2, 3} & known
            self.live, self.generation = update.plan.champion.version, update.generation
        if authentic:
            self.seen += step

    @invariant()
    def the_version_that_serves_is_the_last_that_went_live(self) -> None:
        swap = self.bench.swap
        assert swap.last_generation == self.seen
        assert (swap.current.version, swap.current.generation) == (self.live, self.generation)
        if self.live:
            served = swap.predict([ROW])[0]
            assert isinstance(served, Served)
            assert served.version == self.live
        else:
            with pytest.raises(NoModelError):
                swap.predict([ROW])


def test_no_sequence_of_updates_leaves_a_server_without_what_it_had(tmp_path: Path) -> None:
    class Machine(SwapMachine):
        root = str(tmp_path)

    case = Machine.TestCase
    case.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
    case().runTest()
