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

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from ...models.registry.artifacts import ArtifactStore
from ...models.registry.signing import load_or_create_keypair, load_verifier
from ...schemas.errors import BrokerError, StateError
from ...schemas.serving import Manifest
from ...schemas.topics import COMMANDS, TRIGGERS, Topic
from ..kafka.connection import Connection
from ..kafka.offsets import LogOffsets, committed_offsets
from ..kafka.reader import Record, as_record, end_of_partition
from ..kafka.specs import SpecFollower
from ..kafka.stop_deadline import stopping_within
from ..kafka.transactions import Aborted, Consumed, GroupMetadata
from .child.process import ChildPool, physical_bytes
from .core import TrainerCore
from .manifests import ManifestCheck
from .model_runs import ModelRuns
from .rebuild import Rebuilder
from .step import NOTHING, Step
from .step_writer import StepWriter
from .supervision import RunSupervision
from .window.cache import OutcomeCache
from .window.watch import OutcomeWatch
from .window.window import Clock
from .worker import TrainingWorker

log = logging.getLogger(__name__)

INPUTS: tuple[Topic, ...] = (TRIGGERS, COMMANDS)
_STORE_S = 120.0
_REFRESH_S = 2.0
_STORE_PAUSE_S = 1.0
_COMMITTED_S = 30.0  # longer than a predecessor's transaction may stay open


@dataclass(frozen=True, slots=True)
class TrainerTuning:
    """``children``: how many runs are trained at once. Times in seconds.

    ``busy_poll_s``: how long to wait for records while there are runs, whose counts and children report.
    ``cache_bytes``: how many bytes of the newest outcomes to cache, so that a run need not read its window
    from the log; 0: none, and outcomes are read only while runs need them.
    ``child_share``: how much of the machine's memory one run may take; beyond it the run fails.
    """

    idle_poll_s: float = 0.05
    busy_poll_s: float = 0.005
    children: int = 1
    progress_s: float = 0.25
    stop_s: float = 4.5
    cache_bytes: int = 256 * 2**20
    child_share: float = 0.5
    custom_learners: frozenset[str] = frozenset()


def run_trainer(
    connection: Connection,
    *,
    store_url: str,
    keys_dir: Path,
    state_dir: Path,
    instance_id: str,
    clock: Clock,
    stop: threading.Event,
    tuning: TrainerTuning = TrainerTuning(),  # frozen
) -> None:
    """Serve triggers and commands until ``stop`` is set, then end within five seconds.

    Raises BrokerError if the cluster or a topic is missing or this instance was fenced, StateError if the log
    lost what was not read yet, SettingsError if the signing key cannot be used.
    """
    with stopping_within(tuning.stop_s, stop):
        shell = TrainerShell(
            connection,
            store_url=store_url,
            keys_dir=keys_dir,
            state_dir=state_dir,
            instance_id=instance_id,
            clock=clock,
            tuning=tuning,
        )
        try:
            shell.start()
            while not stop.is_set():
                shell.turn()
        finally:
            shell.close()


class TrainerShell:
    """One trainer process. Call ``start`` once, then ``turn`` repeatedly, from one thread."""

    def __init__(
        self,
        connection: Connection,
        *,
        store_url: str,
        keys_dir: Path,
        state_dir: Path,
        instance_id: str,
        clock: Clock,
        tuning: TrainerTuning,
    ) -> None:
        self._connection = connection
        self._tuning = tuning
        self._clock: Clock = clock
        self._topics = {connection.topic(topic): topic for topic in INPUTS}
        self._cores: dict[int, TrainerCore] = {}
        self._next: dict[tuple[str, int], int] = {}
        self._group: GroupMetadata = None
        self._assigned = False
        self._position_lost = False  # of a partition in the log
        shutil.rmtree(state_dir / "jobs", ignore_errors=True)  # what a killed predecessor left
        self._signer = load_or_create_keypair(keys_dir)
        verifier = load_verifier(keys_dir)
        self._store = ArtifactStore(store_url)
        self._offsets = LogOffsets(connection)
        partitions = len(self._offsets.partitions(TRIGGERS))
        self._partitions = partitions
        self._writer = StepWriter(connection, instance_id, partitions)
        self._consumer = Consumer(
            connection.consumer("trainer", group_instance_id=instance_id, auto_offset_reset="error")
        )
        self._rebuilder = Rebuilder(connection, self._offsets, self._signer, verifier, partitions, clock)
        self._children = ChildPool(state_dir / "jobs")
        self._specs = SpecFollower(connection)
        self._specs.catch_up()
        self._manifests = ManifestCheck(self._store, verifier, self._children, state_dir / "jobs")
        self._cache = OutcomeCache(tuning.cache_bytes)
        workers = [
            TrainingWorker(
                connection,
                self._offsets,
                self._store,
                verifier,
                self._children,
                state_dir / "jobs",
                cache=self._cache,
                memory_bytes=int(physical_bytes() * tuning.child_share),
                custom_learners=tuning.custom_learners,
                name=str(i),
            )
            for i in range(tuning.children)
        ]
        watch = OutcomeWatch(connection, self._offsets, self._store, clock, cache=self._cache)
        self._runs = RunSupervision(watch, workers, progress_s=tuning.progress_s)

    def start(self) -> None:
        self._writer.start()
        self._consumer.subscribe(
            list(self._topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def turn(self) -> None:
        """Read records, decide, commit, then begin and cancel executions."""
        records = self._poll()
        if self._position_lost:
            self._rewind()
            return
        if self._assigned:
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
        self._rebuilder.close()
        self._consumer.close()

    # --- a turn -----------------------------------------------------------------------------------------

    def _decide(self, records: list[Record]) -> None:
        step, touched = NOTHING, set[int]()
        changed = self._specs.poll()
        if any((record.key or b"").decode(errors="replace") not in self._specs.models for record in records):
            changed |= self._specs.refresh(self._offsets, timeout_s=_REFRESH_S, required=False)
        for model in changed & self._specs.models.keys():
            for core in self._owner_of(model):
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
        if self._topics[record.topic] is TRIGGERS:
            return core.on_trigger(record)
        request = core.manifest_request(record)
        if request is None:
            return core.on_command(record)
        manifest, problem = self._manifests.fetch(request)
        return core.on_command(record, manifest, problem)

    def _commit(self, step: Step, partitions: set[int]) -> None:
        for manifest in step.manifests:
            self._put(manifest)
        offsets = [
            TopicPartition(name, partition, self._next[name, partition])
            for partition in sorted(partitions)
            for name in self._topics
        ]
        self._writer.write(step.outputs, Consumed(offsets, self._group))

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
        specs = {m: spec.window for m, spec in self._specs.models.items() if self._owner_of(m)}
        self._cache.keep({model: window.max_rows + window.old_rows for model, window in specs.items()})

    def _models(self) -> list[ModelRuns]:
        return [model for core in self._cores.values() for model in core.models()]

    def _owner_of(self, model: str) -> list[TrainerCore]:
        return [core for core in self._cores.values() if core.owns(model)]

    # --- the group --------------------------------------------------------------------------------------

    def _poll(self) -> list[Record]:
        timeout_s = self._tuning.busy_poll_s if self._runs.busy else self._tuning.idle_poll_s
        first = self._consumer.poll(timeout_s)
        messages = [] if first is None else [first, *self._consumer.consume(100, timeout=0)]
        return [record for message in messages if (record := self._accept(message)) is not None]

    def _accept(self, message: Message) -> Record | None:
        """The message as a record, its offset noted; None if it is not one."""
        error = message.error()
        if error is None:
            record = as_record(message)
            self._next[record.topic, record.partition] = record.offset + 1
            return record
        if end_of_partition(message) is not None:
            return None
        where = f"{message.topic()}[{message.partition()}]"
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):  # pyright: ignore[reportPrivateUsage]
            self._check_retention(message.topic() or "", message.partition() or 0)
            log.warning("%s: %s; reading on from the group's offsets", where, error)
            self._position_lost = True
            return None
        if error.fatal():
            raise BrokerError(f"{where} cannot be read: {error}")
        log.warning("%s: %s", where, error)
        return None

    def _check_retention(self, name: str, partition: int) -> None:
        """Raise StateError if the next record is gone; otherwise a lost position can be found again.

        A position can be lost without retention: librdkafka asks for the group's offset if it has none,
        and there is none before the first commit.
        """
        topic, wanted = self._topics[name], self._next.get((name, partition))
        begin = self._offsets.begins(topic, [partition])[partition]
        end = self._offsets.ends(topic, [partition])[partition]
        if wanted is not None and not begin <= wanted <= end:
            raise StateError(
                f"{name}[{partition}] holds offsets {begin} to {end}, but the trainer reads on from "
                f"{wanted}: retention outran it, or the topic was recreated; to go on "
                "from what is there, delete the group's offsets of that topic"
            )

    def _on_assign(self, consumer: Consumer, assigned: list[TopicPartition]) -> None:
        """Read on from the committed offsets: stable ones, so no predecessor's transaction moves them."""
        self._next = self._positions(consumer, assigned) if assigned else {}
        consumer.assign([TopicPartition(topic, p, offset) for (topic, p), offset in self._next.items()])
        self._group = consumer.consumer_group_metadata()
        self._assigned = True

    def _on_revoke(self, consumer: Consumer, revoked: list[TopicPartition]) -> None:
        """No transaction is open here. Children go on: the same partitions may be ours again in a moment."""
        log.info("partitions revoked: %s", sorted({tp.partition for tp in revoked}))
        self._cores, self._next, self._assigned = {}, {}, False

    def _positions(self, consumer: Consumer, assigned: list[TopicPartition]) -> dict[tuple[str, int], int]:
        committed = committed_offsets(consumer, assigned, timeout_s=_COMMITTED_S)
        begins = {
            (name, partition): offset
            for name, topic in self._topics.items()
            for partition, offset in self._offsets.begins(
                topic, sorted({tp.partition for tp in assigned if tp.topic == name})
            ).items()
        }
        return {
            (tp.topic, tp.partition): tp.offset if tp.offset >= 0 else begins[tp.topic, tp.partition]
            for tp in committed
        }

    def _take_over(self) -> None:
        started = time.monotonic()
        self._assigned = False
        owned = frozenset(partition for _, partition in self._next)
        self._specs.poll()
        self._cores = self._rebuilder.cores(owned, self._specs.models) if owned else {}
        self._keep_outcomes()
        self._runs.adopt(self._models())
        took_ms = (time.monotonic() - started) * 1000
        log.info("trainer owns partitions %s, state read in %.0f ms", sorted(owned), took_ms)

    def _rewind(self) -> None:
        """Go back to the committed offsets and rebuild the state that belongs to them."""
        self._position_lost = False
        if not self._next:
            return
        assigned = [TopicPartition(topic, partition) for topic, partition in self._next]
        self._next = self._positions(self._consumer, assigned)
        self._consumer.assign([TopicPartition(t, p, offset) for (t, p), offset in self._next.items()])
        self._take_over()
