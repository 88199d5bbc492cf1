"""A transaction happens whole or not at all, and each kind of error has its own consequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from driftloop.schemas.errors import BrokerError
from driftloop.streams.kafka import transactions as kit
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.transactions import Aborted, Consumed, Transactions

RETRIABLE = KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE, "moving", False, True, False))
ABORTABLE = KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "left the group", False, False, True))
FENCED = KafkaException(KafkaError(KafkaError.PRODUCER_FENCED, "fenced", True, False, False))
FATAL = KafkaException(KafkaError(KafkaError.INVALID_TXN_STATE, "ended", True, False, False))
OTHER = KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "not allowed", False, False, False))
READ = Consumed([], None)


class ScriptedProducer:
    """Records the calls; ``fails``: per call, the errors of its first attempts."""

    def __init__(self, fails: dict[str, list[KafkaException | BufferError]]) -> None:
        self.fails = fails
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*_args: Any, **_named: Any) -> None:
            self.calls.append(name)
            errors = self.fails.get(name)
            if errors:
                raise errors.pop(0)

        return call


def scripted(
    monkeypatch: pytest.MonkeyPatch, **fails: list[KafkaException | BufferError]
) -> tuple[Transactions, ScriptedProducer]:
    producer = ScriptedProducer(fails)
    monkeypatch.setattr(kit, "Producer", lambda _config, logger: producer)
    monkeypatch.setattr(kit, "_PAUSE_S", 0.0)
    return Transactions(Connection("nowhere:1"), "test-0", timeout_s=5.0), producer


def test_records_and_offsets_are_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    transactions, producer = scripted(monkeypatch)
    steps: list[str] = []
    transactions.start()
    transactions.run(lambda: transactions.send("t", b"value"), READ, observe=steps.append)
    assert producer.calls == [
        "init_transactions",
        "poll",
        "poll",
        "begin_transaction",
        "produce",
        "send_offsets_to_transaction",
        "flush",
        "commit_transaction",
    ]
    assert steps == ["produced", "offsets sent"]


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction", "init_transactions"])
def test_a_retriable_error_repeats_the_same_call(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    transactions, producer = scripted(monkeypatch, **{call: [RETRIABLE, RETRIABLE]})
    transactions.start()
    transactions.run(lambda: None, READ)
    assert producer.calls.count(call) == 3
    assert producer.calls.count("begin_transaction") == 1
    assert "abort_transaction" not in producer.calls


@pytest.mark.parametrize("call", ["produce", "send_offsets_to_transaction", "commit_transaction"])
def test_an_abortable_error_aborts_and_asks_to_read_again(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    transactions, producer = scripted(monkeypatch, **{call: [ABORTABLE], "abort_transaction": [RETRIABLE]})
    with pytest.raises(Aborted, match="left the group"):
        transactions.run(lambda: transactions.send("t", b"value"), READ)
    assert producer.calls[-2:] == ["abort_transaction", "abort_transaction"]


@pytest.mark.parametrize("call", ["init_transactions", "begin_transaction", "commit_transaction"])
def test_a_fenced_producer_is_finished_and_says_why(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    transactions, producer = scripted(monkeypatch, **{call: [FENCED]})
    with pytest.raises(BrokerError, match="DRIFTLOOP_INSTANCE_ID"):
        _start_and_run(transactions)
    assert "abort_transaction" not in producer.calls


@pytest.mark.parametrize("call", ["init_transactions", "commit_transaction"])
def test_any_other_error_is_raised_with_its_reason(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    transactions, _ = scripted(monkeypatch, **{call: [OTHER]})
    with pytest.raises(BrokerError, match="not allowed"):
        _start_and_run(transactions)


@pytest.mark.parametrize("error", [FENCED, FATAL])
def test_an_abort_that_fails_ends_the_producer(
    monkeypatch: pytest.MonkeyPatch, error: KafkaException
) -> None:
    transactions, _ = scripted(monkeypatch, commit_transaction=[ABORTABLE], abort_transaction=[error])
    with pytest.raises(BrokerError, match="could not be aborted"):
        _start_and_run(transactions)


def test_an_abort_of_what_the_coordinator_never_knew_goes_on_with_a_new_producer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen after kill -9 of the coordinator's node: the offsets timed out, and it knew of no transaction."""
    transactions, producer = scripted(
        monkeypatch,
        send_offsets_to_transaction=[ABORTABLE],
        abort_transaction=[FATAL],
    )
    transactions.start()
    successor = ScriptedProducer({})
    monkeypatch.setattr(kit, "Producer", lambda _config, logger: successor)
    with pytest.raises(Aborted, match="left the group") as aborted:
        transactions.run(lambda: None, READ)
    assert aborted.value.unknown
    assert producer.calls[-1] == "purge"
    producer.fails["poll"] = [FATAL]  # of a producer that is over; roles ask once a second
    transactions.tend()
    transactions.run(lambda: None, READ)
    assert successor.calls.count("commit_transaction") == 1


def test_a_full_queue_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    transactions, producer = scripted(monkeypatch, produce=[BufferError(), BufferError()])
    transactions.run(lambda: transactions.send_all("t", 0, [(b"key", b"value"), (b"key", b"next")]))
    assert [call for call in producer.calls if call in ("produce", "poll")] == [
        "poll",
        "produce",
        "produce",
        "poll",
        "produce",
        "produce",
    ]


def test_a_rehearsal_is_appended_and_always_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    transactions, producer = scripted(monkeypatch)
    transactions.rehearse(lambda: transactions.send("t", b"value"))
    assert producer.calls == ["poll", "begin_transaction", "produce", "flush", "abort_transaction"]


def _start_and_run(transactions: Transactions) -> None:
    transactions.start()
    transactions.run(lambda: None, READ)
