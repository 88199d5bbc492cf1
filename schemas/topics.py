"""The topic catalogue: the one place that knows which topics exist, who writes them and how they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_DAY_MS = 86_400_000

Plane = Literal["data", "model"]


@dataclass(frozen=True, slots=True, eq=False)  # singletons, so a dict lookup compares identities
class Topic:
    """One topic. ``plane`` says which partition count it shares: by prediction_id, or by model.

    A topic without ``days`` is compacted: the newest record of each key is kept for ever.
    """

    name: str
    key: str
    plane: Plane
    written_by: str
    event: str
    holds: str
    days: int | None = None

    def full_name(self, prefix: str) -> str:
        return f"{prefix}{self.name}"

    def config(self) -> dict[str, str]:
        """The topic's broker configuration."""
        config = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": "4194304"}
        if self.days is None:
            # Compaction spares the newest segment: Kafka's 1 GiB would keep a small topic's whole history.
            compact = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1"}
            return config | compact | {"segment.bytes": "16777216"}
        return config | {"cleanup.policy": "delete", "retention.ms": str(self.days * _DAY_MS)}


PREDICTIONS = Topic(
    "predictions", "prediction_id", "data", "servers, any client", "Prediction", "answers of models", days=14
)
LABELS = Topic(
    "labels", "prediction_id", "data", "feedback sources", "Label", "ground truth and feedback", days=14
)
OUTCOMES = Topic(
    "outcomes", "prediction_id", "data", "joiner", "Outcome", "predictions that met their label", days=90
)
VITALS = Topic(
    "vitals", "none: explicit partition by model", "model", "joiner; control records", "Vitals",
    "summaries per model and version", days=90,
)  # fmt: skip
DRIFT = Topic("drift", "model", "model", "monitor", "Drift", "detections", days=365)
TRIGGERS = Topic("triggers", "model", "model", "policy", "Trigger", "retrain!", days=365)
COMMANDS = Topic(
    "commands", "model", "model", "people, through the CLI", "Command", "what people ask for", days=365
)
COMMAND_RESULTS = Topic(
    "command-results", "model", "model", "registrar", "CommandResult", "the result of each command", days=365
)
TRAINING_RUNS = Topic(
    "training-runs", "run_id, partitioned by model", "model", "trainer", "TrainingRun", "the audit trail"
)
MODEL_UPDATES = Topic(
    "model-updates", "model", "model", "registrar only", "ModelUpdate", "desired serving state"
)
SPECS = Topic("specs", "model", "model", "driftloop apply", "SpecRecord", "model specs")
MODEL_ACKS = Topic(
    "model-acks", "server_id/model, partitioned by model", "model", "servers", "ModelAck",
    "what servers serve",
)  # fmt: skip
LABEL_REQUESTS = Topic(
    "label-requests", "model", "model", "nobody yet", "LabelRequest", "please label", days=7
)
DEAD_LETTERS = Topic(
    "dead-letters", "original key", "model", "every stage", "DeadLetter",
    "what could not be used, with its bytes", days=30,
)  # fmt: skip
DEAD_LETTER_RESOLUTIONS = Topic(
    "dead-letter-resolutions", "dead letter id", "model", "driftloop dlq", "DeadLetterResolution",
    "which dead letters were replayed or dropped",
    days=60,  # twice as long as dead letters: segments end when they are full, so one may outlive its 30 days
)  # fmt: skip
MONITOR_STATE = Topic(
    "monitor-state", "vitals partition", "model", "monitor", "snapshot bytes",
    "snapshots of the monitor's state with the offset they stand at",
)  # fmt: skip
JOIN_PROGRESS = Topic(
    "join-progress", "input partition", "model", "joiner", "JoinProgress",
    "where joiners stand with their partitions, for people",
)  # fmt: skip

CATALOGUE: tuple[Topic, ...] = (
    PREDICTIONS, LABELS, OUTCOMES, VITALS, DRIFT, TRIGGERS, COMMANDS, COMMAND_RESULTS, TRAINING_RUNS,
    MODEL_UPDATES, SPECS, MODEL_ACKS, LABEL_REQUESTS, DEAD_LETTERS, DEAD_LETTER_RESOLUTIONS, MONITOR_STATE,
    JOIN_PROGRESS,
)  # fmt: skip

CO_PARTITIONED: tuple[Topic, ...] = (PREDICTIONS, LABELS, OUTCOMES)
