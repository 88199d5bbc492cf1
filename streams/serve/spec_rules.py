"""The privacy rules of published specs, read from the specs topic in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import closing

from confluent_kafka import KafkaException

from ...schemas.errors import BrokerError, SettingsError
from ...schemas.spec.model import JOIN_KEY
from ..kafka.connection import Connection
from ..kafka.specs import SpecFollower
from .privacy import Hasher, PrivacyRules

log = logging.getLogger(__name__)

_RETRY_S = 1.0
NO_RULES = PrivacyRules()


class SpecRules:
    """Follows the specs topic, starting with the first call of ``rules``.

    ``rules`` returns None until the topic was read to its end: nothing that a spec may forbid leaves before.
    On failure: it reads again from the beginning; what was known stays known.
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
        """Raise SettingsError if the model's spec hashes a feature and there is no key."""
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
        """Whether the rules became known in time. Only useful after a call of ``rules``."""
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
        with closing(SpecFollower(self._connection, timeout_s=5.0)) as specs:
            while not self._stop.is_set():
                for model in specs.poll(0.2) - {JOIN_KEY}:
                    self._apply(model, specs)
                if specs.caught_up and not self._known.is_set():
                    self._known.set()
                    self._on_known()

    def _apply(self, model: str, specs: SpecFollower) -> None:
        problem, spec = specs.problems.get(model), specs.models.get(model)
        try:
            if problem is not None:
                # Fail closed: what this spec would forbid is unknown.
                self._rules[model] = SettingsError(f"the published spec of {model} cannot be read: {problem}")
            elif spec is None:
                self._rules.pop(model, None)
            else:
                self._rules[model] = PrivacyRules.of_spec(spec, self._hasher)
        except SettingsError as error:
            self._rules[model] = error
