"""A spec that no role could use, or write down again, is refused by name, wherever it comes from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import orjson
import pytest
from driftloop.schemas.errors import SpecError
from driftloop.schemas.events import DeadLetter
from driftloop.schemas.spec.file import load_deployment, parse_deployment
from driftloop.schemas.spec.model import ModelSpec, SpecRecord
from driftloop.schemas.topics import DEAD_LETTERS
from driftloop.streams.monitor.core import VitalsCore
from pydantic import ValidationError

NINES = "9" * 400
BAD: dict[str, tuple[str, object]] = {
    "an endless cooldown": ("triggers.cooldown", {"triggers": {"cooldown": f"{NINES}d"}}),
    "a cooldown beyond 64 bits": ("triggers.cooldown", {"triggers": {"cooldown": "99999999999999999999d"}}),
    "a seed beyond 32 bits": ("seed", {"seed": 2**40}),
    "a seed below 0": ("seed", {"seed": -1}),
    "a volume beyond 64 bits": ("triggers.volume", {"triggers": {"volume": 10**25}}),
    "rows beyond memory": ("window.max_rows", {"window": {"max_rows": 10**12}}),
    "a time that never comes": ("triggers.schedule", {"triggers": {"schedule": "99 99 * * *"}}),
    "no learner": ("learner", {"learner": []}),
    "one class": ("classes", {"classes": ["a"]}),
    "one class, twice": ("classes", {"classes": ["a", "a"]}),
    "parameters no JSON holds": (
        "parameters",
        {"learner": {"kind": "custom", "factory": "a.b:c", "parameters": {"n": 10**30}}},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_role_could_use_is_refused_by_its_key(name: str) -> None:
    key, spec = BAD[name]
    with pytest.raises(ValidationError) as refused:
        ModelSpec.model_validate(spec)
    assert key.rpartition(".")[2] in str(refused.value)


@pytest.mark.parametrize("name", [name for name in BAD if name != "parameters no JSON holds"])
def test_such_a_record_on_the_topic_is_a_dead_letter_and_the_state_can_be_saved(name: str) -> None:
    key, spec = BAD[name]
    if "volume" in name:
        spec = {"triggers": {"volume": 2**63}}  # the largest that JSON carries exactly
    digest = hashlib.sha256(orjson.dumps(spec, option=orjson.OPT_SORT_KEYS)).hexdigest()
    control = orjson.dumps({"control": "spec", "model": "m", "digest": digest, "ts": 1, "spec": spec})
    core = VitalsCore(0)
    (letter,) = core.apply(control, offset=0, append_time_ms=1_000)
    assert letter.topic is DEAD_LETTERS
    assert key.rpartition(".")[2] in DeadLetter.decode(letter.value).reason
    VitalsCore.restore(core.snapshot())
    with pytest.raises(ValidationError):
        SpecRecord(model="m", digest="d", ts=1, spec=spec).model_spec()  # pyright: ignore[reportArgumentType]


def test_toml_has_the_same_error() -> None:
    with pytest.raises(SpecError, match="cooldown"):
        parse_deployment(f'[models.m]\n[models.m.triggers]\ncooldown = "{NINES}d"\n')
    with pytest.raises(SpecError, match="seed"):
        parse_deployment("[models.m]\nseed = 99999999999999999999999\n")


def test_a_folder_in_the_files_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load_deployment(tmp_path)
