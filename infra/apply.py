"""``driftloop apply``: publishes the specs of a ``driftloop.toml``; no role decides from a local file."""

from __future__ import annotations

import time
from dataclasses import dataclass

import orjson
from confluent_kafka import Producer

from ..schemas.control import SpecControl
from ..schemas.partition import partition_of
from ..schemas.spec import JOIN_KEY, Deployment, ModelSpec, SpecRecord, Table
from ..schemas.topics import SPECS, VITALS
from ..streams.connection import Connection
from ..streams.log_reader import LogReader

_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Applied:
    """Which specs were new or changed, and which were already as the file says."""

    changed: tuple[str, ...]
    unchanged: tuple[str, ...]


def read_specs(connection: Connection) -> dict[str, SpecRecord]:
    """Key → newest spec record, the join settings under ``*``."""
    reader = LogReader(connection, (SPECS,))
    try:
        return {
            record.key.decode(): SpecRecord.decode(record.value)
            for record in reader.catch_up()
            if record.key is not None and record.value is not None
        }
    finally:
        reader.close()


def model_specs(connection: Connection) -> dict[str, ModelSpec]:
    """Model → its published spec."""
    return {
        model: record.model_spec() for model, record in read_specs(connection).items() if model != JOIN_KEY
    }


def apply_deployment(connection: Connection, deployment: Deployment) -> Applied:
    """Publishes each spec that changed, together with its control record, in one transaction.

    A model that is published but no longer in the file is left as it is: retire it with
    ``driftloop models retire``.
    """
    wanted = {JOIN_KEY: _record(JOIN_KEY, _plain(deployment.join), "")}
    for model, spec in deployment.models.items():
        wanted[model] = _record(model, _plain(spec), spec.digest())
    present = read_specs(connection)
    changed = [
        key for key, record in wanted.items() if key not in present or present[key].spec != record.spec
    ]
    if changed:
        _publish(connection, [wanted[key] for key in changed])
    return Applied(tuple(changed), tuple(key for key in wanted if key not in changed))


def _plain(table: Table) -> dict[str, object]:
    """A spec table as it will be read back from JSON."""
    return orjson.loads(orjson.dumps(table.model_dump(mode="json")))


def _record(key: str, spec: dict[str, object], digest: str) -> SpecRecord:
    return SpecRecord(model=key, digest=digest, ts=time.time_ns() // 1_000_000, spec=spec)


def _publish(connection: Connection, records: list[SpecRecord]) -> None:
    producer = Producer(connection.transactional("apply"))
    producer.init_transactions(_TIMEOUT_S)
    vitals = connection.topic(VITALS)
    partitions = len(producer.list_topics(vitals, timeout=_TIMEOUT_S).topics[vitals].partitions)
    producer.begin_transaction()
    for record in records:
        producer.produce(connection.topic(SPECS), key=record.model, value=record.encode())
        if record.model != JOIN_KEY:
            control = SpecControl(model=record.model, digest=record.digest, spec=record.spec, ts=record.ts)
            producer.produce(vitals, value=control.encode(), partition=partition_of(record.model, partitions))
    producer.commit_transaction(_TIMEOUT_S)
