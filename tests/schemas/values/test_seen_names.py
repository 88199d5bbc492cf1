"""A set of names in little room: none that was seen is missing, and few others count as seen."""

from __future__ import annotations

import pytest
from driftloop.schemas.values.seen_names import SeenNames


def test_every_seen_name_is_in_the_set_and_few_others_are() -> None:
    names = [f"name-{number}" for number in range(3_000)]
    seen = SeenNames.of(names)
    assert all(name in seen for name in names)
    others = sum(f"other-{number}" in seen for number in range(10_000)) / 10_000
    assert others == pytest.approx(seen.fill, abs=0.01)
    assert others < 1 / 12
    assert SeenNames.read(seen.text()) == seen
    assert len(seen.text()) < 9_000


def test_its_size_is_bounded() -> None:
    seen = SeenNames.of([f"name-{number}" for number in range(50_000)])
    assert len(seen.bits) == 8_192
    assert seen.fill < 0.6


def test_an_empty_set_has_no_names() -> None:
    assert "" not in SeenNames.of(())
    assert "a" not in SeenNames.read("")
    assert SeenNames.of(()).fill == 0.0
    with pytest.raises(ValueError, match="base64"):
        SeenNames.read("!!!!")
