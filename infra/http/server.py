"""``driftloop serve``: the reference server as a process, from binding its port to its last event sent.

Stopping takes at most five seconds: it is not ready any more; it accepts no new connections; running requests
end (3 s at most); followers stop; emitted events are sent (1.5 s at most, the rest waits on disk for the next
start).
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from types import FrameType

import uvicorn

from ...schemas.errors import SettingsError, SpecError
from ..control.specs import model_specs
from ..settings import Settings
from ..wiring import open_models
from .app import Draining, create_app
from .auth import Guard, check_exposure, find_tokens
from .limits import MAX_CONNECTIONS, LimitedHttp

log = logging.getLogger(__name__)

_DRAIN_S = 3
_BACKLOG = 2048


def published_models(settings: Settings) -> tuple[str, ...]:
    """Every model with a published spec. Raises SpecError if there is none."""
    names = tuple(sorted(model_specs(settings.connection())))
    if not names:
        raise SpecError(str(settings.config), ("no model is published: publish it with `driftloop apply`",))
    return names


def run_server(
    settings: Settings, names: Sequence[str], *, announce: Callable[[str], None] = log.info
) -> None:
    """Serve until SIGTERM or Ctrl-C. ``names``: which models; none: all that are published.

    Raises SettingsError for an address that is taken, unavailable or public without a token, StateError and
    SpecError.
    """
    tokens = find_tokens(settings)
    check_exposure(settings.http_host, tokens)
    wanted = tuple(dict.fromkeys(names)) or published_models(settings)
    listening = _bind(settings.http_host, settings.http_port)
    draining = Draining()
    with listening, open_models(settings, wanted, "serve") as opened:
        server = _Server(
            uvicorn.Config(
                Guard(create_app(opened.models, opened.client, draining=draining), tokens),
                http=LimitedHttp,
                ws="none",
                limit_concurrency=MAX_CONNECTIONS,
                server_header=False,
                access_log=False,
                log_config=None,
                lifespan="off",
                timeout_graceful_shutdown=_DRAIN_S,
            ),
            draining,
        )
        host, port = listening.getsockname()[:2]
        announce(f"serving {', '.join(wanted)} on http://{host}:{port}")
        with _signals_only_logged():
            server.run(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, draining: Draining) -> None:
        super().__init__(config)
        self._draining = draining

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._draining.on = True
        super().handle_exit(sig, frame)


@contextmanager
def _signals_only_logged() -> Generator[None]:
    """Log signals instead of dying of them: uvicorn raises the one that stopped it again at its end.

    Without this the process would die there, with its followers open and its last events unsent.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _log_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_signal(number: int, _frame: FrameType | None) -> None:
    log.info("stopped by %s", signal.Signals(number).name)


def _bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Its protocol is given, because asyncio turns Nagle's algorithm off only then. Otherwise each kept-alive
    request is answered 40 ms late (measured), waiting for the client's delayed acknowledgement.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, port))
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        return listening
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error}; choose another with DRIFTLOOP_HTTP_HOST and "
            "DRIFTLOOP_HTTP_PORT (0 takes a free port)"
        ) from error
