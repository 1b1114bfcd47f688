"""The container files, as far as they can be checked without a container engine."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from stream_monitor.cli import app
from stream_monitor.config import load

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
KAFKA: dict[str, Any] = SERVICES["kafka"]["environment"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
IN_IMAGE = "/etc/stream-monitor/"


def assert_is_a_command(arguments: list[str]) -> None:
    """Parses as the command line would, without running anything."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("stream-monitor", list(arguments), resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(rest), parent=context)


def instructions(name: str) -> list[str]:
    """The arguments of every instruction of that name, continuation lines joined."""
    lines = re.sub(r"\\\n", " ", DOCKERFILE).splitlines()
    return [line.removeprefix(f"{name} ").strip() for line in lines if line.startswith(f"{name} ")]


@pytest.mark.parametrize("arguments", [["bogus"], ["run", "--bogus"], ["topics", "create", "--with-predictions", "x"]])
def test_the_check_below_can_fail(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"[Bb]ogus|integer"):
        assert_is_a_command(arguments)


# --- docker-compose.yml ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if service.get("build")])
def test_our_services_run_commands_that_exist(name: str) -> None:
    assert_is_a_command(SERVICES[name]["command"])


def test_services_wait_for_services_that_exist() -> None:
    conditions = {"service_healthy", "service_completed_successfully"}
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            assert other in SERVICES
            assert wait["condition"] in conditions
    assert "healthcheck" in SERVICES["kafka"], "others wait for its health"


def test_the_configuration_in_the_image_is_free_of_faults() -> None:
    path = COMPOSE["x-monitor"]["environment"]["STREAM_MONITOR_CONFIG"]
    assert path.startswith(IN_IMAGE)
    settings = load(ROOT / "config" / path.removeprefix(IN_IMAGE))
    advertised = dict(each.split("://") for each in KAFKA["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert settings.kafka.bootstrap_servers == (advertised["INTERNAL"],)
    assert settings.topics.replication == 1, "there is one broker"
    subscriber = SERVICES["alerts"]["command"]
    assert f"--topic={settings.topics.alerts}" in subscriber
    assert f"--bootstrap-server={advertised['INTERNAL']}" in subscriber


def test_kafka_listens_where_it_says() -> None:
    listeners = dict(each.split("://") for each in KAFKA["KAFKA_LISTENERS"].split(","))
    advertised = dict(each.split("://") for each in KAFKA["KAFKA_ADVERTISED_LISTENERS"].split(","))
    protocols = dict(each.split(":") for each in KAFKA["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert set(listeners) == set(protocols) == {*advertised, KAFKA["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    assert all(address.endswith(listeners[name]) for name, address in advertised.items())
    assert KAFKA["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    [published] = SERVICES["kafka"]["ports"]
    host, inside, outside = published.split(":")
    assert (host, inside, outside) == ("127.0.0.1", *[advertised["EXTERNAL"].split(":")[1]] * 2)


def test_one_broker_is_asked_for_one_copy() -> None:
    assert {value for name, value in KAFKA.items() if "REPLICATION" in name or "ISR" in name} == {1}


def test_the_broker_is_the_one_the_tests_run_on() -> None:
    pom = (ROOT / "scripts" / "kafka" / "pom.xml").read_text(encoding="utf-8")
    image = SERVICES["kafka"]["image"].removeprefix("apache/kafka:")
    assert image in pom
    assert SERVICES["alerts"]["image"] == SERVICES["kafka"]["image"]


# --- Dockerfile -----------------------------------------------------------------------------------------------------


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored, "nothing goes in but what is named"
    for line in instructions("COPY"):
        if "--from" in line:
            continue
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in ignored, f"{source} would not reach the builder"


def test_its_commands_exist() -> None:
    commands = [shlex.split(line) for line in instructions("RUN") if line.startswith("stream-monitor ")]
    [health] = instructions("HEALTHCHECK")
    commands.append(yaml.safe_load(health[health.index("CMD") + 3 :]))
    assert yaml.safe_load(instructions("ENTRYPOINT")[-1]) == ["stream-monitor"]
    commands.append(["stream-monitor", *yaml.safe_load(instructions("CMD")[-1])])
    for program, *arguments in commands:
        assert program == "stream-monitor"
        assert_is_a_command(arguments)


def test_it_runs_as_nobody_special() -> None:
    assert instructions("USER")[-1] not in {"root", "0"}


def test_the_health_check_looks_where_the_worker_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = dict(re.findall(r"(STREAM_MONITOR_\w+)=(\S+)", DOCKERFILE))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load(ROOT / "config" / "compose.yaml")
    assert settings.worker.heartbeat_file is not None
    assert SERVICES["monitor"].get("healthcheck") is None, "the image's"
