"""A client that does not close does not keep its process."""

from __future__ import annotations

import threading

from driftloop.streams.kafka.stop_deadline import close_within


def test_a_client_that_does_not_close_is_left_behind() -> None:
    closing = threading.Event()
    close_within(0.01, lambda: closing.wait(60) and None)
    assert not closing.is_set()
    closing.set()
