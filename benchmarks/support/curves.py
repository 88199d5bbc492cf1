"""Curves of ``benchmarks.scale``: a least-squares line through each, and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def fitted(points: Sequence[tuple[float, float]], *, logarithmic: bool) -> dict[str, float | str]:
    """``us = base + slope · x``, x being log10 of the count where ``logarithmic``; R² beside it."""
    counts, costs = (np.array(values, dtype=float) for values in zip(*points, strict=True))
    x = np.log10(counts) if logarithmic else counts
    slope, base = np.polyfit(x, costs, 1)
    left = float(((costs - (base + slope * x)) ** 2).sum())
    spread = float(((costs - costs.mean()) ** 2).sum())
    return {
        "x": "log10" if logarithmic else "count",
        "base_us": round(float(base), 4),
        "slope_us": round(float(slope), 6),
        "r2": round(1 - left / spread, 3) if spread else 1.0,
    }


def draw(result: dict[str, Any], file: Path) -> None:
    """One panel per curve, with its fit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for axis, name in zip(axes, ("pending", "models", "features"), strict=True):
        points = result[name]
        counts = np.array([point[name] for point in points], dtype=float)
        axis.plot(counts, [point["us"] for point in points], "o", label="join", color="tab:blue")
        fit = result["fits"][name]
        x = np.linspace(counts.min(), counts.max(), 200)
        along = np.log10(x) if fit["x"] == "log10" else x
        axis.plot(x, fit["base_us"] + fit["slope_us"] * along, "-", color="tab:blue", alpha=0.5, label="fit")
        if "floor_us" in points[0]:
            axis.plot(counts, [point["floor_us"] for point in points], "s--", color="tab:gray", label="floor")
        if "far_us" in points[0]:
            label = "labels of any age (per label)"
            axis.plot(counts, [point["far_us"] for point in points], "^:", color="tab:orange", label=label)
        if name != "features":
            axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel({"pending": "pending predictions"}.get(name, name))
        axis.set_ylabel("CPU µs per event")
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle("The joiner's cost of an event")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
