"""What all tests share: a real Kafka, if this machine can run one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.kafka_node import KafkaFailed, KafkaMissing, KafkaNode, Listener, find_runtime, free_port

SASL_USER = "monitor"
SASL_PASSWORD = "correct-horse"  # of the listener SASL of the test broker, which lives on loopback for a minute

_missing = pytest.StashKey[str]()
_log = pytest.StashKey[str]()
_long = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaNode]:
    """A running one-node Kafka, the same for all tests of the session; tests must use names of their own.

    Without Java and Maven (or Docker) the test is skipped, or fails if REQUIRE_KAFKA=1.
    """
    try:
        find_runtime()
    except KafkaMissing as error:
        if os.environ.get("REQUIRE_KAFKA") == "1":
            pytest.fail(f"REQUIRE_KAFKA=1, but {error}")
        request.config.stash[_missing] = str(error)
        pytest.skip(str(error))
    node = _node(tmp_path_factory.mktemp("kafka"))
    request.config.stash[_log] = str(node.log_path)
    try:
        node.start()
    except KafkaFailed:  # somebody may have taken the port meanwhile: once more, on others
        node = _node(tmp_path_factory.mktemp("kafka"))
        request.config.stash[_log] = str(node.log_path)
        node.start()
    yield node
    node.stop()
    if not request.session.testsfailed:
        shutil.rmtree(node.directory)


def _node(directory: Path) -> KafkaNode:
    return KafkaNode(
        directory,
        free_port(),
        overrides={
            "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": (
                f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{SASL_USER}="{SASL_PASSWORD}";'
            ),
        },
        listeners=[Listener("SASL", free_port(), "SASL_PLAINTEXT")],
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for by its mark; the summary says so."""
    if "long" in str(config.getoption("markexpr")):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
        config.stash[_long] = len(long)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Say in capital letters what was left out, and where a failed session's broker wrote its log."""
    if reason := config.stash.get(_missing, None):
        left_out = sum("kafka" in report.keywords for report in terminalreporter.stats.get("skipped", []))
        terminalreporter.section("WARNING", sep="!", red=True, bold=True)
        terminalreporter.line(f"{left_out} TESTS ON A REAL KAFKA WERE LEFT OUT: {reason}".upper())
    if long := config.stash.get(_long, 0):
        terminalreporter.line(f"{long} long fault tests are not in this run: `make test-faults` runs them")
    if exitstatus == pytest.ExitCode.TESTS_FAILED and (log := config.stash.get(_log, None)):
        terminalreporter.line(f"the log of the Kafka broker of this session: {log}")
