"""What serving costs its caller: emitting, asking a HotModel, and one row of ONNX and of scikit-learn.

    python -m benchmarks.emit [--calls 5000] [--rounds 5]

Ten numeric features, a HistGradientBoosting model of 150 trees. The figures are CPU time of the calling
thread per call, medians of interleaved rounds: what the client's own threads do later is not the caller's.

``emit_us``, ``onnx_row_us`` and ``sklearn_row_us`` are of calls in a loop that does nothing else, so with
warm caches: a server pays more for each, because the other one runs in between. ``in_turn_us`` says how much:
predicting and emitting in turn, by hand and without any HotModel, less the two alone.

``hot_model_us`` is what a HotModel adds to that: one ``HotModel.predict`` less predicting and emitting by
hand, in turn. Both are measured in short turns one after the other, each first in half of the pairs, and the
figure is the median of the pairs' differences (``hot_model_quartiles_us``: how far they scatter).
``hot_model_over_alone_us`` is the difference to the two alone, ``in_turn_us`` therefore included.
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
from driftloop.models.formats.hgb import HgbLearner
from driftloop.models.formats.loaders import load
from driftloop.models.registry.self_test import build_self_test
from driftloop.schemas.serving import FeatureSpec, Manifest, Reference
from driftloop.schemas.spec.model import HistGradientBoosting
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.serve.client import EventClient
from sklearn.ensemble import HistGradientBoostingClassifier

from tests.support.models.worlds import update_to
from tests.support.serve.bench import ServingBench

from .support.cluster import cluster, fresh
from .support.process import arguments
from .support.results import show, write

FEATURES = 10
TURN = 25  # calls: short, so that both of a pair meet the machine in the same mood


def measured(call: Callable[[], object], calls: int) -> float:
    """CPU µs of this thread per call."""
    began = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - began) / calls * 1e6


def pairs(by_hand: Callable[[], object], hot: Callable[[], object], turns: int) -> list[tuple[float, float]]:
    """CPU µs per call of both, in turns that swap their order."""
    spent: list[tuple[float, float]] = []
    for turn in range(turns):
        if turn % 2:
            of_hot = measured(hot, TURN)
            spent.append((measured(by_hand, TURN), of_hot))
        else:
            of_hand = measured(by_hand, TURN)
            spent.append((of_hand, measured(hot, TURN)))
    return spent


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

    bench = ServingBench(connection, folder, "late")
    sha256 = bench.store.put_artifact("late", fitted.data)
    manifest = Manifest(
        model="late", version=1, created_ms=1, artifact_sha256=sha256, artifact_bytes=len(fitted.data),
        format=fitted.format, task=fitted.task, classes=fitted.classes, features=fitted.features,
        self_test=build_self_test(predictor, rows[:4]), reference=Reference(rows=len(rows)),
    )  # fmt: skip
    digest = bench.store.put_manifest(bench.signer.sign(manifest))
    with EventClient(connection) as client, bench.serve(client) as model:
        bench.publish(update_to(bench.signer, 1, (1, digest), model="late"))
        if not model.wait_generation(1, 60):
            raise SystemExit("the model did not go live")
        row, scores = rows[0], {"late": 0.7, "on_time": 0.3}
        event = {"prediction_id": "a" * 32, "model": "late", "version": 1, "features": row, "scores": scores}

        def by_hand() -> None:
            answer = predictor.predict([row])[0]
            client.prediction("late", 1, row, answer.prediction, scores=answer.scores, latency_ms=1.0)

        def hot() -> object:
            return model.predict(row)

        timed: dict[str, Callable[[], object]] = {
            "encode": lambda: orjson.dumps(event),
            "predict": lambda: predictor.predict([row]),
            "emit": lambda: client.prediction("late", 1, row, "late", scores=scores, latency_ms=1.0),
        }
        spent: dict[str, list[float]] = {name: [] for name in timed}
        paired: list[list[tuple[float, float]]] = []
        gc.disable()
        for _ in range(rounds + 1):
            for name, call in timed.items():
                spent[name].append(measured(call, calls))
                client.flush(60)  # a queue that is full would be another measurement
            paired.append(pairs(by_hand, hot, calls // TURN))
            client.flush(60)
            gc.collect()
        gc.enable()
        one = table[:1]
        sklearn_us = measured(lambda: reference.predict_proba(one), max(50, calls // 100))
        stats = client.stats
    us = {name: statistics.median(of_call[1:]) for name, of_call in spent.items()}
    after_warm_up = [pair for of_round in paired[1:] for pair in of_round]
    added = [of_hot - of_hand for of_hand, of_hot in after_warm_up]
    alone = us["predict"] + us["emit"]
    by_hand_us = statistics.median(of_hand for of_hand, _ in after_warm_up)
    hot_us = statistics.median(of_hot for _, of_hot in after_warm_up)
    return {
        "calls": calls,
        "rounds": rounds,
        "features": FEATURES,
        "emit_us": round(us["emit"], 2),
        "emit_over_encoding": round(us["emit"] / us["encode"], 2),
        "hot_model_us": round(statistics.median(added), 2),
        "hot_model_quartiles_us": [round(at, 2) for at in statistics.quantiles(added, n=4)],
        "hot_model_over_alone_us": round(hot_us - alone, 2),
        "in_turn_us": round(by_hand_us - alone, 2),
        "pairs": len(added),
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
            ("what a HotModel adds to predicting and emitting by hand", result["hot_model_us"]),
            ("what predicting and emitting in turn costs beyond each alone", result["in_turn_us"]),
            ("one row: ONNX", result["onnx_row_us"]),
            ("one row: scikit-learn", result["sklearn_row_us"]),
        ],
        f"emitting is {result['emit_over_encoding']} × its JSON alone; {result['dropped']} events dropped",
    )


if __name__ == "__main__":
    main()
