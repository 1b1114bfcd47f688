"""What is mended about kafka-python's clients, with its own event loop and no broker."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kafka import errors
from kafka.future import Future
from kafka.net.selector import NetworkSelector

from stream_monitor.broker.kafka.clients import without_cycles


@pytest.fixture
def net() -> Iterator[Any]:
    selector = NetworkSelector()
    selector.start()
    gc.collect()
    gc.disable()
    yield selector
    gc.enable()
    selector.stop()
    selector.close()


class Response:
    """Stands for the response to a fetch."""


async def late() -> None:
    """As `KafkaConnectionManager.wait_for`, when the time is over."""
    waited = Future()
    waited.failure(errors.KafkaTimeoutError("timed out"))
    await waited


def waited(run: Callable[..., Any]) -> weakref.ref[Response]:
    """What a caller held while it waited, as `Fetcher.fetch_records`."""
    response = Response()
    with pytest.raises(errors.KafkaTimeoutError, match="timed out"):
        run(late)
    return weakref.ref(response)


def test_a_wait_that_timed_out_leaves_nothing_behind(net: Any) -> None:
    assert waited(without_cycles(net.run))() is None


def test_kafka_python_still_leaves_a_cycle(net: Any) -> None:
    """Else `without_cycles` is not needed any more."""
    assert waited(net.run)() is not None


def test_answers_and_other_errors_pass(net: Any) -> None:
    async def answer(value: int) -> int:
        if not value:
            raise errors.NotLeaderForPartitionError
        return value

    run = without_cycles(net.run)
    assert run(answer, 7) == 7
    with pytest.raises(errors.NotLeaderForPartitionError):
        run(answer, 0)
