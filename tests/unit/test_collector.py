"""The cycle collector of a worker: what start-up made is left out, and what comes later is still collected."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from stream_monitor import collector


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
