"""The monitor of one model: vitals and references in, drift out.

Everything is kept per (version, role) and goes on across refreshes of a version. A version that goes live
starts afresh. Version 0 is not monitored: before there is a champion nothing can decay.

On failure: ``check`` finds what is wrong with an observation before any state changed; ``observe`` then
cannot fail.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import field

from ....schemas.decisions import Drift
from ....schemas.events import Role
from ....schemas.ids import event_id
from ....schemas.serving import Reference
from ....schemas.spec.model import ModelSpec
from ..observations import Observation
from ..state import State
from .comparisons import Comparisons
from .detection import Detection
from .drift_tests import rounded
from .error_stream import ErrorStream

Key = tuple[int, Role]

MAX_VERSIONS = 8  # versions and roles per model; the one that was silent longest goes first


@dataclass(frozen=True, slots=True)
class Cause:
    """The record that is being applied; ids and times of events are made from it."""

    partition: int
    offset: int
    now_ms: int


class VersionMonitor(State):
    """One (version, role): its error stream, and its comparisons once a reference is known."""

    errors: ErrorStream = field(default_factory=ErrorStream)
    comparisons: Comparisons | None = None

    def refer_to(self, reference: Reference) -> None:
        """With another reference windows begin again, while alarms go on."""
        known = self.comparisons
        if known is None:
            self.comparisons = Comparisons(reference)
        elif known.reference != reference:
            self.comparisons = Comparisons(reference, known.alerts, known.data_since, known.prediction_since)

    def observe(self, seen: Observation, spec: ModelSpec) -> list[Detection]:
        comparisons, errors = self.comparisons, self.errors
        detections = errors.update(seen, spec, comparisons.reference if comparisons is not None else None)
        if comparisons is not None:
            detections += comparisons.update(seen, spec, errors.positions, errors.count)
        return detections

    def alarmed(self) -> list[str]:
        return self.errors.alarmed() + (self.comparisons.alarmed() if self.comparisons is not None else [])

    def acknowledge(self) -> None:
        self.errors.acknowledge()
        if self.comparisons is not None:
            self.comparisons.acknowledge(self.errors.count)


class ModelMonitor(State):
    """The versions of one model that are monitored; the one observed last is last."""

    model: str
    champion: int = 0
    versions: dict[Key, VersionMonitor] = field(default_factory=dict[Key, VersionMonitor])

    def check(self, seen: Observation) -> None:
        """Raise DecodeError when ``seen`` does not go with what was seen before."""
        known = self.versions.get((seen.version, seen.role))
        if known is not None:
            known.errors.check(seen)

    def observe(self, seen: Observation, spec: ModelSpec, cause: Cause) -> list[Drift]:
        """``seen`` must have passed ``check``."""
        if seen.version == 0:
            return []
        key: Key = (seen.version, seen.role)
        version = self.versions[key] = self.versions.pop(key, None) or VersionMonitor()
        self._drop_silent()
        detections = version.observe(seen, spec)
        at = version.errors.count
        return [self._drift(seen, detection, cause, at, i) for i, detection in enumerate(detections)]

    def _drop_silent(self) -> None:
        while len(self.versions) > MAX_VERSIONS:
            del self.versions[next(key for key in self.versions if key != (self.champion, "champion"))]

    def on_champion(self, version: int, reference: Reference | None) -> None:
        """``version`` is live (0: none). The same version again is a refresh: its detectors go on."""
        key: Key = (version, "champion")
        if version != self.champion:
            self.versions.pop(key, None)
            self.champion = version
        if version:
            live = self.versions.setdefault(key, VersionMonitor())
            self._drop_silent()
            if reference is not None:
                live.refer_to(reference)

    def alarmed(self) -> frozenset[str]:
        """Return the champion's conditions that hold and are not acknowledged."""
        live = self.versions.get((self.champion, "champion"))
        return frozenset(live.alarmed()) if live is not None else frozenset()

    def acknowledge(self) -> None:
        """Keep the champion's alarms silent: a candidate was evaluated against it and was no better."""
        live = self.versions.get((self.champion, "champion"))
        if live is not None:
            live.acknowledge()

    def _drift(self, seen: Observation, found: Detection, cause: Cause, outcomes: int, number: int) -> Drift:
        what = (found.detector, found.subject, found.severity)
        when = (cause.partition, cause.offset, outcomes, number)
        return Drift(
            drift_id=event_id("drift", self.model, seen.version, seen.role, *what, *when),
            model=self.model,
            version=seen.version,
            role=seen.role,
            kind=found.kind,
            detector=found.detector,
            subject=found.subject,
            severity=found.severity,
            value=rounded(found.value),
            threshold=rounded(found.threshold),
            ts=cause.now_ms,
            caused_append_ms=seen.append_max_ms,
            estimated_change=found.change,
            evidence=found.evidence,
        )
