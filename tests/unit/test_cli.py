"""The command line: exit codes, clean errors, and what every command prints."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import structlog

from stream_monitor import cli, cli_common, cli_reference
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Broker, TopicSpec
from stream_monitor.config import Settings
from stream_monitor.labels import Label, LabelShape, decode_labels
from stream_monitor.reference import load

REPOSITORY = Path(__file__).parents[2]
ROWS = 1_200


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No variable of ours, an empty working directory, and logging as it was."""
    for name in list(os.environ):
        if name.upper().startswith("STREAM_MONITOR_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_common._Verbosity, "level", 0)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Result(int(caught.value.code or 0), out, err)

    return run


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "monitor.yaml"
    path.write_text("kafka: {bootstrap_servers: '127.0.0.1:1'}\n")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A seeded table whose second half has drifted in `age`."""
    rng = np.random.default_rng(7)
    path = tmp_path / "train.csv"
    with path.open("w") as file:
        file.write("row,at,age,region,score,paid\n")
        for i in range(ROWS):
            moment = f"2026-03-01T{i // 60 % 24:02d}:{i % 60:02d}:00Z"
            file.write(f"r{i},{moment},{rng.normal(40, 9):.3f},{rng.choice(['EU', 'US'])},{rng.random():.4f},1\n")
    return path


COLUMNS = ("--model", "credit-risk", "--time", "at", "--id", "row", "--prediction", "score", "--label", "paid")


@pytest.fixture
def document(run: Run, table: Path, tmp_path: Path) -> Path:
    path = tmp_path / "credit-risk.json"
    assert run("reference", "build", table, *COLUMNS, "--out", path).code == 0
    return path


# --- help and errors ------------------------------------------------------------------------------------------------


def test_without_arguments_it_shows_the_commands(run: Run) -> None:
    shown = run().out
    for command in ("run", "replay", "demo", "check", "health", "schema", "version", "reference", "topics"):
        assert f" {command} " in shown


@pytest.mark.parametrize(
    "command", ["run", "replay", "demo", "check", "health", "reference build", "reference show", "topics create"]
)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.code == 0
    assert "Usage: stream-monitor" in result.out


def test_an_unknown_command_is_a_usage_error(run: Run) -> None:
    assert run("bogus").code == 2


def test_a_wrong_configuration_is_listed_without_a_traceback(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("kafka: {linger_ms: x}\nbogus: 1\n")
    for command in (["run"], ["check"], ["topics", "create"]):
        result = run(*command, "--config", path)
        assert result.code == 2
        assert result.err.startswith("error: 3 problems\n")
        assert f"{path}:1: kafka.linger_ms: 'x' cannot be used" in result.err
        assert "Traceback" not in result.err


def test_one_problem_is_one_line(run: Run) -> None:
    result = run("run")
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert result.err.startswith("error: configuration: kafka.bootstrap_servers: is missing")
    assert "STREAM_MONITOR_KAFKA__BOOTSTRAP_SERVERS" in result.err


def test_a_traceback_has_to_be_asked_for(run: Run) -> None:
    assert "Traceback" not in run("run").err
    assert "Traceback" in run("run", "-vv").err
    assert "Traceback" in run("-vv", "run").err


def test_a_bug_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch, minimal: Path) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(cli, "broker_of", broken)
    result = run("topics", "create", "--config", minimal)
    assert result.code == 1
    assert "unexpected: ZeroDivisionError: oops (at test_cli.py:" in result.err
    assert "-vv shows the traceback" in result.err
    assert "Traceback" not in result.err


def test_the_instance_name_is_checked(run: Run, minimal: Path) -> None:
    result = run("run", "--config", minimal, "--instance", "a b")
    assert result.code == 2
    assert "--instance: 'a b' cannot be part of a transactional id" in result.err


# --- version, schema ------------------------------------------------------------------------------------------------


def test_version(run: Run) -> None:
    assert run("version").out == run("--version").out == "stream-monitor 0.1.0\n"
    assert "kafka-python 3." in run("version", "-v").out


@pytest.mark.parametrize("what", ["event", "label", "alert", "config"])
def test_a_schema_is_a_schema(run: Run, what: str) -> None:
    schema = json.loads(run("schema", what).out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"]


def test_the_schema_of_events_takes_the_readme_s_event(run: Run) -> None:
    schema = json.loads(run("schema", "event").out)
    event = {
        "model": "credit-risk", "version": "7", "id": "4f1c", "time": "2026-03-01T12:00:00Z", "prediction": 0.83,
        "features": {"age": 41, "income": 52000.5, "region": "EU", "phone": None}, "label": 1,
    }  # fmt: skip
    jsonschema.validate(event, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"features": {}}, schema)


@pytest.mark.parametrize(
    "document",
    [{"model": "m", "id": "4f1c", "label": 1}, {"model": "m", "id": 7, "label": "paid", "time": "2026-03-20T09:00:00Z"},
     {"model": "m", "id": "a", "label": True, "time": None}, {"model": "m", "id": "a", "label": None},
     {"model": "m", "label": 1}, {"id": "a", "label": 1}, {"model": "", "id": "a", "label": 1},
     {"model": "m", "id": "", "label": 1}, {"model": "m", "id": True, "label": 1}, {"model": "m", "id": "a"},
     {"model": "m", "id": "a", "label": ""}, {"model": "m", "id": "a", "label": [1]}],
)  # fmt: skip
def test_the_schema_of_labels_takes_what_is_taken(run: Run, document: dict[str, object]) -> None:
    schema = json.loads(run("schema", "label").out)
    (found,) = decode_labels(json.dumps(document).encode(), 0, 0, 0, LabelShape())
    assert jsonschema.Draft202012Validator(schema).is_valid(document) == isinstance(found, Label)


def test_the_schema_of_the_configuration_knows_its_files(run: Run) -> None:
    import yaml

    schema = json.loads(run("schema", "config").out)
    for path in (REPOSITORY / "config").glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"bogus": 1}, schema)


# --- topics ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    """The broker that commands find instead of Kafka."""
    memory = MemoryBroker(clock_ms=lambda: time.time_ns() // 1_000_000)

    @contextmanager
    def found(_: Settings) -> Iterator[Broker]:
        yield memory

    monkeypatch.setattr(cli, "broker_of", found)
    monkeypatch.setattr(cli_reference, "broker_of", found)
    return memory


def test_topics_are_created_once(run: Run, broker: MemoryBroker, minimal: Path) -> None:
    dry = run("topics", "create", "--config", minimal, "--dry-run", "--with-predictions", 6)
    assert dry.out.count("to create ") == 7
    assert not broker.topics(["predictions"])
    made = run("topics", "create", "--config", minimal, "--with-predictions", 6)
    assert made.code == 0
    assert "created    predictions                     6 partitions\n" in made.out
    assert "created    stream-monitor.state           32 partitions  cleanup.policy=compact" in made.out
    again = run("topics", "create", "--config", minimal)
    assert (again.code, again.out.count("exists ")) == (0, 6)


def test_a_topic_of_the_wrong_shape_is_an_error(run: Run, broker: MemoryBroker, minimal: Path) -> None:
    broker.create_topics([TopicSpec("stream-monitor.codes", 4)])
    result = run("topics", "create", "--config", minimal)
    assert result.code == 5
    assert "topic 'stream-monitor.codes' has 4 partitions, topics.partitions says 32: set topics.partitions to 4" in (
        result.err
    )


# --- references -----------------------------------------------------------------------------------------------------


def test_building_a_reference(run: Run, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "credit-risk.json"
    result = run("reference", "build", table, *COLUMNS, "--version", "7", "--out", out)
    assert result.code == 0, result.err
    reference = load(out.read_bytes())
    assert [column.name for column in reference.columns] == ["age", "region", "prediction"]
    assert reference.stream == ("credit-risk", "7", "")
    assert f"{out}: credit-risk/7, 3 columns of 1,200 rows, digest {reference.digest()}" in result.out
    assert not list(out.parent.glob("*.partial"))


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


# --- replay ---------------------------------------------------------------------------------------------------------


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


# --- evaluate -------------------------------------------------------------------------------------------------------


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


# --- check, health --------------------------------------------------------------------------------------------------


def test_check_is_content(run: Run, minimal: Path, document: Path) -> None:
    assert run("check", minimal, document).out == f"ok: {minimal}, {document}\n"
    assert run("check", "--config", minimal).code == 0


def test_health(run: Run, minimal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unset = run("health", "--config", minimal)
    assert unset.code == 2
    assert "worker.heartbeat_file: is not set (name a file there" in unset.err
    beat = tmp_path / "beat"
    monkeypatch.setenv("STREAM_MONITOR_WORKER__HEARTBEAT_FILE", str(beat))
    assert run("health", "--config", minimal).code == 1
    beat.touch()
    assert run("health", "--config", minimal) == Result(0, "alive: last heartbeat 0 s ago\n", "")
    old = time.time() - 500
    os.utime(beat, (old, old))
    stuck = run("health", "--config", minimal)
    assert (stuck.code, stuck.out) == (1, "stuck: last heartbeat 500 s ago, more than 120 s\n")


def test_a_heartbeat_that_cannot_be_written_is_told_at_the_start(
    run: Run, minimal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_MONITOR_WORKER__HEARTBEAT_FILE", "none/beat")
    result = run("run", "--config", minimal)
    assert result.code == 2
    assert "worker.heartbeat_file: none/beat: cannot be written" in result.err


# --- the process ----------------------------------------------------------------------------------------------------


def test_a_run_waits_for_kafka_beats_and_ends_on_sigterm(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    environment = os.environ | {
        "STREAM_MONITOR_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "STREAM_MONITOR_KAFKA__CONNECT_TIMEOUT_MS": "1000",
        "STREAM_MONITOR_WORKER__HEARTBEAT_FILE": str(beat),
        "STREAM_MONITOR_LOG__FORMAT": "json",
    }
    command = [sys.executable, "-m", "stream_monitor", "run"]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = [json.loads(process.stderr.readline())["event"] for _ in range(2)]
        assert told == ["connecting", "broker unreachable, trying again"]
        assert beat.exists()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert "stopping" in process.stderr.read()
