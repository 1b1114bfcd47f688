"""Known drift put into rows: what is hit, by how much, and what a replay says became of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from stream_monitor.errors import ConfigError
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.inject import Injector, check, parse
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.replay import Replay, Summary
from tests.unit.world import MODEL, START_MS, STEP_MS, reference, rows, settings

REFERENCE = reference()
KEY = StreamKey(MODEL)
X = next(column for column in REFERENCE.columns if column.name == "x")


def injected(texts: Sequence[str], given: Sequence[Row], chunk: int = 1_000) -> list[Row]:
    injector = Injector(parse(texts))
    return [
        row
        for start in range(0, len(given), chunk)
        for row in injector.inject(given[start : start + chunk], KEY, REFERENCE)
    ]


def numbers(given: Sequence[Row], name: str = "x") -> list[float]:
    return [row.features[name] for row in given]


GIVEN = rows(3_000, seed=5)


def test_a_mean_is_moved_by_standard_deviations_of_the_reference_from_its_row_on() -> None:
    got, was = numbers(injected(["mean:x:0.5@2000"], GIVEN)), numbers(GIVEN)
    assert got[:2_000] == was[:2_000]
    assert X.sd is not None
    assert np.array(got[2_000:]) - was[2_000:] == pytest.approx(0.5 * X.sd)


def test_a_spread_grows_about_the_mean() -> None:
    got = numbers(injected(["scale:y:2@0"], GIVEN), "y")
    was = numbers(GIVEN, "y")
    column = next(column for column in REFERENCE.columns if column.name == "y")
    assert column.mean is not None
    assert np.array(got) == pytest.approx(column.mean + 2 * (np.array(was) - column.mean))


def test_a_unit_changes_between_two_rows() -> None:
    got, was = numbers(injected(["unit:x:1000@100..200"], GIVEN)), numbers(GIVEN)
    assert got[100:200] == pytest.approx([1000 * value for value in was[100:200]])
    assert got[:100] == was[:100]
    assert got[200:] == was[200:]


def test_a_share_of_values_becomes_null_and_a_larger_share_hits_them_too() -> None:
    few, many = (injected([f"null:x:{share}@0"], GIVEN) for share in (0.05, 0.2))
    nulls = [{i for i, row in enumerate(given) if row.features["x"] is None} for given in (few, many)]
    assert nulls[0] < nulls[1]
    assert len(nulls[0]) / len(GIVEN) == pytest.approx(0.05, abs=0.015)


def test_a_category_takes_a_share_after_a_time() -> None:
    at = START_MS + 1_000 * STEP_MS
    got = [row.features["city"] for row in injected([f"category:city:XX:0.1@{at}"], GIVEN)]
    assert "XX" not in got[:1_000]
    assert got.count("XX") / 2_000 == pytest.approx(0.1, abs=0.02)


def test_a_stuck_column_repeats_the_last_value_before() -> None:
    got = numbers(injected(["stuck:x@1500"], GIVEN))
    assert set(got[1_499:]) == {numbers(GIVEN)[1_499]}


def test_predictions_and_nested_features_can_be_changed() -> None:
    scores = [{"yes": i % 100 / 100, "no": 1 - i % 100 / 100} for i in range(1_000)]
    nested = [
        Row("m", "", "", 0, {"a": {"b": float(i % 100)}}, score, None, None, 0, i, 0) for i, score in enumerate(scores)
    ]
    known = fit(nested, KEY, FitOptions(season=Season.NONE, ordered=True))
    injector = Injector(parse(["unit:a.b:10@0", "null:prediction.yes:1@0"]))
    got = injector.inject(nested, KEY, known)
    assert [row.features["a"]["b"] for row in got[:3]] == [0, 10, 20]
    assert {row.prediction["yes"] for row in got} == {None}
    assert nested[1].features == {"a": {"b": 1.0}}, "the rows given are left alone"


@pytest.mark.parametrize("chunk", [1, 37, 3_000])
def test_however_the_rows_are_cut_the_same_are_hit(chunk: int) -> None:
    texts = ["null:x:0.3@100", "stuck:y@500..900", "category:city:XX:0.3@0", "mean:x:1@2000"]
    assert injected(texts, GIVEN, chunk) == injected(texts, GIVEN)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("mean:x:0.5", "from which row"),
        ("meen:x:0.5@1", "did you mean mean"),
        ("mean:x:half@1", "'half' is no number"),
        ("mean:x:0@1", "changes nothing"),
        ("null:x:5@1", "no share"),
        ("scale:x:-1@1", "spread"),
        ("category:city:0.1@1", "has three parts of four before the @"),
        ("stuck:@1", "names no column"),
        ("null:x:0.1@20..10", "ends before it begins"),
        ("null:x:0.1@2026-03-02..2026-03-01", "ends before it begins"),
        ("mean:x:1@soon", "neither a row nor a time"),
        ("mean:x:inf@1", "finite"),
    ],
)
def test_what_cannot_be_read_is_said_with_the_fix(text: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        parse([text])


def test_every_fault_is_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(["mean:x:1", "foo:x:1@1"])
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("mean:xx:0.5@1", "no column 'xx'.*did you mean x"),
        ("mean:city:0.5@1", "mean needs a numeric column, 'city' is categorical.*category"),
        ("category:x:XX:0.5@1", "category needs a categorical column, 'x' is numeric"),
    ],
)
def test_what_the_reference_cannot_take_is_said_with_the_fix(text: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        check(parse([text]), [REFERENCE])


def test_without_a_reference_nothing_can_be_injected() -> None:
    with pytest.raises(ConfigError, match="--reference"):
        check(parse(["null:x:1@1"]), [])


# --- through a replay -----------------------------------------------------------------------------------------------


def replayed(texts: Sequence[str], given: Sequence[Row], known: Reference = REFERENCE) -> Summary:
    replay = Replay(settings(), [known], lambda _: None, parse(texts))
    for start in range(0, len(given), 1_000):
        replay.feed(given[start : start + 1_000])
    return replay.summary


def test_a_replay_says_after_how_many_rows_each_was_found() -> None:
    summary = replayed(["mean:x:1@4321", "null:y:0.2@5000", "category:city:Bergen:0.3@4000"], rows(6_000, seed=3))
    assert {found.injection.column: found.rows_before for found in summary.injected} == {
        "city": 4_000, "x": 4_321, "y": 5_000,
    }  # fmt: skip
    for found in summary.injected:
        assert found.fired is not None
        assert found.fired.column == found.injection.column
        assert found.delay < 100


def test_what_is_too_small_is_not_found() -> None:
    (found,) = replayed(["mean:x:0.001@1000"], rows(2_000, seed=3)).injected
    assert found.fired is None
    assert found.open_since is None


def test_a_column_that_drifts_already_is_told_apart() -> None:
    (found,) = replayed(["mean:x:1@4000"], rows(5_000, seed=3, drift_at=1_000)).injected
    assert found.fired is None
    assert found.open_since is not None


def test_an_injection_that_hits_no_row_is_missing() -> None:
    assert replayed(["mean:x:1@999999"], rows(2_000, seed=3)).injected == []
