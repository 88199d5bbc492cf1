"""Repeat a call to Kafka until it is answered or its time is up.

On failure: the error of the last call is raised as it came. The caller knows what was asked and raises it as
one of the project's errors.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

T = TypeVar("T")


class Unanswered(Exception):
    """The cluster answered, but not all that was asked; the message says what is missing."""


def _always(_reason: KafkaError) -> bool:
    return True


def retry(
    call: Callable[[], T],
    *,
    timeout_s: float,
    pause_s: float = 0.1,
    retriable: Callable[[KafkaError], bool] = _always,
) -> T:
    """Return what the call returns; repeat it while it fails with an error that is ``retriable``.

    A call that is under way is not cut short, so it should have a timeout of its own. Raises KafkaException
    when the error is not retriable, and KafkaException or Unanswered once ``timeout_s`` is over.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()
        except (KafkaException, Unanswered) as error:
            final = isinstance(error, KafkaException) and not retriable(error.args[0])
            if final or time.monotonic() > deadline:
                raise
        time.sleep(pause_s)
