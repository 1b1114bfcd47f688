"""What a scan gives is what decoding the records one by one gives, whatever their bytes."""

from __future__ import annotations

import json
import random
import threading
from functools import partial
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given, settings

from stream_monitor import scan
from stream_monitor.book import FIRST_EPOCH, ReferenceBook, key_of
from stream_monitor.broker.protocol import Message
from stream_monitor.config import Settings
from stream_monitor.encoder import EncodeCounts, Encoder, route
from stream_monitor.events import DATES_MS, Limits, Shape
from stream_monitor.fit import FitOptions, fit
from stream_monitor.layout import Layout
from stream_monitor.merge import Merged
from stream_monitor.reference import Season, StreamKey
from stream_monitor.scan import Scanner
from stream_monitor.texts import TextTable
from tests.unit.rows import row
from tests.unit.test_rows import entries_of, one_by_one

ROUTE = partial(route, settings=Settings())
NAMES = ("x", "y", "größe", "kind")


@given(st.lists(st.text(max_size=20), unique=True, max_size=40), st.lists(st.text(max_size=20), max_size=40))
@settings(max_examples=50, deadline=None)
def test_a_table_of_texts_finds_what_a_dictionary_finds(known: list[str], asked: list[str]) -> None:
    codes: dict[object, int] = {text: i % 200 for i, text in enumerate(known)}
    events = [{"model": "m", "features": {"x": text}} for text in [*known, *asked]]
    found = rows_of([orjson.dumps(events)])
    if found is None:
        return  # an escape
    [rows] = found
    coded = rows.features.cells("x").codes(TextTable(codes), missing=254, miss=255)
    assert coded.tolist() == [codes.get(text, 255) for text in [*known, *asked]]


def rows_of(
    values: list[bytes | None], shape: Shape | None = None, latest_ms: int = DATES_MS[-1], least: int = 0
) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "LEAST_BYTES", 0)
        patch.setattr(scan, "LEAST_VALUES", 0)
        patch.setattr(scan, "LEAST_TOGETHER", 0)
        entries = entries_of(values)
        return scanned(Scanner(shape or Shape(), ROUTE), entries, latest_ms)


def scanned(scanner: Scanner, entries: list[Merged], latest_ms: int = DATES_MS[-1]) -> Any:
    """The rows of a run."""
    [(_, _, rows)] = scanner.rows(entries, latest_ms)
    return rows


def assert_same(values: list[bytes | None], shape: Shape, latest_ms: int = DATES_MS[-1]) -> bool:
    """Whether the records were scanned; if so, they gave what they should."""
    found = rows_of(values, shape, latest_ms)
    if found is None:
        return False
    streams, rejects = one_by_one(entries_of(values), shape, latest_ms)
    assert not rejects
    mine = {rows.stream: list(rows) for rows in found}
    assert repr(mine) == repr(streams)
    assert list(mine) == list(streams), "streams in the order of their first rows"
    return True


def compact(value: Any) -> bytes:
    """As orjson writes it, which refuses integers beyond 64 bits."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 2**66), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=9), st.sampled_from(["a", "ü", "€uro", 'quo"te', "back\\slash", "tab\t"]),
)  # fmt: skip
plain = st.one_of(st.floats(-1e9, 1e9), st.integers(-100, 100), st.sampled_from(["red", "green", "grün"]), st.none())
writers = st.sampled_from([
    compact, lambda value: json.dumps(value).encode(), lambda value: json.dumps(value, indent=1).encode(),
    lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(),
])  # fmt: skip


@st.composite
def records(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> list[bytes | None]:
    """Records of one writer whose events have one of two layouts."""
    layouts = draw(st.lists(st.permutations(NAMES), min_size=1, max_size=2))
    write = draw(writers)
    parts = draw(
        st.lists(st.sampled_from(["version", "segment", "time", "id", "prediction", "label", "trace"]), unique=True)
    )
    events = []
    for _ in range(draw(st.integers(1, 12))):
        event: dict[str, Any] = {"model": draw(st.sampled_from(["m", "n"]))}
        for part in parts:
            event[part] = draw(st.integers(0, 10**13) if part == "time" else values)
        event["features"] = {name: draw(values) for name in draw(st.sampled_from(layouts))}
        if "trace" in parts:
            event["trace"] = {"host": {"name": draw(values)}}
        events.append(event)
    if draw(st.booleans()):
        return list(map(write, events))
    return [write(events[at : at + 3]) for at in range(0, len(events), 3)]


@given(records(plain))
@settings(max_examples=150, deadline=None)
def test_usual_records_are_scanned_and_give_the_same_rows(values: list[bytes | None]) -> None:
    assert (
        assert_same(values, Shape())
        or any(b"\\u" in (value or b"") for value in values)
        or one_by_one(entries_of(values), Shape())[1]
    )


@given(records(scalars), st.integers(0, 10**13))
@settings(max_examples=150, deadline=None)
def test_whatever_is_scanned_gives_the_same_rows(values: list[bytes | None], latest_ms: int) -> None:
    assert_same(values, Shape(), latest_ms)
    assert_same(values, Shape(fixed_model="m", version=None, time=None))
    assert_same(values, Shape(limits=Limits(max_record_bytes=200, max_events=2, max_features=3)))


@given(records(plain), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_are_scanned_right_or_not_at_all(values: list[bytes | None], rng: random.Random) -> None:
    damaged = [bytearray(value or b"") for value in values]
    for _ in range(rng.randint(1, 3)):
        victim = rng.choice(damaged)
        at = rng.randrange(len(victim) + 1)
        cut = slice(at, at + rng.randint(0, 2))
        victim[cut] = rng.choice(
            [b"", b'"', b"\\", b"}", b"]", b",", b"\xff", b"\x00", b"0", b"e", b" ", b"-", b"1e999"]
        )
    for order in (damaged, damaged[::-1]):  # the layout is that of the first record
        assert_same([bytes(each) for each in order], Shape())


def test_a_record_does_not_go_on_in_the_next() -> None:
    whole = b'{"model":"m","features":{"x":12}}'
    for at in range(1, len(whole)):
        assert not assert_same([whole, whole[:at], whole[at:]], Shape())


def test_times_are_the_events_own_or_those_of_the_records() -> None:
    for time in (b"1", b"1700000000000.7", b'"2026-03-01T12:00:00+01:00"', b"null", b"1e12"):
        assert assert_same([b'{"model":"m","time":%s,"features":{"x":1}}' % time] * 3, Shape())
    for time in (b"true", b'"yesterday"', b"1e300", b"-1e15", b"1e400"):
        assert not assert_same([b'{"model":"m","time":%s,"features":{"x":1}}' % time] * 3, Shape())


@pytest.mark.parametrize("event", [
    b'{"model":"m","features":{"x":1,"x":2}}', b'{"model":"m","model":"n","features":{"x":1}}', b'{"features":{"x":1}}',
    b'{"model":"m","features":{"x":[1]}}', b'{"model":"m","features":{"x":{"y":1}}}', b'{"model":"m","features":{}}',
    b'{"model":"m","features":{"x\\u0041":1}}', b'{"model":"m","features":{"x":1},"tags":[1]}', b'{"model":"m"}',
    b'{"model":"m","features":{"x":1},"prediction":{"yes":0.5}}', b'{"model":{"a":1},"features":{"x":1}}', b"[]", b"{}",
    b'{"model":"m","features":{"x":nan}}', b'{"model":"m","features":{"x":1}', b'{"model":"m","features":{"x":1},}',
    b'{"model":"\xff","features":{"x":1}}', b"{" * 100, b'{"a":' * 100_000, b"",
])  # fmt: skip
def test_events_without_a_layout(event: bytes) -> None:
    assert Layout.of(event, 0, Shape()) is None


def test_a_layout_is_the_bytes_between_the_values() -> None:
    layout = Layout.of(b'[ {"model": "m", "features": {"x": 1.5,"y":null}, "at": {"host": true}}]', 2, Shape())
    assert layout is not None
    assert layout.literals == (b'{"model": ', b', "features": {"x": ', b',"y":', b'}, "at": {"host": ', b"}}")
    assert layout.features == {"x": 1, "y": 2}
    assert layout.part("model") == 0
    assert layout.part("version") == layout.part(None) == -1


def messages(values: list[bytes | None], known: Encoder, *, scanning: bool, together: bool = False) -> list[Message]:
    """`together`: run with run, as where each stream has but a few events in one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "LEAST_BYTES", 0)
        patch.setattr(scan, "LEAST_VALUES", 10**9 if together else 0)
        patch.setattr(scan, "LEAST_TOGETHER", 0)
        if not scanning:
            patch.setattr(known, "_scanner", None)
        return known.encode(entries_of(values), EncodeCounts(), 2 * 10**12)


def encoder() -> Encoder:
    """Of one stream with a reference, of two columns of each kind and the prediction; what else comes has none."""
    rng = random.Random(4)
    rows = [
        row({"x": rng.gauss(0, 1), "y": rng.randint(-50, 50), "kind": rng.choice(["red", "green", "grün"]),
             "größe": str(rng.randint(1, 3))}, prediction=rng.random())
        for _ in range(2_000)
    ]  # fmt: skip
    book, known = ReferenceBook(), fit(rows, StreamKey("m", ""), FitOptions(season=Season.NONE, ordered=True))
    book.apply(key_of(known.stream, FIRST_EPOCH), known.to_json())
    return Encoder(Settings(), book)


ENCODER = encoder()


@given(records(st.one_of(plain, scalars)))
@settings(max_examples=150, deadline=None)
def test_the_messages_are_the_same_scanned_or_not(values: list[bytes | None]) -> None:
    assert messages(values, encoder_of(), scanning=True) == messages(values, encoder_of(), scanning=False)


@given(records(st.one_of(plain, scalars)), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_the_messages_are_the_same_from_runs_taken_together(values: list[bytes | None], run: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "RUN", run)
        found = messages(values, encoder_of(), scanning=True, together=True)
    assert found == messages(values, encoder_of(), scanning=False)


def of_many_streams(count: int, streams: int) -> list[bytes | None]:
    return [
        orjson.dumps({"model": f"m{i % streams}" if i % streams else "m", "version": "", "id": str(i),
                      "features": {"x": i / 7, "y": i % 40, "kind": "red", "größe": "2"}, "prediction": i % 3 / 3})
        for i in range(count)
    ]  # fmt: skip


def test_runs_with_a_few_events_of_each_stream_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "RUN", 50)
    monkeypatch.setattr(scan, "LEAST_BYTES", 0)
    values = of_many_streams(1_000, streams=100)
    entries = entries_of(values)
    [(start, stop, rows)] = Scanner(Shape(), ROUTE).rows(entries, DATES_MS[-1])
    assert (start, stop) == (0, 1_000)
    assert rows is not None
    assert [len(each) for each in rows] == [10] * 100
    expected, _ = one_by_one(entries, Shape())
    assert [(each.stream, list(each)) for each in rows] == list(expected.items())
    assert messages(values, encoder_of(), scanning=True, together=True) == messages(
        values, encoder_of(), scanning=False
    )


def test_runs_taken_together_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "RUN", 50)
    monkeypatch.setattr(scan, "LEAST_BYTES", 0)
    monkeypatch.setattr(scan, "MOST_CELLS", 4_000)
    values = of_many_streams(1_000, streams=10)
    values[700] = b'{"model":"m","features":{"z":1}}'  # another layout
    values[900] = b"no event"
    found = [(start, stop, rows is not None)
             for start, stop, rows in Scanner(Shape(), ROUTE).rows(entries_of(values), DATES_MS[-1])]  # fmt: skip
    assert [start for start, _, _ in found] == [0, *(stop for _, stop, _ in found[:-1])]
    assert max(stop - start for start, stop, _ in found) < 600
    assert {(start, stop) for start, stop, scanned in found if not scanned} >= {(900, 950)}
    assert messages(values, encoder_of(), scanning=True, together=True) == messages(
        values, encoder_of(), scanning=False
    )


def test_too_few_events_of_each_stream_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "RUN", 50)
    monkeypatch.setattr(scan, "LEAST_BYTES", 0)
    [(_, _, rows)] = Scanner(Shape(), ROUTE).rows(entries_of(of_many_streams(1_000, streams=500)), DATES_MS[-1])
    assert rows is None


def encoder_of() -> Encoder:
    """One that has learned no layout yet."""
    return Encoder(Settings(), ENCODER._book)


def test_scanned_and_decoded_runs_take_turns_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "RUN", 7)
    values: list[bytes | None] = []
    for i in range(200):
        odd = i % 29 == 0
        event = {
            "model": "m",
            "version": "",
            "id": f'"{i}"' if odd else str(i),
            "features": {"x": i / 7, "kind": "red"},
        }
        values.append(b"no event" if i % 53 == 0 else orjson.dumps(event))
    assert messages(values, encoder_of(), scanning=True) == messages(values, encoder_of(), scanning=False)


def test_the_features_of_scanned_events_are_objects_to_whoever_asks() -> None:
    values: list[bytes | None] = [orjson.dumps({"model": "m", "features": {"x": i, "y": None}}) for i in range(5)]
    [rows] = rows_of(values)
    assert rows.features[3] == {"x": 3, "y": None}
    assert rows.features[1:3] == [{"x": 1, "y": None}, {"x": 2, "y": None}]
    assert rows[2].features == {"x": 2, "y": None}
    assert rows.ids[1:3] == [None, None]


def test_a_scanner_rests_longer_and_longer_while_it_is_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "LEAST_BYTES", 0)
    monkeypatch.setattr(scan, "LEAST_VALUES", 0)
    monkeypatch.setattr(scan, "LEAST_TOGETHER", 0)
    scanner, tried, turn = Scanner(Shape(), ROUTE), list[int](), 0
    known = scanner._scan

    def counted(*given: Any) -> Any:
        tried.append(turn)
        return known(*given)

    monkeypatch.setattr(scanner, "_scan", counted)
    good: list[Merged] = entries_of([b'{"model":"m","features":{"x":1}}'])
    bad: list[Merged] = entries_of([b'{"model":"m","features":{"x":[1]}}'])
    for turn in range(20):
        entries = good if turn > 15 else bad
        scanned(scanner, entries)
    assert tried == [0, 2, 5, 10, 19]
    assert scanned(scanner, good) is not None, "what is of use again is not rested from"


def test_layouts_out_of_use_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "LEAST_BYTES", 0)
    monkeypatch.setattr(scan, "LEAST_VALUES", 0)
    monkeypatch.setattr(scan, "LEAST_TOGETHER", 0)
    scanner = Scanner(Shape(), ROUTE)
    for turn in range(3 * scan.MOST_LAYOUTS):
        entries = entries_of([b'{"model":"m","features":{"x%d":1}}' % turn, b'{"model":"m","features":{"x0":1}}'])
        assert scanned(scanner, entries) is not None
    assert len(scanner._layouts) == scan.MOST_LAYOUTS
    assert any("x0" in layout.features for layout in scanner._layouts), "one in use stays"


def test_one_thread_scans_ahead_from_the_start_on(monkeypatch: pytest.MonkeyPatch) -> None:
    scan.start()
    threads = threading.active_count()
    monkeypatch.setattr(scan, "RUN", 2)
    monkeypatch.setattr(scan, "LEAST_BYTES", 0)
    monkeypatch.setattr(scan, "LEAST_VALUES", 0)
    monkeypatch.setattr(scan, "LEAST_TOGETHER", 0)
    entries = entries_of([b'{"model":"m","features":{"x":1}}'] * 9)
    for _ in range(3):
        runs = list(Scanner(Shape(), ROUTE).rows(entries, DATES_MS[-1]))
        assert [(start, stop, rows is not None) for start, stop, rows in runs] == [
            (0, 2, True), (2, 4, True), (4, 6, True), (6, 8, True), (8, 9, True),
        ]  # fmt: skip
    assert threading.active_count() == threads


def test_short_events_beside_wide_ones_do_not_take_room_for_as_many_wide_ones() -> None:
    wide = orjson.dumps({"model": "wide", "features": {f"x{i}": i for i in range(1_500)}})
    short = b'{"model":"m","features":{"x":1}}'
    assert assert_same([wide, *[short] * 3], Shape())
    assert not assert_same([wide, *[short] * 1_500], Shape())
