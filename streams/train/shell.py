"""The trainer and registrar on Kafka: one group over triggers and commands, one transaction per turn.

A turn, in this order, and what happens if the process is killed after each step:

1. Records are read from triggers and commands. Nothing is written: they are read again after the restart.
2. The cores decide; label counts and executions report. As 1: the same records lead to the same decisions.
3. Manifests of new versions are stored, by digest. One is left that nothing refers to; its run is trained
   again and gets the same version number, with another manifest.
4. The transaction is begun and written. The restart's init_transactions aborts it: as 3.
5. It is committed, offsets included. Everything is decided; open runs are rebuilt from training-runs.
6. Executions are begun or cancelled. A run in ``training`` that has no child is started again, with the same
   rows and the same seed, which gives the same candidate.

A child ends with its trainer. Its artifact is in the store before its result is reported, so before 3.

Fencing: each transaction sends the next offsets of the partitions it changes, with the group's metadata as of
their assignment, so a trainer that lost them cannot commit. The next owner reads stable offsets, then the
state topics to an end before which no transaction is open, and only then goes on.

On failure: after an aborted transaction all state is dropped and read again; a fatal error ends the process
with the exception.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ...models.registry.artifacts import ArtifactStore
from ...models.registry.signing import load_or_create_keypair, load_verifier
from ...schemas.partition import partition_of
from ...schemas.serving import Manifest
from ...schemas.topics import TRIGGERS
from ..kafka.connection import Connection
from ..kafka.offsets import LogOffsets
from ..kafka.ranges import LogRanges
from ..kafka.record import Record
from ..kafka.specs import SpecFollower
from ..kafka.stop_deadline import stopping_within
from ..kafka.transactions import Aborted
from .child.process import ChildPool, physical_bytes
from .core import TrainerCore
from .input_reader import InputReader
from .manifests import ManifestCheck
from .model_runs import ModelRuns
from .rebuild import rebuild
from .step import NOTHING, Step
from .step_writer import StepWriter
from .supervision import RunSupervision
from .window.cache import OutcomeCache
from .window.watch import OutcomeWatch
from .window.window import Clock
from .worker import TrainingWorker

log = logging.getLogger(__name__)

_STORE_S = 120.0
_REFRESH_S = 2.0
_STORE_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """Where one trainer keeps what, and how it works. Times in seconds.

    ``children``: how many runs are trained at once.
    ``busy_poll_s``: how long to wait for records while there are runs, whose counts and children report.
    ``cache_bytes``: how many bytes of the newest outcomes to cache, so that a run need not read its window
    from the log; 0: none, and outcomes are read only while runs need them.
    ``child_share``: how much of the machine's memory one run may take; beyond it the run fails.
    """

    store_url: str
    keys_dir: Path
    state_dir: Path
    instance_id: str
    clock: Clock
    idle_poll_s: float = 0.05
    busy_poll_s: float = 0.005
    children: int = 1
    progress_s: float = 0.25
    stop_s: float = 4.5
    cache_bytes: int = 256 * 2**20
    child_share: float = 0.5
    custom_learners: frozenset[str] = frozenset()


def run_trainer(connection: Connection, config: TrainerConfig, stop: threading.Event) -> None:
    """Serve triggers and commands until ``stop`` is set, then end within five seconds.

    Raises BrokerError if the cluster or a topic is missing or this instance was fenced, StateError if the log
    lost what was not read yet, SettingsError if the signing key cannot be used.
    """
    with stopping_within(config.stop_s, stop):
        shell = TrainerShell(connection, config)
        try:
            shell.start()
            while not stop.is_set():
                shell.turn()
        finally:
            shell.close()


class TrainerShell:
    """One trainer process. Call ``start`` once, then ``turn`` repeatedly, from one thread."""

    def __init__(self, connection: Connection, config: TrainerConfig) -> None:
        self._config = config
        self._cores: dict[int, TrainerCore] = {}
        jobs = config.state_dir / "jobs"
        shutil.rmtree(jobs, ignore_errors=True)  # what a killed predecessor left
        self._signer = load_or_create_keypair(config.keys_dir)
        self._verifier = load_verifier(config.keys_dir)
        self._store = ArtifactStore(config.store_url)
        self._offsets = LogOffsets(connection)
        self._partitions = len(self._offsets.partitions(TRIGGERS))
        self._writer = StepWriter(connection, config.instance_id, self._partitions)
        self._inputs = InputReader(connection, self._offsets, config.instance_id)
        self._ranges = LogRanges(connection, name="rebuild")
        self._children = ChildPool(jobs)
        self._specs = SpecFollower(connection)
        self._specs.catch_up()
        self._manifests = ManifestCheck(self._store, self._verifier, self._children, jobs)
        self._cache = OutcomeCache(config.cache_bytes)
        workers = [
            TrainingWorker(
                connection,
                self._offsets,
                self._store,
                self._verifier,
                self._children,
                jobs,
                self._cache,
                memory_bytes=int(physical_bytes() * config.child_share),
                custom_learners=config.custom_learners,
            )
            for _ in range(config.children)
        ]
        watch = OutcomeWatch(connection, self._offsets, self._store, config.clock, self._cache)
        self._runs = RunSupervision(watch, workers, progress_s=config.progress_s)

    def start(self) -> None:
        self._writer.start()
        self._inputs.start()

    def turn(self) -> None:
        """Read records, decide, commit, then begin and cancel executions."""
        self._writer.tend()
        records = self._inputs.poll(self._config.busy_poll_s if self._runs.busy else self._config.idle_poll_s)
        if not self._inputs.owned:
            self._cores = {}  # children go on: the same partitions may be ours again in a moment
        if self._inputs.position_lost:
            self._rewind()
            return
        if self._inputs.assigned:
            self._take_over()
        if not self._cores:
            return
        try:
            self._decide(records)
        except Aborted as aborted:
            log.warning("transaction aborted, reading the state again: %s", aborted)
            self._rewind()

    def close(self) -> None:
        """Kill the children; the next trainer starts their runs again."""
        self._runs.close()
        self._children.close()
        self._specs.close()
        self._ranges.close()
        self._inputs.close()
        self._writer.close()

    # --- a turn -----------------------------------------------------------------------------------------

    def _decide(self, records: list[Record]) -> None:
        step, touched = NOTHING, set[int]()
        changed = self._specs.poll()
        if any((record.key or b"").decode(errors="replace") not in self._specs.models for record in records):
            changed |= self._specs.refresh(self._offsets, timeout_s=_REFRESH_S, required=False)
        for model in changed & self._specs.models.keys():
            if (core := self._core_of(model)) is not None:
                core.on_spec(model, self._specs.models[model])
        if changed:
            self._keep_outcomes()
        for record in records:
            if record.partition in self._cores:
                touched.add(record.partition)
                step += self._apply(self._cores[record.partition], record)
        for partition, core in self._cores.items():
            found = self._runs.collect(core)
            if found:
                touched.add(partition)
                step += found
        if touched:
            self._commit(step, touched)
        self._runs.reconcile(self._models())

    def _apply(self, core: TrainerCore, record: Record) -> Step:
        if self._inputs.topics[record.topic] is TRIGGERS:
            return core.on_trigger(record)
        request = core.manifest_request(record)
        if request is None:
            return core.on_command(record)
        manifest, problem = self._manifests.fetch(request)
        return core.on_command(record, manifest, problem)

    def _commit(self, step: Step, partitions: set[int]) -> None:
        for manifest in step.manifests:
            self._put(manifest)
        self._writer.write(step.outputs, self._inputs.consumed(partitions))

    def _put(self, manifest: Manifest) -> None:
        """Store a manifest, retrying while the store is away; after that the step is decided again."""
        until = time.monotonic() + _STORE_S
        while True:
            try:
                self._store.put_manifest(manifest)
                return
            except OSError as error:
                if time.monotonic() > until:
                    raise Aborted(f"the manifest of {manifest.model} cannot be stored: {error}") from error
                log.error("the manifest of %s is stored again in a moment: %s", manifest.model, error)
            time.sleep(_STORE_PAUSE_S)

    def _keep_outcomes(self) -> None:
        """Cache outcomes of the models this trainer owns: as many as a window of each takes."""
        windows = {m: spec.window for m, spec in self._specs.models.items() if self._core_of(m) is not None}
        self._cache.keep({model: window.max_rows + window.old_rows for model, window in windows.items()})

    def _models(self) -> list[ModelRuns]:
        return [model for core in self._cores.values() for model in core.models()]

    def _core_of(self, model: str) -> TrainerCore | None:
        return self._cores.get(partition_of(model, self._partitions))

    # --- the state -----------------------------------------------------------------------------------

    def _take_over(self) -> None:
        started = time.monotonic()
        owned = self._inputs.take_assignment()
        self._specs.poll()
        clock, partitions = self._config.clock, self._partitions
        self._cores = {p: TrainerCore(p, partitions, self._signer, clock) for p in owned}
        for model, spec in self._specs.models.items():
            if (core := self._core_of(model)) is not None:
                core.on_spec(model, spec)
        rebuild(self._cores, self._offsets, self._ranges, self._verifier)
        self._keep_outcomes()
        self._runs.adopt(self._models())
        took_ms = (time.monotonic() - started) * 1000
        log.info("trainer owns partitions %s, state read in %.0f ms", sorted(owned), took_ms)

    def _rewind(self) -> None:
        """Go back to the committed offsets and rebuild the state that belongs to them."""
        if self._inputs.rewind():
            self._take_over()
