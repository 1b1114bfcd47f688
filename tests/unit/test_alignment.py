"""How far an encoder may run ahead of the others."""

from __future__ import annotations

import pytest

from stream_monitor import alignment
from stream_monitor.alignment import Alignment, note
from stream_monitor.ordering import MAX_WAIT_MS, NEVER


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignment, "AHEAD_RECORDS", 100)
    monkeypatch.setattr(alignment, "AHEAD_BYTES", 10_000)


def test_nobody_is_ahead_alone() -> None:
    alone = Alignment(20)
    alone.take(10, 1_000, 1_000)
    assert not alone.ahead
    alone.hear({1: "", 2: ""}, 0.0)  # read to their ends
    alone.take(20, 1_000, 1_000)
    assert not alone.ahead


@pytest.mark.parametrize(("records", "size"), [(50, 0), (1, 5_000)])
def test_a_window_ahead_of_the_one_furthest_behind_and_no_further(records: int, size: int) -> None:
    aligned = Alignment(20)
    aligned.hear({1: note(10, 1), 2: note(40, 1), 3: ""}, 0.0)
    assert aligned.others_ms == 10
    aligned.take(10, 1_000, 100_000)
    assert not aligned.ahead, "no further than the others"
    aligned.take(20, records, size)
    assert not aligned.ahead
    aligned.take(30, records, size)
    assert aligned.ahead
    aligned.hear({1: note(20, 2), 2: note(40, 1), 3: ""}, 1.0)
    assert not aligned.ahead


def test_what_is_written_is_a_window_of_messages() -> None:
    aligned = Alignment(20)
    aligned.hear({1: note(10, 1)}, 0.0)
    aligned.wrote(10, 1_000)
    aligned.wrote(20, 19)
    assert not aligned.ahead
    aligned.wrote(30, 1)
    assert aligned.ahead


def test_an_encoder_that_is_gone_is_not_waited_for() -> None:
    aligned = Alignment(20)
    aligned.hear({1: note(10, 1)}, 100.0)
    aligned.take(20, 100, 0)
    aligned.hear({1: note(10, 1)}, 100.0 + MAX_WAIT_MS / 1000 - 0.1)
    assert aligned.ahead
    aligned.hear({1: note(10, 2)}, 100.0 + MAX_WAIT_MS / 1000)  # it lives, though it does not come along
    assert aligned.ahead
    aligned.hear({1: note(10, 2)}, 100.0 + 2 * MAX_WAIT_MS / 1000)
    assert not aligned.ahead
    assert aligned.others_ms == NEVER


def test_what_is_taken_again_counts_once() -> None:
    aligned = Alignment(20)
    aligned.hear({1: note(10, 1)}, 0.0)
    aligned.take(20, 100, 0)
    aligned.forget()
    assert not aligned.ahead


@pytest.mark.parametrize("text", ["x", "1e3 5", "- 5", "9" * 5_000, "½ 3"])
def test_a_note_that_is_not_ours_says_nothing(text: str) -> None:
    aligned = Alignment(20)
    aligned.hear({1: text}, 0.0)
    assert aligned.others_ms == NEVER
