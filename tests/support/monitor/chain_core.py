"""A core for testing the monitor's shell: any skip, repeat or reordering changes all that follows.

Per model a hash chain runs over (offset, append time, bytes) of its records; the chain decides when an event
is emitted and is written into it.
"""

from __future__ import annotations

import hashlib
from typing import Self

import orjson
from driftloop.schemas.dead_letters import dead_letter
from driftloop.schemas.errors import StateError
from driftloop.schemas.ids import event_id
from driftloop.schemas.topics import DEAD_LETTERS, DRIFT, TRIGGERS
from driftloop.streams.monitor.core import Emitted

FORMAT = 1
DRIFT_ODDS = 40  # of 256
TRIGGER_ODDS = 8


class ChainCore:
    """State: {model: [records applied, chain]}, and the ticks seen."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self._applied = -1
        self.chains: dict[str, tuple[int, str]] = {}
        self.ticks = 0

    @property
    def applied_offset(self) -> int:
        return self._applied

    def apply(self, value: bytes, *, offset: int, append_time_ms: int) -> list[Emitted]:
        if offset <= self._applied:
            return []
        self._applied = offset
        try:
            record = orjson.loads(value)
        except orjson.JSONDecodeError:
            return [self._dead(value, offset, append_time_ms)]
        if record.get("control") == "tick":
            self.ticks += 1
            return []
        if record.get("defect"):
            raise ArithmeticError("a defect of the core")
        return self._advance(record["model"], value, offset, append_time_ms)

    def _advance(self, model: str, value: bytes, offset: int, append_ms: int) -> list[Emitted]:
        count, chain = self.chains.get(model, (0, ""))
        chain = hashlib.sha256(f"{chain}/{offset}/{append_ms}/".encode() + value).hexdigest()
        self.chains[model] = (count + 1, chain)
        byte = int(chain[:2], 16)
        events: list[Emitted] = []
        for topic, kind, odds in ((DRIFT, "drift", DRIFT_ODDS), (TRIGGERS, "trigger", TRIGGER_ODDS)):
            if byte < odds:
                body = {"id": event_id(kind, model, offset), "model": model, "count": count + 1}
                body |= {"chain": chain, "ts": append_ms}
                events.append(Emitted(topic, model.encode(), orjson.dumps(body)))
        return events

    def _dead(self, value: bytes, offset: int, append_ms: int) -> Emitted:
        reason = f"not JSON: {value[:20]!r}"
        letter = dead_letter("monitor", "vitals", self.partition, offset, reason, append_ms=append_ms)
        return Emitted(DEAD_LETTERS, b"", letter.encode())

    def snapshot(self) -> bytes:
        return orjson.dumps(
            {"format": FORMAT, "partition": self.partition, "applied": self._applied}
            | {"chains": self.chains, "ticks": self.ticks}
        )

    @classmethod
    def restore(cls, data: bytes) -> Self:
        state = orjson.loads(data)
        if state.get("format") != FORMAT:
            raise StateError("not a snapshot of this format")
        core = cls(state["partition"])
        core._applied = state["applied"]
        core.chains = {model: (count, chain) for model, (count, chain) in state["chains"].items()}
        core.ticks = state["ticks"]
        return core
