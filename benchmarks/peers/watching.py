"""What every Python peer does with a joined pair: river's detectors and a rolling accuracy, in memory.

Runs in the peers' own environments, so it imports nothing of driftloop. None of the peers keeps this state
durably, which favours them: driftloop's monitor does.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from river.drift import ADWIN, PageHinkley

WINDOW = 1_000


class Watching:
    """ADWIN, Page-Hinkley and the accuracy of the last ``WINDOW`` outcomes of one model."""

    def __init__(self) -> None:
        self._adwin = ADWIN()
        self._page_hinkley = PageHinkley()
        self._window: deque[int] = deque(maxlen=WINDOW)
        self._errors = 0

    def outcome(self, prediction: dict[str, Any], label: dict[str, Any]) -> dict[str, Any]:
        error = 0 if prediction["prediction"] == label["label"] else 1
        self._adwin.update(error)
        self._page_hinkley.update(error)
        if len(self._window) == WINDOW:
            self._errors -= self._window[0]
        self._window.append(error)
        self._errors += error
        return {
            **prediction,
            "label": label["label"],
            "label_ts": label["ts"],
            "error_value": error,
            "accuracy": 1 - self._errors / len(self._window),
            "drift": self._adwin.drift_detected or self._page_hinkley.drift_detected,
        }
