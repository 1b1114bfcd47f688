"""Relations between columns: what is found, what must not be, and that cuts and restarts change nothing."""

from __future__ import annotations

from functools import cache

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.relations import (
    BEFORE,
    KEY,
    MOVED,
    alerts_of,
    entry_of,
    joined,
    monitor_of,
    relations,
    rows_of,
    stationary,
    world,
)
from stream_monitor.alerts import Alert, Severity
from stream_monitor.association import (
    all_tables,
    margins,
    moment,
    rank_correlation,
    rate,
    scores,
    selected,
    smoothed,
    transformed,
)
from stream_monitor.batch import Origins
from stream_monitor.book import Entry
from stream_monitor.detectors.pairs import Pairs
from stream_monitor.encode import Binner
from stream_monitor.errors import ReferenceInvalid, WireError
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.reference import LEVELS, MAX_RELATED, Reference, Relations, Season
from stream_monitor.reference_checks import load
from stream_monitor.relations import OPEN, RelationsState
from stream_monitor.state import pack_monitor, restore_monitor


@cache
def entry() -> Entry:
    return entry_of(0)


def related(reference: Reference) -> Relations:
    assert isinstance(reference.relations, Relations)
    return reference.relations


@cache
def flipped() -> tuple[Row, ...]:
    """Dependence of `a` and `b` turns round at row 3,037 and back 2,000 rows later."""
    rng = np.random.default_rng(7)
    parts = [world(rng, BEFORE), world(rng, 2_000, rho=-0.7), world(rng, 3_000)]
    return tuple(rows_of(joined(*parts)))


def fed(rows: tuple[Row, ...], cuts: list[int], restarts: frozenset[int] = frozenset()) -> list[Alert]:
    codes, origins = Binner(entry().reference).encode(rows).codes, Origins.of(rows)
    monitor, alerts = monitor_of(entry()), []
    for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        alerts += monitor.feed(codes[start:stop], origins.take(slice(start, stop)))
        if stop in restarts:
            watched = msgspec.msgpack.decode(
                msgspec.msgpack.encode(pack_monitor(monitor)), type=type(pack_monitor(monitor))
            )
            monitor = monitor_of(entry())
            assert restore_monitor(monitor, watched) == {}
    return alerts


def test_a_dependence_that_turns_round_is_found_within_500_rows_dated_named_and_over_again() -> None:
    alerts = fed(flipped(), [])
    mine = [alert for alert in alerts if alert.column == "inputs"]
    firing, resolved = mine[0], mine[-1]
    assert [firing.state, resolved.state] == ["firing", "resolved"]
    assert {alert.kind for alert in alerts} == {"correlation_drift"}  # no distribution moved
    assert BEFORE < firing.detected.offset < BEFORE + 500
    assert abs(firing.onset.event.offset - BEFORE) < 50
    assert BEFORE + 2_000 < resolved.detected.offset < BEFORE + 3_500
    (pair,) = firing.relations
    assert (pair.first, pair.second) == ("a", "b")
    assert pair.before > 0.6
    assert pair.now < 0
    assert firing.severity is Severity.CRITICAL
    assert firing.direction == "reversed"
    assert "a with b" in firing.summary


def test_a_relation_with_the_prediction_is_an_alert_of_the_pair_that_names_both() -> None:
    rng = np.random.default_rng(3)
    before, after = world(rng, BEFORE), world(rng, 2_000)
    changed = rows_of(joined(before, after))
    swapped = rows_of(joined(before, after | {"d": -after["d"]}))  # the score goes the other way with d, and d alone
    rows = [
        row if i < BEFORE else msgspec.structs.replace(row, prediction=swapped[i].prediction)
        for i, row in enumerate(changed)
    ]
    found = {alert.column: alert for alert in relations(alerts_of(entry(), rows))}
    alert = found["d ~ prediction"]
    assert alert.scope == "pair"
    assert [(fact.first, fact.second) for fact in alert.relations] == [("d", "prediction")]
    assert alert.detected.offset < BEFORE + 500
    assert alert.key() == b'["pair","m","","","correlation_drift","d ~ prediction"]'
    assert "inputs" not in found  # the inputs hang together as they did
    assert "a ~ prediction" not in found


@pytest.mark.parametrize("case", MOVED)
def test_a_distribution_that_moves_is_no_change_of_a_relation(case: str) -> None:
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        before, after = world(rng, BEFORE), MOVED[case](rng, world(rng, 4_000))
        alerts = alerts_of(entry(), rows_of(joined(before, after)))
        assert relations(alerts) == []
        assert alerts  # but the distribution has


def test_stationary_rows_raise_no_alert_even_with_a_budget_ten_thousand_times_smaller() -> None:
    assert stationary(1, 20_000, budget=10_000) == 0


def test_dependent_rows_raise_none_either() -> None:
    assert stationary(1, 10_000, slow=0.9) == 0


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_cuts_and_restarts_change_nothing(data: st.DataObject) -> None:
    rows = flipped()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows) - 1), max_size=8)))
    restarts = frozenset(data.draw(st.lists(st.sampled_from(cuts), max_size=4)) if cuts else ())
    assert [alert.to_json() for alert in fed(rows, cuts, restarts)] == _whole()


@cache
def _whole() -> list[bytes]:
    return [alert.to_json() for alert in fed(flipped(), [])]


def test_a_reference_of_an_older_release_is_watched_without() -> None:
    old = msgspec.structs.replace(entry().reference, relations=msgspec.UNSET)
    assert b"relations" not in old.to_json()
    loaded = load(old.to_json())
    monitor = monitor_of(Entry(loaded, loaded.digest(), 1, 1))
    assert monitor.relating is None
    assert monitor.state().relations is msgspec.UNSET


def test_a_document_comes_back_and_its_correlations_are_those_of_its_tables() -> None:
    reference = load(entry().reference.to_json())
    assert reference.digest() == entry().digest
    own = related(reference)
    assert own.columns == ["a", "b", "c", "d", "yes", "likely", "region", "prediction"]
    assert own.correlation[1][0] == pytest.approx(0.68, abs=0.05)  # Spearman's of a normal copula of 0.7
    assert min(own.correlation[3][:3], key=abs) == pytest.approx(0, abs=0.03)
    assert own.left_out == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("columns", ["a"]),
        ("columns", ["a", "b", "c", "d", "yes", "likely", "region", "strange"]),
        ("levels", [[0]] * 8),
        ("correlation", [[2.0] * i for i in range(8)]),
        ("tables", b"\0\0"),
    ],
)
def test_relations_that_cannot_be_are_refused(field: str, value: object) -> None:
    broken = msgspec.structs.replace(related(entry().reference), **{field: value})
    document = msgspec.structs.replace(entry().reference, relations=broken).to_json()
    with pytest.raises(ReferenceInvalid, match="relations"):
        load(document)


def test_of_a_wide_stream_the_columns_that_go_with_the_prediction_are_looked_at() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(1_000, 80))
    scores = values[:, 70:].sum(axis=1)
    rows = [
        Row("m", "", "", i, {f"f{j:02}": v for j, v in enumerate(row)}, score, None, None, 0, i, 0)
        for i, (row, score) in enumerate(zip(values.tolist(), scores.tolist(), strict=True))
    ]
    own = related(fit(rows, KEY, FitOptions(season=Season.NONE, ordered=True)))
    assert len(own.columns) == MAX_RELATED
    assert own.left_out == 81 - MAX_RELATED
    assert {f"f{j}" for j in range(70, 80)} < set(own.columns)
    assert own.columns[-1] == "prediction"


@pytest.mark.parametrize("pair", [-1, 10_000])
def test_a_state_of_pairs_that_are_not_there_is_refused(pair: int) -> None:
    relating = monitor_of(entry()).relating
    assert relating is not None
    with pytest.raises(WireError):
        relating.restore(RelationsState(since={pair: 3}), 100)
    with pytest.raises(WireError):
        relating.restore(RelationsState(since={0: OPEN + 1}), 100)


# ---- tables ----


def table_of(rng: np.random.Generator, n: int, rho: float) -> np.ndarray:
    x = rng.normal(size=n)
    y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=n)
    levels = [np.digitize(v, stats.norm.ppf(np.arange(1, LEVELS) / LEVELS)) for v in (x, y)]
    table: np.ndarray = all_tables(np.stack(levels, axis=1).astype(np.int8))[0].astype(np.float64)
    return table


def test_a_rank_correlation_is_spearmans() -> None:
    table = table_of(np.random.default_rng(1), 2_000, 0.5)
    first, second = (
        np.repeat(np.arange(LEVELS * LEVELS) // LEVELS, table.ravel().astype(int)),
        np.repeat(np.arange(LEVELS * LEVELS) % LEVELS, table.ravel().astype(int)),
    )
    assert rank_correlation(table) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_a_selection_keeps_odds_ratios_and_a_transformation_the_copula() -> None:
    shares = smoothed(table_of(np.random.default_rng(2), 20_000, 0.6))
    row, column = margins(shares)
    assert np.allclose(transformed(shares, row, column), shares)
    assert np.allclose(selected(shares, row, column), shares)
    weight = np.array([0.1, 0.3, 1, 2, 4, 8])
    chosen = shares * weight[:, None] / (shares * weight[:, None]).sum()  # rows selected by the first column
    assert np.allclose(selected(shares, *margins(chosen)), chosen, atol=1e-6)
    merged = np.zeros_like(shares)  # values of the first column transformed into three
    merged[:3] = shares[::2] + shares[1::2]
    assert np.allclose(transformed(shares, *margins(merged)), merged, atol=1e-9)


def test_the_bound_is_chernoffs() -> None:
    """Against the exact tail of a two-valued pair: the product of scores is then binomial."""
    table = np.zeros((LEVELS, LEVELS))
    table[:2, :2] = 0.25
    s, t = (scores(margin) for margin in margins(table))
    for wanted in (0.2, 0.5):
        slope, tilt = rate(table, s, t, wanted)
        heads = (1 + wanted) / 2
        assert slope == pytest.approx(heads * np.log(2 * heads) + (1 - heads) * np.log(2 * (1 - heads)), abs=1e-6)
        assert tilt > 0
        assert stats.binom.sf(int(200 * heads) - 1, 200, 0.5) <= np.exp(-200 * slope)
    assert rate(table, s, t, moment(table, s, t))[0] == pytest.approx(0, abs=1e-9)


def test_two_values_that_hardly_ever_occur_together_are_no_evidence() -> None:
    """Of 900 rows two in which both are rare: a correlation of 0.2 by chance, that a normal approximation calls 6 σ."""
    rare = np.zeros((LEVELS, LEVELS))
    rare[:2, :2] = [[0.9801, 0.0099], [0.0099, 0.0001]]
    now = np.zeros((LEVELS, LEVELS))
    now[:2, :2] = [[884, 7], [7, 2]]
    s, t = (scores(margin) for margin in margins(now))
    expected = selected(rare, *(margins(now) / now.sum()))
    assert moment(now, s, t) > 0.2
    assert 900 * rate(expected, s, t, moment(now, s, t))[0] < 10  # the bar is at 20


def test_pairs_of_two_class_scores_are_not_looked_at() -> None:
    rng = np.random.default_rng(1)
    values, noise = rng.normal(size=(2, 2_000))
    p = 1 / (1 + np.exp(-values - noise))
    rows = [
        Row(
            "m",
            "",
            "",
            i,
            {"x": x, "y": -x},
            {"no": (1 - q) / 2, "perhaps": (1 - q) ** 2 / 2, "yes": q},
            None,
            None,
            0,
            i,
            0,
        )
        for i, (x, q) in enumerate(zip(values.tolist(), p.tolist(), strict=True))
    ]
    reference = fit(rows, KEY, FitOptions(season=Season.NONE, ordered=True))
    pairs = Pairs(reference, related(reference), 1e-6, 0.1)
    names = [tuple(pairs.names[i] for i in pair) for pair in pairs.pairs.tolist()]
    open_ended = [name for name, bar in zip(names, pairs.bar.tolist(), strict=True) if bar == float("inf")]
    assert len(open_ended) == 3
    assert all(name.startswith("prediction.") for pair in open_ended for name in pair)
