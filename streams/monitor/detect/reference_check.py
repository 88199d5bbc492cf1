"""A reference that no statistic can be made of must not reach the monitor."""

from __future__ import annotations

import itertools

from ....schemas.errors import DecodeError
from ....schemas.serving import Reference


def check_reference(reference: Reference) -> None:
    """Raises DecodeError naming the number that cannot be."""
    numbers, categories = reference.numbers.items(), reference.categories.items()
    shares = {
        "accuracy": reference.accuracy,
        "failure_rate": reference.failure_rate,
        **{f"predicted.{name}": share for name, share in (reference.predicted or {}).items()},
    }
    sizes = {
        "rows": reference.rows,
        "mean_error": reference.mean_error,
        "latency_p95_ms": reference.latency_p95_ms,
        **{f"numbers.{name}.count": profile.count for name, profile in numbers},
        **{f"numbers.{name}.nulls": profile.nulls for name, profile in numbers},
        **{f"categories.{name}.nulls": profile.nulls for name, profile in categories},
        **{f"categories.{name}.other": profile.other for name, profile in categories},
        **{f"categories.{name}": min(profile.counts.values(), default=0) for name, profile in categories},
        **{
            f"segments.{name}.{value}": error
            for name, values in reference.segments.items()
            for value, error in values.items()
        },
    }
    for name, share in shares.items():
        if share is not None and not 0 <= share <= 1:
            raise DecodeError(f"UpdateControl: reference.{name}: {share} is no share: it must be from 0 to 1")
    for name, size in sizes.items():
        if size is not None and size < 0:
            raise DecodeError(f"UpdateControl: reference.{name}: {size} is negative")
    for name, profile in numbers:
        if any(b < a for a, b in itertools.pairwise(profile.quantiles)):
            raise DecodeError(f"UpdateControl: reference.numbers.{name}.quantiles: they do not ascend")
