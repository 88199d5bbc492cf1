"""What serving costs its caller: emitting, asking a HotModel, and one row of ONNX and of scikit-learn.

    python -m benchmarks.emit [--calls 5000] [--rounds 5]

Ten numeric features, a HistGradientBoosting model of 150 trees. The figures are CPU time of the calling
thread per call, medians of interleaved rounds: what the client's own threads do later is not the caller's.
``hot_model_us`` is what a HotModel costs beyond its model's own predict and the emitting.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
from driftloop.models.hgb import HgbLearner
from driftloop.models.loaders import load
from driftloop.models.self_test import build_self_test
from driftloop.schemas.serving import FeatureSpec, Manifest, Reference
from driftloop.schemas.spec import HistGradientBoosting
from driftloop.streams.connection import Connection
from driftloop.streams.serve.client import Client
from sklearn.ensemble import HistGradientBoostingClassifier

from tests.model_worlds import update_to
from tests.serving_bench import Bench

from .cluster import cluster, fresh
from .process import arguments
from .results import show, write

FEATURES = 10


def measured(call: Callable[[], object], calls: int) -> float:
    """CPU µs of this thread per call."""
    began = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - began) / calls * 1e6


def measure(connection: Connection, folder: Path, calls: int, rounds: int) -> dict[str, object]:
    rng = np.random.default_rng(1)
    table = rng.normal(size=(2_000, FEATURES))
    truth = np.where(table[:, 0] + table[:, 1] > 0, "late", "on_time")
    features = tuple(FeatureSpec(name=f"number_{i}", type="number") for i in range(FEATURES))
    rows = [{spec.name: float(x) for spec, x in zip(features, one, strict=True)} for one in table]
    learner, classes = HgbLearner(HistGradientBoosting()), ("late", "on_time")
    fitted = learner.fit(
        rows, truth.tolist(), features=features, classes=classes, task="classification", seed=1
    )
    predictor = load(fitted, fitted.data)
    reference = HistGradientBoostingClassifier(max_iter=150).fit(table, truth)

    bench = Bench(connection, folder, "late")
    sha256 = bench.store.put_artifact("late", fitted.data)
    manifest = Manifest(
        model="late", version=1, created_ms=1, artifact_sha256=sha256, artifact_bytes=len(fitted.data),
        format=fitted.format, task=fitted.task, classes=fitted.classes, features=fitted.features,
        self_test=build_self_test(predictor, rows[:4]), reference=Reference(rows=len(rows)),
    )  # fmt: skip
    digest = bench.store.put_manifest(bench.signer.sign(manifest))
    with Client(connection) as client, bench.serve(client) as model:
        bench.publish(update_to(bench.signer, 1, (1, digest), model="late"))
        if not model.wait_generation(1, 60):
            raise SystemExit("the model did not go live")
        row, scores = rows[0], {"late": 0.7, "on_time": 0.3}
        event = {"prediction_id": "a" * 32, "model": "late", "version": 1, "features": row, "scores": scores}
        timed: dict[str, Callable[[], object]] = {
            "encode": lambda: orjson.dumps(event),
            "predict": lambda: predictor.predict([row]),
            "emit": lambda: client.prediction("late", 1, row, "late", scores=scores, latency_ms=1.0),
            "hot": lambda: model.predict(row),
        }
        spent: dict[str, list[float]] = {name: [] for name in timed}
        gc.disable()
        for _ in range(rounds + 1):
            for name, call in timed.items():
                spent[name].append(measured(call, calls))
                client.flush(60)  # a queue that is full would be another measurement
            gc.collect()
        gc.enable()
        one = table[:1]
        sklearn_us = measured(lambda: reference.predict_proba(one), max(50, calls // 100))
        stats = client.stats
    us = {name: statistics.median(of_call[1:]) for name, of_call in spent.items()}
    beyond = [
        hot - predict - emit
        for hot, predict, emit in list(zip(spent["hot"], spent["predict"], spent["emit"], strict=True))[1:]
    ]
    return {
        "calls": calls,
        "rounds": rounds,
        "features": FEATURES,
        "emit_us": round(us["emit"], 2),
        "emit_over_encoding": round(us["emit"] / us["encode"], 2),
        "hot_model_us": round(statistics.median(beyond), 2),
        "onnx_row_us": round(us["predict"], 2),
        "sklearn_row_us": round(sklearn_us, 2),
        "sklearn_over_onnx": round(sklearn_us / us["predict"], 1),
        "dropped": stats.dropped,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--calls", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with cluster(given.bootstrap) as bootstrap, tempfile.TemporaryDirectory() as folder:
        result = measure(fresh(bootstrap), Path(folder), given.calls, given.rounds)
    write("emit", result)
    show(
        f"{given.calls} calls, {given.rounds} rounds, {FEATURES} features",
        ("", "CPU µs of the caller"),
        [
            ("emitting a prediction", result["emit_us"]),
            ("what a HotModel adds", result["hot_model_us"]),
            ("one row: ONNX", result["onnx_row_us"]),
            ("one row: scikit-learn", result["sklearn_row_us"]),
        ],
        f"emitting is {result['emit_over_encoding']} × its JSON alone; {result['dropped']} events dropped",
    )


if __name__ == "__main__":
    main()
