"""A spec is data from a topic: naming a function in it does not get the function called."""

from __future__ import annotations

import pytest
from driftloop.infra.settings import Settings
from driftloop.models.formats.learners import refuse_unlisted
from driftloop.schemas.errors import SpecError
from driftloop.schemas.spec.model import ModelSpec

EVIL = {"kind": "custom", "factory": "os:system", "parameters": {"command": "true"}}


@pytest.mark.parametrize(
    ("allowed", "passes"),
    [
        ("", False),
        ("os:getpid", False),
        ("os.path", False),
        ("o", False),
        ("os:", False),
        ("os:system", True),
        ("ours.learners, os", True),
    ],
)
def test_a_custom_learner_is_called_only_where_the_trainers_host_names_it(allowed: str, passes: bool) -> None:
    learners = ModelSpec.model_validate({"learner": [EVIL, {"kind": "river"}]}).learner
    names = Settings(learners=allowed).allowed_learners()
    if passes:
        refuse_unlisted(learners, names)
    else:
        with pytest.raises(SpecError, match="set DRIFTLOOP_LEARNERS=os:system where the trainer runs"):
            refuse_unlisted(learners, names)
    refuse_unlisted(ModelSpec().learner, names)  # driftloop's own need no leave
