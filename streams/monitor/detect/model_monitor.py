"""The monitor of one model: vitals and references in, drift out.

Everything is kept per (version, role) and goes on across refreshes of a version. A version that goes live
starts anew. Only versions other than 0 are watched: before there is a champion nothing can decay.

On failure: ``check`` finds what is wrong with an observation before any state changed; ``observe`` then
cannot fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import orjson

from ....schemas.decisions import Drift
from ....schemas.events import Role
from ....schemas.ids import event_id
from ....schemas.serving import Reference
from ....schemas.spec.model import ModelSpec
from ..observations import Observation
from .comparisons import Comparisons
from .error_stream import ErrorStream
from .findings import Finding

Key = tuple[int, Role]

MAX_WATCHED = 8  # versions and roles per model; the one that was silent longest goes first


@dataclass(frozen=True, slots=True)
class Cause:
    """The record that is being applied: it gives events their ids and their time."""

    partition: int
    offset: int
    now_ms: int


class Watched:
    """One (version, role): its error stream, and its comparisons once a reference is known."""

    def __init__(self, spec: ModelSpec) -> None:
        self.errors = ErrorStream(spec.detectors)
        self.comparisons: Comparisons | None = None
        self.reference: Reference | None = None

    def refer_to(self, reference: Reference | None) -> None:
        if reference is None:
            return
        self.reference = reference
        if self.comparisons is None:
            self.comparisons = Comparisons(reference)
        else:
            self.comparisons.refer_to(reference)

    def observe(self, seen: Observation, spec: ModelSpec) -> list[Finding]:
        findings = self.errors.update(seen, spec, self.reference)
        if self.comparisons is not None:
            positions, count = self.errors.positions, self.errors.count
            findings += self.comparisons.update(seen, spec, positions, count)
        return findings

    def alarmed(self) -> list[str]:
        return self.errors.alarmed() + (self.comparisons.alarmed() if self.comparisons else [])

    def judged(self) -> None:
        self.errors.judged()
        if self.comparisons is not None:
            self.comparisons.judged(self.errors.count)

    def dump(self) -> dict[str, Any]:
        return {
            "errors": self.errors.dump(),
            "comparisons": self.comparisons.dump() if self.comparisons else None,
            "reference": orjson.Fragment(self.reference.encode()) if self.reference else None,
        }

    @classmethod
    def load(cls, state: dict[str, Any], spec: ModelSpec) -> Self:
        watched = cls(spec)
        watched.errors = ErrorStream.load(state["errors"], spec.detectors)
        if state["reference"] is not None:
            watched.reference = Reference.decode(orjson.dumps(state["reference"]))
            watched.comparisons = Comparisons.load(state["comparisons"], watched.reference)
        return watched


class Monitor:
    """All that is watched of one model."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.champion = 0
        self._watched: dict[Key, Watched] = {}  # the one heard of last is last

    def check(self, seen: Observation) -> None:
        """Raises DecodeError when ``seen`` does not go with what was seen before."""
        watched = self._watched.get((seen.version, seen.role))
        if watched is not None:
            watched.errors.check(seen)

    def observe(self, seen: Observation, spec: ModelSpec, cause: Cause) -> list[tuple[Drift, Finding]]:
        """``seen`` must have passed ``check``."""
        if seen.version == 0:
            return []
        key: Key = (seen.version, seen.role)
        watched = self._watched.pop(key, None) or Watched(spec)
        self._watched[key] = watched
        self._make_room()
        findings = watched.observe(seen, spec)
        at = watched.errors.count
        return [(self._drift(seen, finding, cause, at, i), finding) for i, finding in enumerate(findings)]

    def _make_room(self) -> None:
        while len(self._watched) > MAX_WATCHED:
            del self._watched[next(key for key in self._watched if key != (self.champion, "champion"))]

    def serve(self, version: int, reference: Reference | None, spec: ModelSpec) -> None:
        """``version`` is live now (0: none is). The same version again is a refresh: its detectors go on."""
        key: Key = (version, "champion")
        if version != self.champion:
            self._watched.pop(key, None)
            self.champion = version
        if version:
            watched = self._watched.setdefault(key, Watched(spec))
            self._make_room()
            watched.refer_to(reference)

    def alarmed(self) -> frozenset[str]:
        """Conditions of the champion that hold and that no candidate was judged for."""
        watched = self._watched.get((self.champion, "champion"))
        return frozenset(watched.alarmed()) if watched is not None else frozenset()

    def judged(self) -> None:
        """A candidate was judged against the champion and was no better."""
        watched = self._watched.get((self.champion, "champion"))
        if watched is not None:
            watched.judged()

    def _drift(self, seen: Observation, finding: Finding, cause: Cause, outcomes: int, number: int) -> Drift:
        return Drift(
            drift_id=event_id(
                "drift",
                self.model,
                seen.version,
                seen.role,
                finding.detector,
                finding.subject,
                finding.severity,
                cause.partition,
                cause.offset,
                outcomes,
                number,
            ),
            model=self.model,
            version=seen.version,
            role=seen.role,
            kind=finding.kind,
            detector=finding.detector,
            subject=finding.subject,
            severity=finding.severity,
            value=finding.value,
            threshold=finding.threshold,
            ts=cause.now_ms,
            caused_append_ms=seen.append_max_ms,
            estimated_change=finding.change,
            evidence=finding.evidence,
        )

    def dump(self) -> dict[str, Any]:
        return {
            "champion": self.champion,
            "watched": [[*key, watched.dump()] for key, watched in self._watched.items()],
        }

    @classmethod
    def load(cls, model: str, state: dict[str, Any], spec: ModelSpec) -> Self:
        monitor = cls(model)
        monitor.champion = int(state["champion"])
        monitor._watched = {
            (version, role): Watched.load(watched, spec) for version, role, watched in state["watched"]
        }
        return monitor
