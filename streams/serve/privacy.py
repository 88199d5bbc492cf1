"""Private features leave the server dropped or hashed, and the model sees what its trainer will see.

A hash is keyed BLAKE2b (RFC 7693) with the deployment's key: the same on every server, so that a model can
learn from it, and useless without the key, since short values could otherwise be guessed. The feature's name
is part of the hash, so equal values of two features cannot be linked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...schemas.errors import SettingsError
from ...schemas.serving import FeatureType
from ...schemas.spec.model import ModelSpec, Privacy
from ...schemas.values.feature_values import value_name
from .plain_values import Plain

MIN_KEY_BYTES = 16
_DIGEST_BYTES = 8  # short, and 2**32 distinct values before a collision becomes likely


class Hasher:
    """Hashes values of features with the deployment's key."""

    def __init__(self, key: bytes) -> None:
        """Raise SettingsError for a key that could be guessed."""
        if len(key) < MIN_KEY_BYTES:
            raise SettingsError(
                f"the hash key has {len(key)} bytes, and at least {MIN_KEY_BYTES} are needed: "
                "make one with `openssl rand -hex 32`"
            )
        self._key = hashlib.blake2b(key, digest_size=32).digest()

    def __repr__(self) -> str:
        return "Hasher(…)"

    def hash(self, feature: str, value: Plain, declared: FeatureType | None = None) -> Plain:
        """16 hex digits; null stays null. All spellings of a value (``value_name``) give one."""
        if value is None:
            return None
        name = feature.encode()
        return hashlib.blake2b(
            len(name).to_bytes(4, "big") + name + value_name(value, declared).encode(),
            digest_size=_DIGEST_BYTES,
            key=self._key,
        ).hexdigest()


@dataclass(frozen=True, slots=True)
class PrivacyRules:
    """What happens to a model's features before they leave. Raises SettingsError for hash without a key."""

    dropped: frozenset[str] = frozenset()
    hashed: frozenset[str] = frozenset()
    hasher: Hasher | None = field(default=None, repr=False)
    types: Mapping[str, FeatureType] = field(default_factory=dict[str, FeatureType])
    nothing: bool = field(default=False, init=False, repr=False)  # to drop or hash: read once per event

    def __post_init__(self) -> None:
        object.__setattr__(self, "nothing", not self.dropped and not self.hashed)
        if self.hashed and self.hasher is None:
            raise SettingsError(
                f"feature {', '.join(sorted(self.hashed))} must leave the server as a hash, and there is no "
                "key: set DRIFTLOOP_HASH_KEY, the same on every server (`openssl rand -hex 32` makes one)"
            )

    @classmethod
    def of(
        cls,
        privacy: Mapping[str, Privacy],
        hasher: Hasher | None,
        types: Mapping[str, FeatureType] | None = None,
    ) -> PrivacyRules:
        """``types``: as declared, where they are."""
        return cls(
            types=types or {},
            dropped=frozenset(name for name, rule in privacy.items() if rule == "drop"),
            hashed=frozenset(name for name, rule in privacy.items() if rule == "hash"),
            hasher=hasher,
        )

    @classmethod
    def of_spec(cls, spec: ModelSpec, hasher: Hasher | None) -> PrivacyRules:
        privacy: dict[str, Privacy] = {name: feature.privacy for name, feature in spec.features.items()}
        return cls.of(privacy, hasher, spec.declared_types())

    def apply(self, values: dict[str, Plain]) -> dict[str, Plain]:
        """What may leave of features or segments (a segment named like a private feature is as private)."""
        if self.nothing:
            return values
        return {
            name: self.hasher.hash(name, value, self.types.get(name))
            if self.hasher and name in self.hashed
            else value
            for name, value in values.items()
            if name not in self.dropped
        }
