"""What all states on the state topic are made of: keys, frames below the record limit, and checked arrays. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import zstandard

from stream_monitor import wire
from stream_monitor.detectors.signal import State
from stream_monitor.errors import WireError
from stream_monitor.reference import StreamKey

COMPRESSED_SINCE: Final = 2
"""Wire version from which on snapshots are compressed (zstd, level 1)."""
MAX_SNAPSHOT_BYTES: Final = 64 * 1024 * 1024
"""Of one, not compressed: 16 KB a column where there are 4,096."""
MAX_PARTS: Final = 256
MAX_DIMENSIONS: Final = 4
DTYPES: Final = frozenset({"|u1", "|b1", "<u2", "<i4", "<i8", "<f4", "<f8", "<u4"})


class Array(msgspec.Struct, frozen=True, array_like=True):
    """A numpy array: dtype as numpy writes it, shape, bytes in C order."""

    dtype: str
    shape: list[int]
    data: bytes


class Detector(msgspec.Struct, frozen=True):
    """One detector's state. `tag` names its kind, parameters and library version: another tag starts cold."""

    tag: str
    arrays: dict[str, Array]
    opaque: dict[str, list[bytes]] = {}


class _Part(msgspec.Struct, frozen=True, array_like=True):
    """A piece of an encoded snapshot; all pieces carry the same stamp and count."""

    stamp: int
    part: int
    parts: int
    data: bytes


_compressors: ContextVar[zstandard.ZstdCompressor] = ContextVar("compressor")
_parts = msgspec.msgpack.Decoder(_Part)
_key_type = tuple[str, str, str, str, int]


def pack_array(array: npt.NDArray[np.generic]) -> Array:
    return Array(array.dtype.str, list(array.shape), array.tobytes())


def unpack_array(array: Array) -> npt.NDArray[np.generic]:
    """A fresh, writable array; raises WireError for a dtype we do not write or a length that does not fit."""
    if array.dtype not in DTYPES:
        raise WireError(f"array of dtype {array.dtype[:20]!r}")
    if len(array.shape) > MAX_DIMENSIONS or any(not 0 <= extent <= wire.MAX_BODY_BYTES for extent in array.shape):
        raise WireError(f"array of {len(array.shape)} dimensions, or of extents that cannot be")
    dtype = np.dtype(array.dtype)
    if math.prod(array.shape) * dtype.itemsize != len(array.data):
        raise WireError(f"array of shape {array.shape} with {len(array.data)} bytes")
    return np.frombuffer(array.data, dtype=dtype).reshape(array.shape).copy()


def pack_detector(tag: str, state: State) -> Detector:
    arrays = {name: pack_array(part) for name, part in state.items() if isinstance(part, np.ndarray)}
    opaque = {name: part for name, part in state.items() if isinstance(part, list)}
    return Detector(tag, arrays, opaque)


def unpack_detector(detector: Detector) -> State:
    return {name: unpack_array(array) for name, array in detector.arrays.items()} | dict(detector.opaque)


def key(stream: StreamKey, number: int, letter: str = "s") -> bytes:
    return msgspec.json.encode([letter, *stream, number])


def parse_key(data: bytes) -> tuple[str, StreamKey, int]:
    """Letter, stream and number of a key; of one that is not ours no letter and −1."""
    try:
        letter, model, version, segment, number = msgspec.json.decode(data, type=_key_type)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "", StreamKey(""), -1
    return letter, StreamKey(model, version, segment), number


def frames(data: bytes, stamp: int, kind: bytes, version: int) -> Iterator[bytes]:
    """An encoded snapshot in pieces below the record limit, each a frame of that kind."""
    if version >= COMPRESSED_SINCE:
        data = _compressor().compress(data)
    parts = -(-len(data) // wire.RECORD_BYTES)
    for part in range(parts):
        piece = data[part * wire.RECORD_BYTES : (part + 1) * wire.RECORD_BYTES]
        yield wire.pack(kind, version, _Part(stamp, part, parts, piece))


def _compressor() -> zstandard.ZstdCompressor:
    """One a thread: no two may use it at once, and to make one takes longer than to compress a small state."""
    found = _compressors.get(None)
    if found is None:
        found = zstandard.ZstdCompressor(level=1)
        _compressors.set(found)
    return found


def read_frames(given: dict[int, bytes], kind: bytes, most: int) -> bytes:
    """What `frames` cut, put together again; raises WireError unless all pieces are there and of one save."""
    first = wire.unpack(kind, given.get(0), _parts)
    pieces = [wire.unpack(kind, given.get(number), _parts) for number in range(min(first.parts, most))]
    if [(piece.stamp, piece.part, piece.parts) for piece in pieces] != [
        (first.stamp, number, first.parts) for number in range(first.parts if first.parts <= most else 0)
    ]:
        raise WireError("parts of a snapshot do not belong together")
    versions = {wire.version_of(given[number]) for number in range(len(pieces))}
    if len(versions) > 1:
        raise WireError("parts of a snapshot are of two wire versions")
    data = b"".join(piece.data for piece in pieces)
    return _decompressed(data) if max(versions, default=0) >= COMPRESSED_SINCE else data


def _decompressed(data: bytes) -> bytes:
    """Raises WireError for what is not compressed, or says that it is larger than any snapshot of ours."""
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= MAX_SNAPSHOT_BYTES:
            raise WireError(f"a snapshot of {size} bytes; {MAX_SNAPSHOT_BYTES} are possible")
        return zstandard.ZstdDecompressor(max_window_size=MAX_SNAPSHOT_BYTES).decompress(data)
    except zstandard.ZstdError as error:
        raise WireError(f"snapshot cannot be decompressed: {error}") from error
