"""Keep logs readable while Kafka is away: a line per minute and kind, with how many were left out.

Client libraries repeat themselves: librdkafka tells of every refused connection of every client, aiokafka of
every commit that failed. The first line says it; the thousandth hides everything else.

Two lines are of one kind if they differ only in numbers, in tokens that hold a digit (addresses, partitions,
offsets), or within brackets. All that one of the monitor's client libraries says is one kind, except for
defects. Lines below WARNING are not limited: they tell of what went well.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka import KafkaException

from ...schemas.errors import Error

EVERY_S = 60.0
_MOST_KINDS = 1_000
_VARIABLE = re.compile(r"\[[^\]]*\]|\(.*\)|\S*\d\S*")
# While Kafka is away these tell of each request, task and timer in words of its own: it is one story.
_ONE_STORY = ("aiokafka", "faust", "mode")
_LIMITED = "driftloop_limited"  # set on a record that a limit has let pass
# What a cluster, a network or a disk can do to any call. Where these reach a log, the line says enough.
_NO_DEFECTS = (Error, KafkaException, OSError)
_AIOKAFKA = ("aiokafka.errors", "KafkaError")  # not imported: only the monitor has it loaded


@dataclass(slots=True)
class _Kind:
    shown_at: float
    left_out: int = 0


class LogLimit(logging.Filter):
    """A filter for loggers and handlers; thread safe. ``clock``: seconds, of any beginning.

    A traceback of what is no defect of driftloop (Kafka, network, disk) becomes the end of its line.
    """

    def __init__(self, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every_s, self._clock = every_s, clock
        self._kinds: dict[tuple[str, str], _Kind] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be written. Its message is completed by what was left out before it."""
        if record.levelno < logging.WARNING or hasattr(record, _LIMITED):
            return True
        message = _with_error(record)
        left_out = self._take(kind_of(record.name, message, defect=bool(record.exc_info)))
        if left_out is None:
            return False
        setattr(record, _LIMITED, True)
        more = f" ({left_out} more like it were left out)" if left_out else ""
        record.msg, record.args = f"{message}{more}", None
        return True

    def _take(self, kind: tuple[str, str]) -> int | None:
        """How many lines of this kind were left out before this one; None if it is to be left out too."""
        now = self._clock()
        with self._lock:
            known = self._kinds.get(kind)
            if known is not None and now - known.shown_at < self._every_s:
                known.left_out += 1
                return None
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds = {
                    k: seen for k, seen in self._kinds.items() if now - seen.shown_at < self._every_s
                }
            self._kinds[kind] = _Kind(now)
            return 0 if known is None else known.left_out


def kind_of(logger: str, message: str, *, defect: bool = False) -> tuple[str, str]:
    """What two lines have in common that say the same. ``defect``: it comes with a traceback."""
    library = logger.partition(".")[0]
    if library in _ONE_STORY and not defect:
        return library, ""
    first = message.partition("\n")[0]
    return logger, " ".join(_VARIABLE.sub("#", first).split())[:200]


def _with_error(record: logging.LogRecord) -> str:
    """The record's message, with the error that it tells of if a traceback would add nothing."""
    message = record.getMessage()
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return message
    if not is_defect(error):
        record.exc_info = record.exc_text = None
        return f"{message}: {type(error).__name__}: {error}".replace("\n", " ")
    return message


def is_defect(error: BaseException) -> bool:
    """Whether an error can only come from a mistake in a program, so that its traceback is needed."""
    if isinstance(error, _NO_DEFECTS):
        return False
    return all((kind.__module__, kind.__name__) != _AIOKAFKA for kind in type(error).__mro__)


def _librdkafka() -> logging.Logger:
    logger = logging.getLogger("driftloop.librdkafka")
    logger.setLevel(logging.DEBUG)  # librdkafka itself sends no more than its setting log_level asks for
    logger.addFilter(LogLimit())  # also in a process of the user's own, whose handlers we do not know
    return logger


librdkafka_log = _librdkafka()
