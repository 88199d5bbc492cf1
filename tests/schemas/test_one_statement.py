"""Predictions and labels are stated once, in ``schemas.events``: what stands elsewhere for speed agrees."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from driftloop.schemas.base import MODEL_NAME_PATTERN, Event
from driftloop.schemas.events import Label, Prediction
from driftloop.schemas.values.event_time import event_time_problem
from driftloop.streams.join.reading.plain import LabelEvent, PredictionEvent
from driftloop.streams.serve.client import EventClient
from driftloop.streams.serve.events import label_event, prediction_event

INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}


def fields_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Field → its type and limits, and whether it is required."""
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    return {name: (plain(part), name in schema["required"]) for name, part in schema["properties"].items()}


def plain(part: Any) -> Any:
    """Without what only people read; alternatives in one order."""
    if isinstance(part, list):
        return sorted(map(plain, part), key=partial(json.dumps, sort_keys=True))
    if not isinstance(part, dict):
        return part
    kept = {name: plain(value) for name, value in part.items() if name not in ("title", "description")}
    if "enum" in kept:
        kept.pop("type", None)
    # The joiner leaves longer integers to the schema, so that limit is none of the event's.
    return {"type": "integer"} if kept == {"type": "integer", **INT64} else kept


@pytest.mark.parametrize(("event", "struct"), [(Prediction, PredictionEvent), (Label, LabelEvent)])
def test_the_joiners_structs_have_the_fields_types_limits_and_needs_of_the_schema(
    event: type[Event], struct: type[msgspec.Struct]
) -> None:
    stated, fast = fields_of(event.model_json_schema()), fields_of(msgspec.json.schema(struct))
    if event is Prediction:
        (model, needed), (fast_model, _) = stated["model"], fast["model"]
        assert model == fast_model | {"pattern": MODEL_NAME_PATTERN}  # which the joiner checks once per name
        stated["model"] = (fast_model, needed)
        (role, _), (fast_role, _) = stated["role"], fast["role"]
        assert role == fast_role | {"default": "champion"}  # left open, so that it is known to be absent
        stated["role"] = (fast_role, False)
    (ts, needed), (fast_ts, _) = stated["ts"], fast["ts"]
    limits = fast_ts["minimum"], fast_ts["exclusiveMaximum"]
    assert ts["minimum"] <= limits[0] < limits[1] <= ts["exclusiveMaximum"]  # the schema knows other units
    assert [event_time_problem(limit) for limit in (limits[0], limits[1] - 1)] == [None, None]
    fast["ts"] = ({**ts}, needed)
    assert fast == stated


@pytest.mark.parametrize(
    ("event", "builders"),
    [(Prediction, (prediction_event, EventClient.prediction)), (Label, (label_event, EventClient.label))],
)
def test_what_a_client_can_say_is_every_field_of_the_schema_and_nothing_else(
    event: type[Event], builders: tuple[Callable[..., object], ...]
) -> None:
    for builder in builders:
        assert set(inspect.signature(builder).parameters) - {"self"} == set(event.model_fields)
