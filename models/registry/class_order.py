"""Whether a model's answers are in the order in which its classes are stated, as labelled rows show it.

A model that numbers its classes (scores by column, labels 0, 1, …) says nothing of their order, and in
another order every answer is another one. Accuracy does not show that: it may be low for a good model where a
class is rare. What shows it is the share of each class's rows that is answered right, summed over classes.

An order is refused if another one has a larger sum, beyond chance. Of a class without rows nothing is known,
so an order that moves one is only believed where hardly a row of the others is right as stated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

_Z = 2.0
_HARDLY = 0.05

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BetterOrder:
    """``classes`` in the order that fits, and on how many rows the model is right in both."""

    classes: tuple[str, ...]
    right_as_stated: int
    right: int
    has_all_classes: bool


def better_order(
    classes: tuple[str, ...], answers: Sequence[str], labels: Sequence[str]
) -> BetterOrder | None:
    """Return the order that fits the labels better than the stated one; None if that does."""
    place = {name: number for number, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, ([place[name] for name in labels], [place[name] for name in answers]), 1.0)
    rows = counts.sum(axis=1)
    present = rows > 0
    shares = counts / np.maximum(rows, 1.0)[:, None]
    order = _best_order(shares)
    moved = order != np.arange(len(classes))
    if (moved & ~present).any() and (shares.diagonal()[moved & present] > _HARDLY).any():
        order = _best_order(shares, among=present)
    if not _is_beyond_chance(shares, rows, order):
        return None
    return BetterOrder(
        classes=tuple(classes[of] for of in cast("list[int]", order.tolist())),
        right_as_stated=int(counts.trace()),
        right=int(counts[order].trace()),
        has_all_classes=bool(present.all()),
    )


def _best_order(shares: Floats, among: NDArray[np.bool_] | None = None) -> NDArray[np.intp]:
    """Exchange two classes as long as that raises the shares that are right. Column → class."""
    order = np.arange(len(shares))
    while True:
        right = shares[order]
        own = right.diagonal()
        gains = right + right.T - own[:, None] - own[None, :]
        if among is not None:
            gains = np.where(among[order][:, None] & among[order][None, :], gains, 0.0)
        one, other = divmod(int(gains.argmax()), len(shares))
        if gains[one, other] <= 1e-9:
            return order
        order[[one, other]] = order[[other, one]]


def _is_beyond_chance(shares: Floats, rows: Floats, order: NDArray[np.intp]) -> bool:
    """Whether an order gains more than chance gives the best of all orders (two classes have one other)."""
    column = np.argsort(order)  # class → the column that stands for it in this order
    gain = variance = 0.0
    for number in np.flatnonzero((column != np.arange(len(order))) & (rows > 0)).tolist():
        found, stated, count = shares[number, column[number]], shares[number, number], rows[number]
        gain += found - stated
        variance += (found + stated - (found - stated) ** 2 + 1.0 / count) / count
    needed = _Z + (math.sqrt(2.0 * math.lgamma(len(order) + 1)) if len(order) > 2 else 0.0)
    return gain > needed * math.sqrt(variance)
