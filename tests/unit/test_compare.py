"""Two versions of one model: separate streams, an event when the second appears, and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import orjson
import pytest
from msgspec import structs

from stream_monitor import cli, status
from stream_monitor.compare import Comparison, Side, compare
from stream_monitor.comparing import from_rows, from_topics
from stream_monitor.encode import Binner
from stream_monitor.errors import ConfigError, DataError
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.reference import Season, StreamKey
from tests.unit.test_limits import event
from tests.unit.world import MODEL, World, reference, rows, settings


def of(version: str, batch: Sequence[Row]) -> list[Row]:
    return [structs.replace(row, version=version) for row in batch]


def mixed(first: Sequence[Row], second: Sequence[Row]) -> list[Row]:
    """Both versions at once, a row of each in turn."""
    return [row for pair in zip(of("6", first), of("7", second), strict=True) for row in pair]


def write(world: World, batch: Sequence[Row]) -> None:
    from stream_monitor.broker.protocol import Message

    topic = world.base.topics.predictions
    world.broker.append([Message(topic, None, event(row), 0, timestamp_ms=row.time_ms) for row in batch])


def watched(batch: Sequence[Row], world: World | None = None) -> World:
    world = world or World(partitions=1, references=[reference()])
    worker = world.worker()
    write(world, batch)
    world.settle(worker)
    worker.close()
    return world


def only(found: list[tuple[str, Comparison]]) -> Comparison:
    ((segment, comparison),) = found
    assert segment == ""
    return comparison


def test_a_new_version_with_the_same_inputs_is_an_event_and_no_drift() -> None:
    world = watched([*of("6", rows(4_000)), *of("7", rows(4_000, seed=2, first=4_000))])
    assert world.alerts() == []
    told = status.read(world.broker, world.base.topics.status)
    assert [(each["version"], each["others"]) for each in told if each["type"] == "new_version"] == [("7", ["6"])]


def test_versions_at_once_are_separate_streams() -> None:
    """A drift of one is none of the other, and the other's presence changes nothing about it."""
    steady, drifting = rows(3_000), rows(3_000, seed=2, drift_at=1_500)
    both = watched(mixed(steady, drifting)).column_alerts()
    assert both
    assert {alert["version"] for alert in both} == {"7"}
    alone = watched([row for row in mixed(steady, drifting) if row.version == "7"]).column_alerts()
    told = ("version", "column", "state", "summary", "onset", "effect", "signals")
    for one, two in zip(both, alone, strict=True):
        for name in told:
            if name != "onset":
                assert one[name] == two[name]
        assert one["onset"]["time"] == two["onset"]["time"]


def test_what_differs_is_told_from_the_state_of_a_running_monitor() -> None:
    world = watched(mixed(rows(3_000), rows(3_000, seed=2, drift_at=0)))
    found = only(from_topics(world.base, world.broker, MODEL, ("6", "7")))
    verdicts = {each.column: each.verdict for each in found.columns}
    assert verdicts == {"x": "differs", "city": "differs", "prediction": "differs", "y": "alike"}
    assert found.columns[0].column == "prediction", "before the inputs"
    x = next(each for each in found.columns if each.column == "x")
    assert 0.3 < x.ks < 0.45
    assert "→" in x.text
    assert abs(sum(x.shares[0]) - 1) < 1e-4
    firing = {alert["column"]: alert["onset"]["time"] for alert in world.alerts() if alert["state"] == "firing"}
    assert x.since == {"7": firing["x"]}
    first, second = found.sides
    assert (first.rows, second.rows, len(first.codes), len(second.codes)) == (3_000, 3_000, 1_024, 1_024)
    back = only(from_topics(world.base, world.broker, MODEL, ("7", "6")))
    assert {each.column: each.js_distance for each in back.columns} == {
        each.column: each.js_distance for each in found.columns
    }


def test_versions_with_references_of_their_own() -> None:
    """Different bins on either side: alike stays alike, and what differs is found."""
    own = [fit(of(version, rows(5_000, seed=seed, drift_at=at)), StreamKey(MODEL, version),
               FitOptions(season=Season.NONE, ordered=True))
           for version, seed, at in (("6", 31, None), ("7", 32, 0))]  # fmt: skip
    alike = watched(mixed(rows(3_000), rows(3_000, seed=2)), World(partitions=1, references=own))
    found = only(from_topics(alike.base, alike.broker, MODEL, ("6", "7")))
    assert found.sides[0].digest != found.sides[1].digest
    assert {each.verdict for each in found.columns} == {"alike"}
    apart = watched(mixed(rows(3_000), rows(3_000, seed=2, drift_at=0)), World(partitions=1, references=own))
    assert not [alert for alert in apart.alerts() if alert["version"] == "7"], "that is how it was in training"
    found = only(from_topics(apart.base, apart.broker, MODEL, ("6", "7")))
    assert {each.column for each in found.columns if each.verdict == "differs"} == {"x", "city", "prediction"}
    same = only(from_topics(alike.base, alike.broker, MODEL, ("6", "7")))
    x = next(each for each in same.columns if each.column == "x")
    assert x.ks < 0.07, "spreading rows over the other's bins adds little"


def test_unknown_versions_and_learning_ones_are_said() -> None:
    world = watched([*of("6", rows(3_000)), *of("8", rows(50, seed=3))], World(partitions=1))
    with pytest.raises(DataError, match="nothing is known of version '7'"):
        from_topics(world.base, world.broker, MODEL, ("6", "7"))
    with pytest.raises(DataError, match=r"'8'.*learning"):
        from_topics(world.base, world.broker, MODEL, ("6", "8"))


def test_rows_of_files() -> None:
    batch = mixed(rows(2_000), rows(2_000, seed=2, drift_at=0))
    found = only(from_rows(settings(), MODEL, ("6", "7"), [batch[:900], batch[900:]]))
    assert {each.column for each in found.columns if each.verdict == "differs"} == {"x", "city", "prediction"}
    assert found.sides[1].rows == len(found.sides[1].codes) == 2_000


@pytest.mark.parametrize("own", [False, True])
def test_rows_of_one_distribution_are_alike(own: bool) -> None:
    """No more than one comparison in a hundred may err; a distance that is worth a word takes more than chance."""
    base, wrong = reference(), 0
    other = fit(rows(5_000, seed=98), StreamKey(MODEL), FitOptions(season=Season.NONE, ordered=True)) if own else base
    for seed in range(60):
        first, second = rows(300, seed=2 * seed + 1_000), rows(300, seed=2 * seed + 1_001)
        found = compare(side("6", base, first), side("7", other, second))
        wrong += any(each.verdict == "differs" for each in found.columns)
    assert wrong <= 2


def side(version: str, base: object, batch: Sequence[Row]) -> Side:
    from stream_monitor.reference import Reference

    assert isinstance(base, Reference)
    coded = Binner(base).encode(batch)
    strata = np.zeros(len(batch), dtype=np.uint8)
    return Side(version, base.digest(), base, coded.codes, strata, len(batch), None, None, (None, None))


def test_few_rows_missing_columns_and_other_kinds_are_no_verdict() -> None:
    base = reference()
    few = compare(side("6", base, rows(50)), side("7", base, rows(5_000, seed=2, drift_at=0)))
    assert {each.verdict for each in few.columns} == {"too few rows"}
    texts = [structs.replace(row, features={"x": "a" if row.features["x"] > 0 else "b", "z": row.features["y"]})
             for row in rows(2_000)]  # fmt: skip
    other = fit(texts, StreamKey(MODEL), FitOptions(season=Season.NONE, ordered=True))
    found = compare(side("6", base, rows(500)), side("7", other, texts[:500]))
    assert {each.column: each.verdict for each in found.columns} == {
        "x": "another kind", "y": "only one has it", "city": "only one has it", "z": "only one has it",
        "prediction": "alike",
    }  # fmt: skip


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    batch = mixed(rows(2_000), rows(2_000, seed=2, drift_at=0))
    world = watched(batch)
    monkeypatch.setenv("STREAM_MONITOR_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1")
    monkeypatch.setattr("stream_monitor.cli_compare.broker_of", lambda _: nullcontext(world.broker))
    asked = ["compare", "--model", MODEL, "--versions", "6", "7"]
    capsys.readouterr()
    cli.app([*asked, "--json"], standalone_mode=False)
    (shown,) = orjson.loads(capsys.readouterr().out)
    assert [each["version"] for each in shown["versions"]] == ["6", "7"]
    assert shown["versions"][0]["first_seen"] == "2023-11-14T22:13:20.000Z"
    assert [each["verdict"] for each in shown["columns"]] == ["differs", "differs", "differs", "alike"]
    cli.app(asked, standalone_mode=False)
    text = capsys.readouterr().out
    assert "3 of 4 columns differ" in text
    assert "m/7: 2,000 rows" in text
    events = tmp_path / "events.jsonl"
    events.write_bytes(b"\n".join(event(row) for row in batch))
    cli.app(["compare", str(events), *asked[1:], "--json"], standalone_mode=False)
    (shown,) = orjson.loads(capsys.readouterr().out)
    assert [each["verdict"] for each in shown["columns"]] == ["differs", "differs", "differs", "alike"]
    for version, own in (("6", rows(500)), ("7", rows(500, seed=2, drift_at=0))):
        lines = [f"{row.features['x']},{row.features['city']},{row.prediction}" for row in own]
        (tmp_path / f"{version}.csv").write_text("\n".join(["x,city,score", *lines]) + "\n")
    tables = [str(tmp_path / "6.csv"), str(tmp_path / "7.csv")]
    cli.app(["compare", *tables, *asked[1:], "--prediction", "score"], standalone_mode=False)
    assert "3 of 3 columns differ" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="two, in the order"):
        cli.app(["compare", tables[0], *asked[1:]], standalone_mode=False)
    with pytest.raises(ConfigError, match="two different versions"):
        cli.app(["compare", "--model", MODEL, "--versions", "6", "6"], standalone_mode=False)
