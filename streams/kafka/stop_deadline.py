"""End a process that was asked to stop, by force once its time is over."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class StopDeadline:
    """Ends the process as kill -9 would, some seconds after ``arm``, unless it has ended by then.

    Only for processes whose state is safe at every moment. Without it, a client library's thread that waits
    for a broker keeps the process alive for as long as its timeouts last.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def arm(self, seconds: float, *, exit_code: int) -> None:
        """Start the timer; only the first call counts."""
        if self._timer is None:
            self._timer = threading.Timer(seconds, _end, (seconds, exit_code))
            self._timer.daemon = True
            self._timer.start()

    def disarm(self) -> None:
        """Stop the timer, since the work is over, unless threads are left that keep the process alive."""
        if self._timer is not None and not _holding_threads():
            self._timer.cancel()


@contextmanager
def stopping_within(seconds: float, stop: threading.Event) -> Generator[None]:
    """Run the work of a process, which ends by itself once ``stop`` is set, or raises.

    It has ``seconds`` for that, even while a call waits for a broker that does not answer. In a thread other
    than the main one nothing is forced: there is no process of its own to end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    deadline = StopDeadline()

    def arm() -> None:
        stop.wait()
        deadline.arm(seconds, exit_code=0)

    arming = threading.Thread(target=arm, name="driftloop-stop", daemon=True)
    arming.start()
    try:
        yield
    except BaseException:
        deadline.arm(seconds, exit_code=1)
        raise
    arming.join()
    deadline.disarm()


def close_in_time(close: Callable[[], None], seconds: float = 1.0) -> None:
    """Call a client's ``close``, and leave it if it takes longer: librdkafka may wait without end."""
    closing = threading.Thread(target=close, name="driftloop-close", daemon=True)
    closing.start()
    closing.join(seconds)
    if closing.is_alive():
        log.warning("a Kafka client was not closed after %g s, and is left behind", seconds)


def _end(seconds: float, exit_code: int) -> None:
    log.warning("not stopped after %g s: ending by force", seconds)
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(exit_code)


def _holding_threads() -> bool:
    """Whether threads other than this and the main one keep the interpreter alive."""
    until, here = time.monotonic() + 0.2, {threading.current_thread(), threading.main_thread()}
    while any(not thread.daemon for thread in set(threading.enumerate()) - here):
        if time.monotonic() > until:
            return True
        time.sleep(0.01)
    return False
