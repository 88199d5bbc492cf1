"""The error stream of one (model, version, role): ADWIN, Page-Hinkley and rolling accuracy, and their alarms.

A detector's firing is recorded at once, as a warning, with the best estimate of where the change began. It
becomes an alarm when the move across that point is large enough to matter (half of
``detectors.accuracy.drop``) and exceeds what the stream's means do anyway (3.5 standard errors, see
ErrorHistory.deviations); on correlated errors most firings never do. The rolling accuracy alarms against
the version's reference.

Errors of a regression have no upper bound, which ADWIN needs: the detectors and the history see e / (e +
s), where s is the reference's mean error (or, without one, the mean of the first errors seen), fixed for
the version. The rolling error and all thresholds on it stay in the label's own units.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import field

from ....schemas.errors import DecodeError
from ....schemas.serving import Reference
from ....schemas.spec.model import Detectors, ModelSpec
from ..observations import Observation
from ..state import State
from .alarm_lifecycle import LASTING, SILENT, Alert
from .change_point import ChangePoint, ErrorHistory
from .detection import Detection, condition
from .detectors import OneSidedAdwin, PageHinkleyTest, RollingErrors, Shift
from .drift_tests import rounded
from .positions import Positions

FloatArray = npt.NDArray[np.float64]
Firing = Literal["adwin", "page-hinkley"]

SUBJECT = "error"
ADWIN: Firing = "adwin"
PAGE_HINKLEY: Firing = "page-hinkley"
ROLLING = "rolling-accuracy"

# Stationary streams of 1.2 million outcomes had 47 firings; 7 of them exceeded 3.5, 19 exceeded 3.
CONFIRM_DEVIATIONS = 3.5
LOOK_BACK = 1000  # outcomes before Page-Hinkley's own change point that are enough for a `before`
# The rolling rule's window and hold-out may be small: a fall must exceed their noise too.
RULE_DEVIATIONS = 2.0


class ErrorStream(State):
    """The detectors' state; ``update`` returns one message's detections in a fixed order."""

    count: int = 0
    scale: float = 0.0
    fall_recorded: int = -1
    adwin: OneSidedAdwin = field(default_factory=lambda: OneSidedAdwin.started(Detectors().adwin.delta))
    page_hinkley: PageHinkleyTest = field(default_factory=PageHinkleyTest)
    rolling: RollingErrors = field(default_factory=lambda: RollingErrors.started(bits=True))
    history: ErrorHistory = field(default_factory=ErrorHistory)
    positions: Positions = field(default_factory=Positions)
    alerts: dict[str, Alert] = field(
        default_factory=lambda: {name: Alert() for name in (ADWIN, PAGE_HINKLEY, ROLLING)}
    )

    @property
    def bits(self) -> bool:
        """Errors are 0 or 1; else they are numbers."""
        return self.rolling.bits

    def update(self, seen: Observation, spec: ModelSpec, reference: Reference | None) -> list[Detection]:
        """``seen`` must have passed ``check``."""
        self.positions.update(seen, self.count)
        if len(seen.errors) == 0:
            return []
        if self.count == 0 and seen.bits != self.bits:
            self.rolling = RollingErrors.started(bits=seen.bits)
        detectors = spec.detectors
        values = self._bounded(seen.errors, reference)
        start, plain = self.count, values.tolist()
        self.count += len(plain)
        self.history.update(values)
        self.rolling.update(seen.errors, window=detectors.accuracy.window)
        return [
            *self._follow(ADWIN, self._feed_adwin(plain, start, detectors), detectors),
            *self._follow(PAGE_HINKLEY, self._feed_page_hinkley(plain, start, detectors), detectors),
            *self._follow_reference(spec, reference),
        ]

    def check(self, seen: Observation) -> None:
        """Raise DecodeError when these errors cannot belong to this stream."""
        if len(seen.errors) and self.count and seen.bits != self.bits:
            raise DecodeError(
                f"Vitals: {seen.model} version {seen.version}: its errors were "
                f"{'bits' if self.bits else 'numbers'} until now and are no longer"
            )

    def alarmed(self) -> list[str]:
        """Return the conditions that hold and are not acknowledged."""
        return [condition(name, SUBJECT) for name, alert in self.alerts.items() if alert.state == "alarmed"]

    def acknowledge(self) -> None:
        """Keep alarms silent until they get worse: a candidate was no better."""
        for alert in self.alerts.values():
            if alert.state == "alarmed":
                alert.level = self.rolling.mean
                alert.move("acknowledge", self.count)

    def _bounded(self, errors: FloatArray, reference: Reference | None) -> FloatArray:
        if self.bits:
            return errors
        if self.scale <= 0:
            known = reference.mean_error if reference is not None else None
            self.scale = known or float(errors.mean()) or 1.0
        return errors / (errors + self.scale)

    def _feed_adwin(self, values: list[float], start: int, detectors: Detectors) -> list[Shift]:
        rule = detectors.adwin
        # Its window must have no gap, since indices count on it, and must have been cut by the same delta.
        if not rule.enabled or self.adwin.delta != rule.delta:
            self.adwin = OneSidedAdwin.started(rule.delta)
        return self.adwin.update(values, start) if rule.enabled else []

    def _feed_page_hinkley(self, values: list[float], start: int, detectors: Detectors) -> list[Shift]:
        if not detectors.page_hinkley.enabled:
            self.page_hinkley = PageHinkleyTest.started(self.count)
            return []
        return self.page_hinkley.update(values, start, detectors.page_hinkley)

    def _follow(self, name: Firing, shifts: list[Shift], detectors: Detectors) -> list[Detection]:
        """Move the detector's alarm by its new firings and by what has come of older ones."""
        alert, window = self.alerts[name], detectors.accuracy.window
        detections: list[Detection] = []
        rises = [shift for shift in shifts if shift.direction == "rise"]
        falls = [shift for shift in shifts if shift.direction == "fall"]
        if falls and (self.fall_recorded < 0 or self.count - self.fall_recorded >= window):
            detections.extend(self._improvement(name, falls[0]))
        if alert.state in LASTING and self.count - alert.index >= window:
            detections.extend(self._recovery(name, alert, window))
        fired = rises[0] if rises and alert.state in SILENT else None
        if fired is not None:
            alert.since = _view(name, fired)
            alert.move("fire", self.count)
        if alert.state == "suspected":
            detections.extend(self._weigh(name, alert, fired, detectors))
        return detections

    def _weigh(
        self, name: Firing, alert: Alert, fired: Shift | None, detectors: Detectors
    ) -> list[Detection]:
        split = self.history.best_split(alert.since)
        deviations = 0.0 if split is None else self.history.deviations(split, bits=self.bits)
        # For numbers: e / (e + s) has the slope 1 / (4 s) at e = s: a relative rise of x moves it by x / 4.
        least = detectors.accuracy.drop / 2 if self.bits else detectors.accuracy.drop / 8
        if split is not None and split.rise >= least and deviations >= CONFIRM_DEVIATIONS:
            alert.level, alert.recovery = split.after_mean, (split.before_mean + split.after_mean) / 2
            alert.move("confirm", self.count)
            return [self._detection(name, "alarm", split, deviations, least, fired)]
        if self.count - alert.index >= detectors.accuracy.window:
            alert.move("expire", self.count)
        if fired is not None and split is not None:
            return [self._detection(name, "warning", split, deviations, least, fired)]
        return []

    def _detection(
        self,
        name: Firing,
        severity: Literal["info", "warning", "alarm"],
        split: ChangePoint,
        deviations: float,
        threshold: float,
        fired: Shift | None,
    ) -> Detection:
        evidence: dict[str, Any] = {
            "before": {"n": split.before_n, "mean_error": rounded(split.before_mean)},
            "after": {"n": split.after_n, "mean_error": rounded(split.after_mean)},
            "change_index": split.index,
            "outcomes_seen": self.count,
        }
        if math.isfinite(deviations):
            evidence["standard_errors"] = rounded(deviations)
            evidence["standard_errors_needed"] = CONFIRM_DEVIATIONS
        if fired is not None:
            evidence["fired_at_index"] = fired.at
            evidence["detector_change_index"] = fired.change
        if not self.bits:
            evidence["scaled_by"] = rounded(self.scale)
        return Detection(
            kind="concept",
            detector=name,
            subject=SUBJECT,
            severity=severity,
            value=split.rise,
            threshold=threshold,
            change=self.positions.change_at(split.index),
            evidence=evidence,
        )

    def _improvement(self, name: Firing, fall: Shift) -> list[Detection]:
        split = self.history.best_split(fall.since, "fall")
        if split is None:
            return []
        self.fall_recorded = self.count
        deviations = self.history.deviations(split, bits=self.bits)
        return [self._detection(name, "info", split, deviations, 0.0, fall)]

    def _recovery(self, name: Firing, alert: Alert, window: int) -> list[Detection]:
        level = self.history.newest_mean(window)
        if level > alert.recovery:
            return []
        alert.move("recover", self.count)
        if name == PAGE_HINKLEY:
            self.page_hinkley = PageHinkleyTest.started(self.count)  # its mean still includes what is over
        evidence = {"recovered": True, "n": window, "mean_error": rounded(level), "outcomes_seen": self.count}
        return [Detection("concept", name, SUBJECT, level, alert.recovery, evidence, severity="info")]

    def _follow_reference(self, spec: ModelSpec, reference: Reference | None) -> list[Detection]:
        """The rolling rule: ``drop`` points of accuracy below the reference, or that share of error above."""
        rule, alert, rolling = spec.detectors.accuracy, self.alerts[ROLLING], self.rolling
        normal = None if reference is None else normal_error(reference, bits=self.bits)
        if not rule.enabled or reference is None or normal is None or len(rolling.values) < rule.window:
            return []
        drop = rule.drop if self.bits else rule.drop * normal
        deviation = math.sqrt(normal * (1 - normal)) if self.bits else float(rolling.values.std())
        noise = deviation * math.sqrt(1 / len(rolling.values) + 1 / holdout_rows(spec, reference))
        limit = alert.level + drop if alert.state == "acknowledged" else normal + drop
        if alert.state != "alarmed" and rolling.mean > max(limit, normal + RULE_DEVIATIONS * noise):
            alert.level, alert.recovery = rolling.mean, normal + drop / 2
            alert.move("confirm", self.count)
            return [self._accuracy_detection(normal, drop, spec, reference)]
        if alert.state in LASTING and rolling.mean <= alert.recovery:
            alert.move("recover", self.count)
            return [self._accuracy_detection(normal, drop / 2, spec, reference, recovered=True)]
        return []

    def _accuracy_detection(
        self, normal: float, drop: float, spec: ModelSpec, reference: Reference, *, recovered: bool = False
    ) -> Detection:
        mean = self.rolling.mean
        evidence: dict[str, Any] = {
            "window": len(self.rolling.values),
            "mean_error": rounded(mean),
            "reference_error": rounded(normal),
            "reference_rows": holdout_rows(spec, reference),
            "outcomes_seen": self.count,
        }
        change = None
        if recovered:
            evidence["recovered"] = True
        else:
            split = self.history.best_split(max(0, self.count - 4 * spec.detectors.accuracy.window))
            index = self.count - len(self.rolling.values) if split is None else split.index
            evidence["change_index"] = index
            change = self.positions.change_at(index)
        return Detection(
            kind="accuracy",
            detector=ROLLING,
            subject=SUBJECT,
            severity="info" if recovered else "alarm",
            value=1 - mean if self.bits else mean,
            threshold=1 - normal - drop if self.bits else normal + drop,
            change=change,
            evidence=evidence,
        )


def holdout_rows(spec: ModelSpec, reference: Reference) -> int:
    """Return how many rows are behind a reference's accuracy and shares: it names only its profile's."""
    return max(1, round(reference.rows * spec.window.holdout))


def _view(name: Firing, shift: Shift) -> int:
    """Return where to look for the change from: ADWIN's window has no gap, Page-Hinkley's may be long."""
    if name == ADWIN:
        return shift.since
    return max(shift.since, shift.change - max(LOOK_BACK, 4 * (shift.at - shift.change)))


def normal_error(reference: Reference, *, bits: bool) -> float | None:
    """Return the reference's mean error, in the stream's own units; None where it is unknown."""
    if not bits:
        return reference.mean_error
    return None if reference.accuracy is None else 1 - reference.accuracy
