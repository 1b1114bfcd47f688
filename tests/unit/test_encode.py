"""Encoding: the vectorised codes are those of the one-value-at-a-time definition, whatever the values."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor.codes import ABOVE, BELOW, FIRST_BIN, INVALID, MISSING, NEW, OTHER
from stream_monitor.encode import MAX_EXTRAS, MAX_EXTRAS_A_COLUMN, MAX_UNKNOWN, Binner, code_of
from stream_monitor.events import Row, lookup
from stream_monitor.features import canonical, column_name, feature_of, flatten
from stream_monitor.reference import (
    SCHEMA_VERSION,
    Bins,
    Column,
    Kind,
    Reference,
    Role,
    Season,
    Source,
)
from tests.unit.rows import row

EDGES = [-1.0, 0.0, 0.5, 2.0, 10.0]


def numeric(name: str, role: Role = Role.INPUT, strata: int = 1) -> Column:
    bins = [Bins([0] * FIRST_BIN + [10] * len(EDGES), [edge + s for edge in EDGES], -3.0 + s) for s in range(strata)]
    return Column(name, role, Kind.NUMERIC, bins)


def categorical(name: str, *, exhaustive: bool = True, role: Role = Role.INPUT, strata: int = 1) -> Column:
    names = ["a", "true", "3", "false", "0.5"]
    bins = [Bins([0] * FIRST_BIN + [5] * len(names))] * strata
    return Column(name, role, Kind.CATEGORICAL, bins, categories=names, rare=["rare"], exhaustive=exhaustive)


def reference(*columns: Column, skipped: dict[str, str] | None = None, slots: list[int] | None = None) -> Reference:
    season = Season.HOUR_OF_DAY if slots else Season.NONE
    return Reference(
        SCHEMA_VERSION, "m", "", "", list(columns), Source("file", 50), season, slots or [], skipped or {}
    )  # fmt: skip


def codes_of(column: Column, *values: Any) -> list[int]:
    """The codes of one input column."""
    return Binner(reference(column)).encode([row({"x": value}) for value in values]).codes[:, 0].tolist()  # type: ignore[no-any-return]  # numpy's tolist is Any


def test_numeric_bins_include_their_upper_edge() -> None:
    values = [-3.0, -1.0, -0.999, 0, 0.5, 0.6, 10, 10.0]
    assert codes_of(numeric("x"), *values) == [FIRST_BIN + i for i in (0, 0, 1, 1, 2, 3, 4, 4)]


def test_numeric_special_values_each_have_their_code() -> None:
    values: list[Any] = [None, math.nan, math.inf, -math.inf, "3", True, [1], {"a": 1}, -3.1, 10.1, 10**400, -(10**400)]
    want = [MISSING] + [INVALID] * 7 + [BELOW, ABOVE, ABOVE, BELOW]
    assert codes_of(numeric("x"), *values) == want
    for value, code in zip(values, want, strict=True):
        assert codes_of(numeric("x"), value) == [code], "alone, it takes another path"


def test_numeric_column_without_bins_takes_any_number_as_above() -> None:
    column = Column("x", Role.INPUT, Kind.NUMERIC, [Bins([9, 0, 0, 0])])
    assert codes_of(column, None, 1.0, -1.0, math.nan) == [MISSING, ABOVE, ABOVE, INVALID]


def test_categories_are_known_however_they_are_written() -> None:
    values = ["a", True, "true", "True", "TRUE", 3, 3.0, "3", False, "False", 0.5, "0.5"]
    want = [0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    assert codes_of(categorical("x"), *values) == [FIRST_BIN + i for i in want]


def test_categorical_special_values_each_have_their_code() -> None:
    values: list[Any] = [None, [], {}, math.nan, "rare", "b", 7, 10**400, "A"]
    assert codes_of(categorical("x"), *values) == [MISSING, INVALID, INVALID, INVALID, OTHER, NEW, NEW, NEW, NEW]
    assert codes_of(categorical("x", exhaustive=False), "rare", "b") == [OTHER, OTHER]


def test_absent_is_missing_and_empty_input_is_empty() -> None:
    binner = Binner(reference(numeric("x"), categorical("y")))
    assert binner.encode([row({"x": 0.0}), row({"y": "a"})]).codes.tolist() == [[5, MISSING], [MISSING, 4]]
    assert binner.encode([]).codes.shape == (0, 2)


def test_nested_features_have_dotted_names() -> None:
    binner = Binner(reference(numeric("a.b"), numeric("a.c.d")))
    nested = [row({"a": {"b": 0.0, "c": {"d": 0.6}}}), row({"a.b": 0.0, "a.c.d": 0.6}), row({"a": {"b": 0.0}})]
    coded = binner.encode(nested)
    assert coded.codes.tolist() == [[5, 7], [5, 7], [5, MISSING]]
    assert coded.unknown == frozenset()
    hidden = binner.encode([row({"a.b": None, "a.c.d": 0.6, "a": {"b": 0.0}})])
    assert hidden.codes.tolist() == [[5, 7]], "a null does not hide the nested value, as in events.lookup"


@pytest.mark.parametrize("name", ["prediction", "prediction.x", "features.x", "outcome", "age", "a.prediction"])
def test_column_names_of_features_never_collide(name: str) -> None:
    assert feature_of(column_name(name)) == name
    assert column_name(name) != "prediction"


def test_predictions_of_every_shape() -> None:
    score = numeric("prediction", Role.PREDICTION)
    same_name = numeric(column_name("prediction"))
    coded = Binner(reference(same_name, score)).encode([row({"prediction": 0.0}, 0.6), row({"prediction": 9}, "x")])
    assert coded.codes.tolist() == [[5, 7], [8, INVALID]]
    assert coded.unknown == frozenset()
    maps = Binner(reference(numeric("prediction.yes", Role.PREDICTION), numeric("prediction.no", Role.PREDICTION)))
    predictions: list[Any] = [{"yes": 0.6, "no": 0.0}, {"yes": 0.6}, None, 0.6]
    want = [[7, 5], [7, MISSING], [MISSING, MISSING], [INVALID, INVALID]]
    assert maps.encode([row({}, prediction) for prediction in predictions]).codes.tolist() == want
    named = Binner(reference(categorical("prediction", role=Role.PREDICTION)))
    assert named.encode([row({}, "a"), row({}, "z"), row({}, {"a": 1})]).codes[:, 0].tolist() == [4, NEW, INVALID]


def test_strata_choose_the_bins() -> None:
    slots = [0] * 12 + [1] * 12
    binner = Binner(reference(numeric("x", strata=2), categorical("y", strata=2), slots=slots))
    hour = 3_600_000
    coded = binner.encode(
        [row({"x": -2.5, "y": "a"}, time_ms=11 * hour), row({"x": -2.5, "y": "a"}, time_ms=12 * hour)]
    )
    assert coded.strata.tolist() == [0, 1]
    assert coded.codes.tolist() == [[FIRST_BIN, FIRST_BIN], [BELOW, FIRST_BIN]]


def test_extras_hold_raw_values_within_bounds() -> None:
    binner = Binner(reference(numeric("x"), categorical("y"), numeric("p", Role.PREDICTION)))
    coded = binner.encode([row({"x": 5000, "y": "n" * 300}), row({"x": 0.0, "y": None}), row({"x": -9, "y": "m"})])
    assert coded.extras == [(0, 0, 5000.0), (0, 1, "n" * 128), (2, 0, -9.0), (2, 1, "m")]
    assert binner.encode([row({"x": 10**400, "y": "a"})]).extras == [(0, 0, 1.7976931348623157e308)]
    many = binner.encode([row({"x": 99.0, "y": str(i)}) for i in range(1000)])
    assert len(many.extras) == 2 * MAX_EXTRAS_A_COLUMN
    wide = Binner(reference(*(numeric(f"x{i}") for i in range(100))))
    extras = wide.encode([row({f"x{i}": 99.0 for i in range(100)})] * 20).extras
    assert len(extras) <= MAX_EXTRAS
    assert {column for _, column, _ in extras} == set(range(100)), "every column gets its share"


def test_unknown_features_are_named_and_skipped_ones_are_not() -> None:
    binner = Binner(reference(numeric("x"), numeric("a.b"), skipped={"id": "an identifier", "a.id": "another"}))
    known = [row({"x": 1.0, "id": "z", "a": {"b": 1.0, "id": 3}}), row({"x": 1.0, "a": None})]
    assert binner.encode(known).unknown == frozenset()
    novel = [row({"x": 1.0, "y": None, "a": {"b": 1.0, "c": {"d": 1}}, "\ud800": 1})]
    assert binner.encode(novel).unknown == {"y", "a.c.d", "?"}
    hostile = binner.encode([row({f"n{i}": i for i in range(1000)})])
    assert len(hostile.unknown) == MAX_UNKNOWN


def test_flatten_agrees_with_lookup() -> None:
    objects: list[dict[str, Any]] = [
        {"a": {"b": 1, "c.d": 2}, "a.b": None, "x.y": {"z": 3}},
        {"a.b": 4, "a": {"b": 5}, "": {"": 6}},
        {"a": 7},
    ]
    for name, values in flatten(objects).items():
        assert values == [lookup(entry, name) for entry in objects], name


def test_canonical_names_are_storable() -> None:
    assert canonical("x" * 1000) == "x" * 256
    assert msgspec.json.encode(canonical("\ud800")) == b'"?"'
    assert canonical(1e300) == str(int(1e300))[:256]


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-12, 12), st.floats(), st.floats(-4, 12), st.text(max_size=4),
    st.sampled_from(["a", "True", "3", "rare", "false", "\ud800", 10**400, -(10**400), 2.0, -1.0, 0.5]),
)  # fmt: skip
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)
names = st.sampled_from(["x", "y", "z", "a", "a.b", "b", "prediction", "features"])
objects = st.dictionaries(names | st.text(max_size=2), json_values | st.dictionaries(names, json_values), max_size=6)


def wide_reference() -> Reference:
    return reference(
        numeric("x", strata=2),
        categorical("y", strata=2),
        numeric("a.b", strata=2),
        categorical("z", exhaustive=False, strata=2),
        numeric("features.prediction", strata=2),
        numeric("prediction", Role.PREDICTION, strata=2),
        categorical("prediction.b", role=Role.PREDICTION, strata=2),
        slots=[0, 1] * 12,
    )


def slow_codes(subject: Reference, given_rows: list[Row]) -> list[list[int]]:
    """The same codes, a value at a time."""

    def value(one: Row, column: Column) -> Any:
        if column.role is Role.INPUT:
            return lookup(one.features, feature_of(column.name))
        if column.name == "prediction":
            return one.prediction
        if type(one.prediction) is dict:
            return one.prediction.get("b")
        return None if one.prediction is None else object()

    strata = subject.strata_of(np.array([one.time_ms for one in given_rows], dtype=np.int64)).tolist()
    return [
        [code_of(value(one, column), column, stratum) for column in subject.columns]
        for one, stratum in zip(given_rows, strata, strict=True)
    ]


event_rows = st.lists(st.builds(row, objects, json_values, st.integers(-(10**14), 10**14)), min_size=1, max_size=12)


@given(event_rows)
@settings(deadline=None, derandomize=True)
def test_any_values_get_the_codes_of_the_definition(given_rows: list[Row]) -> None:
    subject = wide_reference()
    coded = Binner(subject).encode(given_rows)
    assert coded.codes.tolist() == slow_codes(subject, given_rows)
    msgspec.json.encode([coded.extras, sorted(coded.unknown)])


@given(event_rows, st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True)
def test_order_and_company_do_not_change_a_row_s_codes(given_rows: list[Row], rng: random.Random) -> None:
    binner = Binner(wide_reference())
    codes = binner.encode(given_rows).codes
    order = list(range(len(given_rows)))
    rng.shuffle(order)
    assert (binner.encode([given_rows[i] for i in order]).codes == codes[order]).all()
    alone = [binner.encode([one]).codes[0].tolist() for one in given_rows]
    assert alone == codes.tolist()


@given(st.lists(st.floats(-5, 15) | st.integers(-5, 15), min_size=1, max_size=50))
@settings(deadline=None, derandomize=True)
def test_plain_numbers_take_the_fast_path_to_the_same_codes(values: list[float]) -> None:
    column = numeric("x")
    assert codes_of(column, *values) == [code_of(value, column) for value in values]
