"""Scoring files: the same answers as any server, in the file's order, and a reason for every row without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from driftloop.infra.bulk.csv_values import BadRow
from driftloop.infra.bulk.requests import FileRequest, PredictRequest, read_csv_requests, read_json_requests
from driftloop.infra.bulk.scoring import Scorer
from driftloop.infra.settings import Settings
from driftloop.schemas.errors import Error, NoModelError
from driftloop.streams.serve.client import EventClient

from tests.support.cli import driftloop
from tests.support.serve.bench import ServingBench

CSV = """\
id,x,hub,big,asked
a,1.5,JFK,true,1700000000000
b,,007,0,2023-11-14T22:13:20Z
c,wide,JFK,true,1700000000000
d,1,JFK,maybe,1700000000000
e,1,JFK,true,soon
f,NA,JFK,true,1700000000000
g,"1,5",JFK,true,1700000000000
"""


def test_cells_become_features_of_the_models_types() -> None:
    rows = list(
        read_csv_requests(
            CSV.splitlines(keepends=True), "f", id_column="id", ts_column="asked",
            types={"x": "number", "hub": "category", "big": "bool"},
        )
    )  # fmt: skip
    first, second = rows[:2]
    assert isinstance(first, FileRequest)
    assert isinstance(second, FileRequest)
    assert (first.line, first.request.prediction_id, first.request.ts) == (2, "a", 1_700_000_000_000)
    assert first.request.features == {"x": 1.5, "hub": "JFK", "big": True}
    assert second.request.features == {"x": None, "hub": "007", "big": False}
    assert [(row.line, row.reason) for row in rows[2:] if isinstance(row, BadRow)] == [
        (4, "x: 'wide' is not a number"),
        (5, "big: 'maybe' is neither true nor false"),
        (6, "time 'soon': write Unix milliseconds or ISO 8601"),
        (7, "x: 'NA' is not a number: leave a cell empty where a value is missing"),
        (8, "x: '1,5' is not a number: write numbers with a decimal point"),
    ]


def test_without_types_cells_are_what_they_look_like() -> None:
    (row,) = read_csv_requests(["x,n,t\n", "1.5,7,AA\n"], "f", id_column=None, ts_column=None, types={})
    assert isinstance(row, FileRequest)
    assert row.request.features == {"x": 1.5, "n": 7, "t": "AA"}
    with pytest.raises(Error, match="has no column 'id'"):
        list(read_csv_requests(["x\n"], "f", id_column="id", ts_column=None, types={}))


def test_lines_of_json_are_requests_or_have_a_reason() -> None:
    lines = [
        '{"features":{"x":1},"prediction_id":"a","ts":5}',
        "",
        '{"features":',
        '{"x":1}',
        '{"features":{}}',
    ]
    rows = list(read_json_requests(lines))
    assert [row.line for row in rows] == [1, 3, 4, 5]
    assert rows[0] == FileRequest(
        1, PredictRequest(features={"x": 1}, prediction_id="a", segments=None, ts=5)
    )
    assert isinstance(rows[1], BadRow)
    assert isinstance(rows[2], BadRow)
    assert "row: features: Field required" in rows[2].reason


def test_a_scorer_is_live_on_each_new_version(bench: ServingBench) -> None:
    bench.publish(bench.update(1, 1))

    def rows() -> Iterator[FileRequest]:
        for i in range(40):
            if i == 20:
                bench.publish(bench.update(2, 2))
                assert hot.wait_generation(2)
            yield FileRequest(
                i, PredictRequest(features={"x": 0.0}, prediction_id=f"p{i}", segments=None, ts=i)
            )

    with EventClient(bench.connection) as client, bench.serve(client) as hot:
        assert hot.wait_ready()
        scorer = Scorer(hot, client, batch_rows=10)
        results = list(scorer.score(rows()))
    assert [result["version"] for result in results] == [1] * 20 + [2] * 20
    assert [result["prediction_id"] for result in results] == [f"p{i}" for i in range(40)]
    assert (scorer.report.answered, scorer.report.versions) == (40, {1: 20, 2: 20})
    assert {event.prediction_id: event.version for event in bench.predictions()} == {
        result["prediction_id"]: result["version"] for result in results
    }


def test_with_no_version_a_scorer_stops_instead_of_failing_every_row(bench: ServingBench) -> None:
    request = FileRequest(1, PredictRequest(features={"x": 0.0}, prediction_id=None, segments=None, ts=None))
    with EventClient(bench.connection) as client, bench.serve(client) as hot:
        results = Scorer(hot, client).score([request])
        with pytest.raises(NoModelError):
            next(results)


@pytest.mark.parametrize("form", ["csv", "stdin"])
def test_the_command_answers_a_file(
    bench: ServingBench, settings: Settings, tmp_path: Path, form: str
) -> None:
    bench.publish(bench.update(1, 3))
    file, out = tmp_path / "asked.csv", tmp_path / "answers.jsonl"
    file.write_text("id,x\na,1\nb,wide\nc,2\n")
    given = b'{"features":{"x":1},"prediction_id":"a"}\n{"features":{"x":"wide"},"prediction_id":"b"}\n{}\n'
    asked = [str(file), "--id-column", "id", "-o", str(out)] if form == "csv" else ["-"]
    ran = driftloop("score", "m", *asked, settings=settings, given=given)
    written = out.read_bytes() if form == "csv" else ran.stdout_bytes
    answers = [orjson.loads(line) for line in written.splitlines()]
    assert ran.exit_code == 1, ran.stderr
    assert answers[0]["prediction"] == 3001.0
    assert (answers[0]["prediction_id"], answers[0]["version"]) == ("a", 3)
    if form == "csv":
        assert answers[1] == {"line": 3, "error": "x: 'wide' is not a number"}
        assert "2 answered (version 3: 2), 1 failed" in ran.stderr
        assert sorted(event.prediction_id for event in bench.predictions()) == ["a", "c"]
    else:
        assert "feature x: must be a number" in answers[1]["error"]
        assert answers[2]["error"].startswith("row: features: Field required")
        assert "1 answered (version 3: 1), 2 failed" in ran.stderr
    assert "each says why in its line of the output" in ran.stderr
