"""The trainer on real Kafka: from outcomes and a trigger to a version, whatever is killed on the way."""

from __future__ import annotations

import pytest
from driftloop.infra.settings import Settings
from driftloop.models.artifacts import ArtifactStore
from driftloop.models.signing import load_verifier
from driftloop.schemas.control import RunControl, UpdateControl
from driftloop.streams.connection import Connection

from tests.trainer_world import MODEL, TrainerProcess, World, no_version_twice, quick_spec

pytestmark = pytest.mark.integration


@pytest.fixture
def world(settings: Settings, topics: Connection) -> World:
    made = World(settings, topics)
    made.apply(quick_spec())
    return made


def test_outcomes_and_a_trigger_give_a_signed_version_and_its_whole_evidence(world: World) -> None:
    world.outcomes(400)
    with TrainerProcess(world):
        trigger = world.trigger()
        run = world.ended(trigger)
        assert run.status == "promoted", run.why
    (update,) = world.updates()
    assert (update.generation, update.last_version) == (1, 1)
    verifier = load_verifier(world.settings.state_dir / "keys")
    verifier.verify(update)
    assert update.plan.champion is not None
    manifest = ArtifactStore(str(world.settings.state_dir / "artifacts")).get_manifest(
        MODEL, update.plan.champion.manifest_sha256
    )
    verifier.verify(manifest)
    assert (manifest.version, manifest.run_id, manifest.parent) == (1, run.run_id, None)
    assert run.lineage is not None
    assert run.lineage.rows == 400
    told = world.controls()
    assert [c.version for c in told if isinstance(c, UpdateControl)] == [1]
    assert [(c.status, c.last_stage) for c in told if isinstance(c, RunControl)] == [("promoted", True)]
    statuses = [record.status for record in world.run_records()]
    assert statuses[-3:] == ["training", "evaluating", "promoted"]
    assert set(statuses[:-3]) == {"waiting"}
