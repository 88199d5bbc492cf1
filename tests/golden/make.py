"""Writes the golden bytes of events that have none yet: ``python -m tests.golden.make``.

Per event three files in ``v1``: NAME.json with every field, NAME.minimal.json with the needed ones only, and
NAME.schema.json, the shape that readers were promised. What is there is never written again: those bytes are
on somebody's log.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import orjson
from driftloop.schemas.base import Event
from driftloop.schemas.export import EVENTS

FOLDER = Path(__file__).parent / "v1"
SHA256 = "0123456789abcdef" * 4
_KLL = "AgIPBAgACAAAAMA/"  # kll_floats of k 8 that holds 1.5

# Where a type alone does not say what makes sense.
BY_NAME: dict[str, Any] = {
    "model": "late", "prediction_id": "flight-1", "role": "champion", "ts": 1_700_000_000_000, "kll": _KLL,
    "seqs": "AQAAAA==", "key_b64": "Zg==", "value_b64": "e30=", "generation": 7,
}  # fmt: skip
BY_EVENT: dict[str, dict[str, Any]] = {
    "Label": {"correct": None},
    "NumberSketch": {"count": 3, "nulls": 2},
    "Errors": {"kind": "bits", "count": 2, "data": "gA=="},
    "Outcome": {"label_delay_ms": 60_000, "error_value": 1.0, "correct": None},
    "Prediction": {"error": None},
}
# What a needed pair of fields is where each alone is optional.
MINIMAL: dict[str, dict[str, Any]] = {"Label": {"label": "late"}, "Prediction": {"prediction": "late"}}


def full(event: type[Event]) -> dict[str, Any]:
    """A value for every field, absent alternatives left out."""
    chosen = {
        name: BY_EVENT.get(event.__name__, {}).get(name, value)
        for name, field in event.model_fields.items()
        if (value := _value(name, field.annotation)) is not None
    }
    return {name: value for name, value in chosen.items() if value is not None}


def minimal(event: type[Event]) -> dict[str, Any]:
    """Only what a reader requires, and the constant that names the record's kind."""
    fields = event.model_fields
    needed = {
        name: value
        for name, value in full(event).items()
        if fields[name].is_required() or get_origin(fields[name].annotation) is Literal
    }
    for name in needed:
        nested = _event_of(fields[name].annotation)
        if nested is not None:
            needed[name] = minimal(nested)
    return needed | MINIMAL.get(event.__name__, {})


def _event_of(annotation: Any) -> type[Event] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, Event) else None


def _value(name: str, annotation: Any) -> Any:
    if name in BY_NAME:
        return BY_NAME[name]
    if get_origin(annotation) is Annotated:
        return _value(name, get_args(annotation)[0])
    nested = _event_of(annotation)
    if nested is not None:
        return full(nested)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return _value(name, next(one for one in reversed(arguments) if one is not type(None)))
    if origin is dict:
        return {"hour": _value("", arguments[1])}
    if origin is tuple:
        kinds = arguments[:1] if arguments[-1] is Ellipsis else arguments
        return [_value("", kind) for kind in kinds]
    if name.endswith(("sha256", "digest")):
        return SHA256
    made: dict[Any, Callable[[], Any]] = {
        int: lambda: 3, float: lambda: 0.25, bool: lambda: True, str: lambda: "text", Any: lambda: {"a": 1},
    }  # fmt: skip
    return made[annotation]()


def shape(event: type[Event]) -> dict[str, Any]:
    """The JSON Schema without what only people read."""
    return _bare(event.model_json_schema())


def _bare(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            name: _bare(part)
            for name, part in schema.items()
            if not (name in ("description", "title") and isinstance(part, str))
        }
    return [_bare(part) for part in schema] if isinstance(schema, list) else schema


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for event in EVENTS:
        written = {
            f"{event.__name__}.json": event.model_validate(full(event)).encode(),
            f"{event.__name__}.minimal.json": orjson.dumps(minimal(event)),
            f"{event.__name__}.schema.json": orjson.dumps(
                shape(event), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
            ),
        }
        if any((FOLDER / name).exists() for name in written):
            continue
        for name, data in written.items():
            (FOLDER / name).write_bytes(data)
        print("written:", *written)


if __name__ == "__main__":
    main()
