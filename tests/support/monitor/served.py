"""Rows that a model serves, on their way from what the joiner reads to the monitor's drift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from driftloop.models.evaluation.profile import build_reference
from driftloop.models.formats.features import Row, infer_features
from driftloop.schemas.base import FeatureValue
from driftloop.schemas.serving import Reference
from driftloop.schemas.spec.model import ModelSpec
from driftloop.streams.join.matching.records import Variant
from driftloop.streams.join.matching.rules import ModelRules
from driftloop.streams.join.reading.plain import PredictionEvent
from driftloop.streams.join.state.position import Offsets
from driftloop.streams.join.vitals.builder import BatchStats, Covered, vitals_messages
from driftloop.streams.monitor.core import VitalsCore

from tests.support.monitor.records import MODEL, MonitorLog, spec_record, update_record

Values = Sequence[FeatureValue]


def rows_of(name: str, values: Values) -> list[Row]:
    return [{name: value} for value in values]


def profile_of(rows: Sequence[Row], spec: ModelSpec | None = None) -> Reference:
    """As a version's manifest has it, of features as the spec declares them or else as they look."""
    spec = spec or ModelSpec()
    return build_reference(rows, infer_features(spec, rows), task="classification")


class ServedModel:
    """A model whose version 1 went live with a reference: what it serves, and what drifts."""

    def __init__(self, reference: Reference | Sequence[Row], spec: ModelSpec | None = None) -> None:
        self.spec = spec or ModelSpec()
        self.log = MonitorLog(VitalsCore(0))
        self.log.append(spec_record(self.spec))
        known = reference if isinstance(reference, Reference) else profile_of(reference, self.spec)
        self.log.append(update_record(1, known))
        self._rules = ModelRules.of(self.spec)
        self._offset = 0

    def serve(self, rows: Sequence[Row], *, batch: int = 200) -> ServedModel:
        """The joiner's vitals of these rows, applied by the monitor."""
        for start in range(0, len(rows), batch):
            for message in self.vitals(rows[start : start + batch]):
                self.log.append(message)
        return self

    def vitals(self, rows: Sequence[Row]) -> list[bytes]:
        stats = BatchStats(Variant(MODEL, 1, "champion"), self._rules)
        stats.events += [PredictionEvent("id", MODEL, 1, 5, dict(row), prediction="x") for row in rows]
        first, self._offset = self._offset, self._offset + len(rows)
        now = self.log.now_ms
        covered = Covered(0, Offsets(first, 0), Offsets(self._offset, 0), now, now, None, None)
        return vitals_messages(covered, [stats], {})

    def drift(self) -> list[dict[str, Any]]:
        """The alarms of drift of data so far."""
        found = [orjson.loads(item.value) for item in self.log.emitted if item.topic.name == "drift"]
        return [one for one in found if one["kind"] == "data" and one["severity"] == "alarm"]

    def alarms(self) -> list[tuple[str, str]]:
        """Each alarm's feature and test."""
        return [(one["subject"], one["detector"]) for one in self.drift()]
