"""driftloop keeps deployed models right: joins predictions with labels, watches, retrains, proves, swaps.

What users import is here; each name is loaded when it is first used, so ``import driftloop`` costs nothing.

>>> import driftloop
>>> client = driftloop.Client()                        # DRIFTLOOP_BOOTSTRAP_SERVERS says where Kafka is
>>> late = driftloop.HotModel("late", client=client)   # follows the live version
>>> served = late.predict({"carrier": "AA", "distance": 1089.0})
>>> client.label(served.prediction_id, "on_time")      # whenever the truth is known
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from driftloop.infra.api import Client, HotModel
    from driftloop.models.formats.features import FeatureError
    from driftloop.models.formats.fitted import Fitted, Learner, LearningError
    from driftloop.schemas.decisions import Command, CommandResult, Drift, Trigger
    from driftloop.schemas.errors import (
        ArtifactError,
        BrokerError,
        DecodeError,
        Error,
        IllegalTransition,
        NoModelError,
        SettingsError,
        SpecError,
        StateError,
        TopicError,
    )
    from driftloop.schemas.events import DeadLetter, Label, LabelRequest, Outcome, Prediction
    from driftloop.schemas.runs import TrainingRun
    from driftloop.schemas.serving import Manifest, ModelAck, ModelUpdate
    from driftloop.schemas.vitals import Vitals
    from driftloop.streams.serve.client import ClientClosed
    from driftloop.streams.serve.delivery.outbox import Dropped
    from driftloop.streams.serve.hot.model import Swapped
    from driftloop.streams.serve.hot.requests import Failed, Served
    from driftloop.streams.serve.plain_values import InvalidEvent

__all__ = [
    "ArtifactError",
    "BrokerError",
    "Client",
    "ClientClosed",
    "Command",
    "CommandResult",
    "DeadLetter",
    "DecodeError",
    "Drift",
    "Dropped",
    "Error",
    "Failed",
    "FeatureError",
    "Fitted",
    "HotModel",
    "IllegalTransition",
    "InvalidEvent",
    "Label",
    "LabelRequest",
    "Learner",
    "LearningError",
    "Manifest",
    "ModelAck",
    "ModelUpdate",
    "NoModelError",
    "Outcome",
    "Prediction",
    "Served",
    "SettingsError",
    "SpecError",
    "StateError",
    "Swapped",
    "TopicError",
    "TrainingRun",
    "Trigger",
    "Vitals",
    "__version__",
]

_HOMES = {
    "infra.api": ("Client", "HotModel"),
    "models.formats.features": ("FeatureError",),
    "models.formats.fitted": ("Fitted", "Learner", "LearningError"),
    "schemas.decisions": ("Command", "CommandResult", "Drift", "Trigger"),
    "schemas.errors": (
        "ArtifactError", "BrokerError", "DecodeError", "Error", "IllegalTransition", "NoModelError",
        "SettingsError", "SpecError", "StateError", "TopicError",
    ),
    "schemas.events": ("DeadLetter", "Label", "LabelRequest", "Outcome", "Prediction"),
    "schemas.runs": ("TrainingRun",),
    "schemas.serving": ("Manifest", "ModelAck", "ModelUpdate"),
    "schemas.vitals": ("Vitals",),
    "streams.serve.hot.requests": ("Failed", "Served"),
    "streams.serve.client": ("ClientClosed",),
    "streams.serve.hot.model": ("Swapped",),
    "streams.serve.delivery.outbox": ("Dropped",),
    "streams.serve.plain_values": ("InvalidEvent",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("driftloop")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'driftloop' has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return [*__all__, "infra", "models", "schemas", "streams"]
