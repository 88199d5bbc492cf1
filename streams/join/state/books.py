"""The books of an input partition: in which class each prediction and each label is that was ever read of it.

Per topic, at every committed offset::

    read = outcomes + pending + expired + refused + repeated + misrouted

``read`` is the number of records. Predictions' ``outcomes`` are counted by seqs, labels' by what was emitted,
and ``pending`` is what was put into the state less what was taken out of it. So the two sides are counted in
different places: what is lost or done twice between them leaves a difference.

The books are part of the position: they are committed with the offsets and written with the state.
"""

from __future__ import annotations

from typing import NamedTuple


class Account(NamedTuple):
    """One topic's records since the books were opened; each is in exactly one class.

    ``outcomes``: predictions that met a label; labels that gave an outcome or a correction. ``pending``: wait
    for each other. ``expired``: waited in vain. ``refused``: dead letters for any other reason. ``repeated``:
    said nothing new (of labels also: weaker than what was known). ``misrouted``: sent on to their partition.
    A label that meets several predictions is in the class of the first that it reached.
    """

    read: int = 0
    outcomes: int = 0
    pending: int = 0
    expired: int = 0
    refused: int = 0
    repeated: int = 0
    misrouted: int = 0

    @property
    def difference(self) -> int:
        """How many records are in no class; negative: in more than one. 0 in books that balance."""
        return 2 * self.read - sum(self)

    def plus(self, change: Account) -> Account:
        return Account(*(mine + more for mine, more in zip(self, change, strict=True)))

    def __str__(self) -> str:
        classes = " + ".join(
            f"{count:,} {name}" for name, count in zip(self._fields[1:], self[1:], strict=True)
        )
        if self.difference == 0:
            return f"{self.read:,} read = {classes}"
        where = "no class" if self.difference > 0 else "two classes"
        return f"{self.read:,} read, but {classes}: {abs(self.difference):,} in {where}"


class Books(NamedTuple):
    """Both accounts of an input partition."""

    predictions: Account = Account()
    labels: Account = Account()

    @classmethod
    def opened(cls, pending: Pending) -> Books:
        """Open books at a position whose past is unknown: all that is known is what waits there."""
        return cls(*(Account(read=count, pending=count) for count in pending))

    def plus(self, change: Books) -> Books:
        return Books(self.predictions.plus(change.predictions), self.labels.plus(change.labels))

    @property
    def pending(self) -> Pending:
        return Pending(self.predictions.pending, self.labels.pending)

    def with_pending(self, pending: Pending) -> Books:
        return Books(
            self.predictions._replace(pending=pending.predictions),
            self.labels._replace(pending=pending.labels),
        )

    @property
    def difference(self) -> Imbalance:
        return Imbalance(self.predictions.difference, self.labels.difference)

    def __str__(self) -> str:
        """Return the accounts that do not balance, else both."""
        named = {"predictions": self.predictions, "labels": self.labels}
        wrong = {name: account for name, account in named.items() if account.difference}
        return "; ".join(f"{name}: {account}" for name, account in (wrong or named).items())


class Pending(NamedTuple):
    """How many predictions and how many labels wait."""

    predictions: int = 0
    labels: int = 0


class Imbalance(NamedTuple):
    """By how much each account is off."""

    predictions: int = 0
    labels: int = 0
