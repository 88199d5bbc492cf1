"""Ed25519 signatures of manifests and model updates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..schemas.serving import Manifest, ModelUpdate

Signed = TypeVar("Signed", Manifest, ModelUpdate)


def load_or_create_keypair(keys_dir: Path) -> Signer:
    raise NotImplementedError


def load_verifier(keys_dir: Path) -> Verifier:
    raise NotImplementedError


class Signer:
    def __init__(self, private: Ed25519PrivateKey) -> None:
        raise NotImplementedError

    @property
    def key_id(self) -> str:
        raise NotImplementedError

    def sign(self, event: Signed) -> Signed:
        raise NotImplementedError

    def verifier(self) -> Verifier:
        raise NotImplementedError


class Verifier:
    def __init__(self, trusted: Mapping[str, Ed25519PublicKey]) -> None:
        raise NotImplementedError

    def verify(self, event: Manifest | ModelUpdate) -> None:
        raise NotImplementedError
