"""The update applier decides which update to try, what to persist, when to retry. No Kafka, no threads.

At start the newest update that can be served wins: first the persisted one, then those on the topic from the
highest generation down, never below what this server has served and never a version that a newer update
blocks. So a bad newest version leaves a restarted server where a running one would be. From then on updates
are applied as they come. One whose artifact could not be read, or whose key is not trusted yet, is retried
later. On failure: what served goes on serving.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ....models.registry.signing import Verifier
from ....schemas.errors import ArtifactError, SettingsError
from ....schemas.serving import ModelUpdate
from .persisted import StateFile
from .swap import ArtifactSource, HotSwap, SwapResult

log = logging.getLogger(__name__)

FIRST_RETRY_S = 1.0
MAX_RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What became of an update. ``authentic``: the registrar signed it; a forgery leaves no trace."""

    applied: SwapResult
    authentic: bool


class UpdateApplier:
    """Applies the updates of one model. Used from one thread; ``hot`` may be used from any."""

    def __init__(
        self, model: str, *, store: ArtifactSource, verifier: Callable[[], Verifier], state: StateFile
    ) -> None:
        """``verifier`` is called for each update, so keys added later are trusted without a restart."""
        self._model = model
        self._store = store
        self._verifier = verifier
        self._state = state
        self.hot = HotSwap(model, last_generation=state.persisted.last_generation)
        """What serves. It may be another object after ``restore`` and ``start``."""
        self._live: ModelUpdate | None = None
        self._unread: ModelUpdate | None = None
        self._untrusted: ModelUpdate | None = None
        self._retry_s = FIRST_RETRY_S

    @property
    def retry_in_s(self) -> float | None:
        """After how long to call ``retry``; None: there is nothing to retry."""
        return None if self._unread is None and self._untrusted is None else self._retry_s

    def restore(self) -> list[UpdateResult]:
        """Serve what was served before the restart, without waiting for Kafka."""
        live = self._state.persisted.live
        return [] if live is None else self._first_that_serves([live])

    def start(self, updates: Iterable[ModelUpdate]) -> list[UpdateResult]:
        """Serve the newest update that can be served; ``updates``: the topic, read to its end."""
        served = self._state.persisted.live
        floor = max(self.hot.current.generation, 0 if served is None else served.generation - 1)
        wanted = {update.generation: update for update in updates if update.generation > floor}
        return self._first_that_serves([wanted[generation] for generation in sorted(wanted, reverse=True)])

    def offer(self, update: ModelUpdate) -> list[UpdateResult]:
        """Apply an update that has arrived; nothing happens if it is the one that serves."""
        return [] if update == self._live else [self._apply(update, self.hot)]

    def retry(self) -> list[UpdateResult]:
        """Retry what could not be read, and what was signed with a key that is trusted by now."""
        self._retry_s = min(MAX_RETRY_S, self._retry_s * 2)
        results: list[UpdateResult] = []
        if self._untrusted is not None and self._authentic(self._untrusted):
            update, self._untrusted = self._untrusted, None
            results.append(self._apply(update, self.hot))
        if self._unread is not None:
            update, self._unread = self._unread, None
            results.append(self._apply(update, self.hot))
        return results

    def _first_that_serves(self, wanted: list[ModelUpdate]) -> list[UpdateResult]:
        results: list[UpdateResult] = []
        blocked: set[int] = set()
        for update in wanted:
            if update.plan.champion is not None and update.plan.champion.version in blocked:
                continue
            # A swap of its own for each: one that saw a newer generation would refuse the older ones.
            candidate = HotSwap(self._model, last_generation=update.generation - 1)
            result = self._apply(update, candidate)
            results.append(result)
            if result.applied.status == "live":
                self.hot = candidate
                return results
            if result.authentic:
                blocked.update(update.blocked)
        return results

    def _apply(self, update: ModelUpdate, hot: HotSwap) -> UpdateResult:
        try:
            applied = hot.apply(update, store=self._store, verifier=self._verifier())
        except SettingsError as error:  # a file among the trusted keys is not a key: nobody can be trusted
            applied = SwapResult("refused", str(error), 0, 0, update.generation, 0.0)
        authentic = self._authentic(update)
        if applied.status == "live":
            self._live, self._retry_s = update, FIRST_RETRY_S
            if self._unread is not None and self._unread.generation <= update.generation:
                self._unread = None
        else:
            serving = self.hot.current
            applied = replace(applied, version=serving.version, refresh=serving.refresh)
            self._wait_for(update, applied, authentic)
        if authentic:
            self._keep(hot.last_generation, update if applied.status == "live" else None)
        return UpdateResult(applied, authentic)

    def _wait_for(self, update: ModelUpdate, applied: SwapResult, authentic: bool) -> None:
        if not authentic:
            self._untrusted = update  # its key may come; checking again costs a tenth of a millisecond
        elif applied.retriable and (self._unread is None or update.generation > self._unread.generation):
            self._unread = update

    def _authentic(self, update: ModelUpdate) -> bool:
        try:
            self._verifier().verify(update)
        except (ArtifactError, SettingsError):
            return False
        return update.model == self._model

    def _keep(self, last_generation: int, live: ModelUpdate | None) -> None:
        last = max(self._state.persisted.last_generation, last_generation)
        try:
            self._state.update(last_generation=last, live=live)
        except OSError as error:
            # Serving on is right: a restart will read the topic, and only a replay at that moment could win.
            log.error("what %s serves cannot be persisted: %s", self._model, error)
