"""Which lines of librdkafka's log are a doubt, and which of them are logged."""

from __future__ import annotations

import time

import pytest
from driftloop.streams.kafka.doubt import Doubt, watched


@pytest.mark.parametrize(
    ("took_s", "logged_after_s", "raised"),
    [(1.0, 0.5, False), (1.0, 20.0, False), (9.5, 9.4, True), (9.5, 20.0, True), (60.0, 8.0, False)],
    ids=["in it", "at rest", "in a long one", "after a long one", "early in a long one"],
)
def test_an_idle_connection_is_harmless_unless_the_transaction_is_as_old(
    monkeypatch: pytest.MonkeyPatch, took_s: float, logged_after_s: float, raised: bool
) -> None:
    def at(second: float) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: 1_000.0 + second)

    doubt = Doubt({})
    at(0.0)
    doubt.begin()
    if took_s < logged_after_s:
        at(took_s)
        doubt.end()
    at(logged_after_s)
    doubt.log(10, "FAIL idle time exceeded (9007ms since last activity) (after 9595ms in state UP)")
    assert doubt.raised == raised


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        ("[thrd:TxnCoordinator]: TxnCoordinator/1: kafka:9092: Disconnected (after 9ms in state UP)", True),
        ("[thrd:TxnCoordinator]: TxnCoordinator: Closing (after 7ms in state UP) (_TRANSPORT)", True),
        ("[thrd:kafka:9092/1]: kafka:9092/1: Disconnected (after 9ms in state REAUTH)", True),
        ("[thrd:kafka:9092/1]: kafka:9092/1: Disconnected (after 9ms in state UPDATE)", True),
        ("[thrd:kafka:9092/1]: kafka:9092/1: a text so long that no state fits behind it", True),
        ("[thrd:kafka:9092/bootstrap]: kafka:9092/1: Disconnected (after 9ms in state UP)", True),
        ("[thrd:kafka:9092/bootstrap]: kafka:9092/bootstrap: Decommissioning (after 9ms in state UP)", False),
        ("[thrd:a:1/bootstrap]: sasl_ssl://[::1]:1/bootstrap: Disconnected (after 9ms in state UP)", False),
        ("[thrd:kafka:9092/1]: kafka:9092/1: Connect failed (after 9ms in state CONNECT)", False),
        ("[thrd:TxnCoordinator]: TxnCoordinator/1: Closing (after 9ms in state TRY_CONNECT)", False),
        ("[thrd:kafka:9092/1]: kafka:9092/1: SSL handshake failed (after 9ms in state SSL_HANDSHAKE)", False),
        ("[thrd:kafka:9092/1]: kafka:9092/1: SASL failed (after 9ms in state AUTH_REQ) (_AUTH)", False),
    ],
)  # fmt: skip
def test_a_connection_that_fails_is_a_doubt_unless_nothing_was_sent_on_it(failure: str, raised: bool) -> None:
    doubt = Doubt({})
    doubt.log(10, f"FAIL [rdkafka#producer-1] {failure}")
    assert doubt.raised == raised


def test_what_the_user_asked_librdkafka_to_log_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    settings = watched({"debug": "eos,broker", "log_level": 3})
    assert settings == {"debug": "eos,broker", "log_level": 7}
    assert watched({})["debug"] == "broker"
    caplog.set_level(10)
    quiet, talkative = Doubt({}), Doubt({"log_level": 7})
    for name, doubt in (("quiet", quiet), ("talkative", talkative)):  # one kind of line comes once a minute
        doubt.log(10, "%s [%s] %s", "SEND", "rdkafka#producer-1", "a request")
        assert not doubt.raised
        doubt.log(30, "%s [%s] %s", "FAIL", "rdkafka#producer-1", f"{name} refused (in state CONNECT)")
        assert not doubt.raised
        doubt.log(10, "%s [%s] %s", "FAIL", "rdkafka#producer-1", "gone (in state UP)")
        assert doubt.raised
    kinds = [record.getMessage().split()[0] for record in caplog.records]
    assert kinds == ["FAIL", "SEND", "FAIL", "FAIL"]
