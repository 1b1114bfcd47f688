"""Snapshots: bit for bit at any row, whole or cold, and clocks."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_monitor import state as states
from stream_monitor import state_records, wire
from stream_monitor.batch import RawBatch
from stream_monitor.book import ReferenceBook, key_of
from stream_monitor.detectors.recovery import Strength
from stream_monitor.errors import VersionUnknown, WireError
from stream_monitor.events import Row
from stream_monitor.ordering import LONG_AGO, Clock
from stream_monitor.state import Saved
from tests.unit import world
from tests.unit.snapshots import (
    ROWS,
    Live,
    applied,
    book,
    decoded,
    encoded,
    feed,
    new_stream,
    restored,
    snapshot,
    with_watched,
)


@pytest.mark.parametrize("kind", ROWS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 1_700), later=st.integers(0, 1_700))
def test_a_snapshot_is_bit_for_bit_at_any_row_and_goes_on_equal(kind: str, cut: int, later: int) -> None:
    """Watched (with an open episode from row 710 or so, or a reopened one), seasonal, and warming up with the switch at
    row 1,000."""
    rows = ROWS[kind]()
    cut, later = sorted((cut, later))
    whole, head = new_stream(), new_stream()
    ids = feed(whole, rows, kind)
    found = feed(head, rows[:cut], kind)
    live = snapshot(head)
    learned = head.monitor.entry.reference if head.monitor is not None else None
    if learned is not None and kind == "warming":
        book().apply(key_of(learned.stream, 0), learned.to_json())
    back = restored(live)
    assert (back.lost, back.cold, back.stamp, back.released_ms) == ("", {}, 7, 9)
    assert snapshot(back.stream) == live
    found += feed(back.stream, rows[cut:later], kind)
    found += feed(back.stream, rows[later:], kind)
    assert found == ids
    assert snapshot(back.stream) == snapshot(whole)


def test_an_open_episode_is_in_the_snapshots_above() -> None:
    stream = new_stream()
    feed(stream, ROWS["plain"]()[:1_000], "plain")
    assert stream.monitor is not None
    assert stream.monitor.episodes


def test_so_is_one_that_was_reopened_with_what_is_known_of_its_drift() -> None:
    stream = new_stream()
    feed(stream, ROWS["again"]()[:1_300], "again")
    assert stream.monitor is not None
    known = {(bool(episode.reopenings), episode.strength) for episode in stream.monitor.episodes.values()}
    assert (True, Strength.CLEAR) in known


# ---- parts, chunks, tombstones ----


def test_a_large_snapshot_is_split_and_the_parts_left_over_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stream()
    feed(stream, world.rows(500), "plain")
    monkeypatch.setattr(wire, "RECORD_BYTES", 1_000)
    records, saved = states.save(stream, 1, 1, Saved())
    live = applied(records, {})
    assert saved.parts == len(live) > 5
    monkeypatch.setattr(wire, "RECORD_BYTES", 3_000)
    records, smaller = states.save(stream, 2, 2, saved)
    live = applied(records, live)
    assert len(live) == smaller.parts < saved.parts
    assert restored(live).stamp == 2


@pytest.mark.parametrize("change", ["missing", "mixed", "swapped"])
def test_parts_that_do_not_belong_together_start_cold(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = new_stream()
    feed(stream, world.rows(500), "plain")
    monkeypatch.setattr(wire, "RECORD_BYTES", 1_000)
    live, other = snapshot(stream, 1), snapshot(stream, 2)
    one, two = state_records.key(stream.key, 1), state_records.key(stream.key, 2)
    match change:
        case "missing":
            del live[one]
        case "mixed":
            live[one] = other[one]
        case "swapped":
            live[one], live[two] = live[two], live[one]
    back = restored(live)
    assert back.lost
    assert (back.stamp, back.released_ms) == (0, LONG_AGO)
    healed = applied(states.save(back.stream, 3, 3, back.saved)[0], live)
    assert restored(healed).lost == ""
    assert len(healed) == 1


def test_chunks_of_a_warm_up_are_written_once_and_deleted_when_it_is_over() -> None:
    live: Live = {}
    stream, saved = new_stream(warmup_events=300), Saved()
    written = 0
    for start in range(0, 300, 50):
        feed(stream, world.rows(300)[start : start + 50], "warming")
        records, saved = states.save(stream, start, start, saved)
        written += sum(key.startswith(b'["w"') and value is not None for key, value in records)
        live = applied(records, live)
    assert written == 5
    assert stream.monitor is not None
    assert not [key for key in live if key.startswith(b'["w"')]


def test_a_warm_up_that_failed_and_began_anew_between_two_saves_is_written_anew() -> None:
    """The new rows are as many as the old ones: their number alone does not tell them apart."""
    stream = new_stream(warmup_events=100)
    hopeless = [Row("m", "", "", i, {}, None, None, None, 0, i, 0) for i in range(100)]
    feed(stream, hopeless[:60], "warming")
    records, saved = states.save(stream, 1, 1, Saved())
    live = applied(records, {})
    assert stream.feed(RawBatch(stream.key, tuple(hopeless[60:])), book()).failed
    fresh = world.rows(80)
    feed(stream, fresh, "warming")
    live = applied(states.save(stream, 2, 2, saved)[0], live)
    assert restored(live, new_stream(warmup_events=100)).stream.warmup == fresh


def test_a_warm_up_after_a_loss_does_not_build_on_old_chunks() -> None:
    stream = new_stream(warmup_events=100)
    feed(stream, world.rows(40), "warming")
    live = snapshot(stream)
    part = state_records.key(stream.key, 0)
    live[part] = live[part][:-3]
    back = restored(live, new_stream(warmup_events=100))
    assert back.lost
    fresh = world.rows(30, seed=5)
    feed(back.stream, fresh, "warming")
    live = applied(states.save(back.stream, 2, 2, back.saved)[0], live)
    assert restored(live, new_stream(warmup_events=100)).stream.warmup == fresh


def test_a_warm_up_made_shorter_than_what_is_saved_ends_with_the_next_row() -> None:
    stream = new_stream(warmup_events=1_000)
    rows = world.rows(900)
    feed(stream, rows[:800], "warming")
    back = restored(snapshot(stream), new_stream(warmup_events=300))
    feed(back.stream, rows[800:801], "warming")
    assert back.stream.monitor is not None
    assert back.stream.monitor.entry.reference.source.rows == 300


# ---- another version ----


def test_another_tag_starts_that_detector_cold_and_no_other() -> None:
    stream = new_stream()
    feed(stream, world.rows(650), "plain")
    before = decoded(snapshot(stream))
    assert before.watched is not None
    for name, detector in before.watched.detectors.items():
        other = {**before.watched.detectors, name: msgspec.structs.replace(detector, tag=f"{name}/0/river-0.1/abc")}
        back = restored(encoded(with_watched(before, detectors=other)))
        assert back.lost == ""
        assert list(back.cold) == [name]
        assert "its parameters or its library changed" in back.cold[name]
        after = decoded(snapshot(back.stream))
        assert after.watched is not None
        same = {each for each in before.watched.detectors
                if after.watched.detectors[each] == before.watched.detectors[each]}  # fmt: skip
        assert same == before.watched.detectors.keys() - {name}
        assert after.watched.monitor == before.watched.monitor
        feed(back.stream, world.rows(500, drift_at=100), "plain")


def test_a_state_of_the_future_is_neither_lost_nor_cold() -> None:
    stream = new_stream()
    live = snapshot(stream)
    part = state_records.key(stream.key, 0)
    newer = wire.frame(states.KIND, wire.NEWEST + 1, live[part][wire.HEADER_BYTES :])
    with pytest.raises(VersionUnknown, match="upgrading"):
        restored({part: newer})
    with pytest.raises(VersionUnknown):
        states.group_records({msgspec.json.encode(["z", "m", "", "", 0]): newer})
    live[part] = live[part][:4] + b"\x09" + live[part][5:]
    assert restored(live).lost == "checksum does not match: the bytes are damaged"


def test_a_reference_that_is_gone_is_named() -> None:
    stream = new_stream()
    feed(stream, world.rows(100), "plain")
    grouped, _ = states.group_records(snapshot(stream))
    back = states.restore(new_stream(), grouped[stream.key], ReferenceBook())
    assert "no longer on the references topic" in back.lost


def clocks() -> Iterator[bytes]:
    good = states.pack_clock(Clock(5, 6, 2, {0: 1, 1: 2}))
    yield good[:-1]
    yield good.replace(b"SM1", b"SM2")
    yield wire.pack(states.CLOCK_KIND, 1, {"offset": "x"})


def test_a_clock_comes_back_or_is_refused() -> None:
    clock = Clock(5, 6, 2, {0: 1, 1: 2})
    assert states.unpack_clock(states.pack_clock(clock)) == clock
    for damaged in clocks():
        with pytest.raises(WireError):
            states.unpack_clock(damaged)
