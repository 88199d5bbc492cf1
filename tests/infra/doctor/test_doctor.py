"""``driftloop doctor`` names what is wrong, with its fix: each thing is broken once, on a real broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions
from driftloop.infra.control.specs import apply_deployment
from driftloop.infra.doctor.cluster import check_cluster, local_ms
from driftloop.infra.doctor.findings import Finding
from driftloop.infra.doctor.machine import check_disk, check_keys, check_requirements, check_spec_file
from driftloop.infra.settings import Settings
from driftloop.models.registry.signing import load_or_create_keypair
from driftloop.schemas.dead_letters import dead_letter
from driftloop.schemas.events import DeadLetterResolution
from driftloop.schemas.spec.model import Deployment, ModelSpec
from driftloop.schemas.topics import (
    DEAD_LETTER_RESOLUTIONS,
    DEAD_LETTERS,
    DRIFT,
    LABELS,
    MODEL_UPDATES,
    OUTCOMES,
    PREDICTIONS,
    SPECS,
    TRIGGERS,
)
from driftloop.streams.kafka.connection import Connection
from packaging.requirements import Requirement

from tests.support.cli import driftloop
from tests.support.kafka.topics import write
from tests.support.malformed.mutations import golden
from tests.support.topic_settings import alter
from tests.support.waiting import wait_until


def faults(findings: Iterator[Finding]) -> dict[str, str]:
    """Check → what is at fault and its fix; every fault has one."""
    found = [finding for finding in findings if finding.level == "fault"]
    assert all(finding.fix for finding in found)
    return {finding.check: f"{finding.what} → {finding.fix}" for finding in found}


def test_a_sound_deployment_has_no_fault_and_the_command_says_so(
    topics: Connection, settings: Settings
) -> None:
    apply_deployment(topics, Deployment(models={"late": ModelSpec()}))
    load_or_create_keypair(settings.keys_path())
    assert faults(check_cluster(settings)) == {}
    done = driftloop("doctor", "--json", settings=settings)
    reported = [orjson.loads(line) for line in done.stdout.splitlines()]
    at_fault = {finding["check"] for finding in reported if finding["level"] == "fault"}
    assert at_fault <= {"disk"}  # of the machine that tests; the rest is ours
    assert done.exit_code == bool(at_fault)
    assert {finding["check"] for finding in reported} >= {
        "keys", "packages", "disk", "spec file", "cluster", "topics", "co-partitioning", "replication",
        "clock", "specs", "retention", "groups", "books", "signatures", "dead letters",
    }  # fmt: skip


def test_dead_letters_that_nobody_resolved_are_a_warning_by_cause(
    topics: Connection, settings: Settings
) -> None:
    reasons = ["Label: ts: is in seconds (2023-11-14 22:13:20 UTC), not in milliseconds (got 1700000000)"] * 3
    reasons += ["not JSON: features.x is NaN, which JSON does not have", "expired: resolved"]
    refused = [
        dead_letter("join", topics.topic(LABELS), 0, offset, reason, value=b"x")
        for offset, reason in enumerate(reasons)
    ]
    write(topics, *[(DEAD_LETTERS, b"k", one.encode()) for one in refused], (DEAD_LETTERS, b"k", b"{"))
    resolution = DeadLetterResolution(dead_letter_id=refused[-1].id, action="dropped", ts=1, by="me")
    write(topics, (DEAD_LETTER_RESOLUTIONS, b"k", resolution.encode()))
    found = [finding for finding in check_cluster(settings) if finding.check == "dead letters"]
    assert [finding.level for finding in found] == ["warning", "warning"]
    assert found[0].what == f"3 of labels refused lately: {reasons[0]}"
    assert found[1].what == f"1 of labels refused lately: {reasons[3]}"


def test_what_is_broken_on_the_cluster_is_named_with_its_fix(topics: Connection, settings: Settings) -> None:
    admin = AdminClient(topics.client())
    alter(topics, TRIGGERS, "message.timestamp.type", "CreateTime")
    alter(topics, PREDICTIONS, "retention.ms", "3600000")
    alter(topics, LABELS, "min.insync.replicas", "2")
    admin.delete_topics([topics.topic(DRIFT), topics.topic(OUTCOMES)])[topics.topic(DRIFT)].result(30)
    write(
        topics,
        (SPECS, b"late", b'{"model":"late"}'),
        (MODEL_UPDATES, b"late", orjson.dumps(golden("ModelUpdate"))),
        *((PREDICTIONS, b"k%d" % i, b"x") for i in range(10)),
    )
    load_or_create_keypair(settings.keys_path())

    found = faults(check_cluster(settings, clock=lambda: local_ms() + 60_000))
    all_of_them = [f"{one.what} → {one.fix}" for one in check_cluster(settings) if one.level == "fault"]
    reported = "\n".join(all_of_them)
    assert "message.timestamp.type is CreateTime, wanted LogAppendTime → driftloop topics apply" in reported
    assert f"{topics.topic(DRIFT)} is missing → driftloop topics apply" in reported
    assert "is kept for 0.0 days" in found["retention"]
    assert "nobody can write" in found["replication"]
    assert " s apart → run NTP" in found["clock"]
    assert "'late' cannot be read" in found["specs"]
    assert "the newest update of 'late'" in found["signatures"]
    assert "join: 0 members" in found["groups"]
    assert "start one: driftloop join" in found["groups"]
    assert driftloop("doctor", settings=settings).exit_code == 1


def test_input_topics_with_different_partitions_are_named(topics: Connection, settings: Settings) -> None:
    name = topics.topic(LABELS)
    admin = AdminClient(topics.client())
    admin.create_partitions([NewPartitions(name, 5)])[name].result(30)
    wait_until(lambda: len(admin.list_topics(timeout=10).topics[name].partitions) == 5)
    found = faults(check_cluster(settings))
    assert f"{name} 5" in found["co-partitioning"]
    assert "drained migration" in found["topics"]


def test_a_cluster_that_is_away_is_one_fault_and_the_machine_is_still_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driftloop.infra.doctor.cluster._TIMEOUT_S", 0.5)
    away = Settings(bootstrap_servers="127.0.0.1:9", state_dir=tmp_path)
    (finding,) = check_cluster(away)
    assert (finding.check, finding.level) == ("cluster", "fault")
    assert "no Kafka answers at 127.0.0.1:9" in finding.what
    (none,) = check_cluster(Settings(state_dir=tmp_path))
    assert "driftloop broker" in none.fix
    done = driftloop("doctor", settings=away)
    assert done.exit_code == 1
    assert "keys:" in done.stdout


def test_keys_that_do_not_match_or_that_others_may_read_are_named(tmp_path: Path) -> None:
    (none,) = check_keys(tmp_path)
    assert none.level == "warning"
    key_id = load_or_create_keypair(tmp_path).key_id
    assert faults(check_keys(tmp_path)) == {}
    (tmp_path / "signing.key").chmod(0o644)
    assert "chmod 600" in faults(check_keys(tmp_path))["keys"]
    (tmp_path / "signing.key").chmod(0o600)
    public = tmp_path / "trusted" / f"{key_id}.pub"
    kept = public.read_bytes()
    public.unlink()
    assert "not among the trusted ones" in faults(check_keys(tmp_path))["keys"]
    public.with_name("0000.pub").write_bytes(kept)
    assert "holds another key" in faults(check_keys(tmp_path))["keys"]
    public.with_name("0000.pub").unlink()
    public.write_bytes(kept)
    (public.parent / f"{key_id}.revoked").write_bytes(b"")
    assert "was revoked" in faults(check_keys(tmp_path))["keys"]
    (tmp_path / "signing.key").write_bytes(os.urandom(40))
    assert "keys" in faults(check_keys(tmp_path))


def test_packages_disks_and_spec_files_that_do_not_do_are_named(tmp_path: Path) -> None:
    needed = [Requirement("orjson>=999"), Requirement("no-such-package-here"), Requirement("pydantic>=1")]
    reported = [finding.what for finding in check_requirements(needed, "1") if finding.level == "fault"]
    assert len(reported) == 2
    assert "needed: orjson>=999" in reported[0]
    assert "no-such-package-here is missing" in reported[1]
    assert "are free" in faults(check_disk("state", tmp_path / "new", least_bytes=2**62))["disk"]
    assert faults(check_disk("state", tmp_path, least_bytes=0, least_share=0)) == {}
    (tmp_path / "file").write_text("")
    assert "not a folder" in faults(check_disk("state", tmp_path / "file"))["disk"]
    toml = tmp_path / "driftloop.toml"
    toml.write_text('[models.late]\ntask = "guess"\n')
    assert "models.late.task" in faults(check_spec_file(toml))["spec file"]
