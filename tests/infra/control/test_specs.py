"""Specs are published once per change, each with its control record, and read back as they were written."""

from __future__ import annotations

import pytest
from driftloop.infra.control.specs import apply_deployment, model_specs, read_specs
from driftloop.schemas.control import CONTROL, SpecControl
from driftloop.schemas.errors import BrokerError
from driftloop.schemas.partition import partition_of
from driftloop.schemas.spec.file import parse_deployment
from driftloop.schemas.spec.model import JOIN_KEY
from driftloop.schemas.topics import SPECS, VITALS
from driftloop.streams.kafka.connection import Connection

from tests.support.kafka.topics import read_topic
from tests.support.topic_settings import alter

TOML = """
[join]
horizon = "2d"
[models.late]
classes = ["yes", "no"]
[models.late.features]
hour = "number"
[models.price]
task = "regression"
"""


def test_specs_are_read_back_as_they_were_written(topics: Connection) -> None:
    deployment = parse_deployment(TOML)
    applied = apply_deployment(topics, deployment)
    assert set(applied.changed) == {JOIN_KEY, "late", "price"}
    assert model_specs(topics) == deployment.models
    assert read_specs(topics)[JOIN_KEY].join() == deployment.join


def test_an_unchanged_spec_is_not_published_again(topics: Connection) -> None:
    apply_deployment(topics, parse_deployment(TOML))
    again = apply_deployment(topics, parse_deployment(TOML.replace('"2d"', '"3d"')))
    assert again.changed == (JOIN_KEY,)
    assert set(again.unchanged) == {"late", "price"}


def test_specs_that_the_cluster_refuses_are_an_error_for_a_person(topics: Connection) -> None:
    alter(topics, VITALS, "max.message.bytes", "100")
    with pytest.raises(BrokerError, match=r"nothing was published: .* run `driftloop apply` again"):
        apply_deployment(topics, parse_deployment(TOML))
    assert list(read_topic(topics, SPECS)) == []


def test_the_monitor_gets_each_spec_on_the_model_s_own_vitals_partition(topics: Connection) -> None:
    deployment = parse_deployment(TOML)
    apply_deployment(topics, deployment)
    reported = [
        (record.partition, CONTROL.validate_json(record.value or b""))
        for record in read_topic(topics, VITALS)
    ]
    assert {
        (partition, control.model) for partition, control in reported if isinstance(control, SpecControl)
    } == {(partition_of(model, 2), model) for model in ("late", "price")}
    for _, control in reported:
        assert isinstance(control, SpecControl)
        assert control.digest == deployment.models[control.model].digest()
