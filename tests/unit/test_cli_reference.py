"""`reference build`, `show` and `publish` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.reference_checks import load
from tests.unit.conftest import COLUMNS, Run


def test_building_a_reference(run: Run, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "credit-risk.json"
    result = run("reference", "build", table, *COLUMNS, "--version", "7", "--out", out)
    assert result.code == 0, result.err
    reference = load(out.read_bytes())
    assert [column.name for column in reference.columns] == ["age", "region", "prediction"]
    assert reference.stream == ("credit-risk", "7", "")
    assert f"{out}: credit-risk/7, 3 columns of 1,200 rows, digest {reference.digest()}" in result.out
    assert not list(out.parent.glob("*.partial"))


def test_few_rows_are_said(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "few.csv"
    table.write_text("a,b\n" + "1,2\n")
    result = run("reference", "build", table, "--model", "m", "--out", tmp_path / "r.json")
    assert "2 columns of 1 row, digest" in result.out
    assert "note: 1 row will show large drifts only" in result.out


def test_shuffled_rows_are_declared(run: Run, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    result = run("reference", "build", table, *COLUMNS, "--unordered", "--out", out)
    assert result.code == 0, result.err
    assert "the rows are unordered: how much events depend on one another is measured on the live stream" in result.out
    assert not load(out.read_bytes()).source.ordered


def test_a_reference_with_segments(run: Run, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.json"
    result = run("reference", "build", table, *COLUMNS, "--segment-by", "region", "--out", out)
    assert result.code == 0, result.err
    reference = load(out.read_bytes())
    assert (reference.stream, reference.segment_by) == (("credit-risk", "", ""), ["region"])
    assert [part.name for part in reference.parts] == ["region=EU", "region=US"]
    assert f"  segment: region=EU, {reference.parts[0].rows:,} rows" in result.out
    shown = run("reference", "show", out)
    assert "region=US" in shown.out
    capped = run("reference", "build", table, *COLUMNS, "--segment-by", "region", "--max-segments", "2", "--out", out)
    assert "values pooled as `other` for max_segments 2: 1" in capped.out
    wrong = run("reference", "build", table, *COLUMNS, "--segment-by", "regoin", "--out", out)
    assert wrong.code != 0
    assert "regoin" in wrong.err
    many = run("reference", "build", table, *COLUMNS, "--segment-by", "a,b,c,d", "--out", out)
    assert "4 features make too many combinations" in many.err


def test_events_as_they_come_over_kafka_make_a_reference(run: Run, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    lines = [{"model": model, "features": {"x": i % 7}} for i in range(300) for model in ("a", "b")]
    events.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    out = tmp_path / "a.json"
    result = run("reference", "build", events, "--model", "a", "--out", out)
    assert result.code == 0, result.err
    assert load(out.read_bytes()).source.rows == 300
    assert f"left out: {events}, line 601: " in result.err
    assert result.err.count("left out") == 1, "told once, not once a pass"


def test_flat_json_lines_are_a_table(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(json.dumps({"x": i % 7, "y": i % 3}) for i in range(300)))
    out = tmp_path / "m.json"
    assert run("reference", "build", table, "--model", "m", "--out", out).code == 0
    assert [column.name for column in load(out.read_bytes()).columns] == ["x", "y"]


def test_the_configuration_chooses_and_types_features(run: Run, table: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("models: [{match: credit-*, features: {exclude: [age], types: {paid: categorical}}}]")
    out = tmp_path / "r.json"
    arguments = ("--model", "credit-risk", "--ignore", "row,at", "--out", out, "--config", config)
    assert run("reference", "build", table, *arguments).code == 0
    kinds = {column.name: column.kind for column in load(out.read_bytes()).columns}
    assert kinds == {"region": "categorical", "score": "numeric", "paid": "categorical"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train.csv", "--out", "x"], "is a table: it does not say which model its rows belong to (add --model"),
        (["train.csv", "--model", "m", "--time", "when", "--out", "x"], "train.csv: no column 'when'"),
        (["none.csv", "--model", "m", "--out", "x"], "none.csv: cannot be read: No such file"),
        (["train.csv", "--model", "m", "--out", "train.csv/x"], "train.csv/x: cannot be written"),
    ],
)  # fmt: skip
def test_a_reference_that_cannot_be_built(
    run: Run, table: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    result = run("reference", "build", *arguments)
    assert result.code in (2, 3)
    assert complaint in result.err.replace(f"{tmp_path}/", "")


def test_showing_a_reference(run: Run, document: Path) -> None:
    shown = run("reference", "show", document).out
    assert "credit-risk  digest " in shown
    assert "1,200 rows from train.csv, 2026-03-01 00:00 to 2026-03-01 19:59 UTC" in shown
    lines = {line.split()[0]: line for line in shown.splitlines() if line}
    assert "numeric" in lines["age"]
    assert "EU" in lines["region"]
    assert "%" in lines["region"]
    assert "(prediction)" in lines["prediction"]


def test_showing_what_is_no_reference(run: Run, tmp_path: Path, document: Path) -> None:
    other = json.loads(document.read_text()) | {"schema_version": 99}
    (tmp_path / "old.json").write_text(json.dumps(other))
    result = run("reference", "show", tmp_path / "old.json")
    assert result.code == 3
    assert "old.json: schema version 99, but this release reads 1: build it again" in result.err
    assert "cannot be read: No such file" in run("reference", "show", tmp_path / "none.json").err


def test_publishing_a_reference_twice_is_publishing_it_once(
    run: Run, broker: MemoryBroker, minimal: Path, document: Path
) -> None:
    run("topics", "create", "--config", minimal)
    first = run("reference", "publish", document, "--config", minimal)
    digest = load(document.read_bytes()).digest()
    assert (first.code, first.out) == (0, f"published  credit-risk  epoch 1  digest {digest}\n")
    assert run("reference", "publish", document, "--config", minimal).out.startswith("unchanged  credit-risk  epoch 1")


def test_publishing_without_the_topic(run: Run, broker: MemoryBroker, minimal: Path, document: Path) -> None:
    result = run("reference", "publish", document, "--config", minimal)
    assert result.code == 5
    assert "stream-monitor topics create" in result.err


def test_two_references_of_one_stream_are_not_published(run: Run, minimal: Path, document: Path) -> None:
    result = run("reference", "publish", document, document, "--config", minimal)
    assert result.code == 2
    assert f"{document}: is for credit-risk, and so is {document} (publish one of them)" in result.err


def test_importances_are_in_the_reference_and_what_is_none_is_refused(run: Run, tmp_path: Path) -> None:
    given, out = tmp_path / "importances.json", tmp_path / "reference.json"
    train = tmp_path / "train.csv"
    rng = np.random.default_rng(8)
    lines = [f"{rng.normal(40, 9):.3f},{rng.normal():.3f},{rng.random():.4f}" for _ in range(400)]
    train.write_text("age,income,score\n" + "\n".join(lines) + "\n")
    build = ("reference", "build", train, "--model", "m", "--prediction", "score", "--out", out, "--importances", given)
    given.write_text('{"age": 0.7, "incme": 0.1}')
    result = run(*build)
    assert result.code == 0, result.err
    assert "importance of incme: no watched column is called that" in result.out
    columns = {column["name"]: column.get("importance") for column in json.loads(out.read_text())["columns"]}
    assert columns == {"age": 0.7, "income": None, "prediction": None}
    for wrong in ("[1]", '{"age": -1}', '{"age": "much"}'):
        given.write_text(wrong)
        assert run(*build).code != 0
