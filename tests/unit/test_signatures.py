"""Every kind of fault, injected into a stream, as the alert that follows tells it: from raw rows to the sentence."""

from __future__ import annotations

import re
from functools import cache

import msgspec
import numpy as np
import pytest

from stream_monitor.alerts import Alert, State
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.inject import parse
from stream_monitor.reference import Reference, Season, StreamKey
from stream_monitor.replay import Replay
from tests.unit.world import MODEL, settings
from tests.unit.world import rows as world_rows


def rows(count: int, seed: int) -> list[Row]:
    """With `age` about 40, `load` of 0 … 100, `visits` counted, and `phone` null in a hundredth."""
    rng = np.random.default_rng(seed + 1_000)
    age, load, visits = rng.normal(40, 10, count), rng.beta(2, 3, count) * 100, rng.poisson(3, count)
    null = rng.random(count) < 0.01
    return [
        msgspec.structs.replace(
            row,
            features={**row.features, "age": float(age[i]), "load": float(load[i]), "visits": int(visits[i]),
                      "phone": None if null[i] else float(age[-i])},
        )
        for i, row in enumerate(world_rows(count, seed=seed))
    ]  # fmt: skip


@cache
def reference() -> Reference:
    return fit(rows(20_000, 7), StreamKey(MODEL), FitOptions(season=Season.NONE, ordered=True))


@cache
def stream() -> list[Row]:
    return rows(3_000, 8)


def alerts(text: str) -> list[Alert]:
    found: list[Alert] = []
    replay = Replay(settings(), [reference()], found.append, parse([text]))
    for start in range(0, 3_000, 500):
        replay.feed(stream()[start : start + 500])
    return found


CASES = (
    ("mean:age:2@1500", "up", r"median 39.9 → [56]\d.*, 10–90 % 27.1…52.9 → "),
    ("mean:age:-2@1500", "down", r"median 39.9 → [12]\d"),
    ("mean:age:0.3@1500", "up", r"median 39.9 → 4\d.*, 10–90 % "),
    ("scale:age:2@1500", "wider", r"10–90 % 2\d.*…5\d.* → 1?\d"),
    ("scale:age:0.4@1500", "narrower", r"10–90 % 2\d.*…5\d.* → 3\d"),
    ("unit:age:1000@1500", "rescaled", r"^age: scaled by about 1,000 \(a change of unit\?; before: median 39.9"),
    ("unit:visits:1000@1500", "rescaled", r"^visits: scaled by about 1,000 "),
    ("unit:load:1000@1500", "rescaled", r"^load: scaled by about 1,000 "),
    ("unit:load:0.001@1500", "narrower", r"^load: median 38.6 → 0"),
    ("unit:y:1000@1500", "rescaled", r"^y: scaled by about 1,000 "),
    ("null:phone:0.06@1500", "missing", r"^phone: null rate 0\.9 % → \d+(\.\d)? %$"),
    ("null:age:0.2@1500", "missing", r"^age: null rate 0 % → \d\d %$"),
    ("stuck:age@1500", "stuck", r"^age: constant since 2023-11-14 22:13 to within \d\d.* \(\d+ rows; before: "),
    ("stuck:city@1500", "stuck", r"^city: constant since 2023-11-14 22:13 \(\d+ rows\): “(Paris|Rome|Oslo)”$"),
    ("category:city:Bergen:0.05@1500", "new_values", r"^city: \d.* % of values never seen in training: “Bergen” \d"),
    ("category:city:Rome:0.3@1500", "mix", r"^city: “.*” \d\d % → \d\d %"),
)  # fmt: skip


@pytest.mark.parametrize(("text", "direction", "told"), CASES, ids=[case[0] for case in CASES])
def test_the_alert_says_what_happened(text: str, direction: str, told: str) -> None:
    first, *_ = (alert for alert in alerts(text) if alert.state is State.FIRING)
    assert first.column == text.split(":")[1].split("@")[0]
    assert re.search(told, first.summary), first.summary
    assert first.direction == direction


@pytest.mark.parametrize(
    ("text", "direction"),
    [("unit:age:-1@1500", "flipped"), ("unit:visits:10@1500", "rescaled"), ("unit:age:1000@1500", "rescaled")],
)
def test_what_a_few_rows_cannot_tell_is_told_once_it_is_clear(text: str, direction: str) -> None:
    """A strong drift fires within two or three rows; one message more says what it was, if the first could not."""
    first, *later = (alert for alert in alerts(text) if alert.state is not State.RESOLVED)
    assert direction in {first.direction, later[0].direction if later else ""}
    assert len([alert for alert in later if alert.direction == direction and alert.reason.startswith("what")]) == (
        first.direction != direction
    )


def test_nothing_else_fires() -> None:
    assert {alert.column for alert in alerts("mean:age:2@1500")} == {"age"}
