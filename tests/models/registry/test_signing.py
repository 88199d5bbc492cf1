"""Only what the trainer signed is believed, to the last bit, and its key stays its own."""

from __future__ import annotations

import base64
import stat
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest
from driftloop.models.registry.signing import Verifier, canonical_bytes, load_or_create_keypair, load_verifier
from driftloop.schemas.errors import ArtifactError, DecodeError, SettingsError
from driftloop.schemas.serving import (
    FeatureSpec,
    Manifest,
    ModelUpdate,
    Plan,
    Reference,
    SelfTestRow,
    VersionRef,
)
from hypothesis import given
from hypothesis import strategies as st

MANIFEST = Manifest(
    model="m", version=3, created_ms=5, artifact_sha256="a" * 64, artifact_bytes=10, format="onnx",
    task="regression", features=(FeatureSpec(name="x", type="number"),),
    self_test=(SelfTestRow(features={"x": None, "y": 1}, prediction=2),),
    reference=Reference(rows=1, mean_error=1),
)  # fmt: skip
UPDATE = ModelUpdate(
    model="m", generation=4, ts=5, plan=Plan(champion=VersionRef(version=3, manifest_sha256="b" * 64)),
    last_version=3, cause="run-1", why="bessér",
)  # fmt: skip


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.mark.parametrize("event", [MANIFEST, UPDATE])
def test_what_is_signed_verifies_before_and_after_the_wire(event: Manifest | ModelUpdate, keys: Path) -> None:
    signed = load_or_create_keypair(keys).sign(event)
    verifier = load_verifier(keys)
    verifier.verify(signed)
    decoded = type(event).decode(signed.encode())
    assert decoded == signed
    verifier.verify(decoded)


@given(bit=st.integers(min_value=0))
def test_any_flipped_bit_of_a_signed_update_is_refused(
    bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    signer = load_or_create_keypair(tmp_path_factory.getbasetemp() / "shared-keys")
    data = bytearray(signer.sign(UPDATE).encode())
    place = bit % (len(data) * 8)
    data[place // 8] ^= 1 << place % 8
    with pytest.raises((ArtifactError, DecodeError)):
        signer.verifier().verify(ModelUpdate.decode(bytes(data)))


@given(st.sampled_from(range(64 * 8)))
def test_any_flipped_bit_of_a_signature_is_refused(bit: int) -> None:
    signer = _signer()
    signed = signer.sign(UPDATE)
    raw = bytearray(base64.b64decode(signed.signature))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ArtifactError, match="signature is wrong"):
        signer.verifier().verify(signed.model_copy(update={"signature": base64.b64encode(raw).decode()}))


def test_a_signature_has_one_spelling() -> None:
    # The last character before the padding has bits that base64 ignores.
    signer = _signer()
    signed = signer.sign(UPDATE)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = alphabet.index(signed.signature[-3])
    other = signed.signature[:-3] + alphabet[last ^ 1] + "=="
    assert base64.b64decode(other) == base64.b64decode(signed.signature)
    with pytest.raises(ArtifactError, match="signature is wrong"):
        signer.verifier().verify(signed.model_copy(update={"signature": other}))


@pytest.mark.parametrize("signature", ["", "no base64 !", "ÄÖÜ", "QUJD"])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    signer = _signer()
    signed = signer.sign(UPDATE).model_copy(update={"signature": signature})
    with pytest.raises(ArtifactError, match=r"no signature|signature is wrong"):
        signer.verifier().verify(signed)


def test_a_strangers_key_is_not_trusted_until_it_is_put_there(tmp_path: Path) -> None:
    old, new = load_or_create_keypair(tmp_path / "old"), load_or_create_keypair(tmp_path / "new")
    signed = new.sign(UPDATE)
    with pytest.raises(ArtifactError, match=f"{new.key_id}.*not trusted"):
        load_verifier(tmp_path / "old").verify(signed)
    # Claiming to be the trusted key does not help.
    with pytest.raises(ArtifactError, match="signature is wrong"):
        load_verifier(tmp_path / "old").verify(signed.model_copy(update={"key_id": old.key_id}))
    public = tmp_path / "new" / "trusted" / f"{new.key_id}.pub"
    (tmp_path / "old" / "trusted" / public.name).write_bytes(public.read_bytes())
    both = load_verifier(tmp_path / "old")
    assert both.key_ids == {old.key_id, new.key_id}
    both.verify(signed)
    both.verify(old.sign(UPDATE))


def test_nobody_is_trusted_where_there_are_no_keys(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not trusted"):
        load_verifier(tmp_path / "none").verify(_signer().sign(UPDATE))


def test_a_field_of_a_newer_version_is_signed_and_passes_through() -> None:
    signer = _signer()
    newer = ModelUpdate.decode(orjson.dumps({**orjson.loads(UPDATE.encode()), "hue": {"b": None, "a": 1}}))
    signed = signer.sign(newer)
    signer.verifier().verify(ModelUpdate.decode(signed.encode()))
    altered = orjson.loads(signed.encode())
    altered["hue"]["a"] = 2
    with pytest.raises(ArtifactError):
        signer.verifier().verify(ModelUpdate.decode(orjson.dumps(altered)))


def test_a_default_that_a_newer_reader_knows_does_not_break_an_old_signature() -> None:
    class NewerUpdate(ModelUpdate):
        hue: str = "none"

    signed = _signer().sign(UPDATE)
    newer = NewerUpdate.decode(signed.encode())
    assert newer.hue == "none"
    assert canonical_bytes(newer) == canonical_bytes(signed)


def test_the_order_of_keys_on_the_wire_does_not_matter() -> None:
    signer = _signer()
    signed = signer.sign(UPDATE)
    shuffled = dict(reversed(orjson.loads(signed.encode()).items()))
    signer.verifier().verify(ModelUpdate.decode(orjson.dumps(shuffled)))


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    made: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.append(load_or_create_keypair(tmp_path / "keys").key_id))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    key = tmp_path / "keys" / "signing.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "keys").iterdir()].count("signing.key") == 1
    assert not list((tmp_path / "keys").glob(".*"))


def test_a_key_that_others_may_read_is_refused_with_the_cure(tmp_path: Path) -> None:
    load_or_create_keypair(tmp_path)
    (tmp_path / "signing.key").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_or_create_keypair(tmp_path)


def test_files_that_are_no_keys_are_named(tmp_path: Path) -> None:
    signer = load_or_create_keypair(tmp_path)
    (tmp_path / "trusted" / "x.pub").write_text("hello")
    with pytest.raises(SettingsError, match=r"x\.pub is not a PEM public key"):
        load_verifier(tmp_path)
    own = tmp_path / "trusted" / f"{signer.key_id}.pub"
    (tmp_path / "trusted" / "x.pub").write_bytes(own.read_bytes())
    with pytest.raises(SettingsError, match=f"name it {signer.key_id}"):
        load_verifier(tmp_path)
    (tmp_path / "signing.key").write_text("hello")
    with pytest.raises(SettingsError, match="not a PEM private key"):
        load_or_create_keypair(tmp_path)


_CACHE: dict[str, Any] = {}


def _signer() -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from driftloop.models.registry.signing import Signer

    if "signer" not in _CACHE:
        _CACHE["signer"] = Signer(Ed25519PrivateKey.generate())
    return _CACHE["signer"]


def test_a_verifier_holds_no_private_key() -> None:
    verifier: Verifier = _signer().verifier()
    assert not any("Private" in type(value).__name__ for value in vars(verifier).values())
