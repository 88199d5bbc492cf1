"""The error stream of one (model, version, role): ADWIN, Page-Hinkley and rolling accuracy, and their alarms.

A detector's firing is recorded at once, as a warning, with the best estimate of where the change began. It
becomes an alarm when the move across that point is large enough to matter (half of
``detectors.accuracy.drop``) and stands out of what the stream's means do anyway (3.5 standard errors, see
ErrorHistory.deviations); on correlated errors most firings never do. The rolling accuracy alarms against
the version's reference.

Errors of a regression have no upper bound, which ADWIN needs: the detectors and the history see e / (e +
s), where s is the reference's mean error (or, without one, the mean of the first errors seen), fixed for
the version. The rolling error and all thresholds on it stay in the label's own units.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from ....schemas.errors import DecodeError
from ....schemas.serving import Reference
from ....schemas.spec.model import Detectors, ModelSpec
from ..observations import Observation
from .alarm_lifecycle import Alert
from .change_point import ErrorHistory, Split
from .detectors import OneSidedAdwin, PageHinkley, RollingErrors, Shift
from .drift_tests import rounded
from .findings import Finding, condition
from .positions import Positions

FloatArray = npt.NDArray[np.float64]
Firing = Literal["adwin", "page-hinkley"]

SUBJECT = "error"
ADWIN: Firing = "adwin"
PAGE_HINKLEY: Firing = "page-hinkley"
ROLLING = "rolling-accuracy"

# Stationary streams of 1.2 million outcomes gave 47 firings; 7 of them stood out by 3.5, 19 by 3.
CONFIRM_DEVIATIONS = 3.5
LOOK_BACK = 1000  # outcomes before Page-Hinkley's own change point that are enough for a `before`
RULE_DEVIATIONS = (
    2.0  # the rolling rule's window and hold-out may be small: a fall must exceed their noise too
)


class ErrorStream:
    """The detectors' state; ``update`` with one message's errors gives what they found, in a fixed order."""

    def __init__(self, detectors: Detectors) -> None:
        self.bits: bool = True
        self.count = 0
        self.positions = Positions()
        self._scale = 0.0
        self._adwin = OneSidedAdwin(detectors.adwin.delta)
        self._page_hinkley = PageHinkley()
        self._rolling = RollingErrors(bits=True)
        self._history = ErrorHistory()
        self._alerts = {name: Alert() for name in (ADWIN, PAGE_HINKLEY, ROLLING)}
        self._fall_recorded = -1

    def update(self, seen: Observation, spec: ModelSpec, reference: Reference | None) -> list[Finding]:
        """``seen`` must have passed ``check``."""
        self.positions.update(seen, self.count)
        if len(seen.errors) == 0:
            return []
        if self.count == 0 and seen.bits != self.bits:
            self.bits, self._rolling = seen.bits, RollingErrors(bits=seen.bits)
        detectors = spec.detectors
        values = self._bounded(seen.errors, reference)
        start, plain = self.count, values.tolist()
        self.count += len(plain)
        self._history.update(values)
        self._rolling.update(seen.errors, window=detectors.accuracy.window)
        return [
            *self._follow(ADWIN, self._feed_adwin(plain, start, detectors), detectors),
            *self._follow(PAGE_HINKLEY, self._feed_page_hinkley(plain, start, detectors), detectors),
            *self._follow_reference(spec, reference),
        ]

    def check(self, seen: Observation) -> None:
        """Raises DecodeError when these errors cannot belong to this stream."""
        if len(seen.errors) and self.count and seen.bits != self.bits:
            raise DecodeError(
                f"Vitals: {seen.model} version {seen.version}: its errors were "
                f"{'bits' if self.bits else 'numbers'} until now and are no longer"
            )

    def alarmed(self) -> list[str]:
        """Conditions that hold and that nobody has lived with yet."""
        return [condition(name, SUBJECT) for name, alert in self._alerts.items() if alert.state == "alarmed"]

    def judged(self) -> None:
        """A candidate was no better: live with what is, until it gets worse."""
        for alert in self._alerts.values():
            if alert.state == "alarmed":
                alert.level = self._rolling.mean
                alert.move("judged", self.count)

    def _bounded(self, errors: FloatArray, reference: Reference | None) -> FloatArray:
        if self.bits:
            return errors
        if self._scale <= 0:
            known = reference.mean_error if reference is not None else None
            self._scale = known or float(errors.mean()) or 1.0
        return errors / (errors + self._scale)

    def _feed_adwin(self, values: list[float], start: int, detectors: Detectors) -> list[Shift]:
        if not detectors.adwin.enabled:
            self._adwin = OneSidedAdwin(
                detectors.adwin.delta
            )  # its window may have no gap: indices count on it
            return []
        if self._adwin.delta != detectors.adwin.delta:
            self._adwin = OneSidedAdwin(detectors.adwin.delta)  # its window was cut by another delta
        return self._adwin.update(values, start)

    def _feed_page_hinkley(self, values: list[float], start: int, detectors: Detectors) -> list[Shift]:
        if not detectors.page_hinkley.enabled:
            self._page_hinkley = PageHinkley(self.count)
            return []
        return self._page_hinkley.update(
            values,
            start,
            delta=detectors.page_hinkley.delta,
            threshold=detectors.page_hinkley.threshold,
            min_outcomes=detectors.page_hinkley.min_outcomes,
        )

    def _follow(self, name: Firing, shifts: list[Shift], detectors: Detectors) -> list[Finding]:
        """Move the detector's alarm on, by its new firings and by what was learned of older ones."""
        alert, window = self._alerts[name], detectors.accuracy.window
        findings: list[Finding] = []
        rises = [shift for shift in shifts if shift.direction == "rise"]
        falls = [shift for shift in shifts if shift.direction == "fall"]
        if falls and (self._fall_recorded < 0 or self.count - self._fall_recorded >= window):
            findings.extend(self._improvement(name, falls[0]))
        if alert.state in ("alarmed", "accepted") and self.count - alert.index >= window:
            findings.extend(self._recovery(name, alert, window))
        fired = bool(rises) and alert.state in ("quiet", "accepted")
        if fired:
            alert.since = _view(name, rises[0])
            alert.move("fire", self.count)
        if alert.state == "suspected":
            findings.extend(self._weigh(name, alert, rises if fired else [], detectors))
        return findings

    def _weigh(self, name: Firing, alert: Alert, fresh: list[Shift], detectors: Detectors) -> list[Finding]:
        split = self._history.best_split(alert.since)
        deviations = 0.0 if split is None else self._history.deviations(split, bits=self.bits)
        # For numbers: e / (e + s) has the slope 1 / (4 s) at e = s, so a relative rise of x moves it by x /
        # 4.
        least = detectors.accuracy.drop / 2 if self.bits else detectors.accuracy.drop / 8
        if split is not None and split.rise >= least and deviations >= CONFIRM_DEVIATIONS:
            alert.level, alert.recovery = split.after_mean, (split.before_mean + split.after_mean) / 2
            alert.move("confirm", self.count)
            return [self._finding(name, "alarm", split, deviations, least, fresh)]
        if self.count - alert.index >= detectors.accuracy.window:
            alert.move("expire", self.count)
        if fresh and split is not None:
            return [self._finding(name, "warning", split, deviations, least, fresh)]
        return []

    def _finding(
        self,
        name: Firing,
        severity: Literal["info", "warning", "alarm"],
        split: Split,
        deviations: float,
        threshold: float,
        shifts: list[Shift],
    ) -> Finding:
        evidence: dict[str, Any] = {
            "before": {"n": split.before_n, "mean_error": rounded(split.before_mean)},
            "after": {"n": split.after_n, "mean_error": rounded(split.after_mean)},
            "change_index": split.change,
            "outcomes_seen": self.count,
        }
        if math.isfinite(deviations):
            evidence["standard_errors"] = rounded(deviations)
            evidence["standard_errors_needed"] = CONFIRM_DEVIATIONS
        if shifts:
            evidence["fired_at_index"] = shifts[0].at
            evidence["detector_change_index"] = shifts[0].change
        if not self.bits:
            evidence["scaled_by"] = rounded(self._scale)
        return Finding(
            kind="concept",
            detector=name,
            subject=SUBJECT,
            severity=severity,
            value=rounded(split.rise),
            threshold=rounded(threshold),
            change=self.positions.change_at(split.change),
            evidence=evidence,
        )

    def _improvement(self, name: Firing, fall: Shift) -> list[Finding]:
        split = self._history.best_split(fall.since, "fall")
        if split is None:
            return []
        self._fall_recorded = self.count
        return [
            self._finding(name, "info", split, self._history.deviations(split, bits=self.bits), 0.0, [fall])
        ]

    def _recovery(self, name: Firing, alert: Alert, window: int) -> list[Finding]:
        level = self._history.newest_mean(window)
        if level > alert.recovery:
            return []
        evidence = {"recovered": True, "n": window, "mean_error": rounded(level), "outcomes_seen": self.count}
        recovered = Finding(
            kind="concept",
            detector=name,
            subject=SUBJECT,
            severity="info",
            value=rounded(level),
            threshold=rounded(alert.recovery),
            evidence=evidence,
        )
        alert.move("recover", self.count)
        if name == PAGE_HINKLEY:
            self._page_hinkley = PageHinkley(self.count)  # its mean still holds what is over
        return [recovered]

    def _follow_reference(self, spec: ModelSpec, reference: Reference | None) -> list[Finding]:
        """The rolling rule: ``drop`` points of accuracy below the reference, or that share of error above."""
        rule, alert, rolling = spec.detectors.accuracy, self._alerts[ROLLING], self._rolling
        normal = None if reference is None else _normal_error(reference, bits=self.bits)
        if not rule.enabled or reference is None or normal is None or rolling.count < rule.window:
            return []
        drop = rule.drop if self.bits else rule.drop * normal
        deviation = math.sqrt(normal * (1 - normal)) if self.bits else rolling.deviation()
        noise = deviation * math.sqrt(1 / rolling.count + 1 / holdout_rows(spec, reference))
        limit = alert.level + drop if alert.state == "accepted" else normal + drop
        if alert.state != "alarmed" and rolling.mean > max(limit, normal + RULE_DEVIATIONS * noise):
            alert.level, alert.recovery = rolling.mean, normal + drop / 2
            alert.move("confirm", self.count)
            return [self._accuracy_finding(normal, drop, spec, reference)]
        if alert.state in ("alarmed", "accepted") and rolling.mean <= alert.recovery:
            alert.move("recover", self.count)
            return [self._accuracy_finding(normal, drop / 2, spec, reference, recovered=True)]
        return []

    def _accuracy_finding(
        self, normal: float, drop: float, spec: ModelSpec, reference: Reference, *, recovered: bool = False
    ) -> Finding:
        mean = self._rolling.mean
        evidence: dict[str, Any] = {
            "window": self._rolling.count,
            "mean_error": rounded(mean),
            "reference_error": rounded(normal),
            "reference_rows": holdout_rows(spec, reference),
            "outcomes_seen": self.count,
        }
        change = None
        if recovered:
            evidence["recovered"] = True
        else:
            split = self._history.best_split(max(0, self.count - 4 * spec.detectors.accuracy.window))
            index = self.count - self._rolling.count if split is None else split.change
            evidence["change_index"] = index
            change = self.positions.change_at(index)
        return Finding(
            kind="accuracy",
            detector=ROLLING,
            subject=SUBJECT,
            severity="info" if recovered else "alarm",
            value=rounded(1 - mean if self.bits else mean),
            threshold=rounded(1 - normal - drop if self.bits else normal + drop),
            change=change,
            evidence=evidence,
        )

    def dump(self) -> dict[str, Any]:
        return {
            "bits": self.bits,
            "count": self.count,
            "scale": self._scale,
            "fall_recorded": self._fall_recorded,
            "adwin": self._adwin.dump(),
            "page_hinkley": self._page_hinkley.dump(),
            "rolling": self._rolling.dump(),
            "history": self._history.dump(),
            "positions": self.positions.dump(),
            "alerts": {name: alert.dump() for name, alert in self._alerts.items()},
        }

    @classmethod
    def load(cls, state: dict[str, Any], detectors: Detectors) -> Self:
        stream = cls(detectors)
        stream.bits = bool(state["bits"])
        stream.count = int(state["count"])
        stream._scale = float(state["scale"])
        stream._fall_recorded = int(state["fall_recorded"])
        stream._adwin = OneSidedAdwin.load(state["adwin"])
        stream._page_hinkley = PageHinkley.load(state["page_hinkley"])
        stream._rolling = RollingErrors.load(state["rolling"])
        stream._history = ErrorHistory.load(state["history"])
        stream.positions = Positions.load(state["positions"])
        stream._alerts = {name: Alert.load(alert) for name, alert in state["alerts"].items()}
        return stream


def holdout_rows(spec: ModelSpec, reference: Reference) -> int:
    """How many rows are behind a reference's accuracy and shares: it names only its profile's."""
    return max(1, round(reference.rows * spec.window.holdout))


def _view(name: Firing, shift: Shift) -> int:
    """Where to begin looking for the change: ADWIN's window is of one piece, Page-Hinkley's may be long."""
    if name == ADWIN:
        return shift.since
    return max(shift.since, shift.change - max(LOOK_BACK, 4 * (shift.at - shift.change)))


def _normal_error(reference: Reference, *, bits: bool) -> float | None:
    if not bits:
        return reference.mean_error
    return None if reference.accuracy is None else 1 - reference.accuracy
