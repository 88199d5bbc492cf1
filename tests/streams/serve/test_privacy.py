"""A private value has one hash, however it is spelled, so a model sees one value."""

from __future__ import annotations

import pytest
from driftloop.schemas.serving import FeatureType
from driftloop.schemas.spec.model import Feature, ModelSpec
from driftloop.streams.serve.plain_values import Plain
from driftloop.streams.serve.privacy import Hasher, PrivacyRules

HASHER = Hasher(b"a key of the deployment")


def hashes(kind: FeatureType, *values: Plain) -> set[Plain]:
    spec = ModelSpec(features={"flag": Feature(type=kind, privacy="hash")})
    rules = PrivacyRules.of_spec(spec, HASHER)
    return {rules.apply({"flag": value})["flag"] for value in values}


@pytest.mark.parametrize("kind", ["bool", "number"])
def test_a_flag_has_one_hash_as_true_and_as_1(kind: FeatureType) -> None:
    assert len(hashes(kind, True, 1, 1.0)) == 1
    assert len(hashes(kind, False, 0, 0.0, -0.0)) == 1
    assert len(hashes(kind, True, False, None)) == 3


def test_numbers_and_categories_have_a_hash_each() -> None:
    assert len(hashes("number", 1, 2, 10)) == 3
    assert len(hashes("category", 1, 1.0, "1")) == 1
    assert len(hashes("category", "01", "1", "true")) == 3
