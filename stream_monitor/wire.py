"""The frame around everything we write for ourselves (batches, ticks, states, chunks): magic, version, checksum, body.

    offset  size  what
    0       3     b"SM1"
    3       1     kind of body, an ASCII letter
    4       1     wire version
    5       4     CRC-32, big endian: of the body (version 1), of kind, version and body (from version 2 on)
    9       …     body: msgpack of a typed struct

Reading never executes anything: the body is decoded into declared types only, and its size is capped before.

One number, the wire version, is the schema of every kind of body. Readers take `OLDEST` and `NEWEST`; writers write the
version they are told (`worker.wire_version`), so that releases one version apart can work side by side. What a version
adds is declared where the struct is, in `ADDED`; see `pack`. A sound frame of any other version is never taken for
damage, which would lose it: `VersionUnknown`, and the process ends.
"""

from __future__ import annotations

import zlib
from typing import Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from stream_monitor.errors import VersionUnknown, WireError

MAGIC: Final = b"SM1"
HEADER_BYTES: Final = 9
NEWEST: int = 2
"""What this release writes unless told otherwise. Raise it once a release, with the first change of a body.

2: checksums cover the header; batches may carry outcomes; labels and the states of models; snapshots are compressed.
"""
OLDEST: int = NEWEST - 1
"""What this release still reads, and can be told to write."""
MAX_BODY_BYTES: Final = 1024 * 1024
"""No frame may be larger: the broker's own limit of a record is 1 MiB."""
RECORD_BYTES: Final = 512 * 1024
"""What writers split at, well below the broker's limit."""

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


def pack(kind: bytes, version: int, body: object) -> bytes:
    """Frame a msgspec struct as that wire version has it; `kind` is one ASCII letter.

    Where the struct declares `ADDED: ClassVar[dict[str, int]] = {"field": 2}`, a field is left out below its version.
    Such a field needs a default, for frames without it, and (in an `array_like` struct) has to stand behind all others.
    That is for the struct itself; fields more than a reader knows, also within, it passes over.
    """
    return frame(kind, version, _encoder.encode(as_of(version, body)))


def as_of(version: int, body: object) -> object:
    """The struct without the fields that were added after that wire version."""
    late = {name for name, since in getattr(body, "ADDED", {}).items() if since > version}
    if not late or not isinstance(body, msgspec.Struct):
        return body
    kept = {name: value for name, value in msgspec.structs.asdict(body).items() if name not in late}
    return list(kept.values()) if body.__struct_config__.array_like else kept


def frame(kind: bytes, version: int, data: bytes) -> bytes:
    """Frame bytes as they are."""
    head = kind + bytes((version,))
    return b"".join((MAGIC, head, _checksum(head, data).to_bytes(4, "big"), data))


def _checksum(head: bytes, data: bytes | memoryview) -> int:
    return zlib.crc32(data, zlib.crc32(head) if head[1] != 1 else 0)


def version_of(data: bytes) -> int:
    """The wire version of a frame that `body` has checked."""
    return data[4]


def check(data: bytes | None, max_bytes: int = MAX_BODY_BYTES) -> memoryview:
    """The body of a sound frame of any kind; raises WireError saying what is damaged, or VersionUnknown."""
    if data is None or len(data) < HEADER_BYTES or data[:3] != MAGIC:
        raise WireError("not a frame of stream-monitor")
    if len(data) > max_bytes + HEADER_BYTES:
        raise WireError(f"{len(data)} bytes, the limit is {max_bytes}")
    content = memoryview(data)[HEADER_BYTES:]
    if _checksum(data[3:5], content) != int.from_bytes(data[5:9], "big"):
        raise WireError("checksum does not match: the bytes are damaged")
    if not OLDEST <= data[4] <= NEWEST:
        raise VersionUnknown(f"a record of wire version {data[4]}; this release reads {OLDEST} and {NEWEST}")
    return content


def body(kind: bytes, data: bytes | None, max_bytes: int = MAX_BODY_BYTES) -> memoryview:
    """The checked body of a frame of that kind; raises WireError saying what does not fit, or VersionUnknown."""
    content = check(data, max_bytes)
    assert data is not None
    if data[3:4] != kind:
        raise WireError(f"a frame of kind {data[3:4]!r} where {kind!r} was expected")
    return content


def unpack(kind: bytes, data: bytes | None, decoder: msgspec.msgpack.Decoder[T]) -> T:
    """The struct inside a frame; raises WireError, or VersionUnknown."""
    content = body(kind, data)
    try:
        return decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"body of kind {kind!r} cannot be read: {error}") from error


def array(data: bytes, dtype: str, rows: int, name: str) -> npt.NDArray[np.generic]:
    """Bytes → array `[rows]` (read-only); raises WireError if the length does not fit."""
    if len(data) != rows * np.dtype(dtype).itemsize:
        raise WireError(f"{name}: {len(data)} bytes are not {rows} values of {dtype}")
    return np.frombuffer(data, dtype=dtype)
