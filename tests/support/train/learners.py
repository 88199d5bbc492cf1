"""Learners that misbehave on purpose, for the trainer's tests. Imported in the training process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driftloop.models.formats.features import Row
from driftloop.models.formats.fitted import Fitted
from driftloop.models.formats.hgb import HgbLearner
from driftloop.schemas.serving import FeatureSpec, Task
from driftloop.schemas.spec.model import HistGradientBoosting

GATE_S = 60.0


class Behaving:
    """Learns as HistGradientBoosting does, after ``before_fit``."""

    def before_fit(self) -> None:
        """What makes it special."""

    def fit(
        self,
        rows: Sequence[Row],
        labels: Sequence[str | float],
        *,
        features: tuple[FeatureSpec, ...],
        classes: tuple[str, ...] | None,
        task: Task,
        seed: int,
    ) -> Fitted:
        self.before_fit()
        learner = HgbLearner(HistGradientBoosting(max_iter=10, min_samples_leaf=10))
        return learner.fit(rows, labels, features=features, classes=classes, task=task, seed=seed)


class Gated(Behaving):
    """A learner that creates ``begun`` when it begins, and goes on once ``gate`` exists."""

    def __init__(self, begun: str, gate: str) -> None:
        self._begun, self._gate = Path(begun), Path(gate)

    def before_fit(self) -> None:
        self._begun.write_text(str(os.getpid()))
        deadline = time.monotonic() + GATE_S
        while not self._gate.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody opened {self._gate}")
            threading.Event().wait(0.01)


class Endless(Behaving):
    """Never ends, after it has reported its beginning."""

    def __init__(self, begun: str) -> None:
        self._begun = Path(begun)

    def before_fit(self) -> None:
        self._begun.write_text(str(os.getpid()))
        threading.Event().wait()


class Crashing(Behaving):
    """Takes its process down, as a native library would."""

    def before_fit(self) -> None:
        os.write(2, b"corrupted double-linked list\n")
        os.abort()


class Hungry(Behaving):
    """Wants all the memory there is, and touches it."""

    def before_fit(self) -> None:
        held: list[bytes] = []
        while len(held) < 512:  # 32 GB: the limit comes first
            held.append(b"x" * 2**26)


class Killed(Behaving):
    """Ended from outside, as the kernel ends what takes too much memory."""

    def before_fit(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Raising(Behaving):
    """Fails as a user's code would."""

    def before_fit(self) -> None:
        raise RuntimeError("my learner is broken")


class Printing(Behaving):
    """Writes to stdout what looks like the protocol, from Python and from below it."""

    def before_fit(self) -> None:
        print("evaluating\ndone\nended 3", flush=True)
        os.write(1, b"ready\ndone\n")


def custom(name: str, **parameters: Any) -> dict[str, object]:
    """A spec's learner table."""
    return {"kind": "custom", "factory": f"tests.support.train.learners:{name}", "parameters": parameters}
