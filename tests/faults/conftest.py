"""The arenas of a test, closed behind it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.kafka_node import KafkaNode
from tests.faults.arena import Arena
from tests.faults.results import Report

MakeArena = Callable[..., Arena]


@pytest.fixture
def make_arena(tmp_path: Path) -> Iterator[MakeArena]:
    """Arenas on whatever cluster; arguments as `Arena`'s, without the directory."""
    made: list[Arena] = []

    def make(addresses: list[str], seed: int, **options: Any) -> Arena:
        directory = tmp_path / f"arena-{len(made)}"
        directory.mkdir()
        made.append(Arena(addresses, directory, seed, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Iterator[Report]:
    """Call it at the end, when all is compared: what came out becomes a line of docs/guarantees.md."""
    made, started_s = Report(request.node.name), time.monotonic()
    yield made
    made.write(time.monotonic() - started_s)


@pytest.fixture
def arena(kafka: KafkaNode, make_arena: MakeArena) -> MakeArena:
    """Arenas on the one-node Kafka of the session."""
    return lambda seed, **options: make_arena([kafka.address], seed, **options)
