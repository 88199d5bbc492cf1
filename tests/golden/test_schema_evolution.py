"""Versions of driftloop read each other's events: held by bytes that were stored when each was current."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from driftloop.models.registry.signing import Signer
from driftloop.models.rows import rows_from_outcomes
from driftloop.schemas.base import Event
from driftloop.schemas.errors import ArtifactError
from driftloop.schemas.events import Outcome, Prediction
from driftloop.schemas.export import EVENTS
from driftloop.schemas.serving import Manifest, ModelUpdate
from driftloop.schemas.spec.model import Join, ModelSpec
from driftloop.streams.join.reading.batch import BatchReader
from driftloop.streams.join.reading.events import read_label, read_prediction
from driftloop.streams.monitor.observations import decode_record
from driftloop.streams.train.window.prefix import model_prefix, outcome_key
from pydantic import create_model

from tests.golden.make import FOLDER, shape
from tests.support.join.world import JoinWorld, label, prediction, rules_of

BY_NAME = {event.__name__: event for event in EVENTS}
GOLDEN = sorted(path.name.removesuffix(".schema.json") for path in FOLDER.glob("*.schema.json"))
FUTURE = {"deep": [1, 2.5, "é", {"a": True}]}
HINT = (
    "Readers and logs of version 1 exist. Keep the field as it was; say something new in a new optional "
    "field (docs/schema-evolution.md)."
)


def stored(name: str, what: str = "") -> bytes:
    return (FOLDER / f"{name}{what}.json").read_bytes()


def test_every_event_has_golden_bytes() -> None:
    missing = sorted(BY_NAME.keys() - set(GOLDEN))
    assert not missing, f"{missing}: run `python -m tests.golden.make` and commit what it writes"


def test_no_event_that_is_on_logs_has_gone() -> None:
    gone = sorted(set(GOLDEN) - BY_NAME.keys())
    assert not gone, f"{gone} can no longer be read. {HINT}"


def faults_of(promised: dict[str, Any], event: type[Event]) -> list[str]:
    """How an event differs from its promised shape in ways that readers or writers of that would notice."""
    present = shape(event)
    faults: list[str] = []
    pairs = [(event.__name__, promised, present)]
    definitions = present.get("$defs", {})
    for name, definition in promised.get("$defs", {}).items():
        if name in definitions:
            pairs.append((name, definition, definitions[name]))
    for name, before, now in pairs:
        fields_now = now.get("properties", {})
        for field, kind in before.get("properties", {}).items():
            if field not in fields_now:
                faults.append(f"{name}.{field} was removed or renamed")
            elif fields_now[field] != kind:
                faults.append(f"{name}.{field} changed from {kind} to {fields_now[field]}")
        newly_needed = set(now.get("required", ())) - set(before.get("required", ()))
        faults += [f"{name}.{field} is needed now, and old records lack it" for field in sorted(newly_needed)]
        no_longer = set(before.get("required", ())) - set(now.get("required", ()))
        faults += [
            f"{name}.{field} may be absent now, and old readers need it" for field in sorted(no_longer)
        ]
    return faults


@pytest.mark.parametrize("name", GOLDEN)
def test_no_field_of_an_event_was_removed_renamed_or_changed(name: str) -> None:
    faults = faults_of(orjson.loads(stored(name, ".schema")), BY_NAME[name])
    assert not faults, f"{'; '.join(faults)}. {HINT}"


def holds(now: Any, before: Any) -> bool:
    """Whether everything said before is said now; fields with defaults may have been added."""
    if isinstance(before, dict):
        return isinstance(now, dict) and all(
            name in now and holds(now[name], before[name]) for name in before
        )
    if isinstance(before, list):
        return len(now) == len(before) and all(map(holds, now, before))
    return type(now) is type(before) and now == before


@pytest.mark.parametrize("name", GOLDEN)
def test_old_bytes_are_read_and_written_again_as_they_were(name: str) -> None:
    event = BY_NAME[name]
    assert holds(orjson.loads(event.decode(stored(name)).encode()), orjson.loads(stored(name)))
    assert event.decode(stored(name, ".minimal")) == event.decode(
        event.decode(stored(name, ".minimal")).encode()
    )


def _nested(annotation: object) -> type[Event] | None:
    if isinstance(annotation, type) and issubclass(annotation, Event):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _nested(argument)) is not None:
            return found
    return None


@pytest.mark.parametrize("name", GOLDEN)
def test_fields_of_a_later_version_are_read_over_and_kept(name: str) -> None:
    later = orjson.loads(stored(name)) | {"from_the_future": FUTURE}
    for field, kind in BY_NAME[name].model_fields.items():
        nested = _nested(kind.annotation)
        if (
            nested is not None
            and isinstance(later.get(field), dict)
            and set(later[field]) <= set(nested.model_fields)
        ):
            later[field]["from_the_future"] = FUTURE
    read = BY_NAME[name].decode(orjson.dumps(later))
    assert holds(orjson.loads(read.encode()), later)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_later_version_with_more_optional_fields_reads_old_bytes(name: str) -> None:
    event = BY_NAME[name]
    later = create_model(
        event.__name__,
        __base__=event,
        added_text=(str | None, None),
        added_number=(int, 7),
        added_part=(Join | None, None),
    )
    read = later.decode(stored(name))
    assert holds(orjson.loads(read.encode()), orjson.loads(stored(name)) | {"added_number": 7})
    back = event.decode(read.model_copy(update={"added_text": "new"}).encode())
    assert back.model_extra == {"added_text": "new", "added_number": 7}


class Moved(Prediction):
    """What an author must not do."""

    latency_ms: str | None = None  # type: ignore[assignment]
    tenant: str


def test_removed_changed_and_newly_needed_fields_are_named_with_what_to_do() -> None:
    promised = orjson.loads(stored("Prediction", ".schema"))
    reported = " ".join(faults_of(promised, Moved))
    assert "Moved.latency_ms changed from" in reported
    assert "Moved.tenant is needed now" in reported
    smaller = create_model("Smaller", __base__=Event, prediction_id=(str, ...))
    assert "Smaller.features was removed or renamed" in faults_of(promised, smaller)
    assert "optional field" in HINT


def test_the_joiner_reads_old_bytes_and_keeps_what_it_does_not_know() -> None:
    for what in ("", ".minimal"):
        old = orjson.loads(stored("Prediction", what))
        later = old | {"from_the_future": FUTURE}
        for event in (old, later):
            assert orjson.loads(read_prediction(orjson.dumps(event)).prefix + b"}") == event
        known = orjson.loads(stored("Label", what))
        statement = read_label(orjson.dumps(known)).payload
        later_statement = read_label(orjson.dumps(known | {"from_the_future": FUTURE})).payload
        assert statement.value == later_statement.value == known["label"]
        assert statement.source == later_statement.source == known.get("source", "system")


@pytest.mark.parametrize("name", ["Vitals", *(name for name in GOLDEN if name.endswith("Control"))])
def test_the_monitor_reads_old_and_later_records(name: str) -> None:
    decode_record(stored(name))
    decode_record(stored(name, ".minimal"))
    later = orjson.loads(stored(name)) | {"from_the_future": FUTURE}
    decode_record(orjson.dumps(later))


def test_unknown_fields_travel_from_prediction_and_label_to_the_outcome_and_its_readers() -> None:
    world = JoinWorld(rules_of(Join(), m=ModelSpec()))
    world.reader = BatchReader(0, 1)
    world.send(
        prediction("id-1") | {"tenant": "north", "trace": FUTURE, "nothing": None},
        label("id-1", "late") | {"ticket": 17, "proof": FUTURE},
    )
    output = world.process(10, 10)
    ((_, value),) = output.outcomes
    said = orjson.loads(value)
    assert (said["tenant"], said["trace"], said["nothing"]) == ("north", FUTURE, None)
    assert (said["label_ticket"], said["label_proof"]) == (17, FUTURE)
    outcome = Outcome.decode(value)
    assert outcome.model_extra == {name: said[name] for name in
                                   ("tenant", "trace", "nothing", "label_ticket", "label_proof")}  # fmt: skip
    assert outcome_key(value, len(model_prefix("m"))).prediction_id == "id-1"
    (row,) = rows_from_outcomes((value,), ModelSpec(), classes=None)
    assert row.label == "late"
    assert row.features == {"hour": 5, "carrier": "UA"}


@pytest.mark.parametrize("event", [ModelUpdate, Manifest])
def test_what_a_later_version_signed_is_trusted_and_still_cannot_be_altered(
    event: type[ModelUpdate] | type[Manifest],
) -> None:
    signer = Signer(Ed25519PrivateKey.generate())
    later = create_model(event.__name__, __base__=event, region=(str | None, None))
    made = later.decode(stored(event.__name__)).model_copy(update={"region": "eu"})
    signed = signer.sign(made).encode()
    signer.verifier().verify(event.decode(signed))
    with pytest.raises(ArtifactError, match="altered"):
        signer.verifier().verify(event.decode(signed.replace(b'"eu"', b'"us"')))
    old = signer.sign(event.decode(stored(event.__name__))).encode()
    signer.verifier().verify(later.decode(old))
