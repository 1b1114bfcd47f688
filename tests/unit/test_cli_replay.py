"""`replay` and `evaluate` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.unit.conftest import COLUMNS, Run


def test_a_replay_writes_alerts_as_lines_and_a_summary_for_people(run: Run, document: Path, tmp_path: Path) -> None:
    drifted = tmp_path / "drifted.csv"
    rng = np.random.default_rng(8)
    lines = [f"d{i},2026-04-01T00:00:00Z,{rng.normal(70, 9):.3f},EU,{rng.random():.4f},1" for i in range(400)]
    drifted.write_text("row,at,age,region,score,paid\n" + "\n".join(lines) + "\n1,2\n")
    result = run("replay", drifted, *COLUMNS, "--reference", document)
    assert result.code == 0, result.err
    alerts = [json.loads(line) for line in result.out.splitlines()]
    fired = [alert for alert in alerts if alert["state"] == "firing"]
    assert {alert["column"] for alert in fired if alert["scope"] == "column"} == {"age", "region"}
    assert [alert["kind"] for alert in fired if alert["scope"] == "model"] == ["incident"]
    assert "400 events, 1 stream, " in result.err
    assert "age: drifting" in result.err
    assert "left out: 1 bad_line" in result.err
    written = run("replay", drifted, *COLUMNS, "--reference", document, "--alerts", tmp_path / "alerts.jsonl")
    assert written.out == ""
    assert (tmp_path / "alerts.jsonl").read_text() == result.out, "the same alerts, ids included"


def test_a_quiet_replay_says_so(run: Run, document: Path, table: Path) -> None:
    result = run("replay", table, *COLUMNS, "--reference", document)
    assert (result.code, result.out) == (0, "")
    assert "nothing drifted" in result.err
    assert "not used" not in result.err


def test_a_replay_says_what_it_did_not_do(run: Run, document: Path, tmp_path: Path) -> None:
    """A reference of another model changes nothing, and too few events are not watched at all: neither is good news."""
    events = tmp_path / "events.jsonl"
    events.write_text('{"model": "other", "features": {"x": 1}}\n' * 3)
    told = run("replay", events, "--reference", document).err
    assert "still learning its reference: 3 of 5,000 events" in told
    assert "nothing drifted" not in told
    assert f"note: {document} was not used: it is of " in told.replace("\n", " ")


def test_a_replay_that_cannot_be(run: Run, document: Path, table: Path, tmp_path: Path) -> None:
    assert "none.json: cannot be read" in run("replay", table, *COLUMNS, "--reference", "none.json").err
    assert "cannot be written" in run("replay", table, *COLUMNS, "--alerts", tmp_path / "no" / "a.jsonl").err
    events = tmp_path / "events.jsonl"
    events.write_text('{"model": "m", "features": {"x": 1}}\n')
    refused = run("replay", events, "--model", "m")
    assert refused.code == 2
    assert "events, which say themselves of which model they are (leave it out)" in refused.err


def test_a_replay_tells_what_became_of_what_was_injected(run: Run, document: Path, table: Path, tmp_path: Path) -> None:
    inject = ["--inject", "mean:age:3@600", "--inject", "category:region:XX:0.5@700", "--inject", "null:age:1@9999"]
    result = run("replay", table, *COLUMNS, "--reference", document, "--alerts", tmp_path / "a.jsonl", *inject)
    assert result.code == 0, result.err
    told = result.err[result.err.index("injected") :]
    assert "mean:age:3@600: found after " in told
    assert "category:region:XX:0.5@700: found after " in told
    assert "“XX”" in told
    assert "null:age:1@9999: hit nothing" in told


def test_what_cannot_be_injected_is_said_with_the_fix(run: Run, document: Path, table: Path) -> None:
    refused = run(
        "replay", table, *COLUMNS, "--reference", document, "--inject", "mean:aeg:1@2", "--inject", "null:age@3"
    )
    assert refused.code == 2
    refused = run("replay", table, *COLUMNS, "--reference", document, "--inject", "mean:aeg:1@2")
    assert "the reference has no column 'aeg' (did you mean age?)" in refused.err
    assert "add --reference FILE" in run("replay", table, *COLUMNS, "--inject", "mean:age:1@2").err


def test_evaluate_prints_a_table_and_a_configuration_that_checks(
    run: Run, document: Path, table: Path, tmp_path: Path
) -> None:
    result = run("evaluate", table, *COLUMNS, "--reference", document, "--json", tmp_path / "e.json", "--windows", 4)
    assert result.code == 0, result.err
    assert "per 10⁶" in result.err
    assert "age" in result.err
    (stream,) = json.loads((tmp_path / "e.json").read_text())["streams"]
    assert {"age", "region"} <= {column["column"] for column in stream["columns"]}
    snippet = tmp_path / "recommended.yaml"
    snippet.write_text("kafka: {bootstrap_servers: [localhost:9092]}\n" + result.out)
    assert run("check", snippet).code == 0


def test_evaluate_needs_rows_of_the_reference(run: Run, document: Path, table: Path) -> None:
    other = [*COLUMNS]
    other[other.index("--model") + 1] = "other"
    refused = run("evaluate", table, *other, "--reference", document)
    assert refused.code == 3
    assert "no row belongs to a stream of the references" in refused.err
