from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient
from driftloop.schemas.topics import CATALOGUE
from driftloop.streams.connection import Connection

pytestmark = pytest.mark.integration


def test_the_topics_fixture_gives_each_test_a_catalogue_of_its_own(topics: Connection) -> None:
    found = AdminClient(topics.client()).list_topics(timeout=10).topics
    assert {topics.topic(topic) for topic in CATALOGUE} <= found.keys()
