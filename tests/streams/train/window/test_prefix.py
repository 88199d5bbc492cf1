"""An outcome looked at in passing is the outcome that decoding it whole would give."""

from __future__ import annotations

import json
from collections.abc import Callable

import orjson
import pytest
from driftloop.models.rows import rows_from_outcomes
from driftloop.schemas.errors import DecodeError
from driftloop.schemas.events import Outcome
from driftloop.schemas.spec.model import ModelSpec
from driftloop.streams.train.window.prefix import Labels, model_prefix, outcome_key
from hypothesis import given
from hypothesis import strategies as st

from tests.support.train.world import outcome

PREFIX = len(model_prefix("m"))
# What a user may call a feature, or write into one, that looks like the outcome's own ends.
TRICKY = st.one_of(
    st.sampled_from(["role", "shadow", "champion", "seq", 'a"b', "a\\b", '"role":"shadow"', "é", "\n"]),
    st.text(max_size=8),
)
FEATURES = st.dictionaries(TRICKY, st.one_of(TRICKY, st.integers(-9, 9), st.booleans()), max_size=4)
LABELS = st.one_of(
    st.none(),
    st.sampled_from(["yes", "no", "maybe", "Yes", "TRUE", "1.0", 1, 0, True, False, 1.0, 2.5]),
    st.integers(0, 3),
)


@st.composite
def outcomes(draw: st.DrawFn) -> Outcome:
    made = outcome("m", 1, draw(st.integers(0, 2**40)), version=1, flipped=False)
    label = draw(LABELS)
    return made.model_copy(
        update={
            "prediction_id": draw(st.one_of(TRICKY.filter(bool), st.just("p-1"))),
            "role": draw(st.sampled_from(["champion", "champion", "shadow", "canary"])),
            "features": draw(FEATURES),
            "segments": draw(st.one_of(st.none(), FEATURES)),
            "revision": draw(st.integers(0, 3)),
            "prediction": draw(st.sampled_from(["yes", "no", None, 3, 2.5])),
            "label": label,
            "correct": draw(st.booleans()) if label is None else None,
        }
    )


def as_joiner(made: Outcome) -> bytes:
    """As the joiner writes them: without the fields that a champion's prediction leaves out."""
    fields = made.model_dump(exclude_none=True)
    if made.role == "champion":
        del fields["role"]
    return orjson.dumps(fields)


def as_anybody(made: Outcome) -> bytes:
    """The same event from another writer: spaces, escapes, another order."""
    fields = made.model_dump(exclude_none=True)
    turned = dict(sorted(fields.items(), key=lambda item: item[0] != "model"))
    return json.dumps(turned, ensure_ascii=True).replace('{"model": "m", ', '{"model":"m",', 1).encode()


@given(made=outcomes(), write=st.sampled_from([as_joiner, as_anybody, Outcome.encode]))
def test_the_head_is_what_decoding_gives(made: Outcome, write: Callable[[Outcome], bytes]) -> None:
    key = outcome_key(write(made), PREFIX)
    assert key == (made.prediction_id, made.revision, made.role == "shadow", made.seq)


@given(
    made=outcomes(),
    task=st.sampled_from(["classification", "regression"]),
    declared=st.sampled_from([None, ("no", "yes"), ("0", "1", "2"), ("false", "true"), ("1", "true", "0")]),
    champion=st.sampled_from([None, ("no", "yes")]),
)
def test_what_counts_as_a_label_is_what_becomes_a_row(
    made: Outcome, task: str, declared: tuple[str, ...] | None, champion: tuple[str, ...] | None
) -> None:
    spec = ModelSpec.model_validate(
        {"task": task, "classes": list(declared) if declared and task == "classification" else None}
    )
    value = made.encode()
    rows = rows_from_outcomes((value,), spec, classes=champion)
    counted = Labels(spec, champion).event_ms(value)
    if made.role == "shadow":
        return  # passed over before its label is looked at
    assert (counted is not None) == bool(rows)
    if counted is not None:
        assert counted == max(made.ts, made.label_ts)


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.pop("seq"),
        lambda fields: fields.update(seq="3"),
        lambda fields: fields.update(seq=True),
        lambda fields: fields.update(prediction_id=7),
        lambda fields: fields.pop("prediction_id"),
        lambda fields: fields.update(revision=1.5),
    ],
)
def test_what_is_no_outcome_is_named(change: Callable[[dict[str, object]], object]) -> None:
    fields = orjson.loads(outcome("m", 1, 3, version=1, flipped=False).encode())
    change(fields)
    with pytest.raises(DecodeError, match="Outcome"):
        outcome_key(orjson.dumps(fields), PREFIX)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b"\xff", b'{"model":"m","prediction_id":"\xff'])
def test_bytes_that_are_no_object_are_no_outcome(data: bytes) -> None:
    with pytest.raises(DecodeError):
        outcome_key(data, PREFIX)
    with pytest.raises(DecodeError):
        Labels(ModelSpec(), None).event_ms(data)


def test_an_identity_that_is_not_text_is_named_however_well_its_ends_look() -> None:
    value = outcome("m", 1, 3, version=1, flipped=False).encode()
    with pytest.raises(DecodeError):
        outcome_key(value.replace(b'"m-1"', b'"\xff-1"'), PREFIX)


def test_a_model_s_outcomes_begin_with_its_prefix_and_no_other_model_s_do() -> None:
    data = outcome("flights", 1, 0, version=1, flipped=False).encode()
    assert data.startswith(model_prefix("flights"))
    assert not data.startswith(model_prefix("flight"))
