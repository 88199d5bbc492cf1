"""The topic catalogue: the one place that knows which topics exist, who writes them and how they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DAY_MS = 86_400_000

Plane = Literal["data", "model"]


@dataclass(frozen=True, slots=True, eq=False)  # each is one of its kind; a dict finds it at no cost
class Topic:
    """One topic. ``plane`` says which partition count it shares: by prediction_id, or by model."""

    name: str
    key: str
    plane: Plane
    written_by: str
    event: str
    compacted: bool = False
    retention_ms: int | None = None
    holds: str = ""

    def full_name(self, prefix: str) -> str:
        return f"{prefix}{self.name}"

    def config(self) -> dict[str, str]:
        """The topic's broker configuration."""
        config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "4194304"}
        if self.compacted:
            # Compaction spares the newest segment: Kafka's 1 GiB would keep a small topic's whole history.
            compact = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"}
            return config | compact | {"segment.bytes": "16777216"}
        retention = -1 if self.retention_ms is None else self.retention_ms
        return config | {"cleanup.policy": "delete", "retention.ms": str(retention)}


PREDICTIONS = Topic(
    "predictions",
    "prediction_id",
    "data",
    "servers, any client",
    "Prediction",
    retention_ms=14 * DAY_MS,
    holds="answers of models",
)
LABELS = Topic(
    "labels",
    "prediction_id",
    "data",
    "feedback sources",
    "Label",
    retention_ms=14 * DAY_MS,
    holds="ground truth and feedback",
)
OUTCOMES = Topic(
    "outcomes",
    "prediction_id",
    "data",
    "joiner",
    "Outcome",
    retention_ms=90 * DAY_MS,
    holds="predictions that met their label",
)
VITALS = Topic(
    "vitals",
    "none: explicit partition by model",
    "model",
    "joiner; control records",
    "Vitals",
    retention_ms=90 * DAY_MS,
    holds="summaries per model and version",
)
DRIFT = Topic("drift", "model", "model", "monitor", "Drift", retention_ms=365 * DAY_MS, holds="detections")
TRIGGERS = Topic(
    "triggers", "model", "model", "policy", "Trigger", retention_ms=365 * DAY_MS, holds="retrain!"
)
COMMANDS = Topic(
    "commands",
    "model",
    "model",
    "people, through the CLI",
    "Command",
    retention_ms=365 * DAY_MS,
    holds="what people ask for",
)
COMMAND_RESULTS = Topic(
    "command-results",
    "model",
    "model",
    "registrar",
    "CommandResult",
    retention_ms=365 * DAY_MS,
    holds="what became of each command",
)
TRAINING_RUNS = Topic(
    "training-runs",
    "run_id, partitioned by model",
    "model",
    "trainer",
    "TrainingRun",
    compacted=True,
    holds="the audit trail",
)
MODEL_UPDATES = Topic(
    "model-updates",
    "model",
    "model",
    "registrar only",
    "ModelUpdate",
    compacted=True,
    holds="desired serving state",
)
SPECS = Topic("specs", "model", "model", "driftloop apply", "SpecRecord", compacted=True, holds="model specs")
MODEL_ACKS = Topic(
    "model-acks",
    "server_id/model, partitioned by model",
    "model",
    "servers",
    "ModelAck",
    compacted=True,
    holds="what servers serve",
)
LABEL_REQUESTS = Topic(
    "label-requests",
    "model",
    "model",
    "nobody yet",
    "LabelRequest",
    retention_ms=7 * DAY_MS,
    holds="please label",
)
DEAD_LETTERS = Topic(
    "dead-letters",
    "original key",
    "model",
    "every stage",
    "DeadLetter",
    retention_ms=30 * DAY_MS,
    holds="what could not be used, with its bytes",
)
DEAD_LETTER_RESOLUTIONS = Topic(
    "dead-letter-resolutions",
    "dead letter id",
    "model",
    "driftloop dlq",
    "DeadLetterResolution",
    # Twice as long as dead letters: segments end when they are full, so one may outlive its 30 days.
    retention_ms=60 * DAY_MS,
    holds="which dead letters were replayed or dropped",
)
MONITOR_STATE = Topic(
    "monitor-state",
    "vitals partition",
    "model",
    "monitor",
    "snapshot bytes",
    compacted=True,
    holds="snapshots of the monitor's state with the offset they stand at",
)

JOIN_PROGRESS = Topic(
    "join-progress",
    "input partition",
    "model",
    "joiner",
    "JoinProgress",
    compacted=True,
    holds="where joiners stand with their partitions, for people",
)

CATALOGUE: tuple[Topic, ...] = (
    PREDICTIONS, LABELS, OUTCOMES, VITALS, DRIFT, TRIGGERS, COMMANDS, COMMAND_RESULTS, TRAINING_RUNS,
    MODEL_UPDATES, SPECS, MODEL_ACKS, LABEL_REQUESTS, DEAD_LETTERS, DEAD_LETTER_RESOLUTIONS,
    MONITOR_STATE,
    JOIN_PROGRESS,
)  # fmt: skip

CO_PARTITIONED: tuple[Topic, ...] = (PREDICTIONS, LABELS, OUTCOMES)
