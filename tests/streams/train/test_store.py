"""A store that is away for a while costs a step its time; one that stays away the step, not the trainer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from driftloop.schemas.serving import Manifest
from driftloop.streams.kafka.transactions import Aborted
from driftloop.streams.train import shell

from tests.support.models.worlds import manifest


class Store:
    """Fails so often, then takes what it gets."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.taken: list[Manifest] = []

    def put_manifest(self, given: Manifest) -> str:
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        self.taken.append(given)
        return "sha256"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "_STORE_PAUSE_S", 0.01)
    monkeypatch.setattr(shell, "_STORE_S", 0.2)


def test_a_manifest_is_stored_once_the_store_takes_it() -> None:
    store = Store(failures=3)
    shell.TrainerShell._put(SimpleNamespace(_store=store), manifest())  # type: ignore[arg-type]
    assert store.taken == [manifest()]


def test_what_no_store_takes_gives_the_step_up() -> None:
    with pytest.raises(Aborted, match="No space left"):
        shell.TrainerShell._put(SimpleNamespace(_store=Store(failures=10_000)), manifest())  # type: ignore[arg-type]
