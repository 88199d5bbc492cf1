"""What the demo found: counted from the topics, compared with what was sent and with three baselines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ...models.formats.fitted import Predictor
from ...models.formats.loaders import load
from ...models.registry.artifacts import ArtifactStore
from ...schemas.spec.model import ModelSpec
from .baselines import accuracy, answers_of, no_change, schedule
from .driver import Requests
from .flights import Flights
from .ledger import Comparison, percentiles
from .live import listed
from .loop_view import LoopView

BASELINES = ("static", "no_change", "count_matched_schedule")


def build_report(
    found: Comparison, view: LoopView, requests: Requests, live: dict[str, int], accuracies: dict[str, Any]
) -> dict[str, Any]:
    """The contents of report.json. ``live``: who serves which version at the end: server, scorer, topic."""
    versions = set(live.values())
    return {
        "events": {
            "predictions": found.predictions,
            "labels": found.labels,
            "outcomes": found.outcomes,
            "dead_letters": found.dead_letters,
        },
        "lost": found.lost,
        "duplicated": found.duplicated,
        "drift": view.drift_by_kind(),
        "runs": {"promoted": 0, "rejected": 0, "failed": 0} | view.runs_by_status(),
        "live_version": versions.pop() if len(versions) == 1 else None,
        "live_versions": live,
        "requests": {
            "total": requests.total,
            "failed": requests.failed,
            **{f"{name}_ms": value for name, value in percentiles(requests.latencies_ms).items()},
        },
        "accuracy": accuracies,
        "latency_ms": {
            "label_to_drift": percentiles(label_to_drift(view)),
            "trigger_to_live": percentiles(trigger_to_live(view)),
        },
    }


def label_to_drift(view: LoopView) -> list[float]:
    """From the append time of the last label behind a detection to the append time of the drift event."""
    return [
        float(stamped.append_ms - stamped.event.caused_append_ms)
        for stamped in view.drifts.values()
        if stamped.event.caused_append_ms is not None
    ]


def trigger_to_live(view: LoopView) -> list[float]:
    """From a trigger (or, for a run that had to wait, its last label) to live everywhere, minus training."""
    taken: list[float] = []
    promoted = {run.run_id: run for run in view.runs.values() if run.status == "promoted"}
    for update in view.updates:
        run = promoted.get(update.event.cause)
        lives = [
            since
            for (_, generation), since in view.live_since.items()
            if generation == update.event.generation
        ]
        if run is None or not lives:
            continue
        trigger = view.triggers.get(run.trigger_id)
        if trigger is None or run.stage > 0:
            continue
        timings = run.timings_ms or {}
        spent = sum(timings.get(phase, 0.0) for phase in ("wait_labels", "train", "evaluate"))
        taken.append(max(lives) - trigger.append_ms - spent)
    return taken


def compare_accuracies(
    found: Comparison, view: LoopView, flights: Flights, spec: ModelSpec, store: ArtifactStore, model: str
) -> dict[str, Any]:
    """The loop's accuracy and the baselines', on the rows that a version answered."""
    where = {prediction_id: row for row, prediction_id in enumerate(flights.prediction_ids)}
    answered = [one for one in found.answered if one.version >= 1]
    if not answered:
        return {"rows": 0}
    rows = np.array([where[one.prediction_id] for one in answered], dtype=np.int64)
    order = np.argsort(rows)
    rows = rows[order]
    truth = np.array([one.label for one in answered], dtype=np.str_)[order]
    predicted = np.array([one.prediction or "" for one in answered], dtype=np.str_)[order]
    first = _first_version(store, model)
    retrainings = sum(run.status == "promoted" for run in view.runs.values()) - 1
    answers: dict[str, NDArray[np.str_]] = {
        "static": answers_of(first, flights, rows),
        "no_change": no_change(flights, rows),
        "count_matched_schedule": schedule(
            flights, rows, first=first, retrainings=max(0, retrainings), spec=spec
        ),
    }
    result: dict[str, Any] = {"rows": len(rows), "loop": round(accuracy(predicted, truth), 4)}
    result |= {name: round(accuracy(answer, truth), 4) for name, answer in answers.items()}
    result["winners"] = [name for name in BASELINES if result[name] > result["loop"]]
    result["comparison"] = comparison(result)
    return result


def _first_version(store: ArtifactStore, model: str) -> Predictor:
    """Version 1, as the servers loaded it."""
    manifest = next(one for one in store.list_manifests(model) if one.version == 1 and one.refresh == 0)
    return load(manifest, store.get_artifact(model, manifest.artifact_sha256))


def comparison(accuracies: dict[str, Any]) -> str:
    """One sentence: what the loop beats and what beats it."""
    beaten = [name for name in BASELINES if accuracies[name] < accuracies["loop"]]
    parts = [f"the loop ({accuracies['loop']:.2%}) beats {_listed(beaten, accuracies)}"] if beaten else []
    if accuracies["winners"]:
        parts.append(f"{_listed(accuracies['winners'], accuracies)} beats the loop")
    return "; ".join(parts) or "nothing beats anything: all are equal"


def _listed(names: list[str], accuracies: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} ({accuracies[name]:.2%})" for name in names)


def table(report: dict[str, Any]) -> Table:
    """The report for a person."""
    shown = Table(show_header=False, border_style="grey42")
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column()
    events, accuracies, requests = report["events"], report["accuracy"], report["requests"]
    shown.add_row(
        "events", ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in events.items())
    )
    shown.add_row("lost, duplicated", f"{report['lost']}, {report['duplicated']}")
    shown.add_row("drift", listed(report["drift"]) or "none")
    shown.add_row("runs", listed(report["runs"]))
    shown.add_row("live version", listed(report["live_versions"]))
    took = f"p50 {requests['p50_ms']} ms, p99 {requests['p99_ms']} ms"
    shown.add_row("HTTP requests", f"{requests['total']:,}, failed {requests['failed']}, {took}")
    for name in ("loop", *BASELINES):
        if name in accuracies:
            shown.add_row(f"accuracy: {name.replace('_', ' ')}", f"{accuracies[name]:.2%}")
    unknown = "nothing to compare: no version's answer has a label"
    shown.add_row("comparison", accuracies.get("comparison", unknown))
    for name, values in report["latency_ms"].items():
        shown.add_row(name.replace("_", " "), f"p50 {values['p50']} ms, p99 {values['p99']} ms")
    shown.add_row("seconds", listed(report["seconds"]))
    return shown
