"""Changing a setting of a topic, as somebody does who knows nothing of driftloop."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from driftloop.schemas.topics import Topic
from driftloop.streams.kafka.connection import Connection


def alter(connection: Connection, topic: Topic, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, connection.topic(topic), incremental_configs=[entry])
    admin = AdminClient(connection.client())  # kept until it has answered
    admin.incremental_alter_configs([resource])[resource].result(30)
