"""Whatever lies on a topic, no reader of it stops: it is refused with a reason, or can be written again."""

from __future__ import annotations

import base64
from collections.abc import Callable
from itertools import count
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from driftloop.infra.dead_letters.model import DeadLetterFilter, read_dead_letter
from driftloop.infra.status.overview import LATEST_TOPICS, RECENT_TOPICS, Overview
from driftloop.models.registry.signing import Signer
from driftloop.models.rows import rows_from_outcomes
from driftloop.schemas.dead_letters import MAX_KEY_BYTES
from driftloop.schemas.errors import DecodeError
from driftloop.schemas.events import DeadLetter, Outcome
from driftloop.schemas.export import EVENTS
from driftloop.schemas.spec.model import Join, ModelSpec, SpecRecord
from driftloop.schemas.topics import CATALOGUE, COMMANDS, LABELS, PREDICTIONS, TRIGGERS
from driftloop.streams.join.matching.rules import ModelRules
from driftloop.streams.join.reading.batch import BatchReader, Records
from driftloop.streams.kafka.record import Record
from driftloop.streams.monitor.core import VitalsCore
from driftloop.streams.train.core import TrainerCore
from driftloop.streams.train.step import Step, dead_letter_of
from driftloop.streams.train.window.prefix import Labels, model_prefix, outcome_key
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.join.world import JoinWorld, prediction, rules_of
from tests.support.malformed.mutations import NASTY, anything, golden, written

BY_NAME = {event.__name__: event for event in EVENTS}
CONTROLS = sorted(name for name in BY_NAME if name.endswith("Control"))
T = TypeVar("T")
MAX_MESSAGE = 4_194_304
quick = settings(max_examples=40, deadline=None)
thorough = settings(max_examples=150, deadline=None)


def attempt(read: Callable[[], T]) -> tuple[T | None, str]:
    """What was read, or the reason why nothing was."""
    try:
        return read(), ""
    except DecodeError as error:
        return None, error.reason


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_bytes_are_an_event_that_can_be_written_again_or_are_refused_with_a_short_reason(name: str) -> None:
    event = BY_NAME[name]

    @quick
    @given(anything(name))
    def holds(data: bytes) -> None:
        read, reason = attempt(lambda: event.decode(data))
        if read is None:
            assert reason.startswith(name)
            assert len(reason) < 1_000
        else:
            again = event.decode(read.encode())  # NaN in unknown fields is null by then, and null is absent
            assert event.decode(again.encode()).encode() == again.encode()

    holds()


@thorough
@given(st.lists(st.sampled_from(["Vitals", "Vitals", *CONTROLS]).flatmap(anything), min_size=1, max_size=6))
def test_the_monitor_goes_on_after_any_records_and_its_state_can_be_kept(values: list[bytes]) -> None:
    core = VitalsCore(0)
    for offset, value in enumerate([written(golden("SpecControl") | {"spec": {}}), *values]):
        for event in core.apply(value, offset=offset, append_time_ms=1_000 + offset):
            if event.topic.name == "dead-letters":
                letter = DeadLetter.decode(event.value)
                assert base64.b64decode(letter.value_b64 or "") == value
                assert letter.offset == offset
                assert letter.reason
    kept = core.snapshot()
    assert VitalsCore.restore(kept).snapshot() == kept


def trainer() -> TrainerCore:
    core = TrainerCore(0, 1, Signer(Ed25519PrivateKey.generate()), "append")
    core.on_spec("late", ModelSpec())
    return core


def check_written(step: Step) -> None:
    """All of it fits onto a topic."""
    for output in step.outputs:
        value = output.event.encode()
        assert type(output.event).decode(value).encode() == value
        assert len(value) + len((output.key or "").encode()) < MAX_MESSAGE


@thorough
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("Trigger"), anything("Trigger", ("model",))),
            st.tuples(st.just("Command"), anything("Command", ("model",))),
        ),
        max_size=4,
    )
)
@example([("Trigger", written(golden("Trigger") | {"added": "@beyond"}))])
def test_the_trainer_and_registrar_go_on_after_any_triggers_and_commands(
    records: list[tuple[str, bytes]],
) -> None:
    core = trainer()
    for offset, (name, value) in enumerate(records):
        topic = TRIGGERS if name == "Trigger" else COMMANDS
        record = Record(topic.name, 0, offset, 1_000, b"late", value)
        if topic is TRIGGERS:
            check_written(core.on_trigger(record))
        else:
            core.manifest_request(record)
            check_written(core.on_command(record))
    assert isinstance(list(core.models()), list)


@pytest.mark.parametrize(
    ("partition", "place"),
    [("abc", {}), ("-1", {}), ("9" * 20, {}), ("0", {"seq": -1}), ("0", {"append_ms": 2**62})],
)
def test_a_trigger_whose_change_is_nowhere_on_the_log_is_refused(
    partition: str, place: dict[str, int]
) -> None:
    change = {"ts": 1, "partitions": {partition: {"seq": 1, "append_ms": 1} | place}}
    value = written(golden("Trigger") | {"estimated_change": change})
    (output,) = trainer().on_trigger(Record(TRIGGERS.name, 0, 1, 5, b"late", value)).outputs
    assert isinstance(output.event, DeadLetter)
    assert "estimated_change" in output.event.reason


@thorough
@given(st.lists(st.sampled_from(["TrainingRun", "ModelUpdate", "CommandResult"]).flatmap(
    lambda name: st.tuples(st.just(name), anything(name, ("model",)))), max_size=4))  # fmt: skip
def test_the_trainer_can_be_rebuilt_from_any_records(records: list[tuple[str, bytes]]) -> None:
    core = trainer()
    for name, value in records:
        try:
            event = BY_NAME[name].decode(value)
        except DecodeError:
            continue
        restore = {"TrainingRun": core.restore_run, "ModelUpdate": core.restore_update,
                   "CommandResult": core.restore_result}[name]  # fmt: skip
        restore(event)  # type: ignore[operator]
    list(core.models())


def test_a_poisoned_record_with_an_endless_key_still_fits_into_its_dead_letter() -> None:
    record = Record(COMMANDS.name, 0, 1, 5, b"k" * 3_000_000, b"x" * 900_000)
    output = dead_letter_of(record, "registrar", "r" * 5_000)
    letter = output.event
    assert isinstance(letter, DeadLetter)
    assert len(letter.encode()) + len(output.key or "") < MAX_MESSAGE
    assert letter.cut
    assert len(base64.b64decode(letter.key_b64 or "")) == MAX_KEY_BYTES


@thorough
@given(
    st.lists(anything("Prediction"), max_size=5),
    st.lists(anything("Label"), max_size=5),
    st.lists(st.sampled_from(NASTY), max_size=2),
)
def test_the_joiner_goes_on_after_any_records_and_accounts_for_each(
    predictions: list[bytes], labels: list[bytes], odd: list[object]
) -> None:
    world = JoinWorld(rules_of(Join(), late=ModelSpec()))
    world.reader = BatchReader(0, 1)
    for value in odd:
        predictions.append(written(prediction("odd", model="late") | {"features": {"x": value}}))
    of_predictions, of_labels = columns(predictions), columns(labels)
    batch = world.reader.read(of_predictions, of_labels)
    output = world.joiner.process(batch)
    for refused in output.refused:
        letter = DeadLetter.decode(refused.dead_letter(refused.topic.name))
        sent = predictions if refused.topic is PREDICTIONS else labels
        assert base64.b64decode(letter.value_b64 or "") == sent[letter.offset]
        assert letter.reason
    for _, value in output.outcomes:
        outcome_key(value, len(model_prefix("late")))
    world.log(output)
    world.joiner.commit()


@pytest.mark.parametrize(
    "number", [str(2**63), str(2**64), str(-(2**63) - 1), "1" * 30, "1" * 400, "1e308", "0." + "1" * 40]
)
@pytest.mark.parametrize("field", ["features", "prediction", "scores", "segments", "latency_ms"])
def test_an_outcome_of_numbers_of_any_size_can_be_read_and_written_again(number: str, field: str) -> None:
    fields = {"features": "{}", "prediction": "1"} | {
        field: number if field in ("prediction", "latency_ms") else f'{{"x":{number}}}'
    }
    reported = ",".join(f'"{name}":{value}' for name, value in fields.items())
    value = f'{{"prediction_id":"a","model":"late","version":3,"ts":1700000000000,{reported}}}'.encode()
    label = b'{"prediction_id":"a","ts":1700000000000,"label":1}'
    world = JoinWorld(rules_of(Join(), late=ModelSpec()))
    world.reader = BatchReader(0, 1)
    batch = world.reader.read(columns([value]), columns([label]))
    output = world.joiner.process(batch)
    assert len(output.outcomes) + len(output.refused) == 1
    for _, outcome in output.outcomes:
        assert Outcome.decode(outcome).encode()


def columns(values: list[bytes]) -> Records:
    offsets = list(range(len(values)))
    return Records(values, [None] * len(values), offsets, [1_000 + offset for offset in offsets])


@thorough
@given(anything("Outcome", ("model",)))
def test_what_teaches_is_an_outcome_or_refused_never_a_crash(value: bytes) -> None:
    prefix = model_prefix("late")
    for spec in (ModelSpec(classes=("late", "on_time")), ModelSpec(task="regression")):
        if value.startswith(prefix):
            attempt(lambda: outcome_key(value, len(prefix)))
            attempt(lambda spec=spec: Labels(spec, None).event_ms(value))
        attempt(lambda spec=spec: rows_from_outcomes((value,), spec, classes=None))


@thorough
@given(st.sampled_from(sorted({topic.event for topic in CATALOGUE} & BY_NAME.keys())).flatmap(anything))
def test_status_shows_what_it_can_whatever_lies_on_the_topics(value: bytes) -> None:
    overview = Overview("p.")
    offsets = count()
    for read in (*LATEST_TOPICS, *RECENT_TOPICS):
        overview.apply(Record(f"p.{read.name}", 0, next(offsets), 5, b"late", value))
    for view in overview.models.values():
        assert view.last_run is None or view.last_run.model
        assert view.accuracy is None or isinstance(view.accuracy, float)


SPEC_FIELDS = sorted(ModelSpec.model_fields)


@thorough
@given(st.dictionaries(st.sampled_from(SPEC_FIELDS), st.sampled_from(NASTY), max_size=3))
def test_a_spec_that_cannot_be_is_refused_as_one(table: dict[str, object]) -> None:
    try:
        record = SpecRecord.decode(written(golden("SpecRecord") | {"model": "late", "spec": table}))
        ModelRules.of(record.model_spec())
    except (DecodeError, ValidationError):
        pass  # what every reader of specs expects


@thorough
@given(anything("DeadLetter"))
def test_any_dead_letter_can_be_listed_and_chosen(value: bytes) -> None:
    try:
        letter = read_dead_letter(value, partition=0, offset=1, at_ms=5)
    except DecodeError:
        return
    assert isinstance(letter.kind, str)
    assert letter.model is None or isinstance(letter.model, str)
    assert isinstance(letter.headers, tuple)
    DeadLetterFilter(model="late", topic="labels", reason="x", since_ms=0).fits(letter, "p.")
    letter.origin("p.")


def test_topics_of_the_catalogue_are_all_fuzzed() -> None:
    unread = {topic.name for topic in CATALOGUE if topic.event not in BY_NAME}
    assert unread == {"monitor-state"}
    assert {PREDICTIONS, LABELS} <= set(CATALOGUE)
