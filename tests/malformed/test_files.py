"""Files, bodies and artifacts from anywhere: an error that says what was wrong, or rows that are reported."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TypeVar

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from driftloop.infra.bulk.csv_values import BadRow
from driftloop.infra.bulk.labels import LabelColumns, LabelRow, read_labels
from driftloop.infra.bulk.requests import read_json_requests
from driftloop.infra.http.bodies import BatchBody, FeedbackBody, PredictBody, RequestRefused, read_body
from driftloop.models.registry.artifacts import ArtifactStore
from driftloop.models.registry.reference_csv import read_reference_csv
from driftloop.models.registry.signing import Signer
from driftloop.schemas.errors import ArtifactError, DecodeError, Error, SpecError
from driftloop.schemas.serving import ModelUpdate
from driftloop.schemas.spec.file import load_deployment, parse_deployment
from driftloop.streams.serve.hot.swap import HotSwap
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.malformed.mutations import NASTY, RAW, anything, golden, written

E = TypeVar("E", bound=Exception)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOML_VALUES = (
    "1", "-1", "1e400", "nan", "inf", "true", '""', '"x"', "[]", "{}", "[[]]", "1979-05-27", '"\\u0000"',
    "{a = 1}",    '"7d"', '"-7d"', '"1e9d"', "99999999999999999999999", "[1, 'a']", '"../.."',
)  # fmt: skip
KEYS = (
    "task", "classes", "features", "segments", "learner", "window", "gates", "triggers", "detectors",
    "serving", "labels", "allowed_sources", "approval", "nonsense",
)  # fmt: skip


def error_of(call: Callable[[], object], kind: type[E]) -> E | None:
    """The error of that kind that it raised; others are the test's failure."""
    try:
        call()
    except kind as error:
        return error
    return None


@quick
@given(
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(TOML_VALUES), max_size=3),
    st.sampled_from(
        ["[models.late]", "[models.'']", "[models.'a b']", "[join]", "[[models]]", "[models]", ""]
    ),
)
def test_a_deployment_is_read_or_each_mistake_is_named(table: dict[str, str], header: str) -> None:
    text = "\n".join([header, *(f"{key} = {value}" for key, value in table.items())])
    refused = error_of(lambda: parse_deployment(text), SpecError)
    if refused is not None:
        assert refused.problems
        assert all(len(problem) < 2_000 for problem in refused.problems)


BROKEN_TOML = {
    "nested without end": "a = " + "[" * 5_000 + "]" * 5_000,
    "a number of 5,000 digits": "[models.late]\nretain = " + "9" * 5_000,
    "dotted without end": "a." * 3_000 + "b = 1",
    "cut off": "a = '''",
    "a byte order mark": "\ufeff[models.late]",
    "NUL": "[models.late]\n\x00",
}


@pytest.mark.parametrize("text", BROKEN_TOML.values(), ids=BROKEN_TOML)
def test_a_toml_file_made_to_break_its_reader_is_named_as_wrong(text: str, tmp_path: Path) -> None:
    path = tmp_path / "driftloop.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=r"driftloop\.toml"):
        load_deployment(path)


CELLS = st.sampled_from(
    ["", "1", "-1", "nan", "inf", "1e999", "9" * 400, "x", '"', '"a\nb"', "\x00", "\udcff", "late",
     "2026-01-01", "1e3"]
)  # fmt: skip


@quick
@given(
    st.lists(st.lists(CELLS, max_size=4), max_size=5),
    st.sampled_from(["id,label,ts", "id", "", "\x00", "id,id,label,ts"]),
)
def test_label_files_give_rows_or_say_which_line_is_wrong(rows: list[list[str]], header: str) -> None:
    lines = [f"{header}\n", *(",".join(row) + "\n" for row in rows)]
    for kind in ("auto", "number", "text"):
        read: list[LabelRow | BadRow] = []
        columns = LabelColumns("id", "label", "ts", kind)
        refused = error_of(lambda r=read, c=columns: r.extend(read_labels(lines, c, "file.csv")), Error)
        assert refused is None or "file.csv" in str(refused)
        assert all(row.reason for row in read if isinstance(row, BadRow))


@quick
@given(st.lists(st.one_of(anything("Prediction"), st.binary(max_size=30)), max_size=4))
def test_lines_to_score_give_requests_or_reasons(lines: list[bytes]) -> None:
    texts = [line.decode("utf-8", errors="surrogateescape") for line in lines]
    assert all(row.reason for row in read_json_requests(texts) if isinstance(row, BadRow))


@quick
@given(st.binary(max_size=60).map(lambda data: b"x,label\n" + data))
def test_a_reference_table_is_read_or_its_line_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "reference.csv"
    path.write_bytes(data)
    for task in ("classification", "regression"):
        refused = error_of(lambda task=task: read_reference_csv(path, task=task), ArtifactError)
        assert refused is None or "reference.csv" in str(refused)


class Request:
    """A request as far as bodies are read of it."""

    def __init__(self, data: bytes, headers: Mapping[str, str]) -> None:
        self._data, self.headers = data, headers

    async def stream(self) -> AsyncIterator[bytes]:
        yield self._data


BODIES = {
    PredictBody: {"features": {"hour": 5}, "prediction_id": "p"},
    BatchBody: {"rows": [{"features": {"hour": 5}}]},
    FeedbackBody: {"prediction_id": "p", "label": "late"},
}


@quick
@given(
    st.sampled_from(list(BODIES)),
    st.dictionaries(st.sampled_from(["features", "prediction_id", "rows", "label", "ts", "x", "correct"]),
                    st.sampled_from(NASTY), max_size=3),
    st.binary(max_size=20),
    st.sampled_from(["", "-1", "abc", "99999999999", "9" * 5_000, "\u00b2"]),
)  # fmt: skip
def test_a_body_is_read_or_refused_with_a_status_and_a_reason(
    kind: type[PredictBody], fields: dict[str, object], tail: bytes, length: str
) -> None:
    for data in (written(BODIES[kind] | fields), written(BODIES[kind]) + tail, tail):
        request = Request(data, {"content-length": length})
        refused = error_of(lambda request=request: asyncio.run(read_body(request, kind)), RequestRefused)
        if refused is not None:
            assert refused.status in (413, 422)
            assert 0 < len(str(refused)) < 1_000
            orjson.dumps(str(refused))


@quick
@given(anything("Manifest", ("model",)))
def test_a_manifest_that_is_none_is_an_artifact_error(tmp_path: Path, data: bytes) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    sha256 = hashlib.sha256(data).hexdigest()
    folder = tmp_path / "store" / "late" / "manifests"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{sha256}.json").write_bytes(data)
    refused = error_of(lambda: store.get_manifest("late", sha256).encode(), ArtifactError)
    assert refused is None or sha256[:12] in str(refused)
    (folder / f"{sha256}.json").unlink()


@quick
@given(anything("ModelUpdate", ("model",)), st.booleans())
def test_a_server_refuses_any_poisoned_update_and_goes_on(tmp_path: Path, data: bytes, signed: bool) -> None:
    signer = Signer(Ed25519PrivateKey.from_private_bytes(b"k" * 32))
    try:
        update = ModelUpdate.decode(data)
    except DecodeError:
        return
    hot = HotSwap("late")
    applied = hot.apply(
        signer.sign(update) if signed else update,
        store=ArtifactStore(str(tmp_path / "store")),
        verifier=signer.verifier(),
    )
    assert applied.status == "live" or applied.reason
    if not signed:
        assert applied.status == "refused"
        assert hot.last_generation == 0


def test_nasty_values_cover_what_other_languages_write() -> None:
    assert {"@huge", "@nan", "@surrogate"} <= RAW.keys() & {
        value for value in NASTY if isinstance(value, str)
    }
    assert golden("Manifest")["artifact_sha256"]
