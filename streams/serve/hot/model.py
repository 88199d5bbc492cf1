"""A model that always answers with its live version: it predicts, emits what it predicted, and hot-swaps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from ....schemas.serving import Manifest
from ..client import EventClient
from ..events import checked_model
from .follower import FollowParts, FollowStatus, ModelFollower
from .requests import Failed, RequestHandler, Served, ServingState
from .swap import Current

__all__ = ["Failed", "LiveModel", "Served", "Swapped"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Swapped:
    """What serves from now on; version 0: nothing, or the fallback."""

    model: str
    version: int
    refresh: int
    generation: int


class LiveModel:
    """Follows one model, in any server. Thread safe; create it after a fork; close it before its client."""

    def __init__(
        self,
        model: str,
        parts: FollowParts,
        client: EventClient,
        on_swap: Callable[[Swapped], None] | None = None,
    ) -> None:
        """``on_swap`` is called from a thread.

        Raises InvalidEvent for a name that no model can have, StateError for unreadable state on disk.
        """
        self.name = checked_model(model)
        self._requests = RequestHandler(model, client)
        self._on_swap = on_swap
        self._changed = threading.Condition()
        self._generation = 0
        self._follower = ModelFollower(model, parts, client.outbox, self._on_change)
        self._follower.start()

    def predict(
        self,
        features: Mapping[str, object],
        prediction_id: str | None = None,
        *,
        segments: Mapping[str, object] | None = None,
        ts: int | None = None,
    ) -> Served:
        """Answer with the live version (the spec's fallback while there is none) and emit the prediction.

        ``ts``: Unix milliseconds, now by default. Raises InvalidEvent (a value that no event can carry),
        FeatureError (a value that is not of its feature's type), NoModelError (no version and no fallback)
        and whatever the model itself raises; each is also emitted, as a failed request, and has its
        ``prediction_id``, so that a label can be sent.
        """
        return self._requests.one(self._follower.serving, features, prediction_id, segments=segments, ts=ts)

    def predict_many(
        self,
        rows: Sequence[Mapping[str, object]],
        prediction_ids: Sequence[str | None] | None = None,
        *,
        segments: Sequence[Mapping[str, object] | None] | None = None,
        ts: Sequence[int | None] | None = None,
    ) -> list[Served | Failed]:
        """Predict many rows at once, in order; a row that fails is a Failed among the others.

        The latency of a row is its share of the batch's. Raises NoModelError like ``predict``, with the
        rows' ``prediction_ids``; ValueError when the sequences differ in length.
        """
        return self._requests.many(self._follower.serving, rows, prediction_ids, segments=segments, ts=ts)

    def wait_ready(self, timeout_s: float = 30.0) -> bool:
        """Wait until requests can be answered (by a version or a fallback); False on timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._follower.serving.can_answer, timeout_s)

    def wait_generation(self, generation: int, timeout_s: float = 30.0) -> bool:
        """Wait until this or a later generation serves; False on timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self.generation >= generation, timeout_s)

    @property
    def current(self) -> Current:
        """What serves now, with shadows and canary."""
        return self._follower.serving.hot.current

    @property
    def version(self) -> int:
        """The live version; 0: none."""
        return self.current.version

    @property
    def generation(self) -> int:
        """The generation of the plan that serves; 0: none yet."""
        return self.current.generation

    @property
    def manifest(self) -> Manifest | None:
        """The live version's manifest; None: none is live."""
        return self._follower.serving.hot.champion

    @property
    def can_answer(self) -> bool:
        """Whether there is a version or a fallback, and the privacy rules are known."""
        return self._follower.serving.can_answer

    @property
    def why_not(self) -> str:
        """Why requests cannot be answered; empty when they can."""
        serving = self._follower.serving
        if serving.can_answer:
            return ""
        return serving.why_not or "no version is live yet, and the spec has no fallback"

    @property
    def status(self) -> FollowStatus:
        """How far it follows the updates."""
        return self._follower.status

    @property
    def shadows_skipped(self) -> int:
        """Requests that the shadows did not answer, because too many waited or a shadow failed."""
        return self._requests.shadows_skipped

    def close(self) -> None:
        """Stop following; shadows answer what is queued for at most two seconds."""
        self._follower.close()
        self._requests.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_change(self, serving: ServingState) -> None:
        current = serving.hot.current
        self._requests.use(serving)
        with self._changed:
            self._changed.notify_all()
        if current.generation == self._generation:
            return
        self._generation = current.generation
        if self._on_swap is not None:
            try:
                self._on_swap(Swapped(self.name, current.version, current.refresh, current.generation))
            except Exception:  # the caller's code: logged; it must not stop the follower
                log.exception("%s: on_swap raised", self.name)
