"""The command line: exit codes, clean errors, and what commands print."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from stream_monitor import cli
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import TopicSpec
from stream_monitor.labels import Label, LabelShape, decode_labels
from tests.unit.conftest import Result, Run

REPOSITORY = Path(__file__).parents[2]

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
    assert "note:" not in again.out


def test_an_input_topic_that_is_missing_is_said(run: Run, broker: MemoryBroker, minimal: Path) -> None:
    made = run("topics", "create", "--config", minimal)
    assert made.code == 0
    assert "note: topic 'predictions' (topics.predictions) does not exist" in made.out
    assert "--with-predictions N" in made.out


def test_a_topic_of_the_wrong_shape_is_an_error(run: Run, broker: MemoryBroker, minimal: Path) -> None:
    broker.create_topics([TopicSpec("stream-monitor.codes", 4)])
    result = run("topics", "create", "--config", minimal)
    assert result.code == 5
    assert "topic 'stream-monitor.codes' has 4 partitions, topics.partitions says 32: set topics.partitions to 4" in (
        result.err
    )


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
