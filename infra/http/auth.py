"""Who may ask the reference server what: a thin ASGI layer before the app, and a say in where it listens.

Everything but the health of the process needs a token once there are any: /predict of scope predict,
/feedback of scope feedback, all else (what serves, metrics, the API's description) of scope admin. Without
tokens the server listens on loopback only, and a web page that a browser has open does not get to use it.
What is refused is answered before a byte of its body is read.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping

import orjson
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as Connection

from ...schemas.errors import SettingsError
from ..settings import Settings
from .tokens import FollowedTokens, Scope, TokenFile, given_tokens

_OPEN = frozenset({"/health/live", "/health/ready"})
_SCOPES: Mapping[str, Scope] = {"/predict": "predict", "/predict/batch": "predict", "/feedback": "feedback"}
_OTHERWISE: Scope = "admin"
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


def find_tokens(settings: Settings) -> FollowedTokens:
    """Those of DRIFTLOOP_HTTP_TOKENS and of the keys folder's file. Raises SettingsError."""
    given = "" if settings.http_tokens is None else settings.http_tokens.get_secret_value()
    return FollowedTokens(TokenFile(settings.keys_path()), given_tokens(given))


def check_exposure(host: str, tokens: FollowedTokens) -> None:
    """Raises SettingsError where others than this machine could ask, and no token would stop them."""
    if tokens.locked or _is_loopback(host):
        return
    raise SettingsError(
        f"refusing to listen on {host} without a token: whoever reaches it could ask, and could label. Make "
        "tokens with `driftloop tokens new predict` (and feedback, admin) or set DRIFTLOOP_HTTP_TOKENS; or "
        "listen on 127.0.0.1, behind a proxy that asks who it is"
    )


def _is_loopback(host: str) -> bool:
    if not host:
        return False  # sockets take it for every address
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True  # it cannot be listened on at all, and that will be told
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


class Guard:
    """Lets through what a token opens. Without tokens everything, since only this machine can ask then."""

    def __init__(self, app: ASGIApp, tokens: FollowedTokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await _refuse(send, *refusal)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(header for header in _HEADERS if header[0] not in named),
                ]
            await send(message)

        await self._app(scope, receive, send_guarded)

    def _refusal(self, scope: Connection) -> tuple[int, str] | None:
        path: str = scope["path"]
        if path in _OPEN:
            return None
        tokens = self._tokens.now()
        if not self._tokens.locked:
            return _of_another_site(scope)
        needed = _SCOPES.get(path, _OTHERWISE)
        given = _bearer(scope)
        if given is None:
            return 401, f"this needs a token of scope {needed}: send `Authorization: Bearer TOKEN`"
        scopes = tokens.scopes_of(given)
        if not scopes:
            return 401, "the token is not known here, or was revoked"
        if needed not in scopes:
            return 403, f"this needs a token of scope {needed}, and the one sent is of another"
        return None


def _of_another_site(scope: Connection) -> tuple[int, str] | None:
    """Browsers send what any page tells them to, to this machine's own ports too; but they say whose page."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is None or origin.rpartition(b"://")[2] == headers.get(b"host"):
        return None
    return 403, "a page of another site may not ask here; with a token it may"


def _bearer(scope: Connection) -> str | None:
    """The token of the request, if it has exactly one."""
    sent: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(sent) != 1:
        return None
    kind, _, token = sent[0].decode("latin-1").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = orjson.dumps({"error": reason})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # its body was not read
        *_HEADERS,
    ]
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="driftloop"'))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
