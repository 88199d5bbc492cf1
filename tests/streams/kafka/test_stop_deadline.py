"""A client that does not close does not keep its process."""

from __future__ import annotations

import threading

from driftloop.streams.kafka.stop_deadline import close_in_time


def test_a_client_that_does_not_close_is_left_behind() -> None:
    closing = threading.Event()
    close_in_time(lambda: closing.wait(60) and None, 0.01)
    assert not closing.is_set()
    closing.set()
