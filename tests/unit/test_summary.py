"""The sentence in the alert: constructed cases, read as the person who is paged would."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from stream_monitor.codes import ABOVE, FIRST_BIN, MISSING, NEW
from stream_monitor.display import Display
from stream_monitor.reference import Bins, Column, Kind, Role
from stream_monitor.summary import Recent, describe, quantile

Floats = npt.NDArray[np.float64]


def normal(mean: float, sd: float, size: int) -> Floats:
    return np.random.default_rng(size).normal(mean, sd, size)


REFERENCE = normal(40, 10, 20_000)


def codes_of(edges: Floats, low: float, values: Floats) -> npt.NDArray[np.int64]:
    codes = FIRST_BIN + np.searchsorted(edges, values, side="left")
    codes[values > edges[-1]] = ABOVE
    codes[values < low] = 2
    codes[np.isnan(values)] = MISSING
    return np.bincount(codes, minlength=FIRST_BIN + len(edges))


def numeric(values: Floats) -> Column:
    edges = np.quantile(values[~np.isnan(values)], np.linspace(1 / 64, 1, 64))
    low = float(np.nanmin(values))
    counts = codes_of(edges, low, values)
    return Column(
        "age", Role.INPUT, Kind.NUMERIC, [Bins(counts.tolist(), edges.tolist(), low)],
        quantiles={"0.5": float(np.nanmedian(values))},
    )  # fmt: skip


AGE = numeric(REFERENCE)
BEFORE = np.array(AGE.strata[0].counts)
EDGES = np.array(AGE.strata[0].edges)


def told(values: Floats, column: Column = AGE, run: int = 0) -> tuple[str, str]:
    """The description of rows with these values; of those outside, an alert knows some."""
    bins = column.strata[0]
    edges = np.array(bins.edges)
    outside = [float(v) for v in values if v > edges[-1] or v < bins.low][:64]
    now = codes_of(edges, bins.low, values)
    found = describe(column, np.array(bins.counts), now, Recent(outside, run=run, since="2026-03-01 12:00"))
    return found.direction, found.text


def test_a_shift_is_told_by_the_medians() -> None:
    direction, text = told(normal(60, 10, 500))
    assert direction == "up"
    assert text.startswith("median 39.9 → 5")
    assert "10–90 %" in text
    assert "(all values about 19" in text


def test_a_shift_of_few_rows_is_told_without_an_explanation() -> None:
    _, text = told(normal(47, 10, 40))
    assert text.startswith("median 39.9 → ")
    assert "all values" not in text


def test_a_wider_spread_is_told_as_such() -> None:
    direction, text = told(normal(40, 18, 1_000))
    assert direction == "wider"
    assert "median" in text
    assert "all values" not in text


def test_a_narrower_spread_is_told_as_such() -> None:
    assert told(normal(40, 5, 500))[0] == "narrower"


def test_a_factor_is_told_where_it_is_no_shift() -> None:
    values = np.random.default_rng(3).lognormal(2, 0.8, 800)
    direction, text = told(values * 1.6, numeric(np.random.default_rng(4).lognormal(2, 0.8, 20_000)))
    assert direction == "up"
    assert "all values scaled by about 1." in text


def test_a_change_of_shape_is_told_by_where_the_values_went() -> None:
    levels = (np.arange(900) + 0.5) / 900
    moved = np.select([(levels > 0.3) & (levels < 0.45), (levels > 0.55) & (levels < 0.7)], [0.25, 0.75], levels)
    direction, text = told(np.quantile(REFERENCE, moved))
    assert direction == "shape"
    assert text.startswith("more values in ")
    assert ", fewer values in " in text


def test_nulls() -> None:
    values = normal(40, 10, 1_000)
    values[::16] = np.nan
    assert told(values) == ("missing", "null rate 0 % → 6.3 %")


def test_nulls_that_were_there_before() -> None:
    trained = np.array(REFERENCE)
    trained[::100] = np.nan
    values = normal(40, 10, 1_000)
    values[::17] = np.nan
    assert told(values, numeric(trained)) == ("missing", "null rate 1.0 % → 5.9 %")


def test_a_stuck_sensor() -> None:
    direction, text = told(np.full(300, 41.5), run=300)
    assert direction == "stuck"
    assert text.startswith("constant since 2026-03-01 12:00 to within 41")


def test_a_sensor_stuck_outside_the_training_range_is_told_by_its_value() -> None:
    direction, text = told(np.full(12, -999.0), run=12)
    assert direction == "stuck"
    assert text.startswith("constant since 2026-03-01 12:00 (12 rows; before: 10–90 % ")
    assert text.endswith("): -999, outside the training range")


def test_values_squeezed_into_a_wide_bin_are_not_called_constant() -> None:
    direction, text = told(np.full(300, 6.0), run=300)
    assert direction == "narrower"
    assert text.startswith("all values since 2026-03-01 12:00 in ")


def test_a_run_that_may_be_chance_is_not_called_constant() -> None:
    atoms = numeric(np.where(np.random.default_rng(5).random(20_000) < 0.9, 0.0, REFERENCE))
    direction, _ = told(np.zeros(60), atoms, run=60)
    assert direction != "stuck", "nine in ten are zero anyway: sixty in a row happen once in 560"
    assert told(np.zeros(300), atoms, run=300)[0] == "stuck"


def test_one_value_that_stands_for_null() -> None:
    values = normal(40, 10, 400)
    values[::8] = -999
    direction, text = told(values)
    assert direction == "down"
    assert "12 % of values are -999, below the training minimum" in text


@pytest.mark.parametrize("count", [3, 20, 300])
@pytest.mark.parametrize(("factor", "words"), [(1000.0, "1,000"), (0.001, "1/1,000"), (100.0, "100"), (0.01, "1/100")])
def test_a_change_of_unit(count: int, factor: float, words: str) -> None:
    values: Floats = (np.array([31.0, 40.0, 52.0]) if count == 3 else normal(40, 10, count)) * factor
    direction, text = told(values)
    assert direction == "rescaled"
    assert f"scaled by about {words} (a change of unit?" in text
    assert text.startswith("scaled")


@pytest.mark.parametrize("factor", [10.0, 0.1, 100.0])
def test_a_change_of_unit_that_leaves_most_values_within_the_training_range(factor: float) -> None:
    trained = numeric(np.random.default_rng(6).lognormal(3, 1.5, 20_000))
    values: Floats = np.random.default_rng(7).lognormal(3, 1.5, 300) * factor
    assert np.mean(values > trained.strata[0].edges[-1]) < 0.5
    direction, text = told(values, trained)
    assert direction == "rescaled"
    assert text.startswith(f"scaled by about {'1/10' if factor < 1 else int(factor)} ")


def test_a_change_of_unit_of_some_producers() -> None:
    values = normal(40, 10, 600)
    values[::4] *= 1000
    direction, text = told(values)
    assert direction == "rescaled"
    assert text.startswith("about 25 % of values scaled by about 1,000")


def test_a_change_of_unit_of_counts() -> None:
    trained = numeric(np.random.default_rng(8).poisson(3, 20_000).astype(np.float64))
    values = np.random.default_rng(9).poisson(3, 60).astype(np.float64) * 1000
    direction, text = told(values, trained)
    assert (direction, text[:23]) == ("rescaled", "scaled by about 1,000 (")


def test_a_flipped_sign() -> None:
    direction, text = told(-normal(40, 10, 100))
    assert direction == "flipped"
    assert text.startswith("the sign of its values is flipped")


STRANGE = (
    normal(60, 10, 300), normal(40, 30, 300), normal(200, 10, 300), normal(40_000, 10, 300), np.full(300, 40_000.0),
    normal(40_000, 3_000, 300), np.linspace(-500, 500, 300), normal(400, 10, 300), normal(0, 5, 300), normal(90, 4, 9),
    np.array([4e4]), np.array([4e4, 4e4]), normal(-15, 5, 300),
    np.concatenate([normal(40, 10, 200), normal(2e4, 9e3, 90)]),
)  # fmt: skip


@pytest.mark.parametrize("values", STRANGE, ids=range(len(STRANGE)))
def test_no_unit_or_sign_is_claimed_where_it_does_not_clearly_fit(values: Floats) -> None:
    direction, text = told(values)
    assert direction not in ("rescaled", "flipped"), text
    assert "unit" not in text


def test_ordinary_drifts_of_any_shape_are_never_called_a_change_of_unit() -> None:
    rng = np.random.default_rng(10)
    lognormal = numeric(rng.lognormal(3, 1.5, 20_000))
    for count in (8, 30, 100, 900):
        for _ in range(25):
            values = rng.lognormal(3, 1.5, count)
            for drifted in (values, values + 30, values * rng.uniform(0.5, 2), values ** rng.uniform(0.7, 1.3)):
                assert told(drifted, lognormal)[0] != "rescaled"
            for drifted in (rng.normal(40 + rng.uniform(-40, 40), 10 * rng.uniform(0.3, 3), count),):
                direction, text = told(drifted)
                assert direction not in ("rescaled", "flipped"), (drifted, text)


@pytest.mark.parametrize(
    ("now", "direction", "text"),
    [
        ((700, 300), "up", "“1” 5.0 % → 30 %"),
        ((990, 10), "down", "“1” 5.0 % → 1.0 %"),
        ((48, 952), "up", "“1” 5.0 % → 95 % (as if 0 and 1 had been exchanged)"),
        ((0, 9), "up", "“1” 5.0 % → 100 %"),
    ],
)
def test_of_a_flag_the_share_is_told_and_no_sign(now: tuple[int, int], direction: str, text: str) -> None:
    flag = Column("flag", Role.INPUT, Kind.NUMERIC, [Bins([0, 0, 0, 0, 950, 50], [0.0, 1.0], 0.0)])
    found = describe(flag, np.array(flag.strata[0].counts), np.array([0, 0, 0, 0, *now]))
    assert (found.direction, found.text) == (direction, text)


def test_the_middle_of_what_lies_outside_training_is_told() -> None:
    """Degrees Fahrenheit for Celsius: neither a factor nor a shift, and no bin says where the values are."""
    rng = np.random.default_rng(4)
    fahrenheit = rng.normal(118, 9, 300)
    direction, text = told(fahrenheit)
    assert direction == "up"
    assert "% of values above the training maximum" in text
    assert "(median of these 1" in text


def test_with_a_season_ranks_are_told() -> None:
    column = Column("age", Role.INPUT, Kind.NUMERIC, [AGE.strata[0], AGE.strata[0]])
    found = describe(column, 2 * BEFORE, codes_of(EDGES, AGE.strata[0].low, normal(47, 10, 400)))
    assert found.direction == "up"
    assert found.text.startswith("median at the 7")
    assert "rank of the training values of its hour" in found.text


def test_with_a_season_what_lies_below_training_has_no_rank_among_it() -> None:
    """A column that never moved in training: its one bin's upper end was the rank of whatever lay below it, 100 %."""
    still = Column("x", Role.INPUT, Kind.NUMERIC, [Bins([0, 0, 0, 0, 500], [7.0], 7.0)] * 2)
    before = np.array([0, 0, 0, 0, 1_000])
    found = describe(still, before, np.array([0, 0, 4, 0, 0]))
    assert (found.direction, found.text) == ("down", "100 % of values below the training minimum 7 (reference 0 %)")
    column = Column("age", Role.INPUT, Kind.NUMERIC, [AGE.strata[0], AGE.strata[0]])
    found = describe(column, 2 * BEFORE, codes_of(EDGES, AGE.strata[0].low, normal(33, 10, 400)))
    assert found.direction == "down"
    assert "median at the 2" in found.text


CITY = Column(
    "city", Role.INPUT, Kind.CATEGORICAL, [Bins([0, 0, 0, 0, 700, 300])], categories=["Paris", "Rome"]
)  # fmt: skip


def city(paris: int, rome: int, new: int = 0, recent: Recent | None = None) -> tuple[str, str]:
    now = np.zeros(6, dtype=np.int64)
    now[[4, 5, NEW]] = paris, rome, new
    found = describe(CITY, np.array(CITY.strata[0].counts), now, recent)
    return found.direction, found.text


def test_categories_that_moved() -> None:
    direction, text = city(400, 600)
    assert direction == "mix"
    assert text == "“Paris” 70 % → 40 %, “Rome” 30 % → 60 %"


def test_categories_training_never_saw_are_named_with_their_shares() -> None:
    direction, text = city(680, 290, 30, Recent(names=[("Oslo", 2 / 3), ("Bergen", 1 / 3)]))
    assert direction == "new_values"
    assert text == "3.0 % of values never seen in training: “Oslo” 2.0 %, “Bergen” 1.0 %"


def test_a_constant_category() -> None:
    recent = Recent(run=60, since="2026-03-01 12:00")
    assert city(60, 0, 0, recent) == ("stuck", "constant since 2026-03-01 12:00 (60 rows): “Paris”")
    assert city(25, 0, 0, Recent(run=25))[0] == "mix", "25 of the commonest in a row may be chance"


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_quantiles_agree_with_those_of_the_raw_values_to_within_a_bin(level: float) -> None:
    wanted = float(np.quantile(REFERENCE, level))
    width = np.diff(EDGES)[np.searchsorted(EDGES, wanted) - 1]
    assert quantile(AGE.strata[0], BEFORE, level) == pytest.approx(wanted, abs=width)


def test_quantiles_of_whole_numbers_are_whole() -> None:
    visits = numeric(np.random.default_rng(8).poisson(12, 20_000).astype(np.float64))
    found = [quantile(visits.strata[0], np.array(visits.strata[0].counts), level) for level in (0.1, 0.5, 0.9)]
    assert found == [8, 12, 17]


def test_an_alert_shows_few_bins_of_about_equal_mass() -> None:
    display = Display.of(AGE)
    assert len(display.labels) == FIRST_BIN + 16
    assert sum(display.reference_share) == pytest.approx(1.0, abs=1e-4)
    assert display.reference_share[FIRST_BIN:] == pytest.approx([1 / 16] * 16, abs=0.01)
