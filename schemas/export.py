"""The interface for any language: JSON Schema per event and one AsyncAPI 3 document over all topics."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from .base import Event
from .control import ApprovalControl, RequestControl, RunControl, SpecControl, TickControl, UpdateControl
from .decisions import Command, CommandResult, Drift, Trigger
from .events import DeadLetter, DeadLetterResolution, Label, LabelRequest, Outcome, Prediction
from .joining import JoinProgress
from .runs import TrainingRun
from .serving import Manifest, ModelAck, ModelUpdate
from .spec.model import SpecRecord
from .topics import CATALOGUE
from .vitals import Vitals

ASYNCAPI_VERSION = "3.0.0"
JSON_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"

CONTROLS: tuple[type[Event], ...] = (
    SpecControl, RequestControl, ApprovalControl, RunControl, UpdateControl, TickControl,
)  # fmt: skip
EVENTS: tuple[type[Event], ...] = (
    Prediction, Label, Outcome, Vitals, *CONTROLS, Drift, Trigger, Command, CommandResult, TrainingRun,
    ModelUpdate, Manifest, ModelAck, SpecRecord, LabelRequest, DeadLetter, DeadLetterResolution,
    JoinProgress,
)  # fmt: skip


def json_schemas() -> dict[str, dict[str, Any]]:
    """Event name → a self-contained JSON Schema (draft 2020-12)."""
    return {event.__name__: {"$schema": JSON_SCHEMA_DIALECT, **event.model_json_schema()} for event in EVENTS}


def asyncapi(prefix: str, version: str) -> dict[str, Any]:
    """An AsyncAPI 3 document: a channel per topic, a message per event."""
    _, definitions = models_json_schema(
        [(event, "validation") for event in EVENTS], ref_template="#/components/schemas/{model}"
    )
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for topic in CATALOGUE:
        names = message_names(topic.event)
        channels[topic.name] = {
            "address": topic.full_name(prefix),
            "description": f"{topic.holds}; key: {topic.key}; written by: {topic.written_by}",
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
            "bindings": {
                "kafka": {"topicConfiguration": {"cleanup.policy": [topic.config()["cleanup.policy"]]}}
            },
        }
        operations[f"receive-{topic.name}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{topic.name}"},
        }
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "driftloop",
            "version": version,
            "description": "Keeps deployed models right. JSON objects; unknown fields pass through.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                event.__name__: {
                    "name": event.__name__,
                    "summary": (event.__doc__ or "").strip().splitlines()[0],
                    "payload": {"$ref": f"#/components/schemas/{event.__name__}"},
                }
                for event in EVENTS
            },
            "schemas": definitions["$defs"],
        },
    }


def message_names(event: str) -> list[str]:
    """The messages of a topic whose catalogue entry names ``event``; vitals also carries control records."""
    if event == "Vitals":
        return ["Vitals", *(control.__name__ for control in CONTROLS)]
    return [event] if event in {known.__name__ for known in EVENTS} else []
