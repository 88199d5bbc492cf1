"""A good token of each scope."""

from __future__ import annotations

from driftloop.infra.http.tokens import SCOPES, Token, given_tokens

GOOD = {scope: f"{scope}-{'x' * 40}" for scope in SCOPES}


def all_tokens() -> list[Token]:
    return given_tokens(",".join(f"{scope}={token}" for scope, token in GOOD.items()))
