"""Build dead letters, with one rule for what is cut: each fits into one record of any topic.

It is pure, as the cores that use it are; the Kafka kit is no place for it, since cores import no Kafka.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

from .events import DeadLetter
from .ids import event_id

# Base64 makes 4 bytes of 3, and a dead letter must fit into max.message.bytes, 4 MiB, with bytes to spare.
MAX_VALUE_BYTES = 2_900_000
MAX_KEY_BYTES = 4_096
MAX_HEADER_BYTES = 65_536
MAX_REASON_CHARS = 1_000


def dead_letter(
    stage: str,
    topic: str,
    partition: int,
    offset: int,
    reason: str,
    *,
    append_ms: int = 0,
    key: bytes | None = None,
    value: bytes | None = None,
    headers: Sequence[tuple[str, str | bytes | None]] = (),
    lost: bool = False,
) -> DeadLetter:
    """Return the record at this place as a dead letter. What does not fit is cut, and the reason says so.

    ``lost``: the record itself is gone; its id differs from that of a record that was read.
    """
    reason, cut = reason[:MAX_REASON_CHARS], lost or None
    if value is not None and len(value) > MAX_VALUE_BYTES:
        reason = f"{reason} (value cut: the first {MAX_VALUE_BYTES} of {len(value)} bytes are here)"
        value, cut = value[:MAX_VALUE_BYTES], True
    if key is not None and len(key) > MAX_KEY_BYTES:
        reason = f"{reason} (key cut: the first {MAX_KEY_BYTES} of {len(key)} bytes are here)"
        key, cut = cut_key(key), True
    if sum(len(name) + len(content or b"") for name, content in headers) > MAX_HEADER_BYTES:
        reason, headers, cut = f"{reason} (headers left out: too large)", (), True
    return DeadLetter(
        id=event_id("dead", topic, partition, offset, *(["lost"] if lost else [])),
        stage=stage,
        topic=topic,
        partition=partition,
        offset=offset,
        append_ms=max(append_ms, 0),
        reason=reason,
        key_b64=_base64(key),
        value_b64=_base64(value),
        headers_b64=tuple((name, _base64(content)) for name, content in headers) or None,
        cut=cut,
    )


def cut_key(key: bytes | None) -> bytes | None:
    """The key under which a record's dead letter is written."""
    return None if key is None else key[:MAX_KEY_BYTES]


def _base64(content: str | bytes | None) -> str | None:
    if content is None:
        return None
    return base64.b64encode(content.encode() if isinstance(content, str) else content).decode()
