"""Labels in bulk: every good row arrives, every bad one is reported by its line, and none stops the rest."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest
from driftloop.infra.bulk.csv_values import BadRow, milliseconds_of
from driftloop.infra.bulk.labels import Imported, LabelColumns, LabelRow, import_labels, read_labels
from driftloop.infra.control.commands import command
from driftloop.infra.settings import Settings
from driftloop.models.registry.reference_csv import read_reference_csv
from driftloop.schemas.base import class_name
from driftloop.schemas.errors import ArtifactError, Error
from driftloop.schemas.values.classes import Classes
from driftloop.schemas.values.event_time import event_time_problem
from driftloop.streams.kafka.connection import Connection
from driftloop.streams.serve.client import EventClient

from tests.support.cli import driftloop
from tests.support.serve.bench import ServingBench

COLUMNS = LabelColumns("id", "label", "when")

FILE = """\
id,label,when,remark
a,late,1700000000000,good
b,1,2023-11-14T22:13:20+00:00,a number
c,0.5,2023-11-14 22:13:20,UTC when nothing else is said
,late,1700000000000,no id
e,,1700000000000,no label
f,late,yesterday,no time
g,late,1700000000,seconds
h,late,1700000000000
i,late,1700000000000,one,too many

j,NaN,1700000000000,missing in pandas
k,"on
time",1700000000000,a line break inside
l,007,1700000000000,a name that looks like a number
"""


def read(text: str, columns: LabelColumns = COLUMNS) -> list[LabelRow | BadRow]:
    return list(read_labels(text.splitlines(keepends=True), columns, "labels.csv"))


def test_good_rows_are_read_and_bad_ones_reported_by_line() -> None:
    rows = read(FILE)
    good = [row for row in rows if isinstance(row, LabelRow)]
    assert [(row.line, row.prediction_id, row.label, row.ts) for row in good] == [
        (2, "a", "late", 1_700_000_000_000),
        (3, "b", 1, 1_700_000_000_000),
        (4, "c", 0.5, 1_700_000_000_000),
        (5, "", "late", 1_700_000_000_000),  # the client names what is wrong with an id
        (14, "k", "on\ntime", 1_700_000_000_000),
        (15, "l", "007", 1_700_000_000_000),
    ]
    assert [(row.line, row.reason) for row in rows if isinstance(row, BadRow)] == [
        (6, "the label is missing ('')"),
        (7, "time 'yesterday': write Unix milliseconds or ISO 8601"),
        (8, f"time 1700000000: {event_time_problem(1_700_000_000)}"),
        (9, "has 3 cells, and the header has 4"),
        (10, "has 5 cells, and the header has 4"),
        (12, "the label is missing ('NaN')"),
    ]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("id,label\na,late\n".encode("utf-16"), "is no CSV in UTF-8: it is UTF-16"),
        (gzip.compress(b"id,label\na,late\n", mtime=0), "is no CSV in UTF-8: it is compressed with gzip"),
        (b"id;label\na;late\n", "its columns are separated by ';': save it with commas"),
        (b"id\tlabel\na\tlate\n", r"its columns are separated by '\\t': save it with commas"),
        (b"Id,label\na,late\n", "write its name without spaces, and letter by letter"),
    ],
)
def test_a_file_of_another_form_is_named(data: bytes, problem: str) -> None:
    text = data.decode("utf-8-sig", "surrogateescape")  # as the command opens it
    with pytest.raises(Error, match=problem):
        read(text, LabelColumns("id", "label"))


@pytest.mark.parametrize(
    ("when", "problem"),
    [
        ("1700000000", "is in seconds"),
        ("1700000000000000", "is in microseconds"),
        ("1700000000000000000", "is in nanoseconds"),
        ("20231114", "is a date in digits"),
        ("1" * 5000, "must be Unix time in whole milliseconds"),
    ],
)
def test_a_time_in_another_unit_is_named_with_its_line(when: str, problem: str) -> None:
    (row,) = read(f"id,label,when,remark\na,late,{when},\n")
    assert isinstance(row, BadRow)
    assert (row.line, row.reason[:5]) == (2, "time ")
    assert problem in row.reason


def test_a_label_may_be_read_as_text_or_as_a_number() -> None:
    text = "id,label\na,1\nb,late\nc,none\n"
    as_text = read(text, LabelColumns("id", "label", type="text"))
    assert [row.label for row in as_text if isinstance(row, LabelRow)] == ["1", "late", "none"]
    as_numbers = read(text, LabelColumns("id", "label", type="number"))
    assert [row.label if isinstance(row, LabelRow) else row.reason for row in as_numbers] == [
        1, "the label 'late' is not a number", "the label is missing ('none')",
    ]  # fmt: skip


def test_a_header_without_the_columns_is_an_error_with_what_it_has() -> None:
    with pytest.raises(Error, match=r"labels.csv has no column 'label', 'when'; its header has: id, truth"):
        read("id,truth\na,1\n")
    with pytest.raises(Error, match="its header has: nothing"):
        read("")
    with pytest.raises(Error, match="more than one column 'id'"):
        read("id,id,label,when\n")


def test_times_are_milliseconds_or_iso() -> None:
    assert milliseconds_of("1700000000123") == 1_700_000_000_123
    assert milliseconds_of("2023-11-14T22:13:20.123Z") == 1_700_000_000_123
    assert milliseconds_of("2023-11-14T23:13:20+01:00") == 1_700_000_000_000
    assert milliseconds_of("2023-11-14") == 1_699_920_000_000
    for wrong in ("", "-1", "1.5", "14/11/2023"):
        with pytest.raises(ValueError, match="write Unix milliseconds or ISO 8601"):
            milliseconds_of(wrong)


def test_a_bulk_larger_than_any_queue_arrives_whole(bench: ServingBench) -> None:
    rows = (LabelRow(i + 2, f"p{i}", "late", 1_700_000_000_000 + i) for i in range(45_000))
    reported: list[BadRow] = []
    with EventClient(bench.connection, queue_events=5_000) as client:
        imported = import_labels(rows, client, source="expert", on_bad=reported.append)
    assert imported == Imported(45_000, 0)
    assert reported == []
    labels = bench.labels()
    assert {event.prediction_id for event in labels} == {f"p{i}" for i in range(45_000)}
    assert {event.source for event in labels} == {"expert"}
    assert len(labels) == 45_000


def test_an_outage_during_an_import_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftloop.infra.bulk.labels.FLUSH_S", 0.1)
    client = EventClient(Connection("127.0.0.1:1", "away.", {"log_level": "0"}), privacy={})
    # For a moment librdkafka counts its own report of the error as well.
    with pytest.raises(
        Error, match=r"of 1 labels sent so far, [12] have not arrived .* Import the file again"
    ):
        import_labels([LabelRow(2, "p", "late", 5)], client, source="system", on_bad=print)
    client.close(timeout_s=0.0)


def test_the_command_imports_reports_and_counts(
    bench: ServingBench, settings: Settings, tmp_path: Path
) -> None:
    file, bad = tmp_path / "labels.csv", tmp_path / "bad.csv"
    file.write_bytes(b"\xef\xbb\xbf" + FILE.encode() + b"m,l\xe4te,1700000000000,Latin-1\n")
    ran = driftloop(
        "labels", "import", str(file), "--id-column", "id", "--label-column", "label", "--ts-column", "when",
        "--source", "expert", "--annotator", "ann", "--bad-rows", str(bad), settings=settings,
    )  # fmt: skip
    assert ran.exit_code == 1
    assert "5 labels imported" in ran.stdout
    assert "line 5: prediction_id must be text of 1 to 128 characters" in ran.stderr
    assert "line 16: is not UTF-8" in ran.stderr
    assert f"8 rows could not be used, all in {bad}" in ran.stderr
    with bad.open(newline="") as written:
        lines = [int(row["line"]) for row in csv.DictReader(written)]
    assert lines == [5, 6, 7, 8, 9, 10, 12, 16]
    labels = {event.prediction_id: event for event in bench.labels()}
    assert {known: event.label for known, event in labels.items()} == {
        "a": "late", "b": 1, "c": 0.5, "k": "on\ntime", "l": "007",
    }  # fmt: skip
    assert {(event.source, event.annotator) for event in labels.values()} == {("expert", "ann")}


def test_a_clean_file_ends_with_success(bench: ServingBench, settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("prediction_id,label\n" + "".join(f"p{i},late\n" for i in range(2000)))
    ran = driftloop("labels", "import", str(file), settings=settings)
    assert (ran.exit_code, ran.stdout.strip()) == (0, "2000 labels imported"), ran.stderr
    assert len(bench.labels()) == 2000
    missing = driftloop("labels", "import", str(file), "--label-column", "truth", settings=settings)
    assert missing.exit_code == 1
    assert "has no column 'truth'; its header has: prediction_id, label" in missing.output


@pytest.mark.parametrize(
    "cell", ["True", "FALSE", "true", "1", "1.0", "0.5", "-7", "-007", "007", "late", "9" * 400]
)
def test_a_cell_names_the_same_class_in_a_reference_and_in_labels(cell: str, tmp_path: Path) -> None:
    reference = tmp_path / "reference.csv"
    reference.write_text(f"x,label\n1,{cell}\n")
    (named,) = read_reference_csv(reference, task="classification").labels
    (row,) = read(f"id,label\na,{cell}\n", LabelColumns("id", "label"))
    assert isinstance(row, LabelRow)
    assert class_name(row.label) == named


@pytest.mark.parametrize("cell", ["1", "1.0", "True", "TRUE", "true", " 1", "1e0"])
def test_a_cell_means_the_class_that_its_model_declares(cell: str) -> None:
    """As the joiner reads the label that is sent."""
    (row,) = read(f"id,label\na,{cell}\n", LabelColumns("id", "label"))
    assert isinstance(row, LabelRow)
    for classes in (("0", "1"), ("false", "true"), ("False", "True")):
        assert Classes.of(classes).read(row.label) == classes[1]


def test_a_number_of_too_many_digits_is_reported_by_its_row(tmp_path: Path) -> None:
    reference = tmp_path / "reference.csv"
    reference.write_text(f"x,label\n1,{'9' * 5000}\n")
    with pytest.raises(ArtifactError, match="row 2: the label must be a number"):
        read_reference_csv(reference, task="regression")


def test_the_file_itself_is_never_written_over(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("prediction_id,label\na,late\n")
    ran = driftloop("labels", "import", str(file), "--bad-rows", str(file), settings=Settings())
    assert isinstance(ran.exception, Error)
    assert "another file" in str(ran.exception)
    assert file.read_text() == "prediction_id,label\na,late\n"


def test_a_command_of_a_person_without_a_name_or_for_no_model_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert command("late", "trigger").by.startswith("uid-")
    with pytest.raises(Error, match="model"):
        command("bad name", "trigger")
