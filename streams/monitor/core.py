"""One vitals partition's monitor and policy: bytes and offsets in, events out. No Kafka, no clock, no I/O.

``now`` is the newest append time of the partition. With the event clock (the demo) it is the newest
prediction time of each model's outcomes, and only the model's own vitals move it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msgspec import field

from ...schemas.control import (
    ApprovalControl,
    Control,
    RequestControl,
    RunControl,
    SpecControl,
    TickControl,
    UpdateControl,
)
from ...schemas.dead_letters import dead_letter
from ...schemas.decisions import Drift, Trigger
from ...schemas.errors import DecodeError, IllegalTransition
from ...schemas.spec.schedule import NEVER_MS
from ...schemas.topics import DEAD_LETTERS, DRIFT, TRIGGERS, VITALS, Topic
from .detect.model_monitor import Cause, ModelMonitor
from .observations import Observation, decode_record
from .policy.policy import Policy
from .state import State, decode_state, encode_state

Clock = Literal["append", "event"]


@dataclass(frozen=True, slots=True)
class Emitted:
    """A record for the shell to produce. An empty key means that the record has none."""

    topic: Topic
    key: bytes
    value: bytes


class ModelState(State):
    """Monitor and policy of one model, and its own time."""

    monitor: ModelMonitor
    policy: Policy
    now_ms: int = 0
    wake_ms: int = NEVER_MS
    """When time alone may change what the policy decides."""

    @classmethod
    def started(cls, model: str) -> ModelState:
        return cls(ModelMonitor(model), Policy(model))


class VitalsCore(State):
    """What vitals of one partition decide: drift, triggers and dead letters.

    On failure: ``apply`` raises only on a defect of driftloop; the core must then be discarded and restored
    from the last snapshot. Whatever the log holds, good or bad, results in events (dead letters for the bad).
    """

    partition: int
    clock: Clock = "append"
    applied_offset: int = -1
    """Offset of the last record applied; -1 before the first."""
    append_ms: int = 0
    """The newest append time."""
    models: dict[str, ModelState] = field(default_factory=dict[str, ModelState])

    def apply(self, value: bytes, *, offset: int, append_time_ms: int) -> list[Emitted]:
        """Return the events that this record causes, in order; none for an offset that was applied before."""
        if offset <= self.applied_offset:
            return []
        self.applied_offset = offset
        self.append_ms = max(self.append_ms, append_time_ms)
        try:
            record = decode_record(value)
            events = self._on_vitals(record) if isinstance(record, tuple) else self._on_control(record)
        except DecodeError as error:  # always raised before any state changed
            events = [self._dead_letter(value, error, append_time_ms)]
        if self.clock == "append":
            events += self._wake()
        return events

    def _on_vitals(self, seen: tuple[Observation, ...]) -> list[Emitted]:
        for observation in seen:
            state = self.models.get(observation.model)
            if state is not None:
                state.monitor.check(observation)
        events: list[Emitted] = []
        for model in dict.fromkeys(observation.model for observation in seen):
            own = [observation for observation in seen if observation.model == model]
            state = self.models.get(model) or self.models.setdefault(model, ModelState.started(model))
            newest = max((observation.ts_max or 0 for observation in own), default=0)
            now_ms = self._move_time(state, newest)
            for observation in own:
                state.policy.on_outcomes(observation.role, observation.counts.outcomes)
                cause = Cause(self.partition, self.applied_offset, now_ms)
                for drift in state.monitor.observe(observation, state.policy.spec, cause):
                    state.policy.on_drift(drift)
                    events.append(_emitted(DRIFT, drift))
            events += self._decide(state)
        return events

    def _on_control(self, control: Control) -> list[Emitted]:
        if isinstance(control, TickControl):
            return []
        state = self.models.get(control.model) or ModelState.started(control.model)
        now_ms = self._move_time(state, 0)
        triggers: list[Trigger] = []
        no_better = False
        try:
            match control:
                case SpecControl():
                    state.policy.on_spec(control)
                case RequestControl():
                    triggers = state.policy.on_request(control, now_ms)
                case ApprovalControl():
                    triggers = state.policy.on_approval(control, now_ms)
                case RunControl():
                    no_better = state.policy.on_run(control, now_ms)
                case UpdateControl():
                    triggers = state.policy.on_champion(control.version, now_ms)
        except IllegalTransition as error:
            raise DecodeError(str(error)) from error
        if isinstance(control, UpdateControl):
            state.monitor.on_champion(control.version, control.reference)
        if no_better:
            state.monitor.acknowledge()
        self.models[control.model] = state
        return [_emitted(TRIGGERS, trigger) for trigger in triggers] + self._decide(state)

    def _wake(self) -> list[Emitted]:
        """Decide for models that this record is not about, where time alone is a reason."""
        events: list[Emitted] = []
        for state in self.models.values():
            if self.append_ms >= state.wake_ms:
                self._move_time(state, 0)
                events += self._decide(state)
        return events

    def _decide(self, state: ModelState) -> list[Emitted]:
        triggers = state.policy.decide(state.now_ms, state.monitor.alarmed())
        state.wake_ms = state.policy.wake_ms()
        return [_emitted(TRIGGERS, trigger) for trigger in triggers]

    def _move_time(self, state: ModelState, event_ms: int) -> int:
        newest = self.append_ms if self.clock == "append" else event_ms
        state.now_ms = max(state.now_ms, newest)
        return state.now_ms

    def _dead_letter(self, value: bytes, error: DecodeError, append_ms: int) -> Emitted:
        place = (VITALS.name, self.partition, self.applied_offset)
        letter = dead_letter("monitor", *place, error.reason, append_ms=append_ms, value=value)
        return Emitted(DEAD_LETTERS, b"", letter.encode())

    def snapshot(self) -> bytes:
        """Return the whole state, with its offset. The same state returns the same bytes."""
        return encode_state(self)

    @classmethod
    def restore(cls, data: bytes) -> VitalsCore:
        """Raise StateError when ``data`` is not a snapshot of this format."""
        return decode_state(data, cls)


def _emitted(topic: Topic, event: Drift | Trigger) -> Emitted:
    return Emitted(topic, event.model.encode(), event.encode())
