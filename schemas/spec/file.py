"""Reading ``driftloop.toml``: each mistake named by key, value and fix, all of them at once."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError

from ..errors import SpecError
from ..reasons.known_formats import known_format
from ..reasons.shortened import shortened
from ..serving import FeatureType
from .model import Deployment, Feature, ModelSpec


def load_deployment(path: Path) -> Deployment:
    """Raise SpecError when the file is missing, not TOML, or not a deployment."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SpecError(
            str(path), ("there is no such file: write one (see README), or set DRIFTLOOP_CONFIG to its path",)
        ) from error
    except OSError as error:
        raise SpecError(str(path), (f"it cannot be read: {error.strerror or error}",)) from error
    except UnicodeDecodeError as error:
        known = known_format(error.object)
        what = "it is not UTF-8 text" if known is None else known.what
        raise SpecError(str(path), (f"{what} (byte {error.start}): save it as UTF-8",)) from error
    if text.startswith("\ufeff"):
        raise SpecError(str(path), ("it begins with a byte order mark: save it as UTF-8 without one",))
    return parse_deployment(text, source=str(path))


def parse_deployment(text: str, *, source: str = "driftloop.toml") -> Deployment:
    """Raise SpecError listing every problem."""
    try:
        return _parse(text, source)
    except RecursionError as error:
        raise SpecError(source, ("tables or lists are nested too deeply to be read",)) from error


def _parse(text: str, source: str) -> Deployment:
    try:
        data = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one, and a number of more digits than Python takes
        raise SpecError(source, (f"it is not valid TOML: {error}{_toml_cure(text, str(error))}",)) from error
    try:
        return Deployment.model_validate(data)
    except ValidationError as error:
        every = error.errors(include_url=False)
        dotted = {details["loc"][:-1] for details in every if _unquoted_name(details) is not None}
        problems = tuple(
            _problem(details)
            for details in every
            if details["type"] != "missing" or details["loc"][:-1] not in dotted  # it follows from the name
        )
        raise SpecError(source, problems) from error


_AT = re.compile(r"\(at line (\d+), column \d+\)")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LINE = re.compile(r"""\s*([^="'#\[]+?)\s*=\s*(.*)""")


def _toml_cure(text: str, message: str) -> str:
    """Return what to do about a line that TOML cannot read: most often something lacks its quotes."""
    at = _AT.search(message)
    lines = text.rstrip().split("\n")
    line = _LINE.match(lines[-1 if at is None else min(int(at.group(1)), len(lines)) - 1])
    if line is None:
        return ""
    name, value = line.groups()
    if not _BARE.fullmatch(name):
        return f'; write the name in quotes: "{name}" = {value}'
    if _BARE.match(value) and not value[0].isdigit():
        return f'; text stands in quotes ({name} = "{value}"), and true and false are in small letters'
    return ""


def _unquoted_name(details: Mapping[str, Any]) -> str | None:
    """Return the name with dots that TOML read as tables within tables, because it is not in quotes."""
    loc: list[str] = [str(part) for part in details["loc"]]
    given: object = details["input"]
    if details["type"] != "extra_forbidden" or loc[:1] != ["models"]:
        return None
    if loc[2:3] == ["features"] and len(loc) > 4:
        name = loc[3:]
        while isinstance(given, dict) and not given.keys() & Feature.model_fields.keys():
            inner = cast("dict[str, object]", given)
            if len(inner) != 1:
                break
            ((part, given),) = inner.items()
            name.append(part)
        return ".".join(name) if isinstance(given, dict) or given in get_args(FeatureType) else None
    if len(loc) == 3 and isinstance(given, dict):
        keys = cast("dict[str, object]", given).keys()
        close = difflib.get_close_matches(loc[-1], ModelSpec.model_fields, n=1)
        return None if close or not keys <= ModelSpec.model_fields.keys() else ".".join(loc[1:])
    return None


def _problem(details: Mapping[str, Any]) -> str:
    path = [str(part) for part in details["loc"] if part not in ("hgb", "river", "custom")]
    key = ".".join(path) or "the file"
    shown = shortened(repr(details["input"]), 60)
    name = _unquoted_name(details)
    if name is not None:
        return f'{key} = {shown}: to TOML a name with a dot is a table in a table: write "{name}" in quotes'
    if details["type"].endswith("_type") and isinstance(details["input"], dict):
        cure = "a name with a dot stands in quotes"
        return f"{key} = {shown}: {details['msg']}, and this is a table: {cure}"
    if details["type"] == "extra_forbidden":
        return f"{key} = {shown}: there is no such key; {_nearest(path)}"
    return f"{key} = {shown}: {details['msg'].removeprefix('Value error, ')}"


def _nearest(path: list[str]) -> str:
    known = sorted(_keys_at(path[:-1]))
    close = difflib.get_close_matches(path[-1], known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known keys here: {', '.join(known)}" if known else "remove it"


def _keys_at(path: list[str]) -> set[str]:
    """The keys a table at ``path`` may have, found by walking the spec's own models."""
    level: list[type[BaseModel]] = [Deployment]
    for part in path:
        following: list[type[BaseModel]] = []
        for model in level:
            if part in model.model_fields:
                following.extend(_models_in(model.model_fields[part].annotation))
        level = following or level  # a table's own name (models.NAME) or an index: stay
    return {name for model in level for name in model.model_fields}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
