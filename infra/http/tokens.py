"""Bearer tokens of the reference server: their scopes, and only their hashes on disk.

A token is 256 random bits, so its plain SHA-256 cannot be reversed by search. Several tokens per scope are
valid at once: to change one, add the new, distribute it, then revoke the old. On failure: the server does not
start with a token file that it cannot read; a running one keeps the tokens that it knows, and logs it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ...models.registry.whole_file import whole_file
from ...schemas.errors import Error, SettingsError

log = logging.getLogger(__name__)

Scope = Literal["predict", "feedback", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
FILE = "http.tokens"

_MIN_CHARS = 32
_HASHED = "sha256:"
_HEX = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is stored."""

    scope: Scope
    sha256: str
    name: str

    def line(self) -> str:
        return f"{self.scope} {_HASHED}{self.sha256} {self.name}\n"


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class Tokens:
    """The valid tokens. A comparison takes the same time whatever was given."""

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self._known: tuple[tuple[Scope, bytes], ...] = tuple(
            (token.scope, token.sha256.encode()) for token in tokens
        )

    def __bool__(self) -> bool:
        return bool(self._known)

    def scopes_of(self, given: str) -> frozenset[Scope]:
        """The scopes of the given token; none if it is unknown."""
        sha256 = hash_of(given).encode()
        # All known tokens are compared, so that the time taken tells nothing of a match.
        same = [hmac.compare_digest(sha256, known) for _, known in self._known]
        return frozenset[Scope](scope for (scope, _), found in zip(self._known, same, strict=True) if found)


def read_tokens(text: str, source: str) -> list[Token]:
    """Parse lines of ``SCOPE sha256:HEX NAME``; ``#`` starts a comment. Raises SettingsError."""
    tokens: list[Token] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        scope, hashed, name = (*words, "", "")[:3] if len(words) <= 3 else ("", "", "")
        sha256 = hashed.removeprefix(_HASHED)
        if scope not in SCOPES or not hashed.startswith(_HASHED) or not _HEX.fullmatch(sha256):
            raise SettingsError(
                f"{source}, line {number}: write `SCOPE sha256:HEX NAME`, SCOPE one of {', '.join(SCOPES)}; "
                "`driftloop tokens new SCOPE` does"
            )
        tokens.append(Token(scope, sha256, name or f"line-{number}"))
    return tokens


def given_tokens(text: str) -> list[Token]:
    """Parse ``scope=token,scope=token``, each token itself or ``sha256:`` and its hash. Raises SettingsError.

    Its messages number the entries and never repeat one.
    """
    tokens: list[Token] = []
    for number, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        scope, _, value = entry.partition("=")
        if scope not in SCOPES:
            raise SettingsError(
                f"HTTP token {number}: write scope=token, with scope one of {', '.join(SCOPES)}"
            )
        if value.startswith(_HASHED):
            sha256 = value.removeprefix(_HASHED)
            if not _HEX.fullmatch(sha256):
                raise SettingsError(f"HTTP token {number}: sha256: must be followed by 64 hex digits")
        elif len(value) < _MIN_CHARS or not value.isascii() or not value.isprintable():
            raise SettingsError(
                f"HTTP token {number}: a token is {_MIN_CHARS} random characters or more; "
                f"`driftloop tokens new {scope}` makes one"
            )
        else:
            sha256 = hash_of(value)
        tokens.append(Token(scope, sha256, f"given-{number}"))
    return tokens


class TokenFile:
    """The token file of the keys folder: written by ``driftloop tokens``, followed by servers."""

    def __init__(self, keys_dir: Path) -> None:
        self.path = keys_dir / FILE

    def read(self) -> list[Token]:
        """Raise SettingsError if it cannot be read or is not a token file."""
        try:
            return read_tokens(self.path.read_text("utf-8"), str(self.path))
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{self.path} cannot be read: {error}") from error

    def add(self, scope: Scope, name: str) -> str:
        """Make a token, store its hash and return it, this once. Raises Error for a name that is taken."""
        if not _NAME.fullmatch(name):
            raise Error(f"{name!r} cannot name a token: use letters, digits, '.', '_' and '-'")
        present = self.read()
        if any(token.name == name for token in present):
            raise Error(f"there is a token {name!r} already: choose another name, or revoke that one")
        token = f"driftloop_{scope}_{secrets.token_urlsafe(32)}"
        self._write([*present, Token(scope, hash_of(token), name)])
        return token

    def revoke(self, name: str) -> Token:
        """Raise Error if there is none of that name."""
        present = self.read()
        for token in present:
            if token.name == name:
                self._write([one for one in present if one is not token])
                return token
        known = ", ".join(token.name for token in present) or "none"
        raise Error(f"there is no token {name!r} in {self.path}; there are: {known}")

    def _write(self, tokens: Iterable[Token]) -> None:
        """Write the file whole or not at all, readable by its owner and group alone."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path, mode=0o640) as file:
            with contextlib.suppress(OSError):  # else the server that owns the file could read it no more
                before = self.path.stat()
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.writelines(token.line().encode() for token in tokens)


class FollowedTokens:
    """The given tokens and those of the file, which is read again within a second of a change."""

    def __init__(
        self, file: TokenFile, given: Iterable[Token] = (), *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Raise SettingsError."""
        self._file = file
        self._given = tuple(given)
        self._monotonic = monotonic
        self._stamp = self._stamped()
        self._tokens = Tokens([*self._given, *file.read()])
        self._locked = bool(self._tokens)
        self._look_at = monotonic() + _LOOK_AGAIN_S

    @property
    def locked(self) -> bool:
        """Whether a token is required. Once it is, it stays so: revoking the last one opens nothing."""
        return self._locked

    def now(self) -> Tokens:
        if self._monotonic() >= self._look_at:
            self._look_at = self._monotonic() + _LOOK_AGAIN_S
            stamp = self._stamped()
            if stamp != self._stamp and self._read_again():
                self._stamp = stamp  # only now: a file that could not be read is tried again
        return self._tokens

    def _read_again(self) -> bool:
        try:
            self._tokens = Tokens([*self._given, *self._file.read()])
        except SettingsError as error:
            log.error("the tokens known before stay valid: %s", error)
            return False
        self._locked = self._locked or bool(self._tokens)
        log.info("the tokens were read again from %s", self._file.path)
        return True

    def _stamped(self) -> tuple[int, int, int, int] | None:
        try:
            found = self._file.path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
