"""Say what bytes are that should be JSON and are not, and what their sender should do.

Only for bytes that a parser has refused: it may be slow. Nothing here decides what is accepted.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from typing import cast

from .known_formats import WRITE_UTF8, known_format
from .shortened import shortened

_SHOWN = 40
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_WORDS = {
    "None": "Python's None: write null (json.dumps does)",
    "True": "Python's True: write true (json.dumps does)",
    "False": "Python's False: write false (json.dumps does)",
    "undefined": "JavaScript's undefined: write null",
    **dict.fromkeys(
        ("NaN", "nan", "Infinity", "inf", "NA", "NULL"), "no JSON value: write null where a value is missing"
    ),
}
_WORD = re.compile(r"[-+]?[A-Za-z_]\w*")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\],:]', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


class _Constant(str):
    """NaN or an infinity, which Python's parser takes though JSON has none."""


_PARSER = json.JSONDecoder(parse_int=str, parse_constant=_Constant)


def why_not_json(data: bytes | str, parser_said: str = "") -> str:
    """Say in one line what the bytes are, which field is wrong where that is known, and what to do."""
    if " limit " in parser_said:  # of depth, as orjson says, or of recursion, as pydantic
        return "it is nested too deeply"
    if isinstance(data, str):
        return _of_text(data)
    known = known_format(data)
    if known is not None:
        return f"{known.what}: {known.cure}"
    wide = _wide_encoding(data)
    if wide is not None:
        return f"it is {wide[:6].upper()}: {WRITE_UTF8}"
    registry = _of_registry(data)
    if registry is not None:
        return registry
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        return _not_utf8(data, error.start)
    is_text = text.lstrip()[:1] in ("{", "[", '"') or not _CONTROL.search(text)
    return _of_text(text) if is_text else _binary(data)


def _of_registry(data: bytes) -> str | None:
    """Say which schema registry's bytes stand before the value; None: none does."""
    if data[:1] == b"\x00" and any(data[1:5]):
        length, what = 5, f"five bytes (0, then schema id {int.from_bytes(data[1:5])})"
    elif data[:1] == b"\x00" and any(data[5:9]):
        length, what = 9, f"nine bytes (0, then schema id {int.from_bytes(data[1:9])})"
    elif data[:2] in (b"\x03\x00", b"\x03\x05"):
        length, what = 18, f"eighteen bytes (3, {data[1]}, then schema version {data[2:18].hex()})"
    else:
        return None
    if len(data) <= length:
        return None
    before = "JSON" if data[length:].lstrip()[:1] in (b"{", b"[", b'"') else "Avro or Protobuf"
    return (
        f"a schema registry's {what} stand before {before}: use a serializer of plain JSON (in Connect: "
        "JsonConverter with schemas.enable=false)"
    )


def _wide_encoding(data: bytes) -> str | None:
    """Return the encoding of text without a byte order mark that has zeros between its letters."""
    if b"\x00" in data[:4]:
        for encoding in _WIDE:
            with suppress(UnicodeDecodeError):
                if data.decode(encoding).lstrip()[:2].rstrip() in ("{", '{"', "{}", "["):
                    return encoding
    return None


def _not_utf8(data: bytes, start: int) -> str:
    if data[0] in b"{[ \t\r\n":
        where = _path(data[:start].decode("latin-1"))
        found = f"{where} holds" if where else "it holds"
        return f"{found} byte 0x{data[start]:02x} (at {start}), which is not UTF-8: {WRITE_UTF8}"
    return _binary(data)


def _binary(data: bytes) -> str:
    if _is_protobuf(data):
        what = "it looks like Protobuf"
    elif 0x80 <= data[0] <= 0x8F or data[0] in (0xDE, 0xDF):
        what = "it looks like MessagePack"
    elif 0xA0 <= data[0] <= 0xBF:
        what = "it looks like CBOR"
    else:
        what = "it is binary, perhaps Avro"
    return f"{what} (got {data[:8].hex(' ')}): use a serializer of JSON"


def _is_protobuf(data: bytes) -> bool:
    """Whether the bytes are a Protobuf message of several fields, or one, to their end."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag < 8 or tag >> 3 > 10_000:
            return False
        length = {1: 8, 5: 4}.get(tag & 7, 0)
        if tag & 7 in (0, 2):
            value, position = _varint(data, position)
            length = value if tag & 7 == 2 else 0
        elif not length:
            return False
        position += length
        if position > len(data):
            return False
    return len(data) > 1


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, position + place + 1
    return 0, len(data) + 1


def _of_text(text: str) -> str:
    if not text.strip():
        return "it is empty, but for white space" if text else "it is empty"
    if text[0] == "\ufeff":
        return f"it begins with a byte order mark: {WRITE_UTF8} without one"
    try:
        parsed = _PARSER.decode(text)
    except json.JSONDecodeError as error:
        return _of_fault(text, error)
    except (ValueError, RecursionError):
        return "it is nested too deeply"
    return next(_faults(parsed, ()), "perhaps it is nested too deeply")


def _faults(value: object, path: tuple[str, ...]) -> Iterator[str]:
    """Yield what Python's parser takes and JSON does not have."""
    where = ".".join(path) or "it"
    if isinstance(value, _Constant):
        yield f"{where} is {value}, which JSON does not have: send null where a value is missing"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where} is a number beyond 1.8e308, the largest there is"
    elif isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            yield f"{where} holds half of a surrogate pair, which is no character: {WRITE_UTF8}"
    elif isinstance(value, dict):
        for name, inner in cast("dict[str, object]", value).items():
            if any("\ud800" <= character <= "\udfff" for character in name):
                yield f"{where} has a name with half of a surrogate pair: {WRITE_UTF8}"
            yield from _faults(inner, (*path, name))
    elif isinstance(value, list):
        for place, inner in enumerate(cast("list[object]", value)):
            yield from _faults(inner, (*path, str(place)))


def _of_fault(text: str, error: json.JSONDecodeError) -> str:
    """Say what a person would see at the place where the parser stopped."""
    position, rest = error.pos, text[error.pos :]
    if position == len(text) - len(text.lstrip()):
        return _of_other_text(text.strip())
    where = _path(text[:position])
    at = f"{where} (at {position})" if where else f"character {position}"
    word = _WORD.match(rest)
    if not rest.strip() or error.msg.startswith("Unterminated string"):
        return "it ends in the middle: was it cut?"
    if error.msg == "Extra data":
        more = (
            "several values in one record: send one record each" if rest[0] in "{[" else "it goes on after it"
        )
        return f"one value ends at character {position}, and {more} ({_shown(rest)})"
    if rest[0] == "'":
        return f"{at} is in single quotes: JSON has double ones (json.dumps writes them, str does not)"
    if rest[0] in "}]" or (rest[0] == "," and text[:position].rstrip()[-1:] in ",[{"):
        return f"a comma too many before character {position} ({_shown(text[max(0, position - 10) :])})"
    if rest[0] in "/#":
        return f"a comment at character {position}, which JSON does not have"
    if error.msg.startswith("Invalid control character"):
        return f"{at} holds a line break or another control character: write it escaped (\\n)"
    if error.msg.startswith("Invalid \\"):
        return f"{at} holds a backslash that begins no escape: write it twice"
    if "property name" in error.msg and rest[0].isdigit():
        return f"a name is missing at character {position}: a decimal comma? Write a point ({_shown(rest)})"
    if "property name" in error.msg:
        return f"a name without double quotes at character {position} ({_shown(rest)})"
    if word is not None and error.msg == "Expecting value":
        bare = word.group().lstrip("+-")
        return f"{at} is {word.group()[:_SHOWN]}, {_WORDS.get(bare, 'text without double quotes')}"
    return f"{error.msg} at {at} ({_shown(rest)})"


def _of_other_text(text: str) -> str:
    """Say what text is that does not even begin as JSON."""
    if text[0] == "<":
        return f"it is XML or HTML ({_shown(text)}): send JSON"
    if text[0] == "'":
        return f"it is in single quotes ({_shown(text)}): JSON has double ones"
    if _WORD.fullmatch(text) and text.lstrip("+-") in _WORDS:
        return f"it is {text}, {_WORDS[text.lstrip('+-')]}"
    with suppress(ValueError):
        if b64decode(text, validate=True).lstrip()[:1] == b"{":
            return "it is JSON in base64: send the JSON itself"
    return f"it is other text ({_shown(text)}): send a JSON object"


def _path(text: str) -> str:
    """Return the names and places that lead to the end of a JSON text that stops there: ``features.x``."""
    open_parts: list[str | int | None] = []  # of an object the name that is read, of a list the place
    for token in _TOKEN.findall(text):
        if token in "{[":
            open_parts.append(None if token == "{" else 0)
        elif not open_parts:
            continue
        elif token in "}]":
            open_parts.pop()
        elif token == ",":
            last = open_parts[-1]
            open_parts[-1] = last + 1 if isinstance(last, int) else None
        elif token != ":" and open_parts[-1] is None:
            open_parts[-1] = token.strip('"')
    return ".".join(str(part) for part in open_parts if part is not None)[:200]


def _shown(text: str) -> str:
    return f"got {shortened(text, _SHOWN)!r}"
