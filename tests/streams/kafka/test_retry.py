"""A call is repeated while that may help, and its own error is raised when it does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, KafkaException
from driftloop.streams.kafka.retry import Unanswered, retry

MOVING = KafkaException(KafkaError(KafkaError.NOT_COORDINATOR))
REFUSED = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))


def failing(*errors: Exception) -> Callable[[], int]:
    """Fails with each of the errors, then returns how often it was called."""
    left, calls = list(errors), 0

    def call() -> int:
        nonlocal calls
        calls += 1
        if left:
            raise left.pop(0)
        return calls

    return call


def is_moving(reason: KafkaError) -> bool:
    return reason.code() == KafkaError.NOT_COORDINATOR


def test_a_call_is_repeated_until_it_is_answered() -> None:
    call = failing(MOVING, Unanswered("partition 1"), MOVING)
    assert retry(call, timeout_s=5.0, pause_s=0.0, retriable=is_moving) == 4


def test_an_error_that_repeating_does_not_help_is_raised_at_once() -> None:
    call = failing(MOVING, REFUSED)
    with pytest.raises(KafkaException) as raised:
        retry(call, timeout_s=5.0, pause_s=0.0, retriable=is_moving)
    assert raised.value is REFUSED


@pytest.mark.parametrize("last", [MOVING, Unanswered("partition 1")])
def test_the_last_error_is_raised_once_the_time_is_up(last: Exception) -> None:
    def call() -> int:
        raise last

    with pytest.raises(type(last)) as raised:
        retry(call, timeout_s=0.02, pause_s=0.01)
    assert raised.value is last


def test_what_is_no_error_of_kafka_is_not_repeated() -> None:
    with pytest.raises(ZeroDivisionError):
        retry(failing(ZeroDivisionError()), timeout_s=5.0)
