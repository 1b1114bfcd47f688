"""Runs every contract test on both brokers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.environment import Backend, Environment, KafkaBackend, MemoryBackend


@pytest.fixture(scope="session", params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    chosen: Backend = MemoryBackend() if request.param == "memory" else KafkaBackend(request.getfixturevalue("kafka"))
    yield chosen
    chosen.close()


@pytest.fixture
def env(backend: Backend) -> Iterator[Environment]:
    environment = Environment(backend)
    yield environment
    environment.close()
