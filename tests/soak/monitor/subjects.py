"""What the monitor's soak can run: a core in which any slip shows, or driftloop's own."""

from __future__ import annotations

import json
import random
import time
from typing import Protocol

import numpy as np
from driftloop.schemas.control import UpdateControl
from driftloop.schemas.serving import Reference
from driftloop.streams.monitor.core import Emitted, VitalsCore
from driftloop.streams.monitor.partition import Core
from driftloop.streams.monitor.state import encode_state

from tests.support.monitor.chain_core import ChainCore
from tests.support.monitor.records import START_MS, entry, vitals

MODELS = [f"model-{i}" for i in range(10)]
BATCH = 50
GO_LIVE_EVERY = 200  # records of one model until its version goes live (again)
SLOW_RECORD_BYTES = 256 * 1024
SHIFT_EVERY = 30  # records of one model until its error rate changes


class Subject(Protocol):
    """A kind of core, records for it, and its state per model."""

    def make(self, partition: int) -> Core: ...

    def restore(self, data: bytes) -> Core: ...

    def record(self, chance: random.Random, model: str, number: int) -> bytes:
        """The ``number``-th record of ``model``, from 0."""
        ...

    def states(self, core: Core) -> dict[str, bytes]:
        """Return per model bytes that differ when the states do."""
        ...


class ChainSubject:
    """Every record counts, in its place."""

    core: type[ChainCore] = ChainCore

    def make(self, partition: int) -> Core:
        return self.core(partition)

    def restore(self, data: bytes) -> Core:
        return self.core.restore(data)

    def record(self, chance: random.Random, model: str, number: int) -> bytes:
        return json.dumps({"model": model, "n": number, "x": chance.random()}).encode()

    def states(self, core: Core) -> dict[str, bytes]:
        assert isinstance(core, ChainCore)
        return {model: json.dumps(state).encode() for model, state in core.chains.items()}


class SlowCore(ChainCore):
    """A monitor that is slower than its vitals."""

    def apply(self, value: bytes, *, offset: int, append_time_ms: int) -> list[Emitted]:
        time.sleep(0.005)
        return super().apply(value, offset=offset, append_time_ms=append_time_ms)


class SlowSubject(ChainSubject):
    """Records as large as a busy joiner writes them, applied slowly."""

    core = SlowCore

    def record(self, chance: random.Random, model: str, number: int) -> bytes:
        plain = super().record(chance, model, number)
        return plain + b" " * (SLOW_RECORD_BYTES - len(plain))


class VitalsSubject:
    """Monitor and policy on vitals whose error rate keeps shifting."""

    def make(self, partition: int) -> Core:
        return VitalsCore(partition)

    def restore(self, data: bytes) -> Core:
        return VitalsCore.restore(data)

    def record(self, chance: random.Random, model: str, number: int) -> bytes:
        if number % GO_LIVE_EVERY == 5:  # early, but after the first transactions, which are aborted
            reference = Reference(rows=5000, accuracy=0.8, latency_p95_ms=10.0, failure_rate=0.01)
            return UpdateControl(
                model=model, generation=1, version=1, reference=reference, ts=START_MS
            ).encode()
        rate = 0.2 if number // SHIFT_EVERY % 2 == 0 else 0.45
        errors = np.random.default_rng(chance.randrange(2**32)).random(BATCH) < rate
        latency = [chance.lognormvariate(1.0, 0.5) for _ in range(20)]
        stamp = START_MS + number * 60_000
        item = entry(
            errors,
            model=model,
            first_seq=number * BATCH,
            ts=(stamp, stamp + 59_000),
            predictions=BATCH,
            latency=latency,
            predicted={"yes": int(errors.sum()), "no": BATCH - int(errors.sum())},
        )
        return vitals(item, append_ms=stamp)

    def states(self, core: Core) -> dict[str, bytes]:
        assert isinstance(core, VitalsCore)
        return {model: encode_state(state) for model, state in core.models.items()}


SUBJECTS: dict[str, Subject] = {"chain": ChainSubject(), "monitor": VitalsSubject(), "slow": SlowSubject()}
