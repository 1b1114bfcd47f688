"""The command line, as tests call it: in an empty directory, without variables of ours, logging put back."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import structlog

from stream_monitor import cli, cli_common, cli_reference
from stream_monitor.broker.memory import MemoryBroker
from stream_monitor.broker.protocol import Broker
from stream_monitor.config import Settings

ROWS = 1_200


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
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
def run(capsys: pytest.CaptureFixture[str], untouched: None) -> Run:
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
