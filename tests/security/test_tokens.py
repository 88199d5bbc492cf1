"""Tokens of the reference server: what each opens, what is kept of them, and where none is needed."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest
from driftloop.infra.http.auth import check_exposure, find_tokens
from driftloop.infra.http.server import run_server
from driftloop.infra.http.tokens import (
    SCOPES,
    FollowedTokens,
    Token,
    TokenFile,
    Tokens,
    given_tokens,
    hash_of,
    read_tokens,
)
from driftloop.infra.settings import Settings
from driftloop.schemas.errors import Error, SettingsError

from tests.support.serve.tokens import GOOD, all_tokens


def test_a_token_opens_its_scope_and_no_other() -> None:
    tokens = Tokens(all_tokens())
    for scope in SCOPES:
        assert tokens.scopes_of(GOOD[scope]) == {scope}
    for wrong in ("", "x", GOOD["predict"][:-1], GOOD["predict"] + "x", hash_of(GOOD["predict"]), "\udcff"):
        assert tokens.scopes_of(wrong) == set()


def test_several_tokens_of_a_scope_are_good_at_once(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    old, new = file.add("predict", "old"), file.add("predict", "new")
    assert old != new
    tokens = Tokens(file.read())
    assert tokens.scopes_of(old) == tokens.scopes_of(new) == {"predict"}
    file.revoke("old")
    tokens = Tokens(file.read())
    assert (tokens.scopes_of(old), tokens.scopes_of(new)) == (set(), {"predict"})


def test_only_hashes_are_on_disk_and_only_the_owner_and_group_read_them(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    token = file.add("admin", "ops")
    assert token not in file.path.read_text()
    assert token.removeprefix("driftloop_admin_") not in file.path.read_text()
    assert file.path.stat().st_mode & 0o037 == 0
    assert len(token.removeprefix("driftloop_admin_")) >= 43


def test_a_given_token_may_be_its_hash() -> None:
    tokens = Tokens(given_tokens(f"predict=sha256:{hash_of('t' * 40)},predict={'u' * 40}"))
    assert tokens.scopes_of("t" * 40) == tokens.scopes_of("u" * 40) == {"predict"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("predict=secret-but-short", "32 random characters"),
        (f"preidct={'secret' * 8}", "scope one of predict, feedback, admin"),
        ("secret" * 8, "write scope=token"),
        ("predict=sha256:secret", "64 hex digits"),
        (f"predict={'sécret' * 8}", "32 random characters"),
    ],
)
def test_a_wrong_setting_is_reported_without_the_token(text: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        given_tokens(text)
    assert "secret" not in str(caught.value)


def test_a_wrong_line_of_the_file_is_reported_by_its_number_alone() -> None:
    with pytest.raises(SettingsError, match="line 3") as caught:
        read_tokens(f"# ours\npredict sha256:{'0' * 64} a\npredict secret\n", "http.tokens")
    assert "secret" not in str(caught.value)


def test_a_name_is_given_once_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    file.add("predict", "a")
    with pytest.raises(Error, match="there is a token 'a' already"):
        file.add("feedback", "a")
    with pytest.raises(Error, match="there are: a"):
        file.revoke("b")
    with pytest.raises(Error, match="cannot name a token"):
        file.add("feedback", "a b")


def test_comparing_takes_the_same_time_whatever_was_given() -> None:
    """The first character or the last: a difference that can be measured would show here as a factor."""
    tokens = Tokens([Token("predict", hash_of(f"{n:040}"), str(n)) for n in range(50)])
    right = f"{0:040}"
    given = {"right": right, "last wrong": right[:-1] + "x", "first wrong": "x" + right[1:]}
    taken = {name: [] for name in given}
    for _ in range(200):
        for name, token in given.items():
            started = time.perf_counter_ns()
            tokens.scopes_of(token)
            taken[name].append(time.perf_counter_ns() - started)
    middle = {name: statistics.median(times) for name, times in taken.items()}
    assert max(middle.values()) < 1.5 * min(middle.values()), middle


def test_a_running_server_follows_the_file_and_revoking_the_last_token_opens_nothing(tmp_path: Path) -> None:
    now = [0.0]
    file = TokenFile(tmp_path)
    followed = FollowedTokens(file, monotonic=lambda: now[0])
    assert not followed.locked
    token = file.add("predict", "a")
    now[0] += 2
    assert followed.now().scopes_of(token) == {"predict"}
    assert followed.locked
    file.path.write_text("nonsense")
    now[0] += 2
    assert followed.now().scopes_of(token) == {"predict"}  # logged; a mistake locks no one out
    file.path.write_text("")
    now[0] += 2
    assert followed.now().scopes_of(token) == set()
    assert followed.locked
    file.path.unlink()
    now[0] += 2
    followed.now()
    assert followed.locked


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_needs_no_token(host: str, tmp_path: Path) -> None:
    check_exposure(host, FollowedTokens(TokenFile(tmp_path)))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "8.8.8.8", ""])
def test_a_public_address_needs_a_token_and_the_refusal_says_how_to_go_on(host: str, tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, http_host=host, bootstrap_servers="127.0.0.1:1")
    with pytest.raises(SettingsError, match=r"without a token.*driftloop tokens new predict.*127\.0\.0\.1"):
        run_server(settings, ["m"])  # before anything is bound or asked of Kafka
    TokenFile(settings.keys_path()).add("admin", "ops")
    check_exposure(host, find_tokens(settings))


def test_a_file_that_could_not_be_read_for_a_moment_is_read_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    file = TokenFile(tmp_path)
    token = file.add("predict", "a")
    followed = FollowedTokens(file, monotonic=lambda: now[0])
    file.revoke("a")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", refuse)
        now[0] += 2
        assert followed.now().scopes_of(token) == {"predict"}
    now[0] += 2
    assert followed.now().scopes_of(token) == set()
