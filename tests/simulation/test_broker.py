"""The simulated broker behaves as Kafka does where exactly once depends on it."""

from __future__ import annotations

from functools import partial

from confluent_kafka import KafkaError

from tests.simulation.broker.cluster import SimulatedCluster
from tests.simulation.broker.group import CommittedOffset, GroupEvent, GroupMetadata
from tests.simulation.broker.log import OK, SentRecord
from tests.simulation.broker.transactions import Place, ProducerId
from tests.simulation.clock import VirtualWorld

PLACE: Place = ("t", 0)
RECORD = SentRecord(b"k", b"v")
NO_MEMBER = GroupMetadata("g", -1, 0, "")


def cluster() -> SimulatedCluster:
    return SimulatedCluster(VirtualWorld(1), {"t": 1})


def started(broker: SimulatedCluster) -> ProducerId:
    found = broker.transactions.init("id")
    assert isinstance(found, ProducerId)
    return found


def write(broker: SimulatedCluster, producer: ProducerId, *, sequence: int = 0, transaction: int = 1) -> int:
    """Add the partition and produce one record."""
    error = broker.transactions.add("id", producer, places={PLACE}, groups={"g"})
    return error or broker.produce("id", producer, PLACE, sequence, [RECORD], transaction)


def visible(broker: SimulatedCluster) -> int:
    log = broker.logs[PLACE]
    return len(list(log.read(end=log.last_stable_offset)))


def write_markers(broker: SimulatedCluster) -> None:
    broker.world.sleep(0.1)


def test_records_are_seen_once_their_transaction_has_committed_and_never_if_it_aborts() -> None:
    broker = cluster()
    producer = started(broker)
    assert write(broker, producer) == OK
    assert (visible(broker), broker.logs[PLACE].last_stable_offset) == (0, 0)
    assert broker.transactions.end("id", producer, commit=True) == OK
    write_markers(broker)
    assert (visible(broker), broker.logs[PLACE].last_stable_offset) == (1, 2)
    assert write(broker, producer, sequence=1, transaction=2) == OK
    assert broker.transactions.end("id", producer, commit=False) == OK
    write_markers(broker)
    assert (visible(broker), broker.logs[PLACE].last_stable_offset) == (1, 4)


def test_a_late_end_of_the_same_epoch_ends_the_next_transaction() -> None:
    broker = cluster()
    producer = started(broker)
    write(broker, producer)
    late = partial(broker.transactions.end, "id", producer, commit=True)
    assert late() == OK
    write_markers(broker)
    assert late() == OK  # the same end again, while nothing is open, is harmless
    write(broker, producer, sequence=1, transaction=2)
    assert late() == OK
    write_markers(broker)
    assert visible(broker) == 2
    assert broker.transactions.end("id", producer, commit=False) == KafkaError.INVALID_TXN_STATE


def test_a_new_epoch_ends_what_is_open_and_refuses_what_is_late() -> None:
    broker = cluster()
    producer = started(broker)
    write(broker, producer)
    assert broker.transactions.init("id") == KafkaError.CONCURRENT_TRANSACTIONS
    write_markers(broker)
    assert started(broker).epoch > producer.epoch
    assert visible(broker) == 0
    assert broker.transactions.end("id", producer, commit=True) == KafkaError.INVALID_PRODUCER_EPOCH
    assert write(broker, producer, sequence=1) == KafkaError.INVALID_PRODUCER_EPOCH


def test_a_transaction_that_stays_open_is_aborted_and_its_producer_fenced() -> None:
    broker = cluster()
    producer = started(broker)
    write(broker, producer)
    broker.world.sleep(11.0)
    assert broker.logs[PLACE].last_stable_offset == 2
    assert broker.transactions.end("id", producer, commit=True) == KafkaError.INVALID_PRODUCER_EPOCH


def test_a_batch_that_comes_again_is_not_appended_again_and_one_outside_a_transaction_not_at_all() -> None:
    broker = cluster()
    producer = started(broker)
    assert write(broker, producer) == OK
    assert broker.produce("id", producer, PLACE, 0, [RECORD], 1) == OK
    assert broker.logs[PLACE].end == 1
    broker.transactions.end("id", producer, commit=True)
    write_markers(broker)
    refused = broker.produce("id", producer, PLACE, 1, [RECORD], 2)
    assert refused == KafkaError.INVALID_TXN_STATE


def test_offsets_move_with_their_transaction_and_are_unstable_until_then() -> None:
    broker = cluster()
    producer, group = started(broker), broker.group("g")
    write(broker, producer)
    assert broker.commit_offsets("id", producer, NO_MEMBER, {PLACE: CommittedOffset(5)}, 1) == OK
    assert group.unstable(PLACE)
    assert group.offsets == {}
    broker.transactions.end("id", producer, commit=True)
    write_markers(broker)
    assert group.offsets == {PLACE: CommittedOffset(5)}
    assert not group.unstable(PLACE)


class OneMember:
    def __init__(self, instance: str) -> None:
        self.instance, self.member, self.topics = instance, 0, ["t"]
        self.events: list[GroupEvent] = []
        self.lives = True

    def beats(self) -> bool:
        return self.lives

    def receive(self, event: GroupEvent) -> None:
        self.events.append(event)


def test_a_member_that_is_gone_or_replaced_commits_nothing() -> None:
    broker = cluster()
    group, first = broker.group("g"), OneMember("a")
    group.join(first)
    assert first.events == [("assign", 1, [PLACE])]
    as_first = GroupMetadata("g", 1, first.member, "a")
    assert group.check(as_first) == OK
    again = OneMember("a")
    group.join(again)  # static: the same generation, without a rebalance
    assert again.events == [("assign", 1, [PLACE])]
    assert group.check(as_first) == KafkaError.FENCED_INSTANCE_ID
    other = OneMember("b")
    group.join(other)
    again.lives = False
    broker.world.sleep(9.0)
    assert other.events[-1] == ("assign", 2, [PLACE])
    assert group.check(GroupMetadata("g", 1, again.member, "a")) == KafkaError.UNKNOWN_MEMBER_ID
    assert group.check(GroupMetadata("g", 1, other.member, "b")) == KafkaError.ILLEGAL_GENERATION
