"""Formats that are known by their first bytes: other encodings, compressed and binary files."""

from __future__ import annotations

from typing import NamedTuple

WRITE_UTF8 = "write the text as UTF-8"
_UNPACK = "send the JSON itself; the producer's compression.type compresses in a way that Kafka knows"
_NO_FILE = "send the rows as JSON, one record each"


class KnownFormat(NamedTuple):
    """A format that is known by its first bytes: ``it is …``, and what to do where JSON is needed."""

    magic: bytes
    what: str
    cure: str


_FORMATS = (
    KnownFormat(b"\xef\xbb\xbf", "it begins with a byte order mark", f"{WRITE_UTF8} without one"),
    KnownFormat(b"\xff\xfe\x00\x00", "it is UTF-32", WRITE_UTF8),
    KnownFormat(b"\x00\x00\xfe\xff", "it is UTF-32", WRITE_UTF8),
    KnownFormat(b"\xff\xfe", "it is UTF-16", WRITE_UTF8),
    KnownFormat(b"\xfe\xff", "it is UTF-16", WRITE_UTF8),
    KnownFormat(b"\x1f\x8b", "it is compressed with gzip", _UNPACK),
    KnownFormat(b"\x28\xb5\x2f\xfd", "it is compressed with zstd", _UNPACK),
    KnownFormat(b"\x04\x22\x4d\x18", "it is compressed with lz4", _UNPACK),
    KnownFormat(b"\xff\x06\x00\x00sNaPpY", "it is compressed with snappy", _UNPACK),
    KnownFormat(b"\x82SNAPPY\x00", "it is compressed with snappy", _UNPACK),
    KnownFormat(b"BZh", "it is compressed with bzip2", _UNPACK),
    KnownFormat(b"\xfd7zXZ\x00", "it is compressed with xz", _UNPACK),
    KnownFormat(b"x\x01", "it is compressed with zlib", _UNPACK),
    KnownFormat(b"x\x9c", "it is compressed with zlib", _UNPACK),
    KnownFormat(b"x\xda", "it is compressed with zlib", _UNPACK),
    KnownFormat(b"PK\x03\x04", "it is a zip file (or an Excel workbook)", _NO_FILE),
    KnownFormat(b"Obj\x01", "it is an Avro file", _NO_FILE),
    KnownFormat(b"PAR1", "it is a Parquet file", _NO_FILE),
    KnownFormat(b"\xac\xed\x00\x05", "it is a serialized Java object", "use a serializer of JSON"),
    *(
        KnownFormat(bytes((0x80, protocol)), "it is a Python pickle", "write it with json.dumps")
        for protocol in range(2, 6)
    ),
)


def known_format(data: bytes) -> KnownFormat | None:
    """Return what the first bytes show: another encoding, a compressed or a binary file."""
    return next((known for known in _FORMATS if data.startswith(known.magic)), None)
