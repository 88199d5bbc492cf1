"""Rebuild the trainer's cores from the log.

Each topic is read to its present end, open transactions included: what a predecessor committed last is seen,
and what it left open is aborted before the trainer goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ...models.registry.signing import Verifier
from ...schemas.decisions import CommandResult
from ...schemas.errors import ArtifactError, DecodeError
from ...schemas.runs import TrainingRun
from ...schemas.serving import ModelUpdate
from ...schemas.topics import COMMAND_RESULTS, MODEL_UPDATES, TRAINING_RUNS, Topic
from ..kafka.offsets import LogOffsets
from ..kafka.ranges import LogRanges
from ..kafka.reader import as_record
from .core import TrainerCore

log = logging.getLogger(__name__)


def rebuild(
    cores: Mapping[int, TrainerCore], offsets: LogOffsets, ranges: LogRanges, verifier: Verifier
) -> None:
    """Restore new cores, one for each partition, as the log stands now."""
    partitions = sorted(cores)
    if not partitions:
        return
    for topic in (TRAINING_RUNS, MODEL_UPDATES, COMMAND_RESULTS):
        begins, ends = offsets.begins(topic, partitions), offsets.ends(topic, partitions)
        for message in ranges.read(topic, {p: range(begins[p], ends[p]) for p in partitions}):
            record = as_record(message)
            if record.value is None:
                continue
            try:
                _restore(cores[record.partition], topic, record.value, verifier)
            except (DecodeError, ArtifactError) as error:
                # Only trainers may write there; servers refuse such an update too.
                where = f"{record.topic}[{record.partition}]@{record.offset}"
                log.error("skipped what no trainer wrote at %s: %s", where, error)


def _restore(core: TrainerCore, topic: Topic, value: bytes, verifier: Verifier) -> None:
    if topic is TRAINING_RUNS:
        core.restore_run(TrainingRun.decode(value))
    elif topic is COMMAND_RESULTS:
        core.restore_result(CommandResult.decode(value))
    else:
        update = ModelUpdate.decode(value)
        verifier.verify_history(update)  # generations go on after a key was revoked
        core.restore_update(update)
