"""The applier of a model's updates, without Kafka: what is loaded, kept, tried again, never gone back to."""

from __future__ import annotations

from pathlib import Path

import pytest
from driftloop.models.registry.signing import load_verifier
from driftloop.schemas.errors import StateError
from driftloop.schemas.spec.model import ModelSpec
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.serve.hot.persisted import StateFile
from driftloop.streams.serve.hot.updates import UpdateApplier

from tests.support.models.worlds import update_to
from tests.support.serve.bench import ServingBench


class _Course:
    """A server's applier of updates on a disk of its own; ``again`` is the server after a restart."""

    def __init__(self, bench: ServingBench, folder: Path) -> None:
        self.bench = bench
        self.folder = folder
        self.again()

    def again(self) -> None:
        self.state = StateFile(self.folder, "m")
        self.applier = UpdateApplier(
            "m", store=self.bench.store, verifier=lambda: load_verifier(self.bench.keys_dir), state=self.state
        )

    @property
    def serves(self) -> tuple[int, int]:
        current = self.applier.hot.current
        return current.version, current.generation


@pytest.fixture
def applier(tmp_path: Path) -> _Course:
    return _Course(
        ServingBench(Connection("127.0.0.1:1", overrides={"log_level": "0"}), tmp_path), tmp_path / "serve"
    )


def test_a_start_loads_only_the_newest_of_a_long_history(applier: _Course) -> None:
    outcomes = applier.applier.start([applier.bench.update(g, g) for g in range(1, 9)])
    assert [(one.applied.status, one.applied.generation) for one in outcomes] == [("live", 8)]
    assert applier.serves == (8, 8)


def test_a_start_falls_back_to_where_a_running_server_would_be(applier: _Course) -> None:
    updates = [applier.bench.update(g, g) for g in (1, 2, 3)]
    applier.bench.artifact(3).unlink()
    outcomes = applier.applier.start(updates)
    assert [(one.applied.status, one.applied.generation) for one in outcomes] == [("refused", 3), ("live", 2)]
    assert applier.serves == (2, 2)
    applier.bench.make(3)
    assert applier.applier.retry_in_s == 1.0
    (outcome,) = applier.applier.retry()
    assert outcome.applied.status == "live"
    assert applier.serves == (3, 3)
    assert applier.applier.retry_in_s is None


def test_a_fallback_is_never_a_version_that_a_newer_update_bars(applier: _Course) -> None:
    bench = applier.bench
    rolled_back = bench.signer.sign(bench.update(3, 3).model_copy(update={"blocked": (2,)}))
    bench.artifact(3).unlink()
    applier.applier.start([bench.update(1, 1), bench.update(2, 2), rolled_back])
    assert applier.serves == (1, 1)


def test_what_is_kept_survives_and_old_generations_do_not_come_back(applier: _Course) -> None:
    updates = [applier.bench.update(g, g) for g in (1, 2, 3)]
    applier.applier.start(updates[:1])
    applier.applier.offer(updates[2])
    applier.again()
    assert applier.serves == (0, 0)
    applier.applier.restore()
    assert applier.serves == (3, 3)
    assert applier.applier.start(updates) == []
    (outcome,) = applier.applier.offer(updates[1])
    assert "generation 2 is stale" in outcome.applied.reason
    assert applier.serves == (3, 3)


def test_a_kept_version_that_cannot_be_read_is_tried_again_and_nothing_older_serves(applier: _Course) -> None:
    updates = [applier.bench.update(g, g) for g in (1, 2)]
    applier.applier.start(updates)
    applier.bench.artifact(2).unlink()
    applier.again()
    applier.applier.restore()
    applier.applier.start(updates)
    assert applier.serves == (0, 0)
    applier.bench.make(2)
    applier.applier.retry()
    assert applier.serves == (2, 2)


def test_retries_slow_down_and_a_newer_update_ends_them(applier: _Course) -> None:
    bench = applier.bench
    update = bench.update(1, 1)
    bench.artifact(1).unlink()
    applier.applier.start([update])
    waits = [applier.applier.retry_in_s]
    for _ in range(6):
        (outcome,) = applier.applier.retry()
        assert outcome.applied.retriable
        waits.append(applier.applier.retry_in_s)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    applier.applier.offer(bench.update(2, 2))
    assert (applier.applier.retry_in_s, applier.serves) == (None, (2, 2))


def test_another_models_update_changes_nothing(applier: _Course) -> None:
    bench = applier.bench
    other = update_to(bench.signer, 9, (1, bench.make(1)), model="other")
    (outcome,) = applier.applier.offer(other)
    assert outcome.applied.reason == "the update is for model other, and this serves m"
    assert not outcome.authentic
    applier.applier.offer(bench.update(1, 1))
    assert applier.serves == (1, 1)


def test_a_broken_key_file_refuses_updates_and_keeps_what_serves(applier: _Course) -> None:
    applier.applier.offer(applier.bench.update(1, 1))
    (applier.bench.keys_dir / "trusted" / "odd.pub").write_text("no key")
    (outcome,) = applier.applier.offer(applier.bench.update(2, 2))
    assert "is not a PEM public key" in outcome.applied.reason
    assert applier.serves == (1, 1)


def test_a_disk_that_cannot_be_written_does_not_stop_serving(
    applier: _Course, caplog: pytest.LogCaptureFixture
) -> None:
    applier.folder.parent.mkdir(exist_ok=True)
    applier.folder.write_text("a file where the folder should be")
    applier.applier.offer(applier.bench.update(1, 1))
    assert applier.serves == (1, 1)
    assert "cannot be persisted" in caplog.text


def test_kept_state_comes_back_whole_or_says_what_to_do(applier: _Course, tmp_path: Path) -> None:
    state = StateFile(tmp_path / "kept", "m")
    update = applier.bench.update(4, 4)
    spec = ModelSpec.model_validate({"features": {"x": {"type": "number", "privacy": "drop"}}})
    state.update(last_generation=4, live=update)
    state.update(spec=spec)
    again = StateFile(tmp_path / "kept", "m").persisted
    assert (again.last_generation, again.live, again.spec) == (4, update, spec)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["m.json"]
    for damaged in (b"", b"{}", b"[]", b'{"last_generation":"x"}', b'{"last_generation":1,"live":"{}"}'):
        (tmp_path / "kept" / "m.json").write_bytes(damaged)
        with pytest.raises(StateError, match="remove it to start from the topic alone"):
            StateFile(tmp_path / "kept", "m")
