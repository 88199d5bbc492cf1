"""Signing keys change and are revoked step by step, and at no step does a server believe the wrong one."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from driftloop.infra.settings import Settings
from driftloop.models.registry.keys import list_keys, new_key, revoke_key, use_key
from driftloop.models.registry.signing import RevokedKey, load_or_create_keypair, load_verifier
from driftloop.schemas.errors import ArtifactError, Error, SettingsError
from driftloop.schemas.serving import ModelAck, ModelUpdate
from driftloop.schemas.topics import MODEL_UPDATES
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.serve.client import EventClient
from driftloop.streams.train.shell import run_trainer

from tests.support.cli import driftloop
from tests.support.models.worlds import update_to
from tests.support.serve.bench import ServingBench, version_of_answer
from tests.support.train.world import trainer_config
from tests.support.waiting import wait_until


def test_the_first_key_signs_at_once_and_a_second_only_on_request(tmp_path: Path) -> None:
    first = new_key(tmp_path)
    assert load_or_create_keypair(tmp_path).key_id == first
    second = new_key(tmp_path)
    assert load_or_create_keypair(tmp_path).key_id == first
    assert load_verifier(tmp_path).key_ids == {first, second}
    use_key(tmp_path, second)
    assert load_or_create_keypair(tmp_path).key_id == second
    use_key(tmp_path, first)  # and back: the one before was kept
    assert load_or_create_keypair(tmp_path).key_id == first
    assert load_verifier(tmp_path).key_ids == {first, second}


def test_a_key_that_was_made_before_there_was_a_ring_is_kept_when_another_signs(tmp_path: Path) -> None:
    old = load_or_create_keypair(tmp_path).key_id
    new = new_key(tmp_path)
    use_key(tmp_path, new)
    assert {info.key_id: info.private for info in list_keys(tmp_path)} == {old: True, new: True}
    use_key(tmp_path, old)
    assert load_or_create_keypair(tmp_path).key_id == old


def test_only_the_owner_reads_private_keys_and_nothing_else_is_left(tmp_path: Path) -> None:
    first, second = new_key(tmp_path), new_key(tmp_path)
    use_key(tmp_path, second)
    use_key(tmp_path, second)
    private = [tmp_path / "signing.key", *(tmp_path / f"{key_id}.key" for key_id in (first, second))]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in private} | {"trusted"}


def test_what_a_revoked_key_signed_is_refused_as_such_whenever_it_signed(tmp_path: Path) -> None:
    old = load_or_create_keypair(tmp_path)
    signed = update_to(old, 1, (1, "a" * 64))
    use_key(tmp_path, new_key(tmp_path))
    load_verifier(tmp_path).verify(signed)
    revoke_key(tmp_path, old.key_id, "its disk was stolen")
    for event in (signed, update_to(old, 9, (1, "b" * 64))):
        with pytest.raises(RevokedKey, match=f"{old.key_id}', which was revoked"):
            load_verifier(tmp_path).verify(event)
    load_verifier(tmp_path).verify_history(signed)
    forged = signed.model_copy(update={"generation": 7})
    with pytest.raises(ArtifactError, match="signature is wrong"):
        load_verifier(tmp_path).verify_history(forged)
    (reported,) = (info for info in list_keys(tmp_path) if info.revoked)
    assert (reported.key_id, reported.trusted, reported.why) == (old.key_id, False, "its disk was stolen")


def test_a_revoked_key_is_refused_even_where_its_public_half_is_gone(tmp_path: Path) -> None:
    old = load_or_create_keypair(tmp_path)
    use_key(tmp_path, new_key(tmp_path))
    revoke_key(tmp_path, old.key_id)
    (tmp_path / "trusted" / f"{old.key_id}.pub").unlink()
    with pytest.raises(RevokedKey):
        load_verifier(tmp_path).verify(update_to(old, 1, (1, "a" * 64)))


def test_the_key_that_signs_cannot_be_revoked_and_a_revoked_one_cannot_sign(tmp_path: Path) -> None:
    first = new_key(tmp_path)
    with pytest.raises(Error, match=r"is the one that signs.*driftloop keys new"):
        revoke_key(tmp_path, first)
    second = new_key(tmp_path)
    use_key(tmp_path, second)
    revoke_key(tmp_path, first)
    with pytest.raises(Error, match="was revoked"):
        use_key(tmp_path, first)
    # The file of the list came from elsewhere: the trainer says so instead of signing what nobody believes.
    (tmp_path / "trusted" / f"{second}.revoked").write_text("")
    with pytest.raises(SettingsError, match=r"was revoked.*driftloop keys new"):
        load_or_create_keypair(tmp_path)


@pytest.mark.parametrize("wrong", ["../../etc/passwd", "ABCDEF0123456789", "", "0" * 17])
def test_an_invalid_key_id_is_an_error(tmp_path: Path, wrong: str) -> None:
    new_key(tmp_path)
    with pytest.raises(Error, match="no key id"):
        use_key(tmp_path, wrong)
    with pytest.raises(Error, match="there is no key"):
        revoke_key(tmp_path, wrong)


# --- on a server ----------------------------------------------------------------------------------------


def last_ack(bench: ServingBench, generation: int) -> ModelAck | None:
    return next((ack for ack in reversed(bench.acks()) if ack.generation == generation), None)


def test_keys_rotate_and_are_revoked_under_a_running_server(
    topics: Connection, bench: ServingBench, tmp_path: Path
) -> None:
    bench.apply_spec()
    old = bench.signer
    by_old = bench.update(3, 1)
    bench.publish(by_old)
    with EventClient(topics) as client, bench.serve(client) as server:
        wait_until(lambda: server.version == 1)
        # 1. A new key, its public half on the server, and the trainer signs with it.
        new = new_key(bench.keys_dir)
        use_key(bench.keys_dir, new)
        bench.signer = load_or_create_keypair(bench.keys_dir)
        assert bench.signer.key_id == new != old.key_id
        bench.publish(bench.update(4, 2))
        wait_until(lambda: server.version == 2)
        # 2. The update before, signed by the old key, which is still believed: a replay is refused as one.
        bench.publish(by_old)
        refused = wait_until(lambda: (ack := last_ack(bench, 3)) and ack.status == "refused" and ack)
        assert "stale" in refused.reason
        # 3. The old key is revoked: what it signs is refused as such, however new it is.
        revoke_key(bench.keys_dir, old.key_id, "stolen")
        bench.publish(update_to(old, 9, (2, by_old.plan.champion.manifest_sha256)))  # pyright: ignore[reportOptionalMemberAccess]
        refused = wait_until(lambda: last_ack(bench, 9))
        assert (refused.status, refused.version) == ("refused", 2)
        assert f"{old.key_id}', which was revoked" in refused.reason
        # 4. So is a manifest that it signed, in an update of the new key; the server goes on as it is.
        bench.publish(update_to(bench.signer, 5, (1, by_old.plan.champion.manifest_sha256)))  # pyright: ignore[reportOptionalMemberAccess]
        refused = wait_until(lambda: last_ack(bench, 5))
        assert "the Manifest is signed with key" in refused.reason
        assert "which was revoked" in refused.reason
        # 5. The new key's replay is a replay too.
        bench.publish(bench.update(6, 3))
        wait_until(lambda: server.version == 3)
        bench.publish(bench.update(4, 2))
        assert "stale" in wait_until(lambda: last_ack(bench, 4) and last_ack(bench, 4).reason)  # pyright: ignore[reportOptionalMemberAccess]
        assert version_of_answer(server.predict({"x": 0.0}).prediction) == 3
    # 6. A restart with what was kept, and one from nothing, come to the same version.
    for state in (bench.state_dir, tmp_path / "fresh"):
        with EventClient(topics) as client, bench.serve(client, state_dir=state) as server:
            wait_until(lambda: server.version == 3)


def test_a_restarted_server_does_not_serve_what_a_revoked_key_signed(
    topics: Connection, bench: ServingBench
) -> None:
    bench.apply_spec()
    bench.publish(bench.update(1, 1))
    with EventClient(topics) as client, bench.serve(client) as server:
        wait_until(lambda: server.version == 1)
    use_key(bench.keys_dir, new_key(bench.keys_dir))
    revoke_key(bench.keys_dir, bench.signer.key_id)
    with EventClient(topics) as client, bench.serve(client) as server:
        refused = wait_until(lambda: (ack := last_ack(bench, 1)) and ack.status == "refused" and ack)
        assert "which was revoked" in refused.reason
        assert server.version == 0


# --- the documented procedure, with a real trainer --------------------------------------------------------


NEXT = 10  # the bench's updates say that 9 was the last version given


@contextmanager
def trainer(settings: Settings) -> Iterator[None]:
    config, stop = trainer_config(settings.state_dir), threading.Event()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(run_trainer, settings.connection(), config, stop)
        try:
            yield
        finally:
            stop.set()
        running.result(60)


def test_the_documented_rotation_step_by_step(
    topics: Connection, settings: Settings, bench: ServingBench, tmp_path: Path
) -> None:
    """docs/security.md, "Changing the signing key": the commands of the page, in its order."""

    def run(*words: str) -> str:
        done = driftloop(*words, settings=settings)
        assert done.exit_code == 0, done.output
        return done.stdout

    bench.apply_spec()
    old = bench.signer.key_id
    bench.publish(bench.update(5, 1))
    bench.state_dir = tmp_path / "server"
    with trainer(settings):
        run("models", "pin", "m")
    new = run("keys", "new").splitlines()[0]
    assert f"{new} signs" in run("keys", "use", new)
    with EventClient(topics) as client, bench.serve(client) as server:
        with trainer(settings):  # restarted: it signs with the new key, and counts on
            run("models", "unpin", "m")
            assert "version 1 reissued" in run("keys", "reissue", "m")
            wait_until(lambda: server.version == NEXT)
        assert "is revoked here" in run("keys", "revoke", old, "--why", "rotated")
        assert "rotated" in run("keys", "list")
        # The same model, by another number.
        assert version_of_answer(server.predict({"x": 0.0}).prediction) == 1
    with EventClient(topics) as client, bench.serve(client, state_dir=tmp_path / "another") as server:
        wait_until(lambda: server.version == NEXT)
    with trainer(settings):  # also a trainer that never saw the old key believed
        run("models", "pin", "m")
    updates = [ModelUpdate.decode(record.value or b"") for record in bench.read(MODEL_UPDATES)]
    assert [update.generation for update in updates] == [5, 6, 7, 8, 9]
    assert [update.key_id for update in updates] == [old, old, new, new, new]


def test_a_trainer_counts_on_when_the_key_of_the_last_update_was_revoked(
    topics: Connection, settings: Settings, bench: ServingBench
) -> None:
    """The key was stolen and revoked at once: were generations to start over, servers would refuse all."""
    bench.apply_spec()
    bench.publish(bench.update(41, 1))
    new = new_key(bench.keys_dir)
    use_key(bench.keys_dir, new)
    revoke_key(bench.keys_dir, bench.signer.key_id)
    with trainer(settings):
        done = driftloop("keys", "reissue", "m", settings=settings)
        assert done.exit_code == 0, done.output
    with EventClient(topics) as client, bench.serve(client, state_dir=settings.state_dir / "fresh") as server:
        wait_until(lambda: server.version == NEXT)
        assert server.generation == 42
