"""Which privacy rules a model's published spec states, read from the specs topic in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from confluent_kafka import KafkaException
from pydantic import ValidationError

from ...schemas.errors import BrokerError, DecodeError, SettingsError
from ...schemas.spec.model import JOIN_KEY, SpecRecord
from ...schemas.topics import SPECS
from ..kafka.connection import Connection
from ..kafka.reader import LogReader, Record
from .privacy import Hasher, PrivacyRules

log = logging.getLogger(__name__)

_RETRY_S = 1.0
NO_RULES = PrivacyRules()


class SpecRules:
    """Follows the specs topic from the first question on.

    ``rules`` answers None until the topic was read to its end: what a spec may forbid must not leave before.
    On failure: reads again from the beginning; what was known stays known.
    """

    def __init__(
        self, connection: Connection, hasher: Hasher | None, *, on_known: Callable[[], None]
    ) -> None:
        """``on_known`` is called once, from the reading thread, when the rules are known."""
        self._connection = connection
        self._hasher = hasher
        self._on_known = on_known
        self._rules: dict[str, PrivacyRules | SettingsError] = {}
        self._known = threading.Event()
        self._stop = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def rules(self, model: str) -> PrivacyRules | None:
        """Raises SettingsError when the model's spec hashes a feature and there is no key."""
        if self._known.is_set():
            found = self._rules.get(model, NO_RULES)
            if isinstance(found, SettingsError):
                raise found
            return found
        if self._thread is None:
            self._start()
        return None

    @property
    def known(self) -> bool:
        """Whether the topic was read to its end once."""
        return self._known.is_set()

    def wait_known(self, timeout_s: float) -> bool:
        """Whether the rules became known in time. Waits only after somebody asked for rules."""
        return self._known.wait(timeout_s)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="driftloop-specs", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (BrokerError, KafkaException) as error:
                log.warning("the specs topic cannot be read, trying again: %s", error)
                self._stop.wait(_RETRY_S)

    def _follow(self) -> None:
        reader = LogReader(self._connection, (SPECS,), timeout_s=5.0)
        try:
            while not self._stop.is_set():
                for record in reader.poll(0.2):
                    self._apply(record)
                if reader.caught_up and not self._known.is_set():
                    self._known.set()
                    self._on_known()
        finally:
            reader.close()

    def _apply(self, record: Record) -> None:
        if record.key is None or record.key == JOIN_KEY.encode():
            return
        model = record.key.decode(errors="replace")
        if record.value is None:
            self._rules.pop(model, None)
            return
        try:
            self._rules[model] = PrivacyRules.of_spec(
                SpecRecord.decode(record.value).model_spec(), self._hasher
            )
        except SettingsError as error:
            self._rules[model] = error
        except (DecodeError, ValidationError) as error:
            # Fail closed: nobody knows what this spec would have forbidden.
            self._rules[model] = SettingsError(f"the published spec of {model} cannot be read: {error}")
