"""What all events share: frozen, forward compatible, deterministic bytes."""

from __future__ import annotations

import re
from typing import Annotated, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import DecodeError
from .reasons.validation import first_reason

MODEL_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
MAX_ID_CHARS = 128
END_OF_TIME_MS = 2**53  # the first time that JavaScript's numbers cannot hold
END_OF_VERSIONS = 2**31

ModelName = Annotated[str, Field(pattern=MODEL_NAME_PATTERN)]
PredictionId = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]
TimestampMs = Annotated[int, Field(ge=0, lt=END_OF_TIME_MS, description="Unix time in milliseconds")]
Version = Annotated[int, Field(ge=0, lt=END_OF_VERSIONS, description="0 means that no model answered")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_LONG_NUMBER = re.compile(rb"\d{19}")  # shorter ones are within 64 bits

FeatureValue = bool | int | float | str | None
ClassValue = bool | int | float | str


class Event(BaseModel):
    """A JSON object on a topic. Unknown fields pass through, so older readers lose nothing."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, populate_by_name=True)

    def encode(self) -> bytes:
        """JSON bytes: fields in declared order, absent ones left out. Deterministic."""
        return orjson.dumps(self.model_dump(exclude_none=True))

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raise DecodeError naming the field, what it held and what it should hold."""
        event = cls.parse(data)
        check_writable(event, data)
        return event

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Like ``decode``, but accept integers beyond 64 bits, which ``encode`` cannot write."""
        try:
            return cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            raise DecodeError(first_reason(cls.__name__, error)) from error


def check_writable(event: Event, data: bytes) -> None:
    """Raise DecodeError for an event that cannot be written again, because of numbers beyond 64 bits."""
    if _LONG_NUMBER.search(data):
        try:
            event.encode()
        except TypeError as error:
            raise DecodeError(f"{type(event).__name__}: cannot be written again: {error}") from error


def class_name(value: ClassValue) -> str:
    """The canonical name of a class, so that ``1``, ``1.0`` and ``"1"`` name the same one."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
