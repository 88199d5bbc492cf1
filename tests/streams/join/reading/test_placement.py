"""The vectorised partitioner is Kafka's."""

from __future__ import annotations

from driftloop.schemas.partition import murmur2, partition_of
from driftloop.streams.join.reading.placement import murmur2_many, partitions_of
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.binary(max_size=140), max_size=20))
def test_many_hashes_are_the_same_as_one_by_one(keys: list[bytes]) -> None:
    assert murmur2_many(keys).tolist() == [murmur2(key) for key in keys]


@given(st.lists(st.text(max_size=40), max_size=20), st.integers(1, 4096))
def test_many_keys_go_where_each_alone_goes(keys: list[str], partitions: int) -> None:
    encoded = [key.encode() for key in keys]
    assert partitions_of(encoded, partitions).tolist() == [partition_of(key, partitions) for key in keys]
