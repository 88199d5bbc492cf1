"""Ask whether Kafka answers, before anything else is asked of it.

Nothing that librdkafka returns says why a cluster cannot be reached: a call only runs out of time. The reason
(refused, unknown host, wrong password, no TLS) comes by the callback for errors, which this module waits for.

On failure: BrokerError, one line, the same in every command and role; nothing was changed.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import cast

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from ...schemas.errors import BrokerError
from .connection import ConfigValue, Connection

_FIRST_S, _NEXT_S = 1.0, 3.0  # how long a question may take: the first one so that a person soon hears of it
_PAUSE_S = 0.2
_GENERAL = frozenset({KafkaError._ALL_BROKERS_DOWN})  # pyright: ignore[reportPrivateUsage]
_NOISE = re.compile(r"^\S+:\d+/\S+: |\s*\((?:after|\d+ identical) (?:[^()]|\([^()]*\))*\)")


def _unnoticed(_line: str) -> None:
    pass


def reach(
    connection: Connection,
    timeout_s: float,
    *,
    waiting: Callable[[str], None] = _unnoticed,
    stop: threading.Event | None = None,
) -> None:
    """Return once the cluster answers, or ``stop`` is set.

    ``waiting`` is called once if that takes longer than a question, with a line for a person. Raises
    BrokerError with the reason after ``timeout_s``.
    """
    stop = stop or threading.Event()
    reasons: list[KafkaError] = []
    quiet = {} if "debug" in connection.overrides else {"log_level": 0}  # the line below says the same
    reporting = {"error_cb": cast("ConfigValue", reasons.append)}  # the client's types know no callback
    admin = AdminClient({**connection.client(), **quiet, **reporting})
    deadline, announced = time.monotonic() + timeout_s, False
    while not stop.is_set():
        ask_s = max(_PAUSE_S, min(_NEXT_S if announced else _FIRST_S, deadline - time.monotonic()))
        try:
            # It names no topic, so that it is cheap on any cluster, needs no rights, and creates nothing.
            cast("Future[object]", admin.describe_cluster(request_timeout=ask_s)).result()
            return
        except KafkaException as error:
            admin.poll(0)
            reason = _reason(reasons, error.args[0])
        if time.monotonic() >= deadline:
            raise BrokerError(
                f"no Kafka answers at {connection.bootstrap_servers}: {reason}; check the address, the "
                "network and the credentials (DRIFTLOOP_BOOTSTRAP_SERVERS, DRIFTLOOP_KAFKA__…), or start one "
                "with `driftloop broker`"
            )
        if not announced:
            announced = True
            waiting(f"waiting up to {timeout_s:g} s for Kafka at {connection.bootstrap_servers}: {reason}")
        stop.wait(_PAUSE_S)


def _reason(reasons: list[KafkaError], last: KafkaError) -> str:
    """What the newest telling error says, without the addresses and counts that librdkafka adds."""
    telling = next((one for one in reversed(reasons) if one.code() not in _GENERAL), last)
    return _NOISE.sub("", telling.str())
