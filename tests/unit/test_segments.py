"""Segments: which rows belong where, what they are compared with, and what alerts say of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import msgspec
import numpy as np
import orjson
import pytest

from stream_monitor import state as states
from stream_monitor.alerts import Alert, State
from stream_monitor.batch import RawBatch, decode
from stream_monitor.book import Entry, ReferenceBook, key_of
from stream_monitor.broker.protocol import Record
from stream_monitor.coding import code
from stream_monitor.config import Settings
from stream_monitor.encode import Binner
from stream_monitor.encoder import EncodeCounts, Encoder, route
from stream_monitor.errors import ReferenceInvalid
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, build_references, fit
from stream_monitor.privacy import Veil
from stream_monitor.reference import Reference, Season, Segment, StreamKey
from stream_monitor.reference_checks import load
from stream_monitor.segments import Router, levels, reference_of, segment_budget, whole_budget
from stream_monitor.stream import Stream
from stream_monitor.streams import StreamFactory

REGIONS = ("EU", "US", "AS", "XX")
SHARES = (0.45, 0.3, 0.2, 0.05)
KEY = StreamKey("m", "1")
OPTIONS = FitOptions(season=Season.NONE, ordered=True, segment_by=("region", "plan"))


def rows(count: int, seed: int, moved: str | None = "", since: int = 0, by: float = 1.0) -> list[Row]:
    """Regions differ by nature; from row `since` on `x` is higher `by` in one region (None: everywhere)."""
    rng = np.random.default_rng(seed)
    region, plan = rng.choice(REGIONS, size=count, p=SHARES), rng.choice(["free", "pro"], size=count, p=[0.7, 0.3])
    level = np.array([REGIONS.index(each) for each in region.tolist()]) * 0.3
    x, y = rng.normal(size=count) + level, rng.normal(size=count)
    hit = (np.arange(count) >= since) & ((region == moved) if moved is not None else True)
    x = np.where(hit, x + by, x)
    made = zip(x.tolist(), y.tolist(), region.tolist(), plan.tolist(), strict=True)
    return [
        Row("m", "1", "", 1_700_000_000_000 + i * 1_000, {"x": a, "region": r, "plan": p}, b, None, None, 0, i, 0)
        for i, (a, b, r, p) in enumerate(made)
    ]


@cache
def reference() -> Reference:
    return fit(rows(20_000, 1), KEY, OPTIONS)


@cache
def plain() -> Reference:
    return fit(rows(20_000, 1), KEY, FitOptions(season=Season.NONE, ordered=True))


def config(warmup: int = 5_000) -> Settings:
    return Settings.model_validate(
        {"kafka": {"bootstrap_servers": ["127.0.0.1:1"]}, "detection": {"warmup_events": warmup},
         "models": [{"match": "m", "segment_by": ["region", "plan"]}]}
    )  # fmt: skip


class Watch:
    """A stream under a reference, fed with rows."""

    def __init__(self, under: Reference, settings: Settings | None = None) -> None:
        self.book = ReferenceBook()
        self.book.apply(key_of(KEY, 1), under.to_json())
        self.settings = settings or config()
        self.stream: Stream = StreamFactory(self.settings).stream(KEY)
        self.entry: Entry = ReferenceBook.entry(under, 1)
        self.binner = Binner(under)

    def feed(self, given: Sequence[Row]) -> list[Alert]:
        return self.stream.feed(code(list(given), KEY, self.entry, self.binner), self.book).alerts

    def restart(self) -> None:
        """Save, and restore into a stream of its own."""
        records, _ = states.save(self.stream, 5, 7, states.Saved())
        live = {key: value for key, value in records if value is not None}
        grouped, _ = states.group_records(live)
        restored = states.restore(StreamFactory(self.settings).stream(KEY), grouped[KEY], self.book)
        assert (restored.lost, restored.cold) == ("", {})
        self.stream = restored.stream


# ---- choosing and counting ----


def test_values_combinations_and_their_rows() -> None:
    given = rows(20_000, 1)
    found = {part.name: part.rows for part in reference().parts}
    assert list(found)[:6] == ["plan=free", "region=EU", "plan=pro", "region=US", "region=AS", "region=XX"]
    for name, count in found.items():
        wanted = dict(item.split("=") for item in name.split(","))
        assert count == sum(all(row.features[f] == v for f, v in wanted.items()) for row in given), name
    assert "region=EU,plan=pro" in found
    assert "region=XX,plan=pro" not in found, "it has fewer than 500 rows"
    assert levels(reference()) == 3


def test_a_segment_is_compared_with_its_own_rows() -> None:
    """The counts of a segment are those of a reference fitted to its rows under the same bins."""
    eu = [row for row in rows(20_000, 1) if row.features["region"] == "EU"]
    part = next(part for part in reference().parts if part.name == "region=EU")
    own = reference_of(reference(), part)
    assert [column.name for column in own.columns] == ["x", "plan", "prediction"]
    codes = Binner(reference()).encode(eu).codes
    for i, name in enumerate(["x", "plan", "prediction"]):
        place = [column.name for column in reference().columns].index(name)
        assert own.columns[i].strata[0].counts == np.bincount(
            codes[:, place], minlength=len(own.columns[i].strata[0].counts)
        ).tolist()  # fmt: skip
    assert (own.segment, own.source.rows, own.parts) == ("region=EU", len(eu), [])


def test_the_rest_is_pooled() -> None:
    capped = fit(rows(20_000, 1), KEY, replace(OPTIONS, segment_by=("region",), max_segments=3))
    assert [part.name for part in capped.parts] == ["region=EU", "region=US", "region=other"]
    assert capped.parts[-1].rows == 20_000 - capped.parts[0].rows - capped.parts[1].rows
    assert any("values pooled as `other` for max_segments 3: 2" in note for note in capped.source.notes)
    # What training never saw, nulls and values of a wrong type belong to the pool as well.
    strange = [Row("m", "1", "", 0, {"x": 0.0, "region": value, "plan": "pro"}, 0.0, None, None, 0, i, 0)
               for i, value in enumerate(["EU", "AS", "new", None, 7])]  # fmt: skip
    [(_, first), (_, pooled)] = sorted(Router(capped).split(Binner(capped).encode(strange).codes))
    assert (first.tolist(), pooled.tolist()) == ([0], [1, 2, 3, 4])


def test_a_value_called_other_is_pooled() -> None:
    given = [msgspec.structs.replace(row, features=row.features | {"region": "other"}) if i % 2 else row
             for i, row in enumerate(rows(20_000, 1))]  # fmt: skip
    found = fit(given, KEY, replace(OPTIONS, segment_by=("region",)))
    names = [part.name for part in found.parts]
    assert names.count("region=other") == 1
    assert next(part for part in found.parts if part.name == "region=other").pool == "region"


def test_what_holds_the_same_rows_is_not_watched_twice() -> None:
    given = [Row("m", "1", "", 0, {"x": float(i % 97), "one": "always", "a": "pq"[i % 2], "b": "rs"[i % 2]}, 0.0, None,
                 None, 0, i, 0) for i in range(4_000)]  # fmt: skip
    by_one = fit(given, KEY, replace(OPTIONS, segment_by=("one",)))
    assert by_one.parts == []
    assert any("no value of one" in note for note in by_one.source.notes)
    both = fit(given, KEY, replace(OPTIONS, segment_by=("a", "b")))
    assert {part.name for part in both.parts} == {"a=p", "a=q", "b=r", "b=s"}, "a=p,b=r would hold the rows of a=p"


def test_a_reference_without_segments_has_the_digest_it_always_had() -> None:
    assert b"segment_by" not in plain().to_json()
    assert b'"segments"' not in plain().to_json()
    assert load(plain().to_json()).digest() == plain().digest()
    assert load(reference().to_json()) == reference()


def test_segments_of_a_private_reference_go_by_pseudonyms() -> None:
    veil = Veil(b"0123456789abcdef0123456789abcdef")
    private = load(veil.reference(reference()).to_json())
    assert not any(region.encode() in private.to_json() for region in ("=EU", '"EU"', "pro"))
    given = rows(500, 11)
    plain_codes = Binner(reference()).encode(given).codes
    veiled_codes = Binner(private, veil.category).encode([veil.row(row) for row in given]).codes
    plainly, privately = Router(reference()).split(plain_codes), Router(private).split(veiled_codes)
    assert [(n, own.tolist()) for n, own in privately] == [(n, own.tolist()) for n, own in plainly]


def test_a_segment_that_some_hours_lack_is_left_out_and_not_named() -> None:
    by_day = []
    for i, row in enumerate(rows(8_000, 1)):
        time_ms = 1_700_000_000_000 + i * 60_000
        asleep = row.features["region"] == "AS" and time_ms // 3_600_000 % 24 < 12
        features = row.features | ({"region": "US"} if asleep else {})
        by_day.append(msgspec.structs.replace(row, time_ms=time_ms, features=features))
    found = fit(by_day, KEY, replace(OPTIONS, season=Season.HOUR_OF_DAY, segment_by=("region",), segment_rows=20))
    assert found.strata > 1
    assert "region=AS" not in [part.name for part in found.parts]
    assert "segments: not watched, having no rows in some hours of the season: 1" in found.source.notes


def test_building_from_files_gives_the_same_segments() -> None:
    given = rows(20_000, 1)
    [built] = build_references(lambda: [given[:7_000], given[7_000:]], OPTIONS)
    assert built.parts == reference().parts


def test_a_season_gives_every_segment_its_strata() -> None:
    given = rows(20_000, 1)
    spread = [Row("m", "1", "", 1_700_000_000_000 + i * 60_000, r.features, r.prediction, None, None, 0, i, 0)
              for i, r in enumerate(given)]  # fmt: skip
    found = fit(spread, KEY, replace(OPTIONS, season=Season.HOUR_OF_DAY, segment_by=("region",), segment_rows=20))
    assert found.strata > 1
    assert [part.name for part in found.parts][:2] == ["region=EU", "region=US"]
    assert all(len(column.counts) == found.strata for part in found.parts for column in part.columns)
    assert load(found.to_json()) == found


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"where": {"region": "Mars"}}, "is of a value that is no category"),
        ({"where": {"x": "1"}}, "is not made by segment_by"),
        ({"columns": []}, "has 0 columns, 3 are watched in it"),
    ],
)
def test_a_document_whose_segments_do_not_fit(change: dict[str, object], complaint: str) -> None:
    parts = [part for part in reference().parts if part.name == "region=EU"]
    wrong = msgspec.structs.replace(reference(), segments=[msgspec.structs.replace(parts[0], **change)])
    with pytest.raises(ReferenceInvalid, match=complaint):
        load(wrong.to_json())


def test_the_budget_holds_for_all_segments_together() -> None:
    """Whatever their number: a row belongs to one of each level at most."""
    budget = 1_000_000.0
    assert whole_budget(plain(), budget) == budget
    whole = 1 / whole_budget(reference(), budget)
    each = 1 / segment_budget(reference(), budget)
    rows_in_segments = sum(part.rows for part in reference().parts) / reference().source.rows
    assert whole + rows_in_segments * each <= 1 / budget * (1 + 1e-9)
    single = fit(rows(20_000, 1), KEY, replace(OPTIONS, segment_by=("region",)))
    assert 1 / whole_budget(single, budget) + 1 / segment_budget(single, budget) == pytest.approx(1 / budget)


def test_what_an_event_calls_its_segment_makes_no_stream_where_features_do() -> None:
    value = orjson.dumps({"model": "m", "version": "1", "segment": "mine", "features": {"x": 1.0}})
    other = orjson.dumps({"model": "n", "segment": "mine", "features": {"x": 1.0}})
    records = [(i, Record("p", 0, i, 1_000, None, each)) for i, each in enumerate((value, other))]
    messages = Encoder(config(), ReferenceBook()).encode(records, EncodeCounts(), 1_000_000)
    assert [decode(message.value).stream for message in messages] == [("m", "1", ""), ("n", "", "mine")]
    row = Row("m", "1", "mine", 0, {"x": 1.0}, None, None, None, 0, 0, 0)
    assert route(row, config()) == KEY


# ---- detection ----


def test_a_drift_in_one_small_segment_is_found_as_such() -> None:
    """5 % of the traffic moves by one standard deviation; delays in rows of the whole stream."""
    given = rows(26_000, 2, moved="XX", since=4_000)
    with_segments, without = Watch(reference()).feed(given), Watch(plain()).feed(given)
    first = with_segments[0]
    assert (first.segment, first.column, first.state) == ("region=XX", "x", State.FIRING)
    delay = first.detected.offset - 4_000
    assert 0 <= delay < 2_500
    assert first.segments is not None
    assert first.segments.moved == []
    assert len(first.segments.steady) == 3
    assert first.segments.whole == "steady"
    assert first.summary.endswith("; only in region=XX (3 steady)")
    assert not any(a.segment in ("region=EU", "region=US", "region=AS", "plan=free") for a in with_segments)
    others = [alert.detected.offset - 4_000 for alert in without if alert.state is State.FIRING]
    assert min(others, default=22_000) > 8 * delay


def test_a_drift_everywhere_is_said_to_be_everywhere() -> None:
    alerts = Watch(reference()).feed(rows(8_000, 3, moved=None, since=4_000))
    assert alerts[0].segment == ""
    assert {alert.column for alert in alerts} == {"x"}
    firing = {alert.segment: alert for alert in alerts if alert.state is State.FIRING}
    assert {"", *(part.name for part in reference().parts)} == firing.keys()
    last = firing["region=XX"]
    assert last.segments is not None
    assert (last.segments.whole, set(last.segments.moved)) == ("moved", {"region=EU", "region=US", "region=AS"})
    assert last.summary.endswith("; also in all 3 others")


def test_the_alert_of_the_whole_names_the_segment_behind_it() -> None:
    alerts = Watch(reference()).feed(rows(8_000, 4, moved="EU", since=4_000))
    whole = next(alert for alert in alerts if alert.segment == "")
    assert whole.segments is not None
    assert "region=EU" in whole.segments.moved
    assert {"region=US", "region=AS"} <= set(whole.segments.steady)
    assert "in region=EU (" in whole.summary


def test_stationary_rows_raise_nothing_though_the_segments_differ() -> None:
    assert Watch(reference()).feed(rows(30_000, 5)) == []


@pytest.mark.parametrize("seed", range(4))
def test_cuts_and_restarts_change_nothing(seed: int) -> None:
    draw = random.Random(seed)
    given = rows(3_000, 6, moved="EU", since=1_000, by=2.0)
    at_once, cut = Watch(reference()), Watch(reference())
    wanted = [alert.to_json() for alert in at_once.feed(given)]
    assert len(wanted) > 3
    alerts: list[bytes] = []
    start = 0
    while start < len(given):
        stop = start + draw.choice([7, 60, 333, 1_500])
        alerts += [alert.to_json() for alert in cut.feed(given[start:stop])]
        start = stop
        if draw.random() < 0.5:
            cut.restart()
    assert alerts == wanted
    assert states.save(cut.stream, 5, 7, states.Saved())[0] == states.save(at_once.stream, 5, 7, states.Saved())[0]


def test_a_new_reference_ends_what_is_open_in_segments() -> None:
    watch = Watch(reference())
    opened = watch.feed(rows(8_000, 7, moved="EU", since=4_000))
    assert {alert.segment for alert in opened} >= {"", "region=EU"}
    newer = fit(rows(20_000, 8), KEY, OPTIONS)
    watch.book.apply(key_of(KEY, 2), newer.to_json())
    watch.entry, watch.binner = ReferenceBook.entry(newer, 2), Binner(newer)
    ended = watch.feed(rows(100, 9))
    assert {alert.segment for alert in ended} == {alert.segment for alert in opened}
    assert {(alert.state, alert.reason) for alert in ended} == {(State.RESOLVED, "reference_changed")}
    assert watch.stream.segments is not None
    assert watch.stream.segments.whole is watch.stream.monitor


def test_the_end_of_a_stream_resolves_its_segments_too() -> None:
    watch = Watch(reference())
    opened = watch.feed(rows(8_000, 7, moved="EU", since=4_000))
    assert len(watch.stream.open_kinds()) == len({(alert.segment, alert.column) for alert in opened}) > 1
    ended = watch.stream.end()
    assert {alert.segment for alert in ended} == {alert.segment for alert in opened}
    assert {(alert.state, alert.reason) for alert in ended} == {(State.RESOLVED, "ended")}


def test_segments_of_a_stream_that_learns_its_reference() -> None:
    stream = StreamFactory(config(warmup=4_000)).stream(KEY)
    outcome = stream.feed(RawBatch(KEY, tuple(rows(4_100, 10))), ReferenceBook())
    assert outcome.learned is not None
    assert {"region=EU", "region=US", "plan=pro", "region=other"} & {part.name for part in outcome.learned.parts}
    assert stream.segments is not None
    assert stream.segments.monitors


def test_a_pool_is_a_segment_like_any_other() -> None:
    assert Segment(1, [], pool="region").name == "region=other"
    assert Segment(1, [], pool="region").features == Segment(1, [], where={"region": "EU"}).features
