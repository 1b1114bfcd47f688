"""The compiled loops of a scan: what stands where in the bytes of many records, and which events belong together."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stream_monitor.compiled import inlined, njit
from stream_monitor.decimals import HARD, NO_NUMBER, number
from stream_monitor.texts import find, mix, same
from stream_monitor.words import special

TEXT: Final = 4
NULL: Final = 5
TRUTH: Final = 6
"""What a value can be, beside the kinds of number of `decimals`."""
_STREAM: Final = 3
"""The parts of an event that make its stream: model, version, segment."""

RECORD, INDEX, LAYOUT, START, END = range(5)
"""Columns of `events`."""
SOME_HARD, SOME_FOREIGN, FAILED = range(3)
"""Places of `state`: whether there is a `HARD` number, or a letter beyond ASCII; where the event that failed starts."""

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Spans = npt.NDArray[np.int32]


@njit
def scan(
    text: Bytes, starts: Ints, most: int, literals: Bytes, bounds: Ints, layouts: Ints, values: Any, kinds: Bytes,
    spans: Spans, events: Ints, state: Ints,
) -> int:  # fmt: skip
    """Fill in `values`, `kinds`, `spans` and `events` from the records that begin at `starts`; how many events there
    are. −1 if a record has another layout or is not as usual; its event begins at `state[FAILED]`.

    Literal i is `literals[bounds[i]:bounds[i + 1]]`, those of layout j are `layouts[j] …`. `most`: events a record.
    """
    found, last, count = 0, 0, len(layouts) - 1
    for record in range(len(starts) - 1):
        end = starts[record + 1]
        at = _past_space(text, starts[record], end)
        array = at < end and text[at] == 91  # [
        if array:
            at = _past_space(text, at + 1, end)
        index = 0
        while True:
            state[FAILED] = at
            if index == most or found == len(values):
                return -1
            after = -1
            for turn in range(count):
                layout = last + turn - (count if last + turn >= count else 0)
                after = _match(text, at, end, literals, bounds, layouts[layout], layouts[layout + 1], values, kinds,
                               spans, found, state)  # fmt: skip
                if after >= 0:
                    last = layout
                    break
            if after < 0:
                return -1
            event = events[found]
            event[RECORD], event[INDEX], event[LAYOUT], event[START], event[END] = record, index, last, at, after
            found += 1
            index += 1
            at = _past_space(text, after, end)
            if not array:
                break
            if at < end and text[at] == 44:  # ,
                at = _past_space(text, at + 1, end)
            elif at < end and text[at] == 93:  # ]
                at = _past_space(text, at + 1, end)
                break
            else:
                return -1
        if at != end:
            return -1
    return found


@inlined
def _match(
    text: Bytes, at: int, end: int, literals: Bytes, bounds: Ints, first: int, last: int, values: Any, kinds: Bytes,
    spans: Spans, event: int, state: Ints,
) -> int:  # fmt: skip
    """Where the event at `at` ends if it has the literals `first …` up to `last`; else −1."""
    for literal in range(first, last):
        start, length = bounds[literal], bounds[literal + 1] - bounds[literal]
        if length > end - at:
            return -1
        if not same(text, at, literals, start, length):
            return -1
        at += length
        slot = literal - first
        if literal == last - 1:
            return at
        if at == end:
            return -1
        spans[event, slot, 0] = at
        letter = text[at]
        if letter == 34:  # "
            at += 1
            while True:
                plain = special(text, at)
                at += plain
                if plain == 8:
                    if at >= end:
                        return -1
                    continue
                if text[at] == 34:
                    at += 1
                    break
                if text[at] <= 127:  # a backslash, or a control character
                    return -1
                state[SOME_FOREIGN] = 1
                at += 1
            kind = TEXT
        elif letter == 45 or 48 <= letter < 58:  # - or a digit
            kind, at = number(text, at, values, event, slot)
            if kind == NO_NUMBER:
                return -1
            state[SOME_HARD] |= kind == HARD
        else:
            kind, at = _word(text, at, end)
            if at < 0:
                return -1
        if at > end:
            return -1
        spans[event, slot, 1] = at
        kinds[event, slot] = kind
    return -1


@njit
def _word(text: Bytes, at: int, end: int) -> tuple[int, int]:
    """What a word of JSON is, and where it ends; −1 if it is none."""
    if end - at >= 4 and text[at] == 110 and text[at + 1] == 117 and text[at + 2] == 108 and text[at + 3] == 108:
        return NULL, at + 4
    if end - at >= 4 and text[at] == 116 and text[at + 1] == 114 and text[at + 2] == 117 and text[at + 3] == 101:
        return TRUTH, at + 4
    if end - at >= 5 and text[at] == 102 and text[at + 1] == 97 and text[at + 2] == 108 and text[at + 3] == 115:
        return TRUTH, at + 5 if text[at + 4] == 101 else -1
    return NULL, -1


@inlined
def _past_space(text: Bytes, at: int, end: int) -> int:
    while at < end and (text[at] == 32 or 9 <= text[at] <= 10 or text[at] == 13):
        at += 1
    return at


@njit
def group(
    text: Bytes, spans: Spans, layout: Ints, slots: Ints, groups: Ints, firsts: Ints, table: Ints, seed: int
) -> int:
    """Number the events by the bytes of their stream's parts, groups in the order in which they first appear, whose
    first events go to `firsts`; how many groups there are, −1 if there are more than fit.

    `table`: all −1; a power of two of places, more than `firsts`. `seed`: of the hashes, so that nobody who writes
    events can choose names that fall on one place.
    """
    count, last = 0, -1
    for event in range(len(layout)):
        if last >= 0 and _same_stream(text, spans, layout, slots, event, firsts[last]):
            groups[event] = last
            continue
        mixed = np.uint64(seed)
        for part in range(_STREAM):
            slot = slots[layout[event], part]
            if slot >= 0:
                mixed = mix(text, spans[event, slot, 0], spans[event, slot, 1], mixed)
        place = np.int64(mixed & np.uint64(len(table) - 1))
        while table[place] >= 0 and not _same_stream(text, spans, layout, slots, event, firsts[table[place]]):
            place = (place + 1) & (len(table) - 1)
        last = table[place]
        if last < 0:
            if count == len(firsts):
                return -1
            last = table[place] = count
            firsts[count] = event
            count += 1
        groups[event] = last
    return count


@inlined
def _same_stream(text: Bytes, spans: Spans, layout: Ints, slots: Ints, a: int, b: int) -> bool:
    """Whether the same bytes name the model, the version and the segment of two events."""
    for part in range(_STREAM):
        slot_a, slot_b = slots[layout[a], part], slots[layout[b], part]
        if slot_a < 0 or slot_b < 0:
            if slot_a != slot_b:
                return False
            continue
        start_a, start_b = spans[a, slot_a, 0], spans[b, slot_b, 0]
        length = spans[a, slot_a, 1] - start_a
        if length != spans[b, slot_b, 1] - start_b:
            return False
        if not same(text, start_a, text, start_b, length):
            return False
    return True


@njit
def gather(values: Floats, kinds: Bytes, layout: Ints, events: Ints, slots: Ints, found: Floats, missing: Mask) -> None:
    """Fill in `found` and `missing` `[rows, names]` from `events`; `slots` `[layouts, names]`: −1 for none."""
    for i in range(len(events)):
        event = events[i]
        for j in range(slots.shape[1]):
            slot = slots[layout[event], j]
            kind = np.uint8(NULL) if slot < 0 else kinds[event, slot]
            found[i, j] = values[event, slot] if kind <= HARD else np.nan
            missing[i, j] = kind == NULL


@njit
def column(
    values: Floats, kinds: Bytes, spans: Spans, layout: Ints, events: Ints, slots: Ints, found: Floats, kind: Bytes,
    span: Spans,
) -> None:  # fmt: skip
    """Fill in `found`, `kind` and `span` `[rows(, 2)]` from one value of each event, null where it has none."""
    for i in range(len(events)):
        event = events[i]
        slot = slots[layout[event]]
        found[i] = np.nan
        if slot < 0:
            kind[i], span[i, 0], span[i, 1] = NULL, 0, 0
            continue
        if kinds[event, slot] <= HARD:
            found[i] = values[event, slot]
        kind[i], span[i, 0], span[i, 1] = kinds[event, slot], spans[event, slot, 0], spans[event, slot, 1]


@njit
def look_up(
    text: Bytes, kinds: Bytes, spans: Spans, keys: Bytes, bounds: Ints, codes: Bytes, table: Ints, found: Bytes
) -> None:
    """Put the codes of those texts that the table knows into `found`; what else is there stays as it was."""
    for i in range(len(kinds)):
        if kinds[i] == TEXT:
            key, _ = find(text, spans[i, 0], spans[i, 1], keys, bounds, table)
            if key >= 0:
                found[i] = codes[key]
