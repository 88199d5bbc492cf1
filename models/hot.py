"""The hot swap: verify, load beside, self-test, warm up, then swap one reference; else keep the old."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..schemas.events import Role
from ..schemas.serving import ModelUpdate
from .artifacts import ArtifactStore
from .features import Row
from .fitted import Answer
from .loaders import MAX_ARTIFACT_BYTES
from .signing import Verifier


@dataclass(frozen=True, slots=True)
class Served:
    """An answer and who gave it."""

    answer: Answer
    version: int
    refresh: int
    role: Role


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of an update; the shell adds server id and time to make a ModelAck.

    ``version`` and ``refresh`` are the champion's that now serves (0: none), whatever became of the update.
    ``retriable``: the store could not be read, so trying the same update again may help.
    """

    status: Literal["live", "refused"]
    reason: str
    version: int
    refresh: int
    generation: int
    load_ms: float
    retriable: bool = False


@dataclass(frozen=True, slots=True)
class Current:
    """What serves now; version 0: nothing."""

    version: int
    refresh: int
    generation: int
    shadows: tuple[int, ...] = ()
    canary: int | None = None


class HotSwap:
    def __init__(self, model: str, *, last_generation: int = 0, max_bytes: int = MAX_ARTIFACT_BYTES) -> None:
        raise NotImplementedError

    @property
    def last_generation(self) -> int:
        """The highest generation seen in an authentic update: the shell keeps it on disk."""
        raise NotImplementedError

    @property
    def current(self) -> Current:
        raise NotImplementedError

    def apply(self, update: ModelUpdate, *, store: ArtifactStore, verifier: Verifier) -> Applied:
        raise NotImplementedError

    def predict(self, rows: Sequence[Row], prediction_ids: Sequence[str] | None = None) -> list[Served]:
        """Champion's or canary's answers, in the rows' order. Raises NoModelError while there is no champion.

        The canary answers its fraction, chosen by a hash of the prediction id; without ids it answers nothing.
        """
        raise NotImplementedError

    def predict_shadows(self, rows: Sequence[Row]) -> list[list[Served]]:
        """For each shadow, its answers to all rows; call it after having answered."""
        raise NotImplementedError
