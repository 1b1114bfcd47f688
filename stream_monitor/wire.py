"""The frame around everything we write for ourselves (batches, states, warm-up chunks): magic, schema, checksum, body.

    offset  size  what
    0       3     b"SM1"
    3       1     kind of body, an ASCII letter
    4       1     schema version of the body
    5       4     CRC-32 of the body, big endian
    9       …     body: msgpack of a typed struct

Reading never executes anything: the body is decoded into declared types only, and its size is capped before.
"""

from __future__ import annotations

import zlib
from typing import Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.errors import WireError

MAGIC: Final = b"SM1"
HEADER_BYTES: Final = 9
MAX_BODY_BYTES: Final = 1024 * 1024
"""No frame may be larger: the broker's own limit of a record is 1 MiB."""
RECORD_BYTES: Final = 512 * 1024
"""What writers split at, well below the broker's limit."""

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


def pack(kind: bytes, schema: int, body: object) -> bytes:
    """Frame a msgspec struct; `kind` is one ASCII letter."""
    return frame(kind, schema, _encoder.encode(body))


def frame(kind: bytes, schema: int, data: bytes) -> bytes:
    """Frame bytes as they are."""
    return b"".join((MAGIC, kind, bytes((schema,)), zlib.crc32(data).to_bytes(4, "big"), data))


def body(kind: bytes, schemas: range, data: bytes | None, max_bytes: int = MAX_BODY_BYTES) -> memoryview:
    """The checked body of a frame of that kind; raises WireError saying what does not fit."""
    if data is None or len(data) < HEADER_BYTES or data[:3] != MAGIC:
        raise WireError("not a frame of stream-monitor")
    if data[3:4] != kind:
        raise WireError(f"a frame of kind {data[3:4]!r} where {kind!r} was expected")
    if data[4] not in schemas:
        raise WireError(f"schema version {data[4]}; this release reads {schemas.start} to {schemas.stop - 1}")
    if len(data) > max_bytes + HEADER_BYTES:
        raise WireError(f"{len(data)} bytes, the limit is {max_bytes}")
    content = memoryview(data)[HEADER_BYTES:]
    if zlib.crc32(content) != int.from_bytes(data[5:9], "big"):
        raise WireError("checksum does not match: the bytes are damaged")
    return content


def unpack(kind: bytes, schemas: range, data: bytes | None, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """The struct inside a frame; raises WireError."""
    content = body(kind, schemas, data)
    try:
        return decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"body of kind {kind!r} cannot be read: {error}") from error


def array(data: bytes, dtype: str, rows: int, name: str) -> npt.NDArray[np.generic]:
    """Bytes → array `[rows]` (read-only); raises WireError if the length does not fit."""
    if len(data) != rows * np.dtype(dtype).itemsize:
        raise WireError(f"{name}: {len(data)} bytes are not {rows} values of {dtype}")
    return np.frombuffer(data, dtype=dtype)
