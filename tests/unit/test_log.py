"""Logging: readable or JSON, quiet libraries, no secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from stream_monitor import log


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def written(level: str, form: str, verbosity: int = 0) -> str:
    stream = io.StringIO()
    log.setup(level, form, verbosity, stream)
    structlog.get_logger().info("hello", stream="credit-risk", sasl_password="hunter2")
    structlog.get_logger().debug("details")
    logging.getLogger("kafka.conn").error("Connection failed")
    logging.getLogger("kafka.conn").debug("request with hunter2")
    logging.getLogger("somebody").warning("a library says %s", "so")
    return stream.getvalue()


def test_json_is_one_object_a_line() -> None:
    lines = [json.loads(line) for line in written("info", "json").splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [("info", "hello"), ("warning", "a library says so")]
    assert lines[0]["stream"] == "credit-risk"
    assert lines[0]["timestamp"].endswith("Z")


def test_an_exception_stays_on_its_line() -> None:
    stream = io.StringIO()
    log.setup("info", "json", 0, stream)
    try:
        raise ZeroDivisionError("oops")
    except ZeroDivisionError:
        structlog.get_logger().exception("unexpected error")
    [line] = stream.getvalue().splitlines()
    assert "ZeroDivisionError: oops" in json.loads(line)["exception"]


def test_the_console_is_for_people() -> None:
    text = written("info", "console")
    assert "hello" in text
    assert "stream=credit-risk" in text
    assert "\x1b" not in text, "no colours into a file"


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("verbosity", [0, 1, 2])
def test_no_secret_is_written_however_talkative(form: str, verbosity: int) -> None:
    assert "hunter2" not in written("debug", form, verbosity)


def test_verbosity_brings_details_then_the_libraries() -> None:
    assert "details" not in written("info", "console", 0)
    assert "Connection failed" not in written("info", "console", 0)
    assert "details" in written("info", "console", 1)
    assert "Connection failed" in written("info", "console", 1)
