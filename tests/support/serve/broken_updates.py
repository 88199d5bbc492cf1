"""Updates that must be refused, each with one thing wrong."""

from __future__ import annotations

from typing import Any

from driftloop.models.registry.signing import load_or_create_keypair
from driftloop.schemas.serving import ModelUpdate, SelfTestRow

from tests.support.models.worlds import update_to
from tests.support.serve.hot_bench import FITTED, HotBench, ref


def tamper_artifact(bench: HotBench) -> ModelUpdate:
    data = bytearray(bench.artifact(2).read_bytes())
    data[len(data) // 2] ^= 1
    bench.artifact(2).write_bytes(data)
    return bench.update(2, 2)


def lose_artifact(bench: HotBench) -> ModelUpdate:
    bench.artifact(2).unlink()
    return bench.update(2, 2)


def lose_manifest(bench: HotBench) -> ModelUpdate:
    (bench.folder / "m" / "manifests" / f"{bench.digests[2]}.json").unlink()
    return bench.update(2, 2)


def unsigned_manifest(bench: HotBench) -> ModelUpdate:
    manifest = bench.manifests[2].model_copy(update={"signature": ""})
    bench.digests[2] = bench.store.put_manifest(manifest)
    return bench.update(2, 2)


def altered_manifest(bench: HotBench) -> ModelUpdate:
    manifest = bench.manifests[2].model_copy(update={"version": 3})
    bench.digests[3] = bench.store.put_manifest(manifest)
    return bench.update(2, 3)


def other_version(bench: HotBench) -> ModelUpdate:
    bench.digests[4] = bench.digests[2]
    return bench.update(2, 4)


def known_as_other_version(bench: HotBench) -> ModelUpdate:
    bench.digests[4] = bench.digests[1]
    return bench.update(2, 4)


def strange_update(bench: HotBench) -> ModelUpdate:
    stranger = load_or_create_keypair(bench.folder / "stranger")
    return update_to(stranger, 2, (2, bench.digests[2]))


def altered_update(bench: HotBench) -> ModelUpdate:
    return bench.update(2, 2).model_copy(update={"generation": 3})


def other_model(bench: HotBench) -> ModelUpdate:
    return update_to(bench.signer, 2, (2, bench.digests[2]), model="other")


def blocked(bench: HotBench) -> ModelUpdate:
    return bench.signer.sign(bench.update(2, 2).model_copy(update={"blocked": (2,)}))


def wrong_answer(bench: HotBench) -> ModelUpdate:
    wrong = [
        row.model_copy(update={"prediction": "no" if row.prediction == "yes" else "yes"})
        for row in bench.manifests[2].self_test
    ]
    bench.publish(2, FITTED[2], self_test=tuple(wrong))
    return bench.update(2, 2)


def wrong_score(bench: HotBench) -> ModelUpdate:
    rows = bench.manifests[2].self_test
    off = [row.model_copy(update={"scores": tuple(s + 2e-4 for s in row.scores or ())}) for row in rows]
    bench.publish(2, FITTED[2], self_test=tuple(off))
    return bench.update(2, 2)


def no_self_test(bench: HotBench) -> ModelUpdate:
    bench.publish(2, FITTED[2], self_test=())
    return bench.update(2, 2)


def unanswerable_self_test(bench: HotBench) -> ModelUpdate:
    bench.publish(2, FITTED[2], self_test=(SelfTestRow(features={"x": "text"}, prediction="yes"),))
    return bench.update(2, 2)


def wrong_size(bench: HotBench) -> ModelUpdate:
    bench.publish(2, FITTED[2], artifact_bytes=3)
    return bench.update(2, 2)


def too_large(bench: HotBench) -> ModelUpdate:
    bench.publish(2, FITTED[2], artifact_bytes=2**40)
    return bench.update(2, 2)


def wrong_format(bench: HotBench) -> ModelUpdate:
    bench.publish(2, FITTED[2], format="onnx")
    return bench.update(2, 2)


def bad_shadow(bench: HotBench) -> ModelUpdate:
    bench.artifact(3).write_bytes(b"junk")
    return bench.update(2, 2, shadows=[ref(bench, 3)])


def bad_canary(bench: HotBench) -> ModelUpdate:
    bench.artifact(3).write_bytes(b"junk")
    return bench.update(2, 2, canary=ref(bench, 3, fraction=0.5))


FAILURES: dict[Any, tuple[str, bool]] = {
    tamper_artifact: ("altered", False),
    lose_artifact: ("not in the store", True),
    lose_manifest: ("not in the store", True),
    unsigned_manifest: ("the Manifest carries no signature", False),
    altered_manifest: ("the Manifest's signature is wrong", False),
    other_version: ("plan names version 4.0, and its manifest is of version 2.0", False),
    known_as_other_version: ("plan names version 4.0, and its manifest is of version 1.0", False),
    strange_update: ("not trusted", False),
    altered_update: ("the ModelUpdate's signature is wrong", False),
    other_model: ("for model other", False),
    blocked: ("version 2 is blocked", False),
    wrong_answer: ("self-test row 0: it answers", False),
    wrong_score: ("a score is 0.0002 off", False),
    no_self_test: ("no self-test rows", False),
    unanswerable_self_test: ("fails in its self-test", False),
    wrong_size: ("the manifest says 3", False),
    too_large: ("more than the", False),
    wrong_format: ("version 2:", False),
    bad_shadow: ("altered", False),
    bad_canary: ("altered", False),
}
