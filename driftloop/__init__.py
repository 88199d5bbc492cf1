"""driftloop keeps deployed models right: joins predictions with labels, watches, retrains, proves, swaps.

What users import is here; each name is loaded when it is first used, so ``import driftloop`` costs nothing.

>>> import driftloop
>>> client = driftloop.Client()                        # DRIFTLOOP_BOOTSTRAP_SERVERS says where Kafka is
>>> late = driftloop.HotModel("late", client=client)   # follows the live version
>>> served = late.predict({"carrier": "AA", "distance": 1089.0})
>>> client.label(served.prediction_id, "on_time")      # whenever the truth is known
"""

# ruff: noqa: I001  (it would put each `X as X`, by which type checkers know a public name, on its own line)
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for type checkers; a test holds it to the table below
    from driftloop.infra.api import Client as Client, HotModel as HotModel
    from driftloop.models.formats.features import FeatureError as FeatureError
    from driftloop.models.formats.fitted import (
        Fitted as Fitted,
        Learner as Learner,
        LearningError as LearningError,
    )
    from driftloop.schemas.decisions import (
        Command as Command,
        CommandResult as CommandResult,
        Drift as Drift,
        Trigger as Trigger,
    )
    from driftloop.schemas.errors import (
        ArtifactError as ArtifactError,
        BrokerError as BrokerError,
        DecodeError as DecodeError,
        Error as Error,
        IllegalTransition as IllegalTransition,
        NoModelError as NoModelError,
        SettingsError as SettingsError,
        SpecError as SpecError,
        StateError as StateError,
        TopicError as TopicError,
    )
    from driftloop.schemas.events import (
        DeadLetter as DeadLetter,
        Label as Label,
        LabelRequest as LabelRequest,
        Outcome as Outcome,
        Prediction as Prediction,
    )
    from driftloop.schemas.runs import TrainingRun as TrainingRun
    from driftloop.schemas.serving import (
        Manifest as Manifest,
        ModelAck as ModelAck,
        ModelUpdate as ModelUpdate,
    )
    from driftloop.schemas.vitals import Vitals as Vitals
    from driftloop.streams.serve.client import ClientClosed as ClientClosed
    from driftloop.streams.serve.delivery.outbox import Dropped as Dropped
    from driftloop.streams.serve.hot.model import Swapped as Swapped
    from driftloop.streams.serve.hot.requests import Failed as Failed, Served as Served
    from driftloop.streams.serve.plain_values import InvalidEvent as InvalidEvent

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
__all__ = ["__version__", *sorted(_HOME_OF)]


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
