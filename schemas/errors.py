"""The one exception tree of driftloop. Every message says what was wrong and what to do next."""

from __future__ import annotations


class Error(Exception):
    """Base of everything driftloop raises on purpose."""

    prediction_id: str | None = None
    """Of the request that failed, once its failure was emitted: a label can still be sent for it."""


class SettingsError(Error):
    """A setting or environment variable is wrong, unknown or has no effect."""


class SpecError(Error):
    """A ``driftloop.toml`` is wrong; ``problems`` has one line per mistake: key, value and fix."""

    def __init__(self, source: str, problems: tuple[str, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__(f"{source}: " + "; ".join(problems))


class DecodeError(Error):
    """Bytes that are not a valid event; ``reason`` is one line, fit for a dead letter."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class TopicError(Error):
    """The cluster's topics differ from the catalogue in a way that driftloop must not correct by itself."""


class BrokerError(Error):
    """The broker cannot be started or reached."""


class ArtifactError(Error):
    """An artifact or manifest is missing, too large, altered, unsigned or in a format that is not allowed."""


class IllegalTransition(Error):
    """A lifecycle's table has no such transition."""


class StateError(Error):
    """Local state is of another cluster or log, the log no longer has what it needs, or the disk fails."""


class NoModelError(Error):
    """A model without a live version was asked for a prediction, or for several."""

    prediction_ids: tuple[str, ...] = ()
    """Of a batch: one per row, in order, for labels; empty where the row itself was refused."""
