"""The monitor's state as bytes: msgspec structs, encoded and decoded in one go at the snapshot's border.

Every part that outlives a record is a ``State``: its fields are the whole of what a snapshot keeps. What
msgspec does not know (arrays, river's ADWIN window, events and specs) is translated by the two hooks here.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast, get_origin

import msgspec
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel
from river._river_rust.drift import (  # pyright: ignore[reportMissingModuleSource]
    AdaptiveWindowing,  # pyright: ignore[reportUnknownVariableType]
)

from ...schemas.base import Event
from ...schemas.errors import StateError

FORMAT = 3
"""Another number means another shape: such a snapshot is not read, vitals is replayed from its beginning."""

T = TypeVar("T")


class State(msgspec.Struct, array_like=True):
    """A part of the monitor's state. Fields are encoded by position: changing them changes ``FORMAT``."""


def encode_state(state: State) -> bytes:
    """Return bytes that are the same for the same state."""
    return msgspec.msgpack.encode((FORMAT, state), enc_hook=_to_plain)


def decode_state(data: bytes, kind: type[T]) -> T:
    """Raise StateError when ``data`` is not a snapshot of this format."""
    try:
        found, state = msgspec.msgpack.decode(data, type=tuple[int, msgspec.Raw])
        if found != FORMAT:
            raise StateError(f"the monitor's snapshot has format {found}, not {FORMAT}")
        return msgspec.msgpack.decode(state, type=kind, dec_hook=_from_plain)
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise StateError(f"this is not a snapshot of the monitor: {error!r}") from error


def _to_plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return _pack(cast("npt.NDArray[Any]", value))
    if isinstance(value, Event):
        return value.encode()
    if isinstance(value, BaseModel):
        return value.model_dump_json().encode()
    if isinstance(value, AdaptiveWindowing):
        return value.__getstate__()
    raise NotImplementedError(type(value))


def _from_plain(kind: type[Any], plain: Any) -> object:
    if kind is AdaptiveWindowing:
        return _adwin_window(plain)
    if get_origin(kind) is np.ndarray:
        return _unpack(*plain)
    if issubclass(kind, Event):
        return kind.decode(plain)
    if issubclass(kind, BaseModel):
        return kind.model_validate_json(plain)
    raise NotImplementedError(kind)


def _pack(array: npt.NDArray[Any]) -> tuple[str, int, bytes]:
    """Element type, length and bytes: bits eight to a byte, counts as small as the largest allows."""
    if array.dtype == np.bool_:
        return "bits", len(array), np.packbits(array).tobytes()
    if array.dtype == np.int64:
        array = array.astype(np.min_scalar_type(int(array.max(initial=0))))
    return array.dtype.str, len(array), array.tobytes()


def _unpack(kind: str, size: int, data: bytes) -> npt.NDArray[Any]:
    if kind == "bits":
        return np.unpackbits(np.frombuffer(data, np.uint8), count=size).astype(np.bool_)
    array = np.frombuffer(data, kind, count=size)
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


def _adwin_window(data: bytes) -> AdaptiveWindowing:
    window = AdaptiveWindowing(0.5, 1, 1, 1, 1)  # without effect: the state has its own arguments
    window.__setstate__(data)
    if window.__getstate__() != data:
        raise StateError("ADWIN's window does not survive its own restore: was river changed?")
    return window
