"""The model spec: one ``[models.NAME]`` table of ``driftloop.toml``, every key with a sensible default."""

from __future__ import annotations

import hashlib
import itertools
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..base import ClassValue, Event, ModelName, TimestampMs, class_name
from ..decisions import DriftKind
from ..errors import SpecError
from ..serving import FeatureType, Task
from .durations import DurationMs
from .schedule import next_occurrence_ms

Whole = Annotated[int, Field(le=1_000_000_000)]  # rows, outcomes: more is a mistake
Fraction = Annotated[float, Field(gt=0, lt=1)]
Privacy = Literal["keep", "hash", "drop"]
LabelSource = Annotated[str, Field(min_length=1, max_length=64)]


class Table(BaseModel):
    """A table of the spec: unknown keys are mistakes, not extras."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Feature(Table):
    """One input. ``privacy``: hash or drop it before it leaves the server."""

    type: FeatureType
    privacy: Privacy = "keep"


class HistGradientBoosting(Table):
    """scikit-learn's HistGradientBoosting, served through ONNX."""

    kind: Literal["hgb"] = "hgb"
    max_iter: int = Field(default=150, ge=1, le=5000)
    learning_rate: float = Field(default=0.08, gt=0, le=1)
    max_leaf_nodes: Whole = Field(default=31, ge=2)
    min_samples_leaf: Whole = Field(default=40, ge=1)
    l2_regularization: float = Field(default=1.0, ge=0)


class RiverLinear(Table):
    """river: standard scaling and one-hot encoding into logistic (or linear) regression, one pass."""

    kind: Literal["river"] = "river"
    learning_rate: float = Field(default=0.02, gt=0)
    l2: float = Field(default=0.0, ge=0)
    passes: int = Field(default=1, ge=1, le=20)


class CustomLearner(Table):
    """Your own: ``factory`` names a callable ``package.module:name`` in the trainer's environment."""

    kind: Literal["custom"] = "custom"
    factory: str = Field(pattern=r"^[\w.]+:\w+$")
    parameters: dict[str, Any] = Field(default_factory=dict)

    @field_validator("parameters")
    @classmethod
    def _can_be_sent(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            orjson.dumps(value)
        except TypeError as error:  # an integer beyond 64 bits, above all
            raise ValueError(f"parameters must be what JSON can hold: {error}") from error
        return value


LearnerSpec = Annotated[HistGradientBoosting | RiverLinear | CustomLearner, Field(discriminator="kind")]


class AdwinRules(Table):
    """ADWIN on the error stream (Bifet & Gavaldà 2007)."""

    enabled: bool = True
    delta: float = Field(default=0.002, gt=0, lt=1)


class PageHinkleyRules(Table):
    """Page-Hinkley on the error stream (Page 1954)."""

    enabled: bool = True
    delta: float = Field(default=0.005, ge=0)
    threshold: float = Field(default=50.0, gt=0)
    min_outcomes: Whole = Field(default=100, ge=1)


class AccuracyRules(Table):
    """Accuracy of the newest ``window`` outcomes against the manifest's. Regression: error, relatively."""

    enabled: bool = True
    window: Whole = Field(default=1000, ge=10)
    drop: float = Field(default=0.05, gt=0, description="5 points below; regression: 5 % above")


class DataDriftRules(Table):
    """KS (numbers) and chi² (categories) of live features against the manifest's profile."""

    enabled: bool = True
    window: Whole = Field(default=2000, ge=100, description="sampled rows per test")
    alpha: float = Field(default=0.01, gt=0, lt=1, description="before Holm's correction for the features")
    min_effect: float = Field(default=0.15, ge=0, le=1, description="KS distance, or Cramér's V")


class LatencyRules(Table):
    """p95 of the live latency against the manifest's."""

    enabled: bool = True
    window: Whole = Field(default=1000, ge=50)
    ratio: float = Field(default=2.0, gt=1)
    floor_ms: float = Field(default=5.0, ge=0, description="a p95 below this raises no alarm")


class FailureRules(Table):
    """Share of failed requests against the manifest's."""

    enabled: bool = True
    window: Whole = Field(default=1000, ge=50)
    increase: Fraction = 0.02


class Detectors(Table):
    adwin: AdwinRules = AdwinRules()
    page_hinkley: PageHinkleyRules = PageHinkleyRules()
    accuracy: AccuracyRules = AccuracyRules()
    data: DataDriftRules = DataDriftRules()
    latency: LatencyRules = LatencyRules()
    failures: FailureRules = FailureRules()


class Triggers(Table):
    """When to retrain."""

    on: tuple[DriftKind, ...] = ("concept", "accuracy")
    cooldown: DurationMs = 86_400_000
    schedule: str | None = Field(default=None, description='cron, UTC: "0 3 * * 1"')
    volume: Whole | None = Field(default=None, ge=1, description="every N outcomes")
    first_labels: Whole = Field(default=1000, ge=20, description="with no champion: train version 1 on these")
    approval: Literal["automatic", "needed"] = "automatic"

    @field_validator("schedule")
    @classmethod
    def _five_fields(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if len(value.split()) != 5:
            raise ValueError('write a schedule as five cron fields: "0 3 * * 1" is Mondays at 03:00 UTC')
        try:
            next_occurrence_ms(value, 0)
        except SpecError as error:
            raise ValueError("; ".join(error.problems)) from error
        return value


class WindowRules(Table):
    """Which rows a candidate is trained and evaluated on."""

    max_rows: Whole = Field(default=50_000, ge=100)
    labels_after_change: Whole = Field(default=500, ge=20)
    follow_ups: tuple[Whole, ...] = (1000, 2000)
    old_rows: Whole = Field(
        default=20_000, ge=0, description="rows from before the change that a mix may use"
    )
    holdout: Fraction = Field(default=0.3, description="newest share of the rows after the change")
    max_wait: DurationMs = Field(
        default=14 * 86_400_000, description="then the run goes with what it has, or fails"
    )
    time_limit: DurationMs = 600_000

    @model_validator(mode="after")
    def _ascending(self) -> WindowRules:
        stages = (self.labels_after_change, *self.follow_ups)
        if any(b <= a for a, b in itertools.pairwise(stages)):
            raise ValueError("follow_ups must ascend from labels_after_change, e.g. 500 then [1000, 2000]")
        return self


class Significance(Table):
    test: Literal["auto", "mcnemar", "bootstrap"] = "auto"
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    min_gain: float = Field(default=0.0, ge=0, description="points of accuracy (or relative error) at least")


class Fairness(Table):
    max_loss: float = Field(default=0.05, ge=0, description="no segment may lose more accuracy than this")
    min_rows: Whole = Field(default=50, ge=1, description="smaller segments are reported, not compared")


class LatencyGate(Table):
    max_p95_ms: float = Field(default=50.0, gt=0, description="single row, with the serving loader")
    max_ratio: float = Field(default=5.0, gt=0, description="against the champion's, once above 1 ms")


class Cost(Table):
    """Business cost: ``matrix[actual][predicted]``; missing pairs cost 0 when right and 1 when wrong."""

    matrix: dict[str, dict[str, float]] = Field(default_factory=dict)
    max_increase: float = Field(default=0.0, ge=0, description="relative increase of mean cost allowed")


class Gates(Table):
    significance: Significance = Significance()
    fairness: Fairness = Fairness()
    latency: LatencyGate = LatencyGate()
    cost: Cost | None = None


class ServingRules(Table):
    fallback: ClassValue | None = Field(
        default=None, description="answer while there is no version; absent: 503"
    )


class LabelRules(Table):
    """Whose labels count, and whose prevail."""

    allowed_sources: tuple[LabelSource, ...] | None = Field(
        default=None,
        min_length=1,
        description="labels of other sources go to dead letters. Absent: every source counts",
    )
    source_precedence: tuple[str, ...] = Field(
        default=("expert", "system", "user"), description="strongest first; others rank below all"
    )


class ModelSpec(Table):
    """Everything that is configured for one model."""

    task: Task = "classification"
    classes: tuple[str, ...] | None = None
    features: dict[str, Feature] = Field(default_factory=dict)
    segments: tuple[str, ...] = ()
    learner: tuple[LearnerSpec, ...] = Field(default=(HistGradientBoosting(),), min_length=1)
    seed: int = Field(default=7, ge=0, lt=2**32)
    labels: LabelRules = LabelRules()
    detectors: Detectors = Detectors()
    triggers: Triggers = Triggers()
    window: WindowRules = WindowRules()
    gates: Gates = Gates()
    serving: ServingRules = ServingRules()

    @field_validator("features", mode="before")
    @classmethod
    def _short_features(cls, value: object) -> object:
        if isinstance(value, dict):
            table: dict[str, object] = value  # pyright: ignore[reportUnknownVariableType]
            return {k: {"type": v} if isinstance(v, str) else v for k, v in table.items()}
        return value

    @field_validator("learner", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, dict) else value  # pyright: ignore[reportUnknownVariableType]

    @field_validator("classes", mode="before")
    @classmethod
    def _class_names(cls, value: object) -> object:
        if isinstance(value, list):
            items: list[ClassValue] = value  # pyright: ignore[reportUnknownVariableType]
            return [class_name(item) for item in items]
        return value

    @model_validator(mode="after")
    def _coherent(self) -> ModelSpec:
        if self.task == "regression" and self.classes:
            raise ValueError(
                "classes has no effect on a regression: leave it out, or set task to classification"
            )
        if self.classes is not None and len(set(self.classes)) < 2:
            raise ValueError("classes needs two different ones at least, or is left out")
        if self.task == "regression" and self.gates.cost is not None:
            raise ValueError("gates.cost has no effect on a regression: leave it out")
        if self.classes is not None and self.gates.cost is not None:
            matrix = self.gates.cost.matrix
            named = {*matrix, *(name for row in matrix.values() for name in row)}
            strange = sorted(named - set(self.classes))
            if strange:
                raise ValueError(
                    f"gates.cost.matrix names {', '.join(strange)}, and classes has "
                    f"{', '.join(self.classes)}: name them as they are there"
                )
        if self.task == "regression" and self.gates.significance.test == "mcnemar":
            raise ValueError(
                'gates.significance.test = "mcnemar" compares right with wrong, and a regression has '
                'neither: write "bootstrap", or leave it out'
            )
        return self

    def kept_features(self) -> dict[str, Feature]:
        """The features that leave the server, in the spec's order."""
        return {name: feature for name, feature in self.features.items() if feature.privacy != "drop"}

    def declared_types(self) -> dict[str, FeatureType]:
        """The type of each feature before it is hashed or dropped."""
        return {name: feature.type for name, feature in self.features.items()}

    def digest(self) -> str:
        """sha256 of the spec's canonical JSON."""
        return hashlib.sha256(
            orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
        ).hexdigest()


class Join(Table):
    """How long predictions and labels wait for each other; the same for every joiner of a deployment."""

    horizon: DurationMs = 7 * 86_400_000
    early_horizon: DurationMs = 3_600_000
    correction_window: DurationMs = 86_400_000
    clock_skew: DurationMs = Field(default=5_000, description="grace between brokers' clocks")


class Deployment(Table):
    """A whole ``driftloop.toml``."""

    join: Join = Join()
    models: dict[ModelName, ModelSpec] = Field(default_factory=dict)


class SpecRecord(Event):
    """A record of the specs topic. ``model`` is ``*`` for the deployment-wide join settings."""

    model: str
    digest: str
    ts: TimestampMs
    spec: dict[str, Any]

    def model_spec(self) -> ModelSpec:
        return ModelSpec.model_validate(self.spec)

    def join(self) -> Join:
        return Join.model_validate(self.spec)


JOIN_KEY = "*"  # not a legal model name, so it cannot collide
