"""One vitals partition's monitor and policy: bytes and offsets in, events out. No Kafka, no clock, no I/O.

``now`` is the newest append time of the partition; with the event clock (the demo), each model's
newest prediction time behind an outcome, and then only the model's own vitals move it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import orjson

from ...schemas.control import (
    ApprovalControl,
    Control,
    RequestControl,
    RunControl,
    SpecControl,
    TickControl,
    UpdateControl,
)
from ...schemas.decisions import Drift, Trigger
from ...schemas.errors import DecodeError, IllegalTransition, StateError
from ...schemas.events import DeadLetter
from ...schemas.ids import event_id
from ...schemas.topics import DEAD_LETTERS, DRIFT, TRIGGERS, VITALS, Topic
from .detect.model_monitor import Cause, Monitor
from .observations import Observation, decode_record
from .policy.policy import Policy

Clock = Literal["append", "event"]

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Emitted:
    """A record for the shell to produce. An empty key means that the record has none."""

    topic: Topic
    key: bytes
    value: bytes


class ModelState:
    """Monitor and policy of one model, and its own time."""

    def __init__(self, model: str) -> None:
        self.monitor = Monitor(model)
        self.policy = Policy(model)
        self.now_ms = 0
        self.wake_ms = self.policy.wake_ms()

    def dump(self) -> list[Any]:
        return [self.monitor.model, self.now_ms, self.policy.dump(), self.monitor.dump()]

    @classmethod
    def load(cls, state: list[Any]) -> Self:
        loaded = cls(state[0])
        loaded.now_ms = int(state[1])
        loaded.policy = Policy.load(state[0], state[2])
        loaded.monitor = Monitor.load(state[0], state[3], loaded.policy.spec)
        loaded.wake_ms = loaded.policy.wake_ms()
        return loaded


class VitalsCore:
    """What vitals of one partition decide: drift, triggers and dead letters.

    On failure: ``apply`` raises only on a defect of driftloop; the core is then to be thrown away and
    restored from the last snapshot. Whatever the log holds, good or bad, gives events (dead letters for the
    bad).
    """

    def __init__(self, partition: int, *, clock: Clock = "append") -> None:
        self.partition = partition
        self.clock: Clock = clock
        self._applied = -1
        self._append_ms = 0
        self._models: dict[str, ModelState] = {}

    @property
    def applied_offset(self) -> int:
        """Offset of the last record applied; -1 before the first."""
        return self._applied

    def apply(self, value: bytes, *, offset: int, append_time_ms: int) -> list[Emitted]:
        """Events that this record causes, in order. An offset at or below ``applied_offset`` gives none."""
        if offset <= self._applied:
            return []
        self._applied = offset
        self._append_ms = max(self._append_ms, append_time_ms)
        try:
            record = decode_record(value)
            events = self._on_vitals(record) if isinstance(record, tuple) else self._on_control(record)
        except DecodeError as error:  # all of them are raised before any state changed
            events = [self._dead_letter(value, error, append_time_ms)]
        if self.clock == "append":
            events += self._wake()
        return events

    def _on_vitals(self, seen: tuple[Observation, ...]) -> list[Emitted]:
        for observation in seen:
            state = self._models.get(observation.model)
            if state is not None:
                state.monitor.check(observation)
        events: list[Emitted] = []
        for model in dict.fromkeys(observation.model for observation in seen):
            own = [observation for observation in seen if observation.model == model]
            state = self._models.get(model) or self._models.setdefault(model, ModelState(model))
            newest = max((observation.ts_max or 0 for observation in own), default=0)
            now_ms = self._move_time(state, newest)
            for observation in own:
                state.policy.on_outcomes(observation.role, observation.counts.outcomes)
                drifts = state.monitor.observe(observation, state.policy.spec, self._cause(now_ms))
                for drift, finding in drifts:
                    state.policy.on_drift(drift, finding.condition)
                    events.append(_drift(drift))
            events += self._decide(state)
        return events

    def _on_control(self, control: Control) -> list[Emitted]:
        if isinstance(control, TickControl):
            return []
        known = self._models.get(control.model)
        state = known or ModelState(control.model)
        now_ms = self._move_time(state, 0)
        triggers: list[Trigger] = []
        judged = False
        try:
            match control:
                case SpecControl():
                    state.policy.on_spec(control)
                case RequestControl():
                    triggers = state.policy.on_request(control, now_ms)
                case ApprovalControl():
                    triggers = state.policy.on_approval(control, now_ms)
                case RunControl():
                    judged = state.policy.on_run(control, now_ms)
                case UpdateControl():
                    triggers = state.policy.on_champion(control.version, now_ms)
        except IllegalTransition as error:
            raise DecodeError(str(error)) from error
        if isinstance(control, UpdateControl):
            state.monitor.serve(control.version, control.reference, state.policy.spec)
        if judged:
            state.monitor.judged()
        self._models[control.model] = state
        return [_trigger(trigger) for trigger in triggers] + self._decide(state)

    def _wake(self) -> list[Emitted]:
        """Time alone may be due to do something for models that this record is not about."""
        events: list[Emitted] = []
        for state in self._models.values():
            if self._append_ms >= state.wake_ms:
                self._move_time(state, 0)
                events += self._decide(state)
        return events

    def _decide(self, state: ModelState) -> list[Emitted]:
        triggers = state.policy.decide(state.now_ms, state.monitor.alarmed())
        state.wake_ms = state.policy.wake_ms()
        return [_trigger(trigger) for trigger in triggers]

    def _move_time(self, state: ModelState, event_ms: int) -> int:
        newest = self._append_ms if self.clock == "append" else event_ms
        state.now_ms = max(state.now_ms, newest)
        return state.now_ms

    def _cause(self, now_ms: int) -> Cause:
        return Cause(self.partition, self._applied, now_ms)

    def _dead_letter(self, value: bytes, error: DecodeError, append_ms: int) -> Emitted:
        letter = DeadLetter(
            id=event_id("dead", VITALS.name, self.partition, self._applied),
            stage="monitor",
            topic=VITALS.name,
            partition=self.partition,
            offset=self._applied,
            append_ms=append_ms,
            reason=error.reason,
            value_b64=base64.b64encode(value).decode(),
        )
        return Emitted(DEAD_LETTERS, b"", letter.encode())

    def snapshot(self) -> bytes:
        """The whole state with the offset it stands at; the same state gives the same bytes."""
        return orjson.dumps(
            {
                "format": FORMAT,
                "partition": self.partition,
                "clock": self.clock,
                "applied": self._applied,
                "append_ms": self._append_ms,
                "models": [state.dump() for state in self._models.values()],
            }
        )

    @classmethod
    def restore(cls, data: bytes) -> Self:
        """Raises StateError when ``data`` is no snapshot of this format."""
        try:
            state = cast("dict[str, Any]", orjson.loads(data))
            if state["format"] != FORMAT:
                raise StateError(f"the monitor's snapshot has format {state['format']}, not {FORMAT}")
            core = cls(int(state["partition"]), clock=state["clock"])
            core._applied = int(state["applied"])
            core._append_ms = int(state["append_ms"])
            models = [ModelState.load(model) for model in state["models"]]
        except (ValueError, KeyError, TypeError, IndexError, DecodeError) as error:
            raise StateError(f"this is no snapshot of the monitor's: {error!r}") from error
        core._models = {model.monitor.model: model for model in models}
        return core


def _drift(drift: Drift) -> Emitted:
    return Emitted(DRIFT, drift.model.encode(), drift.encode())


def _trigger(trigger: Trigger) -> Emitted:
    return Emitted(TRIGGERS, trigger.model.encode(), trigger.encode())
