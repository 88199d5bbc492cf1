"""What an experiment found. It is also what the training child reports to the trainer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ...schemas.base import Event
from ...schemas.runs import GateResult, Interval, Lineage
from ...schemas.serving import ArtifactFormat, FeatureSpec, Reference, SelfTestRow
from ..formats.fitted import Fitted


class ExperimentResult(Event):
    """``passed``: every gate passed. If nothing was learned, ``why`` says what was missing, and the candidate
    and everything about it are absent. ``candidate`` itself, with its bytes, is not encoded."""

    passed: bool
    why: str
    candidate: Fitted | None = Field(default=None, exclude=True)
    format: ArtifactFormat | None = None
    features: tuple[FeatureSpec, ...] = ()
    classes: tuple[str, ...] | None = None
    lineage: Lineage | None = None
    metrics: dict[str, Interval] = Field(default_factory=dict[str, Interval])
    gates: tuple[GateResult, ...] = ()
    reference: Reference | None = None
    self_test: tuple[SelfTestRow, ...] = ()
    learner: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict[str, Any])
    packages: dict[str, str] = Field(default_factory=dict[str, str])

    @property
    def learned(self) -> bool:
        return self.format is not None
