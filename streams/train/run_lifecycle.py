"""The life of a training run, as a table.

    waiting ──start──▶ training ──evaluate──▶ evaluating ──promote──▶ promoted
       │ progress, approve │ ▲ restart              │ └──────reject──▶ rejected
       │ (stays waiting)   │ └─────────restart──────┘
       └───────┬───────────┴────────────────────────┘
               ├─fail──────▶ failed
               └─supersede─▶ superseded

A run begins as ``waiting``; one that records a version made elsewhere begins as ``evaluating``.
``approve``: a person approved its trigger. ``restart``: the trainer ended while the run was trained or
evaluated. Its rows and its seed are recorded, so training again gives the same candidate; nothing of the
first attempt was published.
"""

from __future__ import annotations

from typing import Any, Literal

from ...schemas.errors import IllegalTransition
from ...schemas.runs import RunStatus, TrainingRun

RunInput = Literal[
    "progress", "approve", "start", "restart", "evaluate", "promote", "reject", "fail", "supersede"
]

TRANSITIONS: dict[tuple[RunStatus, RunInput], RunStatus] = {
    ("waiting", "progress"): "waiting",
    ("waiting", "approve"): "waiting",
    ("waiting", "start"): "training",
    ("waiting", "fail"): "failed",
    ("waiting", "supersede"): "superseded",
    ("training", "restart"): "training",
    ("training", "evaluate"): "evaluating",
    ("training", "fail"): "failed",
    ("training", "supersede"): "superseded",
    ("evaluating", "restart"): "training",
    ("evaluating", "promote"): "promoted",
    ("evaluating", "reject"): "rejected",
    ("evaluating", "fail"): "failed",
    ("evaluating", "supersede"): "superseded",
}

OPEN: frozenset[RunStatus] = frozenset(start for start, _ in TRANSITIONS)
ACTIVE: frozenset[RunStatus] = frozenset(start for start, cause in TRANSITIONS if cause == "restart")


def moved(run: TrainingRun, cause: RunInput, **changes: Any) -> TrainingRun:
    """The run after the move, with ``changes``. Raises IllegalTransition for a move not in the table."""
    try:
        status = TRANSITIONS[run.status, cause]
    except KeyError as error:
        raise IllegalTransition(f"run {run.run_id} is {run.status}: it cannot {cause}") from error
    return run.model_copy(update={**changes, "status": status})
