"""Set a cluster's ACLs to what the roles need, and report what it allows beyond that."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar, cast

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from ...schemas.errors import BrokerError
from ...streams.kafka.connection import Connection
from .acls import Acl

T = TypeVar("T")

_TIMEOUT_S = 30.0
_ANY_HOST = "*"


@dataclass(frozen=True, slots=True)
class AclsReport:
    """``missing`` was not there (``applied``: it is now). ``beyond``: allowed to these principals besides."""

    missing: tuple[Acl, ...]
    beyond: tuple[str, ...]
    applied: bool


def inspect_acls(connection: Connection, wanted: Iterable[Acl]) -> AclsReport:
    """Compare the cluster's ACLs with ``wanted`` and change nothing. Raises BrokerError."""
    return _compare(AdminClient(connection.client()), connection, frozenset(wanted), applied=False)


def apply_acls(connection: Connection, wanted: Iterable[Acl]) -> AclsReport:
    """Add what is missing and remove nothing. Raises BrokerError if this user may not."""
    admin = AdminClient(connection.client())
    report = _compare(admin, connection, frozenset(wanted), applied=True)
    if report.missing:
        bindings = [_binding(acl) for acl in report.missing]
        made = cast("dict[AclBinding, Future[None]]", admin.create_acls(bindings, request_timeout=_TIMEOUT_S))
        for future in made.values():
            _result(future, connection)
    return report


def _compare(
    admin: AdminClient, connection: Connection, wanted: frozenset[Acl], *, applied: bool
) -> AclsReport:
    bindings = {_key(_binding(acl)): acl for acl in wanted}
    found: dict[tuple[object, ...], AclBinding] = {}
    for principal in sorted({acl.principal for acl in wanted}):
        everything = AclBindingFilter(
            ResourceType.ANY,
            None,  # pyright: ignore[reportArgumentType]  # None is any
            ResourcePatternType.ANY,
            principal,
            None,  # pyright: ignore[reportArgumentType]  # None is any
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        future = cast("Future[list[AclBinding]]", admin.describe_acls(everything, request_timeout=_TIMEOUT_S))
        found |= {_key(binding): binding for binding in _result(future, connection)}
    missing = sorted(acl for key, acl in bindings.items() if key not in found)
    beyond = sorted(_shown(binding) for key, binding in found.items() if key not in bindings)
    return AclsReport(tuple(missing), tuple(beyond), applied)


def _result(future: Future[T], connection: Connection) -> T:
    try:
        return future.result(_TIMEOUT_S)
    except KafkaException as error:
        raise BrokerError(
            f"the ACLs of {connection.bootstrap_servers} cannot be read or set: {error.args[0].str()}; this "
            "needs a cluster with an authorizer, and a user who may alter the cluster"
        ) from error


def _binding(acl: Acl) -> AclBinding:
    return AclBinding(
        ResourceType[_constant(acl.resource)],
        acl.name,
        ResourcePatternType[_constant(acl.pattern)],
        acl.principal,
        _ANY_HOST,
        AclOperation[_constant(acl.operation)],
        AclPermissionType.ALLOW,
    )


def _key(binding: AclBinding) -> tuple[object, ...]:
    return (
        binding.restype, binding.name, binding.resource_pattern_type, binding.principal, binding.host,
        binding.operation, binding.permission_type,
    )  # fmt: skip


def _shown(binding: AclBinding) -> str:
    permission = _name(cast("AclPermissionType", binding.permission_type))
    operation = _name(cast("AclOperation", binding.operation))
    kind = _name(cast("ResourceType", binding.restype))
    pattern = _name(cast("ResourcePatternType", binding.resource_pattern_type))
    where = f"{kind} {binding.name} ({pattern}) from {binding.host}"
    return f"{binding.principal}: {permission} {operation} on {where}"


def _constant(name: str) -> str:
    return name.upper().replace("-", "_")


def _name(part: Enum) -> str:
    return part.name.lower().replace("_", "-")
