"""What a server keeps on disk per model, so that a restart serves at once, and nothing older."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, cast

import orjson
from pydantic import ValidationError

from ....models.registry.whole_file import whole_file
from ....schemas.errors import DecodeError, StateError
from ....schemas.serving import ModelUpdate
from ....schemas.spec.model import ModelSpec


@dataclass(frozen=True, slots=True)
class Persisted:
    """``last_generation``: the highest seen in an authentic update. ``live``: the update that serves."""

    last_generation: int = 0
    live: ModelUpdate | None = None
    spec: ModelSpec | None = None

    def encode(self) -> bytes:
        fields: dict[str, object] = {"last_generation": self.last_generation}
        if self.live is not None:
            fields["live"] = self.live.encode().decode()
        if self.spec is not None:
            fields["spec"] = self.spec.model_dump(mode="json")
        return orjson.dumps(fields)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raise ValueError if the bytes are not what ``encode`` returns."""
        try:
            fields = cast("dict[str, object]", orjson.loads(data))
            live, spec = fields.get("live"), fields.get("spec")
            return cls(
                last_generation=int(cast("int", fields["last_generation"])),
                live=None if live is None else ModelUpdate.decode(str(live).encode()),
                spec=None if spec is None else ModelSpec.model_validate(spec),
            )
        except (AttributeError, KeyError, TypeError, DecodeError, ValidationError) as error:
            raise ValueError(str(error)) from error


class StateFile:
    """The file of one model. The update in it is signed, so altering the file gains nothing."""

    def __init__(self, state_dir: Path, model: str) -> None:
        """Raise StateError if there is a file and it cannot be read."""
        self._path = state_dir / f"{model}.json"
        self.persisted = self._read()

    def update(
        self,
        *,
        last_generation: int | None = None,
        live: ModelUpdate | None = None,
        spec: ModelSpec | None = None,
    ) -> None:
        """Write what changed, whole or not at all. Raises OSError."""
        given = {"last_generation": last_generation, "live": live, "spec": spec}
        changed = {name: value for name, value in given.items() if value is not None}
        persisted = replace(self.persisted, **changed)
        if persisted != self.persisted:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self._path) as file:
                file.write(persisted.encode())
            self.persisted = persisted

    def _read(self) -> Persisted:
        try:
            return Persisted.decode(self._path.read_bytes())
        except FileNotFoundError:
            return Persisted()
        except ValueError as error:
            raise StateError(
                f"{self._path} cannot be read ({error}): remove it to start from the topic alone"
            ) from error
