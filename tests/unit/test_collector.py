"""The cycle collector of a worker: what start-up made is left out, and what comes later is still collected."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import stream_monitor.broker.kafka as kafka_package
from stream_monitor import collector
from stream_monitor import worker as worker_module
from stream_monitor.errors import BrokerUnavailable
from stream_monitor.worker import Worker
from tests.unit.world import World, reference


class Node:
    """Part of a cycle."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_what_exists_is_frozen_and_its_rubbish_is_not() -> None:
    rubbish, kept = weakref.ref(Node()), Node()
    collector.settle()
    assert rubbish() is None
    assert gc.get_freeze_count() > 1_000
    assert gc.get_threshold()[0] == collector.NEW_CONTAINERS
    assert kept.me is kept


def test_cycles_made_later_still_go() -> None:
    collector.settle()
    later = weakref.ref(Node())
    held = [[] for _ in range(2 * collector.NEW_CONTAINERS)]  # type: ignore[var-annotated]  # only that they are there
    assert len(held) > collector.NEW_CONTAINERS
    assert later() is None


def test_what_a_connection_left_behind_goes_before_the_next_one_is_settled() -> None:
    """Frozen, its cycles would never be found: a worker that connects anew would grow with every restart of a broker.
    So they are, as kafka-python's clients and their threads."""
    thresholds = gc.get_threshold()
    client = Node()
    left = weakref.ref(client)
    collector.settle()
    del client
    gc.collect()
    assert left() is not None, "this is what has to be undone"
    collector.release()
    assert left() is None
    assert gc.get_threshold() == thresholds


def test_a_worker_that_connects_again_has_let_go_of_the_last_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    world, stop, left = World(references=[reference()]), threading.Event(), list[weakref.ref[Worker]]()

    class Unreachable(Worker):
        """Is cut off while it works, and is part of a cycle, frozen at its start."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.itself = self
            assert all(each() is None for each in left), "the last one is still there"
            left.append(weakref.ref(self))

        def run(self, stop: threading.Event) -> None:
            self.step(0.0)
            if len(left) == 3:
                stop.set()
                return
            raise BrokerUnavailable("cut off")

    monkeypatch.setattr(worker_module, "Worker", Unreachable)
    monkeypatch.setattr(worker_module, "RETRY_FIRST_S", 0.0)
    monkeypatch.setattr(kafka_package, "KafkaBroker", lambda _: world.broker)
    worker_module.run(world.base, stop=stop)
    assert len(left) == 3
