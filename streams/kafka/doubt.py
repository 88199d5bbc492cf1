"""Know when a request of a producer may still be on its way, although its call has returned.

librdkafka repeats a request whose connection was lost or whose time ran out, by itself, and tells nobody. The
first copy may arrive later. An EndTxn or TxnOffsetCommit that is late acts on the transaction that is open
*then*: it commits what will be aborted, aborts what will be committed, or takes offsets back. Kafka refuses
such requests of clients that speak EndTxn v5 (KIP-890); librdkafka 2.16 speaks v1. What it always refuses is
an older epoch: so a producer in doubt is replaced before its next transaction.

Only librdkafka's debug log tells in time; neither ``error_cb`` nor the statistics do. Two lines matter: a
connection that was up has failed, and a request has timed out. Both are handed over by the ``poll`` after the
call. Drop this module once librdkafka speaks EndTxn v5 (``tests/streams/kafka/test_late_requests.py``).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping

from .connection import ConfigValue
from .log_limit import librdkafka_log

_PYTHON_LEVELS = (50, 50, 50, 40, 30, 20, 20, 10)  # of syslog's 0 to 7, as confluent-kafka maps them
_DEFAULT_LEVEL = 4  # warning
# Nothing of ours is sent before a connection is up. Whatever is not known to come before counts as up.
_BEFORE_UP = re.compile(r"in state (INIT|DOWN|TRY_CONNECT|CONNECT|SSL_HANDSHAKE|APIVERSION_QUERY|AUTH_\w+)\)")
# A connection of this name (which follows the thread's) only asks about the cluster, and is closed once that
# is known.
_BOOTSTRAP = re.compile(r"\]: \S+/bootstrap: ")
_IDLE = re.compile(r"idle time exceeded \((\d+)ms since last activity")
_FATAL = "Fatal error: "  # what follows is the reason
_CLOCKS_S = 0.1  # by which librdkafka's clock, which is coarser, may differ from ours


class Doubt:
    """The log of one producer: ``raised`` once a request of it may have been left behind.

    ``fatal``: what has ended the producer for good, as it says so; empty while nothing has.

    Pass it as the producer's ``logger``, with the settings of ``watched``. It is called within ``poll`` and
    ``flush``, in the thread that calls these. Lines that the user asked for are logged as before.

    Call ``begin`` and ``end`` around a transaction. librdkafka closes a connection on which nothing has
    happened for a while, even if a request on it still waits for its answer. That is harmless if the
    transaction has taken less time than that: then no request of it is as old.
    """

    def __init__(self, config: Mapping[str, ConfigValue]) -> None:
        """``config``: the producer's settings, as the user wants them."""
        self.raised, self.fatal = False, ""
        self._begun_s, self._ended_s = 0.0, 0.0
        self._shown = _PYTHON_LEVELS[int(config.get("log_level", _DEFAULT_LEVEL))]

    def begin(self) -> None:
        """A transaction begins."""
        self._begun_s, self._ended_s = time.monotonic(), math.inf

    def open_s(self) -> float | None:
        """How long the transaction that is open has been open, in seconds; None if none is."""
        return time.monotonic() - self._begun_s if self._ended_s == math.inf else None

    def end(self) -> None:
        """The transaction has ended, and none of its requests waits for an answer."""
        self._ended_s = time.monotonic()

    def log(self, level: int, form: str, *values: object) -> None:
        """Take one line of librdkafka: what kind it is, the producer's name and the text."""
        line = form % values if values else form
        if line.startswith("REQTMOUT") or (line.startswith("FAIL") and self._may_leave_requests(line)):
            self.raised = True
        elif line.startswith("FATAL"):
            self.fatal = line.rpartition(_FATAL)[2]
        if level >= self._shown:
            librdkafka_log.log(level, "%s", line)

    def _may_leave_requests(self, failure: str) -> bool:
        if _BEFORE_UP.search(failure) or _BOOTSTRAP.search(failure):
            return False
        if (idle := _IDLE.search(failure)) is None:
            return True
        return min(time.monotonic(), self._ended_s) - self._begun_s > int(idle[1]) / 1000 - _CLOCKS_S


def watched(config: Mapping[str, ConfigValue]) -> dict[str, ConfigValue]:
    """The settings of a producer, with the lines that tell of doubt switched on."""
    contexts = [context for context in str(config.get("debug", "")).split(",") if context]
    return {**config, "debug": ",".join(dict.fromkeys([*contexts, "broker"])), "log_level": 7}
