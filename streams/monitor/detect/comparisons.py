"""What is live against the version's reference: features, predictions, latency, failures and fairness.

Each comparison fills a tumbling window and is made when the window is full. Significance alone alarms
nobody: each has a minimum effect. A condition that lasts gives one alarm (see alarm_lifecycle).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from msgspec import field

from ....models.evaluation.statistics import holm
from ....schemas.decisions import Change
from ....schemas.serving import Reference
from ....schemas.spec.model import ModelSpec
from ....schemas.values.classes import Classes, one_spelling
from ..observations import Observation
from ..state import State
from .alarm_lifecycle import LASTING, Alert
from .detection import Detection, condition
from .drift_tests import more_often, rounded
from .error_stream import holdout_rows
from .feature_windows import FeatureReference, FeatureTest, FeatureWindows
from .live_windows import ClassCounts
from .positions import Positions
from .service_windows import LatencyWindow, SegmentWindow, ServedWindow

RECOVERED = 0.75  # of the way from normal to the threshold: below it a condition is over
FAILURES_ALPHA = 0.001  # one test per window of some 1,000 requests, for ever


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowComparison(Detection):
    """One full window against the reference. ``exceeded``: it is above the threshold, not by chance."""

    exceeded: bool
    normal: float = 0.0


class Comparisons(State, dict=True):
    """Windows and alarms of one (model, version, role) whose reference is known."""

    reference: Reference
    alerts: dict[str, Alert] = field(default_factory=dict[str, Alert])
    data_since: int = 0
    """Index of the outcome at which the window of features began."""
    prediction_since: int = 0
    features: FeatureWindows | None = None
    predicted: ClassCounts = field(default_factory=ClassCounts)
    latency: LatencyWindow = field(default_factory=LatencyWindow)
    served: ServedWindow = field(default_factory=ServedWindow)
    segments: SegmentWindow = field(default_factory=SegmentWindow)

    @cached_property
    def _known(self) -> FeatureReference:
        return FeatureReference.of(self.reference)

    def update(self, seen: Observation, spec: ModelSpec, positions: Positions, count: int) -> list[Detection]:
        """``count``: outcomes of the stream up to and including these."""
        features = self.features = self.features or FeatureWindows.empty(self._known)
        named = {name for name, feature in spec.features.items() if feature.type == "category"}
        features.add(seen, self._known, named)
        self.predicted.add_all(seen.predicted)
        self.latency.add(seen.latency)
        self.served.add(seen.counts)
        self.segments.add(seen)
        detections: list[Detection] = []
        rules = spec.detectors
        if features.rows >= rules.data.window:
            change = positions.change_at(self.data_since)
            detections += self._conclude(self._data(features, spec), count, change)
            self.features, self.data_since = features.next(self._known), count
        if self.predicted.rows >= rules.data.window:
            change = positions.change_at(self.prediction_since)
            detections += self._conclude(self._prediction(spec), count, change)
            self.predicted, self.prediction_since = ClassCounts(), count
        if self.latency.rows >= rules.latency.window:
            detections += self._conclude(self._latency(spec), count)
            self.latency = LatencyWindow()
        if self.served.rows >= rules.failures.window:
            detections += self._conclude(self._failures(spec), count)
            self.served = ServedWindow()
        if self.segments.rows >= rules.data.window:
            detections += self._conclude(self._fairness(spec), count)
            self.segments = SegmentWindow()
        return detections

    def _data(self, features: FeatureWindows, spec: ModelSpec) -> list[WindowComparison]:
        rule, kept = spec.detectors.data, spec.kept_features()
        if not rule.enabled:
            return []
        tests = [
            test
            for test in features.tests(self._known)
            if test.name in kept
            or test.name not in spec.features  # what must not leave a server is not missed
        ]
        corrected = holm([test.result.p for test in tests])
        return [
            WindowComparison(
                kind="data",
                detector=test.detector,
                subject=test.name,
                value=test.result.real,
                threshold=rule.min_effect,
                exceeded=p < rule.alpha and test.result.real > rule.min_effect,
                evidence={
                    "n": test.rows,
                    "reference_n": self.reference.rows,
                    "p": rounded(test.result.p),
                    "p_holm": rounded(p),
                    "alpha": rule.alpha,
                    "tests": len(tests),
                    "largest_at": test.result.where,
                }
                | self._missing(test, features),
            )
            for test, p in zip(tests, corrected, strict=True)
        ]

    def _missing(self, test: FeatureTest, features: FeatureWindows) -> dict[str, Any]:
        if test.detector != "nulls":
            return {}
        normal = self._known.present[test.name]
        return {
            "live": {name: rounded(rows / test.rows) for name, rows in test.live.items()},
            "reference": {name: rounded(rows / (sum(normal.values()) or 1)) for name, rows in normal.items()},
            "not_in_reference": sorted(features.unfamiliar),
        }

    def _prediction(self, spec: ModelSpec) -> list[WindowComparison]:
        rule, shares = spec.detectors.data, self._predicted_shares(spec)
        if not rule.enabled or not shares:
            return []
        rows = holdout_rows(spec, self.reference)
        live = self._predicted_live(spec, shares)
        result = live.distribution({name: share * rows for name, share in shares.items()})
        return [
            WindowComparison(
                kind="prediction",
                detector="chi2",
                subject="predicted class",
                value=result.real,
                threshold=rule.min_effect,
                exceeded=result.p < rule.alpha and result.real > rule.min_effect,
                evidence={
                    "n": live.rows,
                    "reference_n": rows,
                    "p": rounded(result.p),
                    "alpha": rule.alpha,
                    "live": {name: rounded(n / live.rows) for name, n in sorted(live.live.items())},
                    "reference": {name: rounded(share) for name, share in sorted(shares.items())},
                },
            )
        ]

    def _predicted_live(self, spec: ModelSpec, shares: Mapping[str, float]) -> ClassCounts:
        """Return live answers by the reference's names, where the spec declares none to count them by."""
        if spec.classes is not None:
            return self.predicted
        spelled = one_spelling(self.predicted.live, shares)
        live = ClassCounts()
        for name, count in self.predicted.live.items():
            live.add(spelled[name], count)
        return live

    def _predicted_shares(self, spec: ModelSpec) -> dict[str, float]:
        """Return the reference's share of each predicted class, as the spec spells the class by now."""
        shares = self.reference.predicted or {}
        if spec.classes is None:
            return shares
        declared = Classes.of(spec.classes)
        known: dict[str, float] = {}
        for name, share in shares.items():
            meant = declared.class_of(name)
            known[meant] = known.get(meant, 0.0) + share
        return known

    def _latency(self, spec: ModelSpec) -> list[WindowComparison]:
        rule, normal = spec.detectors.latency, self.reference.latency_p95_ms
        if not rule.enabled or normal is None:
            return []
        p95, threshold = self.latency.p95(), max(rule.ratio * normal, rule.floor_ms)
        return [
            WindowComparison(
                kind="latency",
                detector="p95",
                subject="latency p95",
                value=p95,
                threshold=threshold,
                exceeded=p95 > threshold,
                evidence={"n": self.latency.rows, "reference_p95_ms": rounded(normal)},
            )
        ]

    def _failures(self, spec: ModelSpec) -> list[WindowComparison]:
        rule, normal = spec.detectors.failures, self.reference.failure_rate
        if not rule.enabled:
            return []
        n, failed = self.served.rows, self.served.failed
        p = more_often(failed, n, normal, self.reference.rows)
        return [
            WindowComparison(
                kind="failures",
                detector="failure-rate",
                subject="failed requests",
                value=failed / n,
                threshold=normal + rule.increase,
                normal=normal,
                exceeded=failed / n > normal + rule.increase and p < FAILURES_ALPHA,
                evidence={"n": n, "failed": failed, "reference_rate": rounded(normal), "p": rounded(p)},
            )
        ]

    def _fairness(self, spec: ModelSpec) -> list[WindowComparison]:
        rule = spec.gates.fairness
        gaps = self.segments.gaps(self.reference, rule.min_rows)
        corrected = holm([gap.p for gap in gaps])
        comparisons: list[WindowComparison] = []
        for name in dict.fromkeys(gap.segment for gap in gaps):
            of_name = [(gap, p) for gap, p in zip(gaps, corrected, strict=True) if gap.segment == name]
            worst, p = max(of_name, key=lambda pair: (pair[0].excess, pair[0].value))
            comparisons.append(
                WindowComparison(
                    kind="fairness",
                    detector="segment-gap",
                    subject=name,
                    value=worst.excess,
                    threshold=rule.max_loss,
                    exceeded=worst.excess > rule.max_loss and p < spec.detectors.data.alpha,
                    evidence={
                        "worst": worst.value,
                        "n": worst.n,
                        "others_n": worst.others_n,
                        "mean_error": rounded(worst.mean),
                        "others_mean_error": rounded(worst.others_mean),
                        "reference_gap": rounded(worst.normal),
                        "p_holm": rounded(p),
                    },
                )
            )
        return comparisons

    def _conclude(
        self, comparisons: list[WindowComparison], count: int, change: Change | None = None
    ) -> list[Detection]:
        """Return one full window's alarms, dated to ``change``, and recoveries."""
        decided = (self._decide(comparison, count, change) for comparison in comparisons)
        return [found for found in decided if found is not None]

    def _decide(self, found: WindowComparison, count: int, change: Change | None) -> Detection | None:
        alert = self.alerts.setdefault(condition(found.detector, found.subject), Alert())
        span = found.threshold - found.normal
        worse = alert.state == "quiet" or (alert.state == "acknowledged" and found.value > alert.level + span)
        if found.exceeded and worse:
            alert.move("confirm", count)
            alert.level = found.value
            return replace(found, change=change)
        if alert.state == "alarmed":
            alert.level = found.value
        if alert.state in LASTING and found.value <= found.normal + RECOVERED * span:
            alert.move("recover", count)
            return replace(found, severity="info", evidence=found.evidence | {"recovered": True})
        return None

    def alarmed(self) -> list[str]:
        return [name for name, alert in self.alerts.items() if alert.state == "alarmed"]

    def acknowledge(self, count: int) -> None:
        """Keep alarms silent until they get worse: a candidate was no better."""
        for alert in self.alerts.values():
            if alert.state == "alarmed":
                alert.move("acknowledge", count)
