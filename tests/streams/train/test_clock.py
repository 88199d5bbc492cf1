"""With the event clock waiting for labels is measured in the world's time, and so are the times on record."""

from __future__ import annotations

from driftloop.infra.settings import Settings
from driftloop.streams.kafka.connection import Connection

from tests.support.train.world import EPOCH, TrainerProcess, World, quick_spec


def test_past_max_wait_a_run_goes_with_what_it_has_or_fails_for_too_few(
    settings: Settings, topics: Connection
) -> None:
    world = World(settings, topics)
    window = {"labels_after_change": 300, "follow_ups": [], "max_rows": 2000, "max_wait": "150s"}
    world.apply(quick_spec(window=window, triggers={"first_labels": 300}))
    with TrainerProcess(world, clock="event"):
        trigger = world.trigger("volume")  # the world's time: 0; an outcome takes a second
        world.outcomes_on(0, 200)
        run = world.ended(trigger)
        assert run.progress is not None
        # The first label at or past second 150 is that of outcome 150, known half a second later.
        assert (run.progress.labels, run.ts) == (151, EPOCH + 150_500)
        assert run.status == "promoted", run.why
        change = world.here()
        late = world.trigger("drift", version=1, change=change)
        world.outcomes_on(0, 50, version=1, flipped=True)
        world.outcomes_on(0, 200, model="another")
        world.outcomes_on(0, 1, version=1, flipped=True)
        run = world.ended(late)
    assert (run.status, run.ts) == ("failed", EPOCH + 450_500)
    assert run.why.startswith("not enough labels: 51 of 300")
    (update,) = world.updates()
    assert update.ts == EPOCH + 150_500
