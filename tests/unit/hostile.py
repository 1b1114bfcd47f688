"""Hostile bytes on the state, references and codes topics, in a process that may not execute, connect or swell.

    python -m tests.unit.hostile SEED COUNT

feeds COUNT hostile records of each topic to what reads them. An audit hook ends the process at the first event that
could be the execution of data: unpickling, compiling, executing, importing, starting a process, connecting; but for
what numba does to have a kernel compiled. The address space is limited to what the process has after it has done
everything once, and `SLACK_BYTES`. Prints what was refused.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import structlog
import zstandard

from stream_monitor import state as states
from stream_monitor import state_records, wire
from stream_monitor.batch import KIND, CodedBatch, RawBatch, decode, encode_coded, encode_raw
from stream_monitor.book import FIRST_EPOCH, ReferenceBook, key_of
from stream_monitor.broker.outgoing import partition_of
from stream_monitor.broker.protocol import Message
from stream_monitor.coding import code
from stream_monitor.encode import Binner
from stream_monitor.errors import ReferenceInvalid
from stream_monitor.ordering import Tick, encode_tick
from stream_monitor.reference import Reference, StreamKey
from stream_monitor.stream import Stream
from stream_monitor.streams import StreamFactory
from tests.unit import world
from tests.unit.world import MODEL, World

SLACK_BYTES: Final = 300_000_000
FORBIDDEN: Final = (
    "pickle.find_class", "exec", "compile", "import", "marshal.loads", "marshal.load", "code.__new__",
    "function.__new__", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "ctypes.dlopen",
)  # fmt: skip
EDGES: Final = (-(2**63), -(2**31), -1, 0, 1, 2, 99, 100, 255, 256, 2**31, 2**32, 2**62, 2**63 - 1)
NUMBERS: Final = (float("nan"), float("inf"), float("-inf"), -1e308, 1e308, -1.0, 0.0, 1e-320)
REFERENCE: Final = world.reference()
ROWS: Final = world.rows(400, drift_at=100)
BOMBS: Final = (
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01", b"\x91" * 500_000, b"\x81\xa1a" * 300_000, b"\xdd\x00\x10\x00\x00" * 200_000,
    b"[" * 900_000, b'{"a":' * 180_000, b'{"columns":[' + b"{}," * 300_000 + b"{}]}", b"1" * 500_000,
)  # fmt: skip


def mutated(value: Any, rng: random.Random) -> Any:
    """One leaf of a document replaced by an edge value of its type, or by one of another type."""
    if isinstance(value, dict) and value and rng.random() < 0.97:
        key = rng.choice(list(value))
        return {**value, key: mutated(value[key], rng)}
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.97:
        at = rng.randrange(len(value))
        return [*value[:at], mutated(value[at], rng), *value[at + 1 :]]
    if isinstance(value, bytes) and len(value) >= 4 and rng.random() < 0.95:
        size = 8 if len(value) % 8 == 0 else 4 if len(value) % 4 == 0 else 1
        at = rng.randrange(len(value) // size) * size
        numbers = (np.float64, np.int64) if size == 8 else (np.float32, np.int32)
        edge = numbers[1](rng.choice([e for e in EDGES if size == 8 or abs(e) < 2**31])).tobytes()
        with np.errstate(over="ignore"):
            real = numbers[0](rng.choice(NUMBERS)).tobytes()
        piece = rng.choice((edge, real, rng.randbytes(8)))[:size]
        repeat = rng.choice((1, 1, 1, (len(value) - at) // size))
        return (value[:at] + piece * repeat + value[at + size * repeat :])[: len(value)]
    if isinstance(value, bool):
        return rng.choice((not value, 7, None))
    if isinstance(value, int):
        return rng.choice(EDGES)
    if isinstance(value, float):
        return rng.choice(NUMBERS)
    return rng.choice((None, "", "x" * 300, "\ud800"[:0], b"\0", [], {}, *EDGES))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut, grown, or some bytes of it replaced."""
    match rng.randrange(4):
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            return data + rng.randbytes(rng.randint(1, 50))
        case 2:
            at = rng.randrange(len(data))
            return data[:at] + rng.randbytes(8) + data[at + 8 :]
        case _:
            at = rng.randrange(len(data))
            return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]


class Target:
    """What is attacked: sound records, and their readers."""

    def __init__(self) -> None:
        self.settings = world.settings(detection={"budget_events": 10_000, "warmup_events": 200})
        self.book = ReferenceBook()
        self.book.apply(key_of(REFERENCE.stream, FIRST_EPOCH), REFERENCE.to_json())
        self.entry = ReferenceBook.entry(REFERENCE, FIRST_EPOCH)
        self.binner = Binner(REFERENCE)
        watched, warming = self.stream(), self.stream()
        self.feed(watched, world.rows(1_000, drift_at=700))
        warming.feed(RawBatch(StreamKey(MODEL), tuple(world.rows(60))), self.book)
        records = states.save(watched, 7, 9, states.Saved(), 1)[0]
        self.snapshot = msgspec.msgpack.decode(state_records.read_frames({0: records[0][1] or b""}, states.KIND, 256))
        self.warm_up = [(key, value or b"") for key, value in states.save(warming, 7, 9, states.Saved(), 1)[0]]
        batch = code(world.rows(120), StreamKey(MODEL), self.entry, self.binner)
        self.codes = [next(encode_coded(batch)), next(encode_raw(RawBatch(StreamKey(MODEL), tuple(world.rows(50)))))]
        self.codes.append(encode_tick(Tick(world.START_MS + 10**8, 1, {0: world.START_MS + 10**8})))
        self.document = msgspec.json.decode(REFERENCE.to_json())
        self.refused: Counter[str] = Counter()

    def stream(self) -> Stream:
        return StreamFactory(self.settings).stream(StreamKey(MODEL))

    def feed(self, stream: Stream, rows: list[Any]) -> None:
        stream.feed(code(rows, StreamKey(MODEL), self.entry, self.binner), self.book)

    # ---- the three topics ----

    def state(self, rng: random.Random) -> None:
        """Restore it, go on with drifting rows, save it and read that back."""
        number = state_records.key(StreamKey(MODEL), 0)
        match rng.randrange(8):
            case 0:
                body = damaged(msgspec.msgpack.encode(self.snapshot), rng)
            case 1:
                body = rng.choice(BOMBS)
            case _:
                document = self.snapshot
                for _ in range(rng.choice((1, 1, 2, 5))):
                    document = self.changed(document, rng)
                body = msgspec.msgpack.encode(document)
        live = {number: wire.pack(states.KIND, 1, [7, 0, 1, body])}
        if rng.random() < 0.3:
            packed = zstandard.ZstdCompressor(write_content_size=rng.random() < 0.9).compress(body)
            live = {number: wire.pack(states.KIND, 2, [7, 0, 1, packed])}
        if rng.random() < 0.1:
            live = {key: damaged(value, rng) if rng.random() < 0.5 else value for key, value in self.warm_up}
        self.restored(live)

    def changed(self, document: dict[str, Any], rng: random.Random) -> dict[str, Any]:
        """Mostly an array of a detector, else the monitor, the trail, or anything."""
        watched = document.get("watched")
        if not isinstance(watched, dict) or rng.random() < 0.1:
            return dict(mutated(document, rng))
        part = rng.choice(("detectors", "detectors", "detectors", "monitor", "trail"))
        inner = watched[part]
        if part == "detectors" and isinstance(inner, dict) and rng.random() < 0.8:
            name = rng.choice(sorted(inner))
            arrays = dict(inner[name]["arrays"]) if isinstance(inner[name], dict) else {}
            which = rng.choice(sorted(arrays)) if arrays else ""
            if isinstance(arrays.get(which), list) and len(arrays[which]) == 3:
                arrays[which] = [*arrays[which][:2], mutated(arrays[which][2], rng)]
                inner = {**inner, name: {**inner[name], "arrays": arrays}}
        else:
            inner = mutated(inner, rng)
        return {**document, "watched": {**watched, part: inner}}

    def restored(self, live: dict[bytes, bytes]) -> None:
        grouped, _ = states.group_records(live)
        for parts in grouped.values():
            back = states.restore(self.stream(), parts, self.book)
            self.refused["state lost"] += bool(back.lost)
            self.refused["detectors cold"] += len(back.cold)
            self.feed(back.stream, ROWS)
            saved, _ = states.save(back.stream, 8, 9, back.saved)
            kept = {key: value for key, value in saved if value is not None}
            again, _ = states.group_records(kept)
            assert not any(states.restore(self.stream(), each, self.book).lost for each in again.values())

    def codes_topic(self, rng: random.Random) -> None:
        """A stage reads it, among sound records, and saves; the next one restores what it saved."""
        given = World(self.settings, references=[REFERENCE])
        topic, partition = given.base.topics.codes, partition_of(MODEL.encode(), 2)
        batch, raw, tick = (msgspec.msgpack.decode(data[wire.HEADER_BYTES :], strict=False) for data in self.codes)
        frames = [wire.pack(KIND, rng.choice((1, 2)), mutated(mutated(batch, rng), rng)) for _ in range(6)]
        frames += [wire.pack(KIND, 2, mutated(raw, rng)) for _ in range(3)]
        frames += [wire.pack(b"T", 2, mutated(tick, rng)), wire.frame(KIND, 2, rng.choice(BOMBS))]
        frames += [wire.frame(b"T", 1, rng.choice(BOMBS)), damaged(self.codes[0], rng), rng.randbytes(40)]
        rng.shuffle(frames)
        for frame in (*frames, self.codes[2], self.codes[0], self.codes[2]):
            given.broker.append([Message(topic, b"m", frame, partition)])
        worker = given.worker("a", frozenset({"detect"}))
        given.turn(worker, rounds=6, step_s=6.0)
        worker.close()
        again = given.worker("a", frozenset({"detect"}))
        given.turn(again, rounds=3, step_s=6.0)
        assert worker.detect is not None
        assert again.detect is not None
        assert again.detect.counts.lost_states == 0
        self.refused["batches"] += worker.detect.counts.invalid_batches
        again.abandon()

    def references(self, rng: random.Random) -> None:
        """Where it is accepted, code rows with it, and watch and save a stream under it."""
        key = key_of(REFERENCE.stream, FIRST_EPOCH)
        document = mutated(self.document, rng)
        data = rng.choice(BOMBS) if rng.random() < 0.1 else msgspec.json.encode(document)
        if rng.random() < 0.2:
            data = damaged(data, rng)
        if rng.random() < 0.1:
            key = damaged(key, rng)
        book = ReferenceBook()
        try:
            _, entry = book.apply(key, data)
        except ReferenceInvalid:
            self.refused["references"] += 1
            return
        if entry is None:
            return
        reference: Reference = entry.reference
        stream = self.stream()
        stream.feed(code(ROWS, reference.stream, entry, Binner(reference)), book)
        states.save(stream, 1, 1, states.Saved())

    def sound(self) -> None:
        """Everything once as it should be, so that all code is compiled, imported and has its memory."""
        self.restored(
            {
                state_records.key(StreamKey(MODEL), 0): wire.pack(
                    states.KIND, 1, [7, 0, 1, msgspec.msgpack.encode(self.snapshot)]
                )
            }
        )
        self.restored(dict(self.warm_up))
        assert isinstance(decode(self.codes[0]), CodedBatch)
        rng = random.Random(0)
        for _ in range(3):
            self.state(rng)
            self.codes_topic(rng)
            self.references(rng)


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def compiling() -> bool:
    """Whether numba is at work: it compiles a kernel, or unpickles one from its own cache, when one is first called."""
    frame = sys._getframe()
    while frame is not None:
        if f"{os.sep}numba{os.sep}" in frame.f_code.co_filename:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def forbid() -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN and not compiling():
            print(f"FORBIDDEN: {event} {arguments!r:.300}", flush=True)
            traceback.print_stack(limit=30)
            os._exit(3)

    sys.addaudithook(hook)


def main(seed: int, count: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    target = Target()
    target.sound()
    target.refused.clear()
    limit = address_space() + SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    forbid()
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        try:
            target.state(rng)
            if number % 8 == 0:
                target.codes_topic(rng)
            target.references(rng)
        except BaseException as error:
            print(f"seed {seed}, number {number}: {type(error).__name__}: {error!s:.500}")
            at = error.__traceback__
            while at is not None:  # by hand: the traceback module compiles what it shows
                print(f"  {at.tb_frame.f_code.co_filename}:{at.tb_lineno}", flush=True)
                at = at.tb_next
            os._exit(1)
    print(dict(target.refused))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
