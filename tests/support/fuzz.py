"""How long model-based tests look: quick in the ordinary suite, ``FUZZ`` times as long in ``make fuzz``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FUZZ = int(os.environ.get("FUZZ", "1"))


def effort(runs: int, steps: int) -> settings:
    """So many runs of so many steps at most, times FUZZ."""
    return settings(
        max_examples=runs * FUZZ,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
