"""What a monitor keeps of values that training never saw: bounded, cut-invariant, and restored bit for bit."""

from __future__ import annotations

from collections import Counter
from functools import partial

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor.book import ReferenceBook
from stream_monitor.coding import code
from stream_monitor.encode import Binner
from stream_monitor.errors import WireError
from stream_monitor.events import Row
from stream_monitor.heavy import FADES_AT, MOST_NAMES, HeavyNames
from stream_monitor.monitor import Monitor, MonitorState
from stream_monitor.outside import KEPT, Outside
from stream_monitor.reference import StreamKey
from stream_monitor.streams import StreamFactory
from tests.unit.world import MODEL, reference, rows
from tests.unit.world import settings as world_settings


@given(st.lists(st.integers(0, 80), max_size=FADES_AT - 1))
@settings(max_examples=30, deadline=None)
def test_no_count_is_too_high_and_none_too_low_by_more_than_a_33rd(numbers: list[int]) -> None:
    heavy = HeavyNames()
    for number in numbers:
        heavy.add(f"n{number}")
    assert len(heavy.counts) <= MOST_NAMES
    assert heavy.sound
    for name, times in Counter(f"n{number}" for number in numbers).items():
        assert times - len(numbers) / (MOST_NAMES + 1) <= heavy.counts.get(name, 0) <= times


def test_what_comes_now_outweighs_what_was_long_ago() -> None:
    heavy = HeavyNames()
    for name in ["old"] * 50_000 + ["new"] * 8_000:
        heavy.add(name)
    assert heavy.top(1)[0][0] == "new"
    assert heavy.sound


def test_a_name_is_found_in_a_flood_of_others_that_the_last_values_do_not_show() -> None:
    outside = Outside()
    for row in range(4_000):
        outside.add([(row, 0, "Oslo" if row % 12 == 0 else f"typo {row}")])
        if row % 100 == 99:
            outside.end_of_pane(row - 99, row + 1, {0: 500})
    assert len(outside.state()[0]) == KEPT
    (name, share), *_ = outside.names(0, 500, 3_999)
    assert name == "Oslo"
    assert 1 / 12 - 1 / 33 <= share <= 1 / 12 + 0.001


def test_a_resolved_episode_leaves_no_names() -> None:
    outside = Outside()
    outside.add([(row, 0, "Oslo") for row in range(100)])
    outside.end_of_pane(0, 100, {0: 0})
    assert outside.state()[1].keys() == {0}
    outside.end_of_pane(100, 200, {})
    assert outside.state()[1] == {}


def test_damaged_counts_are_refused() -> None:
    for heavy in (HeavyNames({"a": -1}, 5), HeavyNames({"a": 9}, 5), HeavyNames({str(i): 1 for i in range(40)}, 50)):
        with pytest.raises(WireError):
            Outside().restore([], {0: heavy})


def with_features(row: Row, **changed: str | float) -> Row:
    return msgspec.structs.replace(row, features={**row.features, **changed})


def test_a_monitor_goes_on_bit_for_bit_wherever_it_is_cut() -> None:
    """Names and numbers of new values included: the alerts' texts are the same."""
    known = reference()
    entry = ReferenceBook.entry(known, 1)
    stream = StreamKey(MODEL)
    rng = np.random.default_rng(5)
    given_rows = [
        with_features(row, city=f"typo {i}" if i % 3 else "Bergen", x=1e3 + i)
        if i > 700 and rng.random() < 0.5
        else row
        for i, row in enumerate(rows(4_000, seed=8))
    ]
    factory = StreamFactory(world_settings())
    new = partial(factory.stream(stream).new_monitor, stream, entry)
    binner = Binner(known)

    def fed(monitor: Monitor, start: int, stop: int) -> list[bytes]:
        batch = code(given_rows[start:stop], stream, entry, binner)
        return [a.to_json() for a in monitor.feed(batch.codes, batch.origins, batch.extras, batch.unknown)]

    whole, cut = new(), new()
    alerts: list[bytes] = []
    once = [alert for start in range(0, 4_000, 10) for alert in fed(whole, start, start + 10)]
    for start in range(0, 4_000, 10):
        alerts += fed(cut, start, start + 10)
        if start % 70 == 0:
            packed = msgspec.msgpack.encode(cut.state())
            state, trail, detectors = msgspec.msgpack.decode(packed, type=MonitorState), cut.trail, cut.detectors
            cut = new()
            cut.trail.restore(trail.rows, trail.state())
            assert cut.detectors.restore(detectors.states()) == {}
            cut.restore(state)
            assert msgspec.msgpack.encode(cut.state()) == packed
    assert alerts == once
    assert any("“Bergen”" in alert.decode() for alert in once)
