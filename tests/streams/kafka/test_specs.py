"""Specs are followed as they are published; a record that cannot be read takes nothing away."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from driftloop.infra.control.specs import apply_deployment
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.spec.model import JOIN_KEY, Deployment, Join, ModelSpec
from driftloop.schemas.topics import SPECS
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.kafka.offsets import LogOffsets
from driftloop.streams.kafka.specs import SpecFollower

from tests.support.kafka.topics import write
from tests.support.waiting import wait_until

REGRESSION = ModelSpec(task="regression")


@pytest.fixture
def specs(topics: Connection) -> Iterator[SpecFollower]:
    with contextlib.closing(SpecFollower(topics)) as follower:
        yield follower


def test_each_model_has_the_newest_spec_that_was_published(topics: Connection, specs: SpecFollower) -> None:
    apply_deployment(topics, Deployment(models={"a": ModelSpec(), "b": ModelSpec()}))
    apply_deployment(topics, Deployment(models={"a": REGRESSION}, join=Join(horizon=7_000)))
    assert specs.catch_up() == {"a", "b", JOIN_KEY}
    assert specs.caught_up
    assert {model: spec.task for model, spec in specs.models.items()} == {
        "a": "regression",
        "b": "classification",
    }
    assert specs.join.horizon == 7_000


def test_a_refresh_knows_what_was_published_before_it(topics: Connection, specs: SpecFollower) -> None:
    specs.catch_up()
    offsets = LogOffsets(topics)
    for number in range(5):
        apply_deployment(topics, Deployment(models={f"m{number}": ModelSpec()}))
        assert f"m{number}" in specs.refresh(offsets, timeout_s=20.0)
    began = time.monotonic()
    for _ in range(20):
        assert specs.refresh(offsets, timeout_s=20.0) == set()
    assert time.monotonic() - began < 10.0, "the markers of transactions are not waited for"


def test_a_spec_that_cannot_be_read_is_a_problem_and_leaves_the_one_before(
    topics: Connection, specs: SpecFollower
) -> None:
    apply_deployment(topics, Deployment(models={"a": REGRESSION}))
    specs.catch_up()
    guessing = b'{"model":"a","digest":"","ts":1,"spec":{"task":"guessing"}}'
    write(topics, (SPECS, "a", guessing), (SPECS, "late", b'{"model":"late"}'))
    wait_until(lambda: specs.poll(0.1) == set() and len(specs.problems) == 2)
    assert "guessing" in specs.problems["a"]
    assert specs.models == {"a": REGRESSION}
    write(topics, (SPECS, "late", None), (SPECS, "a", None))
    wait_until(lambda: specs.poll(0.1) == set() and not specs.problems)
    assert specs.models == {}


def test_a_refresh_that_takes_too_long_is_an_error_only_where_it_is_required(
    topics: Connection, specs: SpecFollower
) -> None:
    apply_deployment(topics, Deployment(models={"a": ModelSpec()}))
    offsets = LogOffsets(topics)
    with pytest.raises(BrokerError, match=r"could not read .*specs"):
        specs.refresh(offsets, timeout_s=-1.0)
    assert specs.refresh(offsets, timeout_s=-1.0, required=False) == set()
