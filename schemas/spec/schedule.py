"""Cron schedules in UTC, without a clock: the next moment after a given one."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from croniter import CroniterBadCronError, CroniterBadDateError, croniter

from ..errors import SpecError

NEVER_MS = 2**62
_LAST_MS = 253_370_764_800_000  # the year 9999, where the calendar ends
# croniter's own extension: a field R (or H) is drawn at random, and could not be replayed.
_RANDOM = re.compile(r"(?:^|[\s,])[rh](?:[\s,/(]|$)", re.IGNORECASE)


def next_occurrence_ms(schedule: str, after_ms: int) -> int:
    """The first occurrence later than ``after_ms``. Raises SpecError if there is none."""
    if after_ms >= _LAST_MS:
        return NEVER_MS
    if _RANDOM.search(schedule):
        raise SpecError("triggers.schedule", (f"{schedule!r} draws times at random: write them out",))
    try:
        following: datetime = croniter(schedule, datetime.fromtimestamp(after_ms // 1000, UTC)).get_next(
            datetime
        )
    except CroniterBadCronError as error:
        raise SpecError("triggers.schedule", (f"{schedule!r} is not a cron schedule: {error}",)) from error
    except CroniterBadDateError as error:
        raise SpecError(
            "triggers.schedule", (f"{schedule!r} never comes: give a day that exists",)
        ) from error
    return int(following.timestamp()) * 1000
