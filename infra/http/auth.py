"""Authentication of the reference server: an ASGI layer before the app, and a check of where it listens.

Once there are tokens, everything but the health checks needs one: /predict of scope predict, /feedback of
scope feedback, all else (live versions, metrics, the API's description) of scope admin. Without tokens the
server listens on loopback only, and refuses requests that a browser sends for a page of another site. A
refusal is sent before a byte of the request's body is read.
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
    """The tokens of DRIFTLOOP_HTTP_TOKENS and of the keys folder's file. Raises SettingsError."""
    given = "" if settings.http_tokens is None else settings.http_tokens.get_secret_value()
    return FollowedTokens(TokenFile(settings.keys_path()), given_tokens(given))


def check_exposure(host: str, tokens: FollowedTokens) -> None:
    """Raise SettingsError if other machines could reach the server and there are no tokens."""
    if tokens.locked or _is_loopback(host):
        return
    raise SettingsError(
        f"refusing to listen on {host} without a token: anyone who reaches it could predict and label. Make "
        "tokens with `driftloop tokens new predict` (and feedback, admin) or set DRIFTLOOP_HTTP_TOKENS; or "
        "listen on 127.0.0.1, behind a proxy that authenticates"
    )


def _is_loopback(host: str) -> bool:
    if not host:
        return False  # an empty host means every address
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True  # nothing can listen there, and binding will say so
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


class Guard:
    """Lets through what a token allows; without tokens all, since only this machine can connect."""

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
            return _cross_site_refusal(scope)
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


def _cross_site_refusal(scope: Connection) -> tuple[int, str] | None:
    """Refuse other sites' pages: browsers send their requests to loopback too, but name the page's origin."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is None or origin.rpartition(b"://")[2] == headers.get(b"host"):
        return None
    return 403, "a page of another site may not send requests here without a token"


def _bearer(scope: Connection) -> str | None:
    """The request's token, if it has exactly one."""
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
