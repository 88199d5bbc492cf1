"""A dead letter has the record's bytes and place, fits into one record, and says what had to be cut."""

from __future__ import annotations

import base64

from driftloop.schemas.dead_letters import (
    MAX_HEADER_BYTES,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    cut_key,
    dead_letter,
)
from driftloop.schemas.events import DeadLetter
from hypothesis import given, settings
from hypothesis import strategies as st

MAX_MESSAGE_BYTES = 4_194_304
BATCH_BYTES = 65_536  # what a record batch may take beside the record


def test_all_of_a_record_that_fits_is_in_it() -> None:
    headers = [("trace", b"\xff"), ("text", "x"), ("none", None)]
    letter = dead_letter(
        "join", "t.labels", 3, 7, "no JSON", append_ms=5, key=b"\x00k", value=b"{", headers=headers
    )
    again = DeadLetter.decode(letter.encode())
    assert (again.stage, again.topic, again.partition, again.offset) == ("join", "t.labels", 3, 7)
    assert (again.append_ms, again.reason, again.cut) == (5, "no JSON", None)
    assert base64.b64decode(again.key_b64 or "") == b"\x00k"
    assert base64.b64decode(again.value_b64 or "") == b"{"
    assert again.headers_b64 == (("trace", "/w=="), ("text", "eA=="), ("none", None))


@settings(max_examples=30, deadline=None)
@given(
    value=st.sampled_from([0, 1, MAX_VALUE_BYTES, MAX_VALUE_BYTES + 1, MAX_MESSAGE_BYTES]),
    key=st.sampled_from([0, MAX_KEY_BYTES, MAX_KEY_BYTES + 1, 1_000_000]),
    header=st.sampled_from([0, MAX_HEADER_BYTES - 1, MAX_HEADER_BYTES, 1_000_000]),
    reason=st.sampled_from(["short", "\x00" * 5_000, "\U0001f600" * 5_000]),
)
def test_any_record_fits_and_what_is_missing_is_named(value: int, key: int, header: int, reason: str) -> None:
    letter = dead_letter(
        "train", "t", 0, 1, reason, key=b"k" * key, value=b"v" * value, headers=[("h", b"x" * header)]
    )
    assert len(letter.encode()) + len(cut_key(b"k" * key) or b"") < MAX_MESSAGE_BYTES - BATCH_BYTES
    missing = {
        "value cut": value > MAX_VALUE_BYTES,
        "key cut": key > MAX_KEY_BYTES,
        "headers left out": header + 1 > MAX_HEADER_BYTES,
    }
    assert {what for what in missing if what in letter.reason} == {w for w, cut in missing.items() if cut}
    assert bool(letter.cut) == any(missing.values())
    assert base64.b64decode(letter.value_b64 or "") == b"v" * min(value, MAX_VALUE_BYTES)


def test_its_id_is_made_of_its_place_and_a_lost_record_has_another() -> None:
    read = dead_letter("monitor", "vitals", 1, 8, "bad")
    assert dead_letter("join", "vitals", 1, 8, "worse", value=b"x").id == read.id
    assert dead_letter("monitor", "vitals", 1, 9, "bad").id != read.id
    lost = dead_letter("monitor", "vitals", 1, 8, "gone", lost=True)
    assert lost.id != read.id
    assert lost.cut
