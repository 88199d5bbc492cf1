"""The hot swap: a server never gets worse by an update.

For each update, in this order; any failure keeps everything as it was and says why:

1. signature of the update; its model; 2. its generation is above the last; no version in it is blocked;
3. each new version's manifest: digest, signature, that it is the version named; 4. its artifact: size and
digest before a byte is parsed; 5. loaded beside the old one; 6. self-test; 7. warm-up; 8. one reference is
swapped. Requests that are under way end on the version they began with.

No Kafka and no disk here: the shell reads updates, persists ``last_generation`` and sends acknowledgements.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from ....models.formats.features import Row
from ....models.formats.fitted import Answer, Predictor
from ....models.formats.loaders import MAX_ARTIFACT_BYTES, load
from ....models.registry.artifacts import MissingArtifact
from ....models.registry.self_test import check_self_test
from ....models.registry.signing import Verifier
from ....schemas.errors import ArtifactError, Error, NoModelError
from ....schemas.events import Role
from ....schemas.serving import Manifest, ModelUpdate, Plan, VersionRef

Status = Literal["live", "refused"]

_WARM_UPS = 20  # rounds over the self-test rows; onnxruntime's first few runs allocate and are slow


class ArtifactSource(Protocol):
    """What the swap reads from an ArtifactStore."""

    def get_manifest(self, model: str, sha256: str) -> Manifest: ...
    def get_artifact(self, model: str, sha256: str, max_bytes: int = MAX_ARTIFACT_BYTES) -> bytes: ...


class VersionAnswer(NamedTuple):
    """An answer and who gave it. A tuple, because one is made per request."""

    answer: Answer
    version: int
    refresh: int
    role: Role


@dataclass(frozen=True, slots=True)
class SwapResult:
    """What became of an update; with server id and time it makes a ModelAck.

    ``generation`` is the update's; ``version`` and ``refresh`` are the champion's that serves now (0: none),
    whatever became of the update. ``retriable``: the store could not be read, so the same update may work
    later.
    """

    status: Status
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


@dataclass(frozen=True, slots=True)
class _Loaded:
    manifest: Manifest
    manifest_sha256: str
    predictor: Predictor


@dataclass(frozen=True, slots=True)
class _Live:
    """Everything that serves, behind one reference: a request sees all of it or none."""

    generation: int = 0
    champion: _Loaded | None = None
    shadows: tuple[_Loaded, ...] = ()
    canary: _Loaded | None = None
    canary_below: int = 0  # of 2**64

    def by_manifest(self) -> dict[str, _Loaded]:
        everyone = (self.champion, self.canary, *self.shadows)
        return {loaded.manifest_sha256: loaded for loaded in everyone if loaded is not None}


class _Refusal(Error):
    def __init__(self, reason: str, *, retriable: bool = False) -> None:
        self.retriable = retriable
        super().__init__(reason)


class HotSwap:
    """Serves one model and swaps to what authentic updates say. Thread safe."""

    def __init__(self, model: str, *, last_generation: int = 0) -> None:
        """``last_generation``: as the previous process persisted it; that one may be loaded again."""
        self.model = model
        self.last_generation = last_generation
        """The highest generation seen in an authentic update, applied or not. The shell persists it."""
        self._live = _Live()
        self._applying = threading.Lock()

    @property
    def current(self) -> Current:
        live = self._live
        champion = live.champion.manifest if live.champion else None
        return Current(
            version=champion.version if champion else 0,
            refresh=champion.refresh if champion else 0,
            generation=live.generation,
            shadows=tuple(shadow.manifest.version for shadow in live.shadows),
            canary=live.canary.manifest.version if live.canary else None,
        )

    @property
    def champion(self) -> Manifest | None:
        """The manifest of what serves now."""
        loaded = self._live.champion
        return loaded.manifest if loaded else None

    def predict(
        self, rows: Sequence[Row], prediction_ids: Sequence[str] | None = None
    ) -> list[VersionAnswer]:
        """Champion's or canary's answers, in the rows' order. Raises NoModelError while there is no champion.

        The canary answers its fraction, chosen by a hash of the prediction id: the same id always meets the
        same version, and a greater fraction keeps those who had it. Without ids it answers nothing.
        """
        live = self._live
        champion = live.champion
        if champion is None:
            raise self._no_model()
        if live.canary is None or prediction_ids is None:
            return _serve(champion, "champion", rows)
        return _split(live, champion, live.canary, rows, prediction_ids)

    def predict_one(self, row: Row, prediction_id: str) -> VersionAnswer:
        """Predict one row, which is what most requests ask: without making and unpacking lists."""
        live = self._live
        loaded, role = live.champion, "champion"
        if loaded is None:
            raise self._no_model()
        if live.canary is not None and _is_canarys(prediction_id, live.canary_below):
            loaded, role = live.canary, "canary"
        manifest = loaded.manifest
        return VersionAnswer(loaded.predictor.predict((row,))[0], manifest.version, manifest.refresh, role)

    def predict_shadows(self, rows: Sequence[Row]) -> list[list[VersionAnswer]]:
        """Return each shadow's answers to all rows. Call it after the request has been answered."""
        return [_serve(shadow, "shadow", rows) for shadow in self._live.shadows]

    def apply(self, update: ModelUpdate, *, store: ArtifactSource, verifier: Verifier) -> SwapResult:
        """Serve the update's plan, or stay as it was. Never raises for what an update or the store holds."""
        with self._applying:
            started = time.perf_counter_ns()
            try:
                self._admit(update, verifier)
                prepared = self._prepare(update, store, verifier)
            except _Refusal as refusal:
                return self._result("refused", update, started, str(refusal), refusal.retriable)
            self._live = prepared
            return self._result("live", update, started)

    def _no_model(self) -> NoModelError:
        return NoModelError(
            f"model {self.model} has no live version yet: it is trained from the first labelled rows, "
            "or bring one with `driftloop models register`"
        )

    def _result(
        self, status: Status, update: ModelUpdate, started: int, reason: str = "", retriable: bool = False
    ) -> SwapResult:
        now, load_ms = self.current, (time.perf_counter_ns() - started) / 1e6
        return SwapResult(status, reason, now.version, now.refresh, update.generation, load_ms, retriable)

    def _admit(self, update: ModelUpdate, verifier: Verifier) -> None:
        try:
            verifier.verify(update)
        except ArtifactError as error:
            raise _Refusal(str(error)) from error
        if update.model != self.model:
            raise _Refusal(f"the update is for model {update.model}, and this serves {self.model}")
        # The last generation itself may come again: after a restart, or when its artifact could not be read.
        if update.generation < self.last_generation or update.generation == self._live.generation:
            raise _Refusal(
                f"generation {update.generation} is stale: {self.last_generation} was seen already"
            )
        self.last_generation = update.generation

    def _prepare(self, update: ModelUpdate, store: ArtifactSource, verifier: Verifier) -> _Live:
        plan = update.plan
        known = self._live.by_manifest()
        for ref in _refs(plan):
            if ref.version in update.blocked:
                raise _Refusal(f"version {ref.version} is blocked")
            if ref.manifest_sha256 not in known:
                known[ref.manifest_sha256] = self._load(ref, store, verifier)
            manifest = known[ref.manifest_sha256].manifest
            if (manifest.version, manifest.refresh) != (ref.version, ref.refresh):
                raise _Refusal(
                    f"the plan names version {ref.version}.{ref.refresh}, "
                    f"and its manifest is of version {manifest.version}.{manifest.refresh}"
                )
        canary = plan.canary
        return _Live(
            generation=update.generation,
            champion=known[plan.champion.manifest_sha256] if plan.champion else None,
            shadows=tuple(known[shadow.manifest_sha256] for shadow in plan.shadows),
            canary=known[canary.manifest_sha256] if canary else None,
            canary_below=round(canary.fraction * 2**64) if canary else 0,
        )

    def _load(self, ref: VersionRef, store: ArtifactSource, verifier: Verifier) -> _Loaded:
        try:
            manifest = store.get_manifest(self.model, ref.manifest_sha256)
            self._check_manifest(manifest, verifier)
            data = store.get_artifact(self.model, manifest.artifact_sha256)
        except ArtifactError as error:
            raise _Refusal(str(error), retriable=isinstance(error, MissingArtifact)) from error
        except Exception as error:  # each store has its own exceptions, and none may take the server down
            raise _Refusal(f"the artifact store cannot be read: {error!r}", retriable=True) from error
        if len(data) != manifest.artifact_bytes:
            raise _Refusal(
                f"the artifact has {len(data)} bytes, and the manifest says {manifest.artifact_bytes}"
            )
        try:
            predictor = load(manifest, data)
            check_self_test(predictor, manifest.self_test)
            for _ in range(_WARM_UPS):
                for row in manifest.self_test:
                    predictor.predict([row.features])
        except ArtifactError as error:
            raise _Refusal(f"version {ref.version}: {error}") from error
        except Exception as error:  # a model may fail in any way its runtime knows; the old one serves on
            raise _Refusal(f"version {ref.version} fails in its self-test: {error!r}") from error
        return _Loaded(manifest, ref.manifest_sha256, predictor)

    def _check_manifest(self, manifest: Manifest, verifier: Verifier) -> None:
        verifier.verify(manifest)
        if manifest.model != self.model:
            raise ArtifactError(f"the manifest is of model {manifest.model}, and this serves {self.model}")
        if manifest.artifact_bytes > MAX_ARTIFACT_BYTES:
            raise ArtifactError(
                f"the artifact has {manifest.artifact_bytes} bytes, "
                f"more than the {MAX_ARTIFACT_BYTES} allowed"
            )


def _refs(plan: Plan) -> list[VersionRef]:
    everyone = (plan.champion, plan.canary, *plan.shadows)
    return [ref for ref in everyone if ref is not None]


def _serve(loaded: _Loaded, role: Role, rows: Sequence[Row]) -> list[VersionAnswer]:
    version, refresh = loaded.manifest.version, loaded.manifest.refresh
    return [VersionAnswer(answer, version, refresh, role) for answer in loaded.predictor.predict(rows)]


def _is_canarys(prediction_id: str, canary_below: int) -> bool:
    digest = hashlib.blake2b(prediction_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < canary_below


def _split(
    live: _Live, champion: _Loaded, canary: _Loaded, rows: Sequence[Row], prediction_ids: Sequence[str]
) -> list[VersionAnswer]:
    places: Mapping[bool, list[int]] = {True: [], False: []}
    for place, prediction_id in enumerate(prediction_ids):
        places[_is_canarys(prediction_id, live.canary_below)].append(place)
    served: dict[int, VersionAnswer] = {}
    for is_canary, chosen in places.items():
        if chosen:
            loaded, role = (canary, "canary") if is_canary else (champion, "champion")
            answers = _serve(loaded, role, [rows[place] for place in chosen])
            served.update(zip(chosen, answers, strict=True))
    return [served[place] for place in range(len(rows))]
