"""Labels: bytes → label or reject, over the codes topic and back."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_monitor.errors import WireError
from stream_monitor.events import REASONS, Reject
from stream_monitor.labels import Label, LabelBatch, LabelShape, decode_label_batch, decode_labels, encode_labels
from stream_monitor.outcomes import NO_NAME, Outcomes, value_of, values_of
from tests.unit import world


def one(value: bytes | None, shape: LabelShape | None = None) -> Label | Reject:
    (found,) = decode_labels(value, 1_000, 2, 7, shape or LabelShape())
    return found


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"), (b"", "empty"), (b"[]", "empty"), (b"{", "not_json"), (b"7", "not_an_object"),
        (b'{"model":"m","label":1}', "no_id"), (b'{"model":"m","id":"","label":1}', "no_id"),
        (b'{"model":"m","id":[1],"label":1}', "bad_id"), (b'{"model":"m","id":"1"}', "no_label"),
        (b'{"model":"m","id":"1","label":null}', "no_label"), (b'{"model":"m","id":"1","label":[1]}', "no_label"),
        (b'{"model":"m","id":"1","label":NaN}', "no_label"), (b'{"id":"1","label":1}', "no_model"),
        (b'{"model":5,"id":"1","label":1}', "bad_model"), (b'{"model":"m","id":"1","label":1,"time":"x"}', "bad_time"),
    ],
)  # fmt: skip
def test_a_bad_label_says_why(value: bytes | None, reason: str) -> None:
    found = one(value)
    assert isinstance(found, Reject)
    assert found.reason == reason
    assert reason in REASONS


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["id", "model", "label", "time"]) | st.text(max_size=3), inner, max_size=4)).map(
    lambda value: orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS) if _writable(value) else b"{"))  # fmt: skip
def test_nothing_breaks_it(value: bytes) -> None:
    for found in decode_labels(value, 0, 0, 0, LabelShape()):
        assert isinstance(found, Reject) or (found.model and found.id)


def _writable(value: object) -> bool:
    try:
        orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, orjson.JSONEncodeError):
        return False
    return True


def test_other_shapes_and_one_model_for_a_topic() -> None:
    shape = LabelShape(id="key.order", label="outcome", model=None, time="at", fixed_model="m")
    found = one(b'{"key":{"order":12},"outcome":"paid","at":"1970-01-01T00:00:02Z"}', shape)
    assert found == Label("m", "12", "paid", 2_000, 2, 7, 0, 1_000)


def test_many_in_one_record() -> None:
    found = decode_labels(b'[{"id":1,"model":"m","label":0},{"id":2,"model":"m"}]', 5, 0, 0, LabelShape())
    assert [type(each).__name__ for each in found] == ["Label", "Reject"]
    assert [each.index for each in found] == [0, 1]
    lines = decode_labels(b'{"id":1,"model":"m","label":0}\n{oops\n', 5, 0, 0, LabelShape())
    assert [type(each).__name__ for each in lines] == ["Label", "Reject"]


def test_over_the_wire_and_back() -> None:
    labels = [
        Label("m", str(i), value, i, 1, i, 0, i + 1) for i, value in enumerate([1, True, "paid", 0.5, "late", "3"])
    ]
    (data,) = encode_labels("m", labels)
    batch, wanted = decode_label_batch(data), LabelBatch.of("m", labels)
    assert batch.names == ("paid", "late")
    assert batch.value.name.tolist() == [NO_NAME, NO_NAME, 0, NO_NAME, 1, NO_NAME]
    assert batch.value.number.tolist()[:2] == [1.0, 1.0]
    assert (batch.ids == wanted.ids).all()
    for name in ("time_ms", "partition", "offset", "index", "record_ms"):
        assert (getattr(batch.origins, name) == getattr(wanted.origins, name)).all()


def test_many_labels_make_several_frames() -> None:
    labels = [Label("m", str(i), f"name {i}", i, 1, i, 0) for i in range(10_000)]
    frames = encode_labels("m", labels)
    assert len(frames) > 1
    assert sum(len(decode_label_batch(data)) for data in frames) == 10_000


def test_damage_is_an_error_by_name() -> None:
    (data,) = encode_labels("m", [Label("m", "1", 1, 0, 0, 0, 0)])
    for at in range(len(data)):
        with pytest.raises(WireError):
            decode_label_batch(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_outcomes_are_joined_and_cut_with_their_names() -> None:
    def row(prediction: object, label: object, identity: str) -> Outcomes:
        (base,) = world.rows(1)
        found = Outcomes.of([_replaced(base, prediction, label, identity)], with_ids=True)
        assert found is not None
        return found

    both = Outcomes.join([(row("a", "b", "1"), 1), (None, 1), (row("b", 1.0, "2"), 1)])
    assert both is not None
    assert both.names == ("a", "b")
    assert both.prediction.name.tolist() == [0, NO_NAME, 1]
    assert both.label.name.tolist() == [1, NO_NAME, NO_NAME]
    assert both.ids.any(axis=1).tolist() == [True, False, True]
    assert both.take(slice(2, 3)).label.number.tolist() == [1.0]


def _replaced(row: object, prediction: object, label: object, identity: str):  # type: ignore[no-untyped-def]
    import msgspec

    return msgspec.structs.replace(row, prediction=prediction, label=label, id=identity)  # type: ignore[type-var]


@pytest.mark.parametrize(
    "value", [10**400, float("inf"), {}, {"a": None}, {"a": True}, "", " ", b"x", -(2**80), "1e999"]
)
def test_odd_values_are_no_error(value: object) -> None:
    number, _ = value_of(value)
    assert number != float("inf")


def test_a_run_of_values_is_each_of_them() -> None:
    plain = [1, 0.5, True, None, float("nan"), float("inf"), False, -(2**62)]
    for raw in (plain, [*plain, 10**400], [*plain, "paid", "7"]):
        names: dict[str, int] = {}
        found = values_of(raw, names)
        each = [value_of(value) for value in raw]
        np.testing.assert_array_equal(found.number, [number for number, _ in each])
        assert [None if i == NO_NAME else list(names)[i] for i in found.name] == [name for _, name in each]
