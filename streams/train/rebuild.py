"""Rebuild the trainer's cores from the log.

Each topic is read to its present end, open transactions included: what a predecessor committed last is seen,
and what it left open is aborted before the trainer goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ...models.registry.signing import Signer, Verifier
from ...schemas.decisions import CommandResult
from ...schemas.errors import ArtifactError, DecodeError
from ...schemas.partition import partition_of
from ...schemas.runs import TrainingRun
from ...schemas.serving import ModelUpdate
from ...schemas.spec.model import ModelSpec
from ...schemas.topics import COMMAND_RESULTS, MODEL_UPDATES, TRAINING_RUNS
from ..kafka.connection import Connection
from ..kafka.offsets import LogOffsets
from ..kafka.ranges import LogRanges
from ..kafka.reader import as_record
from ..kafka.record import Record
from .core import TrainerCore
from .window.window import Clock

log = logging.getLogger(__name__)


class Rebuilder:
    """Builds cores from the log."""

    def __init__(
        self,
        connection: Connection,
        offsets: LogOffsets,
        signer: Signer,
        verifier: Verifier,
        partitions: int,
        clock: Clock,
    ) -> None:
        self._connection = connection
        self._offsets = offsets
        self._signer = signer
        self._verifier = verifier
        self._partitions = partitions
        self._clock: Clock = clock
        self._ranges = LogRanges(connection, name="rebuild")

    def cores(self, owned: frozenset[int], specs: Mapping[str, ModelSpec]) -> dict[int, TrainerCore]:
        """Build one core per owned partition, as the log stands now."""
        cores = {p: TrainerCore(p, self._partitions, self._signer, self._clock) for p in owned}
        for model, spec in specs.items():
            core = cores.get(partition_of(model, self._partitions))
            if core is not None:
                core.on_spec(model, spec)
        for topic in (TRAINING_RUNS, MODEL_UPDATES, COMMAND_RESULTS):
            partitions = sorted(owned)
            begins, ends = self._offsets.begins(topic, partitions), self._offsets.ends(topic, partitions)
            for message in self._ranges.read(topic, {p: range(begins[p], ends[p]) for p in partitions}):
                record = as_record(message)
                if record.value is not None:
                    self._restore(cores[record.partition], record, record.value)
        return cores

    def _restore(self, core: TrainerCore, record: Record, value: bytes) -> None:
        try:
            if record.topic == self._connection.topic(TRAINING_RUNS):
                core.restore_run(TrainingRun.decode(value))
            elif record.topic == self._connection.topic(COMMAND_RESULTS):
                core.restore_result(CommandResult.decode(value))
            else:
                update = ModelUpdate.decode(value)
                self._verifier.verify_history(update)  # generations go on after a key was revoked
                core.restore_update(update)
        except (DecodeError, ArtifactError) as error:
            # Only trainers may write there; servers refuse such an update too.
            where = f"{record.topic}[{record.partition}]@{record.offset}"
            log.error("skipped what no trainer wrote at %s: %s", where, error)

    def close(self) -> None:
        self._ranges.close()
