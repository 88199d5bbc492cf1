"""What a check found: counts that must be 0, with the first examples of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

MUST_BE_ZERO = (
    "unacknowledged_loss",  # acknowledged by the brokers, and not in the log
    "lost", "duplicated", "wrong",  # outcomes
    "aborted_reads",  # records of aborted transactions that a reader of committed ones gets
    "torn_transactions",  # a part of what one transaction wrote
    "offsets_back", "offsets_inconsistent",  # committed ones
    "misrouted_lost", "misrouted_duplicated",  # records forwarded to where they belong
    "dead_letters_missing", "dead_letters_unexplained",
    "books_unbalanced", "books_mismatch",  # of the joiner
    "vitals_mismatch", "detector_mismatch", "forked_events",
    "forked_runs", "version_gaps", "servers_diverged",
    "failed_requests", "http_answers_lost", "crashes", "slow_stops",
)  # fmt: skip
# The same by the names of Jepsen's reports.
CLASSES = {
    "lost write": (
        "unacknowledged_loss", "lost", "misrouted_lost", "dead_letters_missing", "http_answers_lost",
    ),
    "duplicate": ("duplicated", "misrouted_duplicated"),
    "aborted read": ("aborted_reads",),
    "torn transaction": ("torn_transactions",),
    "non-monotonic offset": ("offsets_back",),
    "inconsistent offset": ("offsets_inconsistent",),
}  # fmt: skip
_EXAMPLES = 10


@dataclass(slots=True)
class Findings:
    counts: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    def add(self, kind: str, example: str, count: int = 1) -> None:
        if kind not in MUST_BE_ZERO:
            raise ValueError(f"{kind} is not among what must be 0")
        self.counts[kind] += count
        shown = self.examples.setdefault(kind, [])
        if len(shown) < _EXAMPLES:
            shown.append(example)

    @property
    def clean(self) -> bool:
        return not any(self.counts.values())

    def as_dict(self) -> dict[str, int]:
        return {kind: self.counts[kind] for kind in MUST_BE_ZERO}

    def by_class(self) -> dict[str, int]:
        return {name: sum(self.counts[kind] for kind in kinds) for name, kinds in CLASSES.items()}
