"""Reading ``driftloop.toml``: each mistake named by key, value and fix, all of them at once."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ..errors import SpecError
from .model import Deployment


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
        raise SpecError(
            str(path), (f"it is not UTF-8 text (byte {error.start}): save it as UTF-8",)
        ) from error
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
        raise SpecError(source, (f"it is not valid TOML: {error}",)) from error
    try:
        return Deployment.model_validate(data)
    except ValidationError as error:
        problems = tuple(_problem(details) for details in error.errors(include_url=False))
        raise SpecError(source, problems) from error


def _problem(details: Mapping[str, Any]) -> str:
    path = [str(part) for part in details["loc"] if part not in ("hgb", "river", "custom")]
    key = ".".join(path) or "the file"
    shown = repr(details["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
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
