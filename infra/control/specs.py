"""``driftloop apply``: publishes the specs of a ``driftloop.toml``; no role reads the local file."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import orjson
from pydantic import ValidationError

from ...schemas.control import SpecControl
from ...schemas.errors import BrokerError, DecodeError
from ...schemas.partition import partition_of
from ...schemas.reasons.validation import first_reason
from ...schemas.spec.model import JOIN_KEY, Deployment, ModelSpec, SpecRecord, Table
from ...schemas.topics import SPECS, VITALS
from ...streams.kafka.connection import Connection
from ...streams.kafka.reader import newest_values
from ...streams.kafka.transactions import Aborted, Transactions

log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0
_RIVAL = "another `driftloop apply` took over"


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """Which specs were new or changed, and which were already as the file says."""

    changed: tuple[str, ...]
    unchanged: tuple[str, ...]


def read_specs(connection: Connection) -> dict[str, SpecRecord]:
    """Key → newest spec record, the join settings under ``*``. Unreadable ones are left out."""
    found: dict[str, SpecRecord] = {}
    for key, value in newest_values(connection, SPECS).items():
        try:
            found[key] = SpecRecord.decode(value)
        except DecodeError as error:
            log.error("the spec of %r cannot be read and is left out: %s", key, error)
    return found


def model_specs(connection: Connection) -> dict[str, ModelSpec]:
    """Model → its published spec."""
    specs: dict[str, ModelSpec] = {}
    for model, record in read_specs(connection).items():
        try:
            if model != JOIN_KEY:
                specs[model] = record.model_spec()
        except ValidationError as error:
            log.error("the spec of %r cannot be read and is left out: %s", model, first_reason("spec", error))
    return specs


def apply_deployment(connection: Connection, deployment: Deployment) -> ApplyReport:
    """Publish each spec that changed, together with its control record, in one transaction.

    A model that is published but no longer in the file is left as it is: retire it with
    ``driftloop models retire``. Raises BrokerError: nothing was published.
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
    return ApplyReport(tuple(changed), tuple(key for key in wanted if key not in changed))


def _plain(table: Table) -> dict[str, object]:
    """A spec table as JSON will give it back."""
    return orjson.loads(orjson.dumps(table.model_dump(mode="json")))


def _record(key: str, spec: dict[str, object], digest: str) -> SpecRecord:
    return SpecRecord(model=key, digest=digest, ts=time.time_ns() // 1_000_000, spec=spec)


def _publish(connection: Connection, records: list[SpecRecord]) -> None:
    transactions = Transactions(connection, "apply", call_s=_TIMEOUT_S, timeout_s=_TIMEOUT_S, rival=_RIVAL)
    transactions.start()
    vitals = connection.topic(VITALS)
    partitions = transactions.partitions(vitals)

    def send() -> None:
        for record in records:
            model = record.model
            transactions.send(connection.topic(SPECS), record.encode(), model)
            if model != JOIN_KEY:
                control = SpecControl(model=model, digest=record.digest, spec=record.spec, ts=record.ts)
                transactions.send(vitals, control.encode(), partition=partition_of(model, partitions))

    try:
        transactions.run(send)
    except Aborted as error:
        raise BrokerError(f"nothing was published: {error}; run `driftloop apply` again") from error
