"""Labels that come by themselves, on a topic of their own: bytes → label | reject, and their way over the codes topic.

A record's value is one JSON object, an array of them, or newline-separated ones: `{"id", "model", "label", "time"}` by
default. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor import wire
from stream_monitor.batch import Origins
from stream_monitor.errors import WireError
from stream_monitor.events import DATES_MS, Limits, Reject, documents_of, lookup, parse_time
from stream_monitor.outcomes import Ids, Values, ids_of, value_of, values_in, values_of

KIND: Final = b"L"
MAX_LABELS: Final = 65_536
LABEL_BYTES: Final = 64
"""What one takes on the wire, at most."""


@dataclass(frozen=True, slots=True)
class LabelShape:
    """Where the parts of a label stand: dotted paths, None for "not there". `fixed_model`: the model of every label."""

    id: str = "id"
    label: str = "label"
    model: str | None = "model"
    time: str | None = "time"
    fixed_model: str | None = None
    limits: Limits = field(default_factory=Limits)


class Label(msgspec.Struct, frozen=True, gc=False):
    """One label as it came. `time_ms`: when it became known, its own or its record's; `record_ms`: the time it is
    merged by; origin as a row's."""

    model: str
    id: str
    label: Any
    time_ms: int
    partition: int
    offset: int
    index: int
    record_ms: int = 0


def decode_labels(
    value: bytes | None,
    timestamp_ms: int,
    partition: int,
    offset: int,
    shape: LabelShape,
    merge_ms: int | None = None,
) -> list[Label | Reject]:
    """All labels and rejects of one record, in order; never raises. `merge_ms`: what it was merged by, its time stamp
    unless said.

    >>> found = decode_labels(b'{"model":"m","id":7,"label":1}', 5, 0, 3, LabelShape())
    >>> found[0].id, found[0].label, found[0].time_ms
    ('7', 1, 5)
    >>> decode_labels(b'{"model":"m","label":1}', 5, 0, 3, LabelShape())[0].reason
    'no_id'
    """
    documents = documents_of(value, partition, offset, shape.limits)
    times = timestamp_ms, timestamp_ms if merge_ms is None else merge_ms
    return [
        document if isinstance(document, Reject) else _label_of(document, times, partition, offset, i, shape)
        for i, document in enumerate(documents)
    ]


def _label_of(
    document: object, times: tuple[int, int], partition: int, offset: int, index: int, shape: LabelShape
) -> Label | Reject:
    """`times`: the record's time stamp, and what it was merged by."""
    if not isinstance(document, dict):
        return Reject("not_an_object", "a label is an object", partition, offset, index)
    get: Callable[[str | None], Any] = partial(lookup, document)
    model, identity = shape.fixed_model or get(shape.model), get(shape.id)
    given_time = get(shape.time)
    time_ms = times[0] if given_time is None else parse_time(given_time)
    refusal: tuple[str, str] | None = None
    if model is None or model == "":
        refusal = ("no_model", "no model name")
    elif type(model) is not str or len(model) > 256:
        refusal = ("bad_model", "the model's name is not a text of at most 256 characters")
    elif identity is None or identity == "":
        refusal = ("no_id", "a label without an id belongs to no prediction")
    elif isinstance(identity, (bool, list, dict)):
        refusal = ("bad_id", "the id is neither a text nor a number")
    elif time_ms is None:
        refusal = ("bad_time", "time is neither RFC 3339 nor epoch milliseconds within the years 1 to 9999")
    else:
        number, name = value_of(get(shape.label))
        if number != number and name is None:
            refusal = ("no_label", "the label is null, or neither a number nor a category")
    if refusal:
        return Reject(*refusal, partition, offset, index)
    assert time_ms is not None  # else refused above; for the type checker
    assert isinstance(model, str)
    return Label(model, str(identity), get(shape.label), time_ms, partition, offset, index, times[1])


@dataclass(frozen=True, slots=True)
class LabelBatch:
    """Labels of one model, arrays of `[labels]`; `names`: what the categories refer to. Origins as of rows, on the
    labels topic."""

    model: str
    ids: Ids
    value: Values
    names: tuple[str, ...]
    origins: Origins

    def __len__(self) -> int:
        return len(self.origins)

    def take(self, labels: slice | npt.NDArray[np.intp]) -> LabelBatch:
        return LabelBatch(
            self.model, self.ids[labels], self.value.take(labels), self.names, self.origins.take(labels)
        )  # fmt: skip

    @classmethod
    def of(cls, model: str, labels: Sequence[Label]) -> LabelBatch:
        names: dict[str, int] = {}
        return cls(
            model,
            ids_of(label.id for label in labels),
            values_of([label.label for label in labels], names),
            tuple(names),
            Origins(
                np.array([label.partition for label in labels], dtype=np.int32),
                np.array([label.offset for label in labels], dtype=np.int64),
                np.array([label.index for label in labels], dtype=np.int32),
                np.array([label.time_ms for label in labels], dtype=np.int64),
                np.array([label.record_ms for label in labels], dtype=np.int64),
            ),
        )


class _Wire(msgspec.Struct, frozen=True, array_like=True):
    model: str
    rows: int
    ids: bytes
    number: bytes
    name: bytes
    names: list[str]
    time_ms: bytes
    partition: bytes
    offset: bytes
    index: bytes
    record_ms: bytes


_decoder = msgspec.msgpack.Decoder(_Wire)


def is_labels(data: bytes | None) -> bool:
    return data is not None and data[3:4] == KIND


def encode_labels(model: str, labels: Sequence[Label], version: int = wire.NEWEST) -> list[bytes]:
    """Labels of one model as frames of that wire version, each below the record limit."""
    step = wire.RECORD_BYTES // LABEL_BYTES // 2
    return [_frame(LabelBatch.of(model, labels[i : i + step]), version) for i in range(0, len(labels), step)]


def _frame(batch: LabelBatch, version: int) -> bytes:
    name, origins = batch.value.name.tobytes() if batch.names else b"", batch.origins
    return wire.pack(
        KIND,
        version,
        _Wire(
            batch.model, len(batch), batch.ids.tobytes(), batch.value.number.tobytes(), name, list(batch.names),
            origins.time_ms.tobytes(), origins.partition.tobytes(), origins.offset.tobytes(), origins.index.tobytes(),
            origins.record_ms.tobytes(),
        ),
    )  # fmt: skip


def decode_label_batch(data: bytes | None) -> LabelBatch:
    """Bytes of the codes topic → labels; raises WireError."""
    w = wire.unpack(KIND, data, _decoder)
    if not 0 < w.rows <= MAX_LABELS:
        raise WireError(f"{w.rows} labels in a batch cannot be")
    batch = LabelBatch(
        w.model,
        wire.array(w.ids, "<u8", 2 * w.rows, "ids").reshape(w.rows, 2),  # type: ignore[arg-type]  # the dtype is in the text
        values_in(w.number, w.name, w.names, w.rows, "label"),
        tuple(w.names),
        Origins(
            wire.array(w.partition, "<i4", w.rows, "partition"),  # type: ignore[arg-type]
            wire.array(w.offset, "<i8", w.rows, "offset"),  # type: ignore[arg-type]
            wire.array(w.index, "<i4", w.rows, "index"),  # type: ignore[arg-type]
            wire.array(w.time_ms, "<i8", w.rows, "time_ms"),  # type: ignore[arg-type]
            wire.array(w.record_ms, "<i8", w.rows, "record_ms"),  # type: ignore[arg-type]
        ),
    )
    times = batch.origins.time_ms
    if not (int(times.min()) in DATES_MS and int(times.max()) in DATES_MS):
        raise WireError("labels with times that are no dates")
    return batch
