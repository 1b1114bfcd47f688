"""Fitting: sensible bins, exact counts, honest dependence, deterministic documents, bounded memory."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, INVALID, MAX_BINS, MISSING, NEW, OTHER
from stream_monitor.encode import Binner
from stream_monitor.errors import DataError
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, build_references, fit
from stream_monitor.reference import Column, Kind, Reference, Role, Season, StreamKey
from stream_monitor.reference_checks import load
from stream_monitor.tables import TableColumns, read
from tests.unit.rows import PACKAGE_DATA, TEST_DATA, row, rows_of

STREAM = StreamKey("m")
HOUR_MS = 3_600_000
Floats = npt.NDArray[np.float64]


def column_of(values: list[Any] | Floats, options: FitOptions | None = None) -> Column:
    """The only column of a reference fitted on one feature."""
    given = values if isinstance(values, list) else values.tolist()
    return fit(rows_of(given), STREAM, options).columns[0]


def normal(n: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(size=n)


def ar1(n: int, rho: float, seed: int = 1) -> Floats:
    series: Floats = lfilter([1.0], [1.0, -rho], normal(n + 1_000, seed))[1_000:]
    return series


def recount(reference: Reference, rows: list[Row]) -> list[list[list[int]]]:
    """Counts by stratum, column and code, one row at a time."""
    coded = Binner(reference).encode(rows)
    counts = [[[0] * len(bins.counts) for bins in column.strata] for column in reference.columns]
    for codes, stratum in zip(coded.codes.tolist(), coded.strata.tolist(), strict=True):
        for j, code in enumerate(codes):
            counts[j][stratum][code] += 1
    return counts


# Bins


def test_continuous_bins_have_equal_mass_and_finer_tails() -> None:
    values = normal(50_000)
    column = column_of(values)
    [bins] = column.strata
    counts = np.array(bins.counts[FIRST_BIN:])
    assert column.bins == 72
    assert counts[5:-5] == pytest.approx(50_000 / 64, abs=1.1)
    assert counts[:5] == pytest.approx([49, 49, 98, 195, 391], abs=2)
    assert counts[-5:] == pytest.approx([391, 195, 98, 49, 49], abs=2)
    assert (bins.low, bins.edges[-1]) == (values.min(), values.max())
    assert column.quantiles["0.5"] == np.quantile(values, 0.5, method="inverted_cdf")
    assert column.mean == pytest.approx(values.mean())
    assert column.sd == pytest.approx(values.std())


@pytest.mark.parametrize(("n", "bins"), [(5_000, 70), (1_000, 64), (200, 25), (20, 2), (3, 1)])
def test_small_references_have_fewer_bins(n: int, bins: int) -> None:
    column = column_of(normal(n))
    assert column.bins == bins
    assert min(column.strata[0].counts[FIRST_BIN:]) >= min(n, 7)


def test_atoms_stand_alone() -> None:
    rng = np.random.default_rng(2)
    values = np.where(rng.random(20_000) < 0.9, 0.0, rng.lognormal(size=20_000))
    [bins] = column_of(values).strata
    assert bins.edges[0] == 0.0
    assert bins.counts[FIRST_BIN] == (values == 0).sum()
    middle = np.where(rng.random(20_000) < 0.3, 7.5, rng.normal(7, 3, size=20_000))
    [bins] = column_of(middle).strata
    at = bins.edges.index(7.5)
    assert bins.edges[at - 1] == np.nextafter(7.5, 0)
    assert bins.counts[FIRST_BIN + at] == (middle == 7.5).sum()


def test_discrete_columns_have_a_bin_a_value() -> None:
    rng = np.random.default_rng(3)
    assert column_of([int(x) for x in rng.random(5_000) < 0.01]).strata[0].edges == [0.0, 1.0]
    [bins] = column_of([int(x) for x in rng.poisson(3, 50_000)]).strata
    assert bins.edges[:8] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert column_of([4.5] * 100).strata[0].edges == [4.5], "a constant is watched: it may start to move"


def test_special_values_are_counted() -> None:
    values = [*normal(100).tolist(), None, None, "x", math.nan, math.inf, True]
    [bins] = column_of(values).strata
    assert bins.counts[:FIRST_BIN] == [2, 4, 0, 0]


def test_categories_common_and_rare() -> None:
    names = [f"c{i:02}" for i in range(80) for _ in range(100 - i)] + ["once", "too"]
    column = column_of(names)
    assert column.categories == [f"c{i:02}" for i in range(60)]
    assert column.rare == [*(f"c{i}" for i in range(60, 80)), "once", "too"]
    [bins] = column.strata
    assert column.exhaustive
    assert bins.counts[NEW] == 2, "a name seen once is new to all other rows"
    assert bins.counts[OTHER] == sum(100 - i for i in range(60, 80))
    assert bins.n == len(names)


def test_categories_ties_go_by_name_and_many_names_are_not_exhaustive() -> None:
    assert column_of(list("bbaacc")).categories == ["a", "b", "c"]
    many = column_of([f"n{i}" for i in range(2_000) for _ in range(3)])
    assert len(many.rare) == 1_000
    assert not many.exhaustive
    assert many.strata[0].counts[NEW] == 0


def test_mixed_columns_follow_the_majority() -> None:
    assert column_of([1.5, 2.5, "x", True, 3.5]).kind is Kind.NUMERIC
    mixed = column_of(["x", "y", "x", "y", 3, 3.0])
    assert (mixed.kind, mixed.categories) == (Kind.CATEGORICAL, ["3", "x", "y"])
    assert column_of([True, False, "True", True]).categories == ["true"]
    empty = column_of([None] * 9)
    assert (empty.kind, empty.strata[0].counts) == (Kind.CATEGORICAL, [9, 0, 0, 0])


# What is watched


def test_discovery_skips_identifiers_and_counters_with_a_reason() -> None:
    rng = np.random.default_rng(4)
    start = 1_700_000_000_000
    rows = [
        row(
            {
                "good": float(rng.normal()), "income": int(rng.integers(0, 10**9)), "uuid": rng.bytes(8).hex(),
                "counter": i, "clock": start + i * 1000 + float(rng.normal() * 900), "number": int(p),
                "user_id": int(rng.integers(0, 10**12)), "when": f"2026-01-01 00:{i % 60:02}", "list": [1, 2],
                "as_text": str(rng.normal()), "nested": {"x": float(rng.normal()), "id": f"k{i}"}, "const": 1,
                "note": None,
            }
        )
        for i, p in enumerate(rng.permutation(3_000).tolist())
    ]  # fmt: skip
    reference = fit(rows, STREAM)
    assert [column.name for column in reference.columns] == ["good", "income", "nested.x", "const", "note"]
    assert set(reference.skipped) == {
        "uuid", "counter", "clock", "when", "user_id", "number", "list", "as_text", "nested.id",
    }  # fmt: skip
    assert "send them as numbers" in reference.skipped["as_text"]
    assert "times" in reference.skipped["when"]
    assert Binner(reference).encode(rows).unknown == frozenset()


def test_options_list_exclude_and_type() -> None:
    rows = [row({"a": i % 7, "b": float(i * i % 101), "id": i, "c": "x"}) for i in range(200)]
    kinds = {"a": Kind.CATEGORICAL, "never": Kind.NUMERIC}
    reference = fit(rows, STREAM, FitOptions(exclude=("c",), kinds=kinds, importance={"b": 0.5}))
    assert [(c.name, c.kind, c.importance) for c in reference.columns] == [
        ("a", Kind.CATEGORICAL, None), ("b", Kind.NUMERIC, 0.5), ("never", Kind.NUMERIC, None),
    ]  # fmt: skip
    assert reference.columns[0].categories == ["0", "1", "2", "3", "4", "5", "6"]
    assert reference.columns[2].strata[0].counts == [200, 0, 0, 0]
    listed = fit(rows, STREAM, FitOptions(include=("id", "b*")))
    assert [column.name for column in listed.columns] == ["b", "id"]
    assert listed.skipped["a"] == "not listed in the configuration"
    with pytest.raises(DataError, match="nothing to watch"):
        fit(rows, STREAM, FitOptions(include=("z*",)))


def test_predictions_of_every_shape() -> None:
    rng = np.random.default_rng(5)
    scores = rng.random(500).tolist()
    rows = [row({"prediction": i % 3, "x": 1.0}, {"yes": p, "no": 1 - p}) for i, p in enumerate(scores)]
    binary = fit(rows, STREAM)
    assert [(c.name, c.role) for c in binary.columns] == [
        ("features.prediction", Role.INPUT), ("x", Role.INPUT), ("prediction.yes", Role.PREDICTION),
    ]  # fmt: skip
    assert Binner(binary).encode(rows).codes[:, 2].min() >= FIRST_BIN
    three = fit([row({}, {"a": p, "b": p / 2, "c": 0.1}) for p in scores], STREAM)
    assert [column.name for column in three.columns] == ["prediction.a", "prediction.b", "prediction.c"]
    named = fit([row({}, "yes" if p < 0.3 else "no") for p in scores], STREAM).columns[0]
    assert (named.name, named.categories) == ("prediction", ["no", "yes"])


# Order and dependence


def test_independent_rows_have_time_one() -> None:
    rng = np.random.default_rng(6)
    rows = [
        row({"a": float(rng.normal()), "b": bool(rng.random() < 0.01), "c": "xyz"[int(rng.integers(3))]})
        for _ in range(20_000)
    ]
    columns = fit(rows, STREAM).columns
    assert [column.autocorrelation_time for column in columns] == [1.0, 1.0, 1.0]
    assert columns[2].repeat == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize(("rho", "time"), [(0.5, 3.0), (0.9, 19.0)])
def test_dependent_rows_have_their_time(rho: float, time: float) -> None:
    assert column_of(ar1(50_000, rho)).autocorrelation_time == pytest.approx(time, rel=0.15)


def test_clustered_variance_and_bursts_of_nulls_count_as_dependence() -> None:
    noise = normal(20_000, 7)
    quiet = np.repeat(np.random.default_rng(8).random(200) < 0.5, 100)
    assert column_of(np.where(quiet, noise / 3, noise)).autocorrelation_time > 10
    bursts = [None if burst else float(x) for burst, x in zip(quiet, noise, strict=True)]
    assert column_of(bursts).autocorrelation_time > 10


def test_unordered_rows_are_sorted_by_time() -> None:
    values = ar1(5_000, 0.9)
    rows = rows_of(values.tolist(), step_ms=1000)
    shuffled = [rows[i] for i in np.random.default_rng(9).permutation(len(rows))]
    [ordered] = build_references(lambda: [rows])
    [reference] = build_references(lambda: [shuffled])
    assert reference.columns == ordered.columns
    assert reference.source.ordered
    assert "sorted" in reference.source.notes[0]


def test_an_order_that_is_unknown_is_admitted() -> None:
    rows = rows_of(ar1(2_000, 0.9).tolist())
    [denied] = build_references(lambda: [rows], FitOptions(ordered=False))
    assert not denied.source.ordered
    assert "unordered" in denied.source.notes[0]
    assert denied.columns[0].repeat is None
    [untimed] = build_references(lambda: [rows])
    assert untimed.source.ordered
    assert "x depends on the rows before" in untimed.source.notes[0]
    assert "--unordered" not in untimed.source.notes[0]
    assert untimed.columns[0].autocorrelation_time > 10


def test_rows_that_may_have_been_shuffled_are_asked_about() -> None:
    values = np.random.default_rng(9).permutation(ar1(5_000, 0.9))
    [reference] = build_references(lambda: [rows_of(values.tolist())])
    assert reference.columns[0].autocorrelation_time == 1
    assert "--unordered" in reference.source.notes[0]
    [timed] = build_references(lambda: [rows_of(values.tolist(), step_ms=1000)])
    assert not timed.source.notes
    assert not fit(rows_of(values.tolist()), STREAM).source.notes  # a warm-up: in the order of the events


# Season


def daily(days: int, per_hour: int, amplitude: float, weekend: float = 0.0) -> list[Row]:
    """Noise with a daily rhythm, and on weekends another level; starts on a Monday."""
    n = days * 24 * per_hour
    hours = np.arange(n) // per_hour
    level = amplitude * np.sin(2 * np.pi * hours / 24) + weekend * (hours // 24 % 7 >= 5)
    start = 4 * 24 * HOUR_MS + 52 * 7 * 24 * HOUR_MS
    step = HOUR_MS // per_hour
    values = (level + normal(n)).tolist()
    return [row({"x": x}, time_ms=start + i * step, offset=i) for i, x in enumerate(values)]


def test_a_daily_rhythm_is_found() -> None:
    reference = fit(daily(20, 60, 1.0), STREAM)
    assert (reference.season, reference.strata) == (Season.HOUR_OF_DAY, 24)
    [column] = reference.columns
    assert column.autocorrelation_time == 1.0
    assert all(bins.n == 1_200 for bins in column.strata)
    assert {len(bins.edges) for bins in column.strata} == {column.bins}
    assert load(reference.to_json()) == reference


def test_a_weekly_rhythm_is_found_and_thin_hours_are_pooled_with_their_like() -> None:
    reference = fit(daily(42, 20, 1.0, weekend=1.5), STREAM)
    assert reference.season is Season.HOUR_OF_WEEK
    assert min(bins.n for bins in reference.columns[0].strata) >= 500
    monday, saturday = reference.slots[:24], reference.slots[5 * 24 : 6 * 24]
    assert all(a != b for a, b in zip(monday, saturday, strict=True))


@pytest.mark.parametrize("rho", [0.0, 0.99])
def test_no_rhythm_is_imagined(rho: float) -> None:
    rows = rows_of(ar1(10_000, rho).tolist(), step_ms=HOUR_MS // 20)
    assert fit(rows, STREAM).season is Season.NONE


def test_a_season_asked_for_needs_times_and_enough_rows() -> None:
    with pytest.raises(DataError, match="time"):
        fit(rows_of(normal(500).tolist()), STREAM, FitOptions(season=Season.HOUR_OF_DAY))
    few = fit(rows_of(normal(500).tolist(), step_ms=HOUR_MS), STREAM, FitOptions(season=Season.HOUR_OF_DAY))
    assert few.season is Season.NONE
    assert "too few rows" in few.source.notes[0]


def test_discrete_and_partly_empty_columns_survive_a_season() -> None:
    rng = np.random.default_rng(10)

    def features(one: Row) -> dict[str, Any]:
        hour = one.time_ms // HOUR_MS % 24
        return {
            "count": int(rng.poisson(2)),
            "sun": max(0.0, one.features["x"]) if 6 <= hour < 18 else 0.0,
            "mornings": one.features["x"] if hour < 12 else None,
            "name": "ab"[int(rng.random() < 0.3)],
        }

    rows = [row(features(one), time_ms=one.time_ms) for one in daily(20, 60, 1.0)]
    reference = fit(rows, STREAM, FitOptions(season=Season.HOUR_OF_DAY))
    assert load(reference.to_json()) == reference
    counts = {column.name: counted for column, counted in zip(reference.columns, recount(reference, rows), strict=True)}
    for column in reference.columns:
        assert [bins.counts for bins in column.strata] == counts[column.name]


# The document


def car_loan() -> Iterator[list[Row]]:
    columns = TableColumns("car-loan", time="timestamp", prediction="y_pred_proba", ignore=("y_pred", "repaid"))
    return read([PACKAGE_DATA / "reference.csv.gz"], columns)


def test_car_loan_gives_sensible_bins() -> None:
    [reference] = build_references(car_loan, files=["reference.csv.gz"])
    columns = {column.name: column for column in reference.columns}
    assert {name: (column.kind, column.bins) for name, column in columns.items()} == {
        "car_value": (Kind.NUMERIC, 72),
        "salary_range": (Kind.CATEGORICAL, 4),
        "debt_to_income_ratio": (Kind.NUMERIC, 72),
        "loan_length": (Kind.NUMERIC, 17),
        "repaid_loan_on_prev_car": (Kind.CATEGORICAL, 2),
        "size_of_downpayment": (Kind.CATEGORICAL, 5),
        "driver_tenure": (Kind.NUMERIC, 72),
        "prediction": (Kind.NUMERIC, columns["prediction"].bins),
    }
    assert set(reference.skipped) == {"id"}
    assert {column.autocorrelation_time for column in reference.columns} == {1.0}
    assert reference.season is Season.NONE
    assert (reference.source.rows, reference.source.ordered, reference.source.notes) == (50_000, True, [])
    assert load(reference.to_json()) == reference
    rows = [one for chunk in car_loan() for one in chunk]
    assert recount(reference, rows) == [[bins.counts for bins in column.strata] for column in reference.columns]


def test_electricity_has_a_week_and_three_frozen_columns() -> None:
    start = 831_427_200_000  # 1996-05-07, a Tuesday

    def half_hours() -> Iterator[list[Row]]:
        for chunk in read([TEST_DATA / "electricity.csv.gz"], TableColumns("nsw")):
            yield [row(one.features, None, start + one.offset * HOUR_MS // 2) for one in chunk if one.offset < 17_424]

    [reference] = build_references(half_hours)
    assert reference.season is Season.HOUR_OF_WEEK
    frozen = [column.name for column in reference.columns if column.repeat == 1.0]
    assert frozen == ["vicprice", "vicdemand", "transfer"]
    assert all(column.bins == 1 for column in reference.columns if column.name in frozen)


def test_the_same_rows_give_the_same_document() -> None:
    rows = [row({"x": float(x), "y": "abc"[i % 3]}, float(x)) for i, x in enumerate(normal(5_000))]
    first = fit(rows, STREAM)
    assert fit(rows, STREAM).digest() == first.digest()
    assert fit(rows[:4_999], STREAM).digest() != first.digest()
    bounded = FitOptions(most_values=3_000)
    assert build_references(lambda: [rows], bounded) == build_references(lambda: [rows], bounded)


def test_beyond_memory_edges_come_from_a_sample_but_counts_stay_exact() -> None:
    values = normal(40_000)
    rows = rows_of(values.tolist())
    [reference] = build_references(
        lambda: (rows[i : i + 500] for i in range(0, 40_000, 500)), FitOptions(most_values=5_000)
    )
    [column] = reference.columns
    [bins] = column.strata
    assert bins.n == 40_000
    assert bins.counts[:FIRST_BIN] == [0, 0, 0, 0]
    assert (bins.low, bins.edges[-1]) == (values.min(), values.max())
    assert bins.counts[FIRST_BIN + 8 : -8] == pytest.approx([40_000 / 64] * (column.bins - 16), rel=0.5)
    assert column.quantiles["0.5"] == pytest.approx(0, abs=0.1)


def test_memory_is_bounded() -> None:
    """Ten times the rows take about the same memory."""

    def peak(chunks: int) -> int:
        def source() -> Iterator[list[Row]]:
            rng = np.random.default_rng(11)
            for i in range(chunks):
                drawn = rng.normal(size=(500, 4)).tolist()
                yield [
                    row({"a": a, "b": b, "text": f"t{c}", "city": f"c{int(d * 1000)}"}, time_ms=i, segment=f"s{j % 3}")
                    for j, (a, b, c, d) in enumerate(drawn)
                ]

        tracemalloc.start()
        references = build_references(source, FitOptions(most_values=100_000))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [reference.segment for reference in references] == ["s0", "s1", "s2"]
        assert sum(reference.source.rows for reference in references) == 500 * chunks
        return used

    peak(10)  # compiles
    assert peak(200) < 1.5 * peak(40) + 4_000_000


def test_streams_are_told_apart() -> None:
    rows = [row({"x": float(x)}, segment="ab"[i % 2]) for i, x in enumerate(normal(1_000))]
    references = build_references(lambda: [rows[:300], rows[300:]])
    assert [reference.stream for reference in references] == [StreamKey("m", "", "a"), StreamKey("m", "", "b")]
    assert references[0].columns == fit(rows[::2], StreamKey("m", "", "a")).columns
    with pytest.raises(DataError, match="no rows"):
        build_references(list)


def test_what_names_the_segment_is_no_column_of_it() -> None:
    rows = [row({"x": float(x), "region": "EU", "plan": 3}, segment="region=EU,plan=3") for x in normal(100)]
    [reference] = build_references(lambda: [rows])
    assert [column.name for column in reference.columns] == ["x"]
    assert reference.skipped == {"region": "names the segment", "plan": "names the segment"}


def test_a_source_that_changes_while_it_is_read_is_refused() -> None:
    rows = rows_of(normal(100).tolist())
    growing = iter([[rows[:50]], [rows], [rows]])
    with pytest.raises(DataError, match="50 rows at first, 100 when read again"):
        build_references(lambda: next(growing))


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(0, 5), st.floats(), st.floats(-1, 1),
    st.sampled_from(["a", "b", "True", "", "\ud800", 10**400, 5e-324, -1.7976931348623157e308]), st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip
tables = st.lists(
    st.builds(
        row,
        st.dictionaries(st.sampled_from(["x", "y", "prediction", "a.b"]) | st.text(max_size=1), values, max_size=4),
        values | st.dictionaries(st.sampled_from(["yes", "no", "\ud800", "p.q"]), values, max_size=2),
        st.integers(0, 10**13),
    ),
    min_size=1,
    max_size=60,
)


@given(tables, st.sampled_from([Season.NONE, "auto", Season.HOUR_OF_DAY]))
@settings(deadline=None, derandomize=True)
def test_any_rows_give_a_loadable_reference_that_codes_them(rows: list[Row], season: Any) -> None:
    timed = any(one.time_ms for one in rows)
    options = FitOptions(season=season if timed else Season.NONE, stratum_rows=5)
    try:
        reference = fit(rows, STREAM, options)
    except DataError:
        return
    assert load(reference.to_json()) == reference
    coded = Binner(reference).encode(rows)
    assert coded.unknown == frozenset()
    for j, column in enumerate(reference.columns):
        assert column.bins <= MAX_BINS
        assert column.n == len(rows)
        assert coded.codes[:, j].max() < FIRST_BIN + column.bins
        counted = recount(reference, rows)[j]
        if column.kind is Kind.NUMERIC:
            assert counted == [bins.counts for bins in column.strata]
            assert not {BELOW, ABOVE} & set(coded.codes[:, j].tolist())
        else:
            for bins, codes in zip(column.strata, counted, strict=True):
                assert bins.counts[MISSING : INVALID + 1] == codes[MISSING : INVALID + 1]
                assert bins.counts[FIRST_BIN:] == codes[FIRST_BIN:]
                assert bins.counts[NEW] + bins.counts[OTHER] == codes[NEW] + codes[OTHER]
