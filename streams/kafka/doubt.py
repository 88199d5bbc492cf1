"""Know when a request of a producer may still be on its way, although its call has returned.

librdkafka repeats a request whose connection was lost or whose time ran out, by itself, and tells nobody. The
first copy may arrive later. An EndTxn or TxnOffsetCommit that is late acts on the transaction that is open
*then*: it commits what will be aborted, aborts what will be committed, or takes offsets back. Kafka refuses
such requests of clients that speak EndTxn v5 (KIP-890); librdkafka 2.16 speaks v1. What it always refuses is
an older epoch: so a producer in doubt is replaced before its next transaction.

Only librdkafka's debug log tells in time (``tests/streams/kafka/test_doubt.py``; neither ``error_cb`` nor the
statistics do). Two lines matter: a connection that was up has failed, and a request has timed out. Both are
handed over by the ``poll`` after the call. Drop this module once librdkafka speaks EndTxn v5.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from .connection import ConfigValue

log = logging.getLogger(__name__)

_PYTHON_LEVELS = (50, 50, 50, 40, 30, 20, 20, 10)  # of syslog's 0 to 7, as confluent-kafka maps them
_DEFAULT_LEVEL = 4  # warning
# A connection that has nothing under way is closed for being idle. The one to a bootstrap address, which only
# asks about the cluster, is closed once the cluster is known.
_HARMLESS = ("idle time exceeded", "/bootstrap")


class Doubt:
    """The log of one producer: ``raised`` once a request of it may have been left behind.

    Pass it as the producer's ``logger``, with the settings of ``watched``. It is called within ``poll`` and
    ``flush``, in the thread that calls these. Lines that the user asked for are logged as before.
    """

    def __init__(self, config: Mapping[str, ConfigValue]) -> None:
        """``config``: the producer's settings, as the user wants them."""
        self.raised = False
        self._shown = _PYTHON_LEVELS[int(config.get("log_level", _DEFAULT_LEVEL))]

    def log(self, level: int, form: str, *values: object) -> None:
        """Take one line of librdkafka: what kind it is, the producer's name and the text."""
        line = form % values if values else form
        if line.startswith("REQTMOUT") or (
            line.startswith("FAIL") and "in state UP" in line and not any(ok in line for ok in _HARMLESS)
        ):
            self.raised = True
        if level >= self._shown:
            log.log(level, "%s", line)


def watched(config: Mapping[str, ConfigValue]) -> dict[str, ConfigValue]:
    """The settings of a producer, with the lines that tell of doubt switched on."""
    contexts = [context for context in str(config.get("debug", "")).split(",") if context]
    return {**config, "debug": ",".join(dict.fromkeys([*contexts, "broker"])), "log_level": 7}
