"""Damaged events: golden bytes with values, names and bytes replaced by unexpected ones."""

from __future__ import annotations

import copy
from typing import Any, cast

import orjson
from hypothesis import strategies as st

from tests.golden.make import FOLDER

# Written as text where no JSON library of ours would write them: another language's may.
RAW = {
    "@huge": "1" + "0" * 40, "@negative": "-" + "9" * 30, "@nan": "NaN", "@infinity": "Infinity",
    "@exponent": "1e400", "@surrogate": '"\\ud800"', "@u64": str(2**64 - 1), "@beyond": str(2**64),
    "@below": str(-(2**63) - 1), "@deep": "[" * 150 + "]" * 150,
}  # fmt: skip

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63 - 1, 0.1, -0.0, 1e308, "", " ", "x" * 5_000, "NaN",
    "../../etc/passwd", "\x00", "\u202e", "-1", "[]", [], [[]], [None], {}, {"": None}, {"a": {"b": []}},
    {"x" * 2_000: 1}, "@huge", "@negative", "@nan", "@infinity", "@exponent", "@surrogate", "@u64", "@beyond",
    "@below", "@deep", "AAAA", "//8=", "0" * 64,
)  # fmt: skip


NAMES = ("-1", "abc", "9" * 20, "", "\u00e9", "x" * 3_000)


def golden(name: str) -> dict[str, Any]:
    return orjson.loads((FOLDER / f"{name}.json").read_bytes())


def _places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(data, dict):
        for name, part in cast("dict[str, Any]", data).items():
            found += _places(part, (*path, name))
    elif isinstance(data, list):
        for place, part in enumerate(cast("list[Any]", data)):
            found += _places(part, (*path, place))
    return found


@st.composite
def mutated(draw: st.DrawFn, name: str, keep: tuple[str, ...] = ()) -> bytes:
    """One to three places of an event replaced, removed or added to. Fields of ``keep`` stay."""
    data = copy.deepcopy(golden(name))
    for _ in range(draw(st.integers(1, 3))):
        places = [path for path in _places(data) if path[0] not in keep]
        if not places:
            break
        path = draw(st.sampled_from(places))
        holder: Any = data
        for step in path[:-1]:
            holder = holder[step]
        what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "rename"]))
        if what == "replace" or isinstance(holder, list):
            holder[path[-1]] = copy.deepcopy(draw(st.sampled_from(NASTY)))
        elif what == "remove":
            del holder[path[-1]]
        elif what == "add":
            holder["added"] = copy.deepcopy(draw(st.sampled_from(NASTY)))
        else:
            holder[draw(st.sampled_from(["-1", "abc", "99999999999999999999", "", "\u00e9"]))] = holder.pop(
                path[-1]
            )
    return written(data)


def written(data: Any) -> bytes:
    text = orjson.dumps(data).decode()
    for mark, said in RAW.items():
        text = text.replace(f'"{mark}"', said)
    return text.encode()


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """An event's bytes cut, overwritten or doubled."""
    data = bytearray(orjson.dumps(golden(name)))
    at = draw(st.integers(0, len(data) - 1))
    match draw(st.sampled_from(["cut", "overwrite", "double", "insert"])):
        case "cut":
            del data[at:]
        case "overwrite":
            data[at] = draw(st.integers(0, 255))
        case "double":
            data += data[at:]
        case _:
            data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


def anything(name: str, keep: tuple[str, ...] = ()) -> st.SearchStrategy[bytes]:
    return st.one_of(mutated(name, keep), mutated(name, keep), damaged(name), st.binary(max_size=40))
