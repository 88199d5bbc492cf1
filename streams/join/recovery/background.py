"""Calls that a loop does not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_background(name: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Runs a call in a thread of its own; a process that ends does not wait for it."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call(*args, **kwargs))
        except BaseException as error:  # whatever it is, it is told to whoever asks for the result  # noqa: BLE001
            result.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result
