"""`privacy.raw` hash and none: canaries in every field of an event, and nothing of them in any topic, log or metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import zstandard
from prometheus_client.exposition import generate_latest

from stream_monitor import metrics
from stream_monitor.book import ReferenceBook
from stream_monitor.broker.protocol import Message
from stream_monitor.config import Settings, load
from stream_monitor.encode import Binner, code_of
from stream_monitor.encoder import binner_of
from stream_monitor.errors import ConfigError
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.http import Pulse
from stream_monitor.metrics import Metrics
from stream_monitor.privacy import Veil, veil_of
from stream_monitor.publish import publish
from stream_monitor.reference import Kind, Reference, Season, StreamKey
from stream_monitor.replay import Replay
from stream_monitor.worker import Outside, Worker
from tests.unit.world import START_MS, World, reference, replayed, rows, settings

SALT = "a salt for the tests only"
CANARY = b"canary"
NUMBER = 987654.25
MODELS = [{"match": "*", "segment_by": [], "features": {"types": {"zip": "categorical"}}}]
BY_REGION = [{"match": "*", "segment_by": ["region"], "features": {"types": {"zip": "categorical"}}}]


def private(raw: str, **sections: Any) -> Settings:
    privacy = {"raw": raw} | ({} if raw == "full" else {"salt": SALT})
    return settings(privacy=privacy, detection={"warmup_events": 300}, **sections)


def events(count: int, model: str, *, drift_at: int) -> list[dict[str, Any]]:
    """Canaries everywhere, of which some come new in the drift."""
    found = []
    for i, row in enumerate(rows(count, drift_at=drift_at, model=model)):
        new = i >= drift_at
        city = f"canary-{'new' if new and i % 2 else row.features['city']}"
        features = {
            "x": row.features["x"], "y": NUMBER if new and i % 5 == 0 else row.features["y"], "city": city,
            "region": "canary-region", "zip": 4_000_000_777 + i % 3, "nested": {"who": f"canary-{i % 4}"},
            "list": ["canary-list"], "free": f"canary free text {i}",
        }  # fmt: skip
        found.append(
            {"model": model, "version": "1", "segment": "canary-segment", "id": f"canary-id-{i}", "time": row.time_ms,
             "features": features, "prediction": "canary-yes" if row.features["x"] > 0 else "canary-no",
             "label": "canary-yes" if i % 3 else "canary-no"}
        )  # fmt: skip
    return found


BAD: Sequence[bytes] = (
    b"canary", b'{"canary":', b'["canary"]', b'{"model":"m","features":"canary"}', b"[{},{}] canary",
    b'{"model":"m","time":"canary","features":{"x":1}}', b'{"model":["canary"],"features":{"x":1}}',
    b'{"model":"m","version":["canary"],"features":{"x":"canary"}}', b'{"id":"canary","features":{"x":"canary"}}',
    b'{"model":"m","segment":{"canary":1},"features":{}}', b'{"x":"canary' + b"y" * 3_000 + b'"}',
)  # fmt: skip


def plain_reference() -> Reference:
    """Of all versions of m in the segment, with the categories as they are."""
    plain = [
        Row("m", "", "canary-segment", event["time"], event["features"], event["prediction"], None, None, 0, i, 0)
        for i, event in enumerate(events(2_000, "m", drift_at=2_000))
    ]
    options = FitOptions(season=Season.NONE, ordered=True, kinds={"zip": Kind.CATEGORICAL})
    return fit(plain, StreamKey("m", "", "canary-segment"), options)


def watched(base: Settings) -> tuple[World, Outside]:
    world = World(base, partitions=1)
    publish(world.broker, base.topics.references, "test", [plain_reference()], veil_of(base))
    outside = Outside(Pulse(), Metrics("a"))
    worker = Worker(base, world.broker, clock_s=lambda: world.now_s, clock_ms=world.clock_ms, outside=outside)
    topic = base.topics.predictions
    for model in ("m", "w"):
        world.broker.append(
            [Message(topic, b"canary-key", orjson.dumps(event), 0, timestamp_ms=event["time"])
             for event in events(1_500, model, drift_at=900)]
        )  # fmt: skip
        world.settle(worker)
    labels: list[dict[str, Any]] = [{"model": "m", "id": f"canary-id-{i}", "label": "canary-yes"} for i in range(50)]
    labels += [{"model": "m", "id": ["canary"], "label": 1}, {"id": "canary", "label": "canary"}]
    world.broker.append([Message(topic, b"canary-key", bad, 0, timestamp_ms=START_MS) for bad in BAD])
    world.broker.append([Message("labels", b"canary", orjson.dumps(each), 0) for each in labels])
    world.settle(worker)
    worker.close()
    return world, outside


@pytest.mark.parametrize("raw", ["hash", "none"])
@pytest.mark.parametrize("models", [MODELS, BY_REGION], ids=["own segment", "segment_by"])
def test_no_canary_gets_out(raw: str, models: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    base = private(raw, models=models, topics={"partitions": 1, "labels": "labels"},
                   input={"limits": {"max_record_bytes": 2_000}})  # fmt: skip
    world, outside = watched(base)
    inputs = {base.topics.predictions, "labels"}
    written: dict[str, int] = {}
    for topic in [name for name in world.broker.topics(every_topic(base)) if name not in inputs]:
        for record in world.broker.records(topic):
            text = (record.key or b"") + readable(record.value or b"") + repr(record.headers).encode()
            assert CANARY not in text, (topic, text[max(0, text.find(CANARY) - 200) :][:400])
            assert b"4000000777" not in text, topic
            assert msgspec.msgpack.encode(4_000_000_777) not in text, topic
            assert SALT.encode() not in text
            written[topic] = written.get(topic, 0) + 1
    assert len(written) >= 5, written
    alerts = world.alerts()
    assert {alert["column"] for alert in alerts if alert["model"] == "w"} >= {"city"}
    if models is MODELS:
        assert any("never seen in training" in alert["summary"] for alert in alerts if alert["model"] == "m")
        assert not [alert for alert in alerts if str(NUMBER) in alert["summary"]]
    assert len(world.rejects()) == len(BAD) + 2
    logged = capsys.readouterr()
    assert "alert" in logged.out
    assert "canary" not in logged.out + logged.err
    assert SALT not in logged.out + logged.err
    figures = generate_latest(outside.metrics.registry)
    assert metrics.REJECTS.name.encode() in figures
    assert CANARY not in figures


def readable(value: bytes) -> bytes:
    """A value, and what is compressed in it (snapshots are; those here have one part)."""
    at = value.find(zstandard.FRAME_HEADER)
    return value + zstandard.ZstdDecompressor().decompressobj().decompress(value[at:]) if at >= 0 else value


def every_topic(base: Settings) -> list[str]:
    names: dict[str, Any] = base.topics.model_dump()
    return [name for name in names.values() if isinstance(name, str)]


def test_what_is_found_is_what_would_be_found_without() -> None:
    """At the same rows, in the same columns; and a replay gives the same ids."""
    found = {}
    for raw in ("full", "hash"):
        base = private(raw, models=MODELS, topics={"partitions": 1, "labels": "labels"})
        world, _ = watched(base)
        topics = (base.topics.codes, base.topics.state, base.topics.references, base.topics.alerts, base.topics.rejects)
        for topic in topics:
            everything = b"".join(readable(record.value or b"") for record in world.broker.records(topic))
            assert (CANARY in everything) == (raw == "full"), topic
        found[raw] = [(a["model"], a["column"], a["state"], a["detected"]["offset"]) for a in world.alerts()]
    assert found["full"]
    assert found["hash"] == found["full"]
    base = private("hash")
    world = World(base, partitions=1, references=[reference()])
    batch = rows(1_500, drift_at=900)
    world.write(batch)
    world.settle(world.worker())
    ids = [alert["id"] for alert in world.alerts()]
    assert ids
    assert ids == replayed(base, [reference()], batch, lambda _: 100)
    assert Replay(base, [reference()], lambda _: None)._book.streams() == [StreamKey("m")]


def test_a_reference_with_plain_names_on_the_topic_is_read_without_them() -> None:
    """Published before privacy was asked for: the categories are still known, by their pseudonyms."""
    base = private("hash")
    world = World(base, partitions=1, references=[reference()])
    batch = rows(600)
    for row in batch[300:]:
        row.features["city"] = "Atlantis"
    world.write(batch)
    world.settle(world.worker())
    (alert,) = [alert for alert in world.alerts() if alert["state"] == "firing"]
    assert alert["column"] == "city"
    assert "Paris" not in str(alert)


def test_categories_keep_their_codes() -> None:
    """Also numbers in a categorical column, truth values however they are written, nulls and what is no name."""
    veil = Veil(SALT.encode())
    values: list[Any] = [*(["a", "b", "True", False, 7, "7", 2.0, None, "c"] * 20), [1], {"x": 1}, "once"]
    training = [
        Row("m", "", "", START_MS + i, {"v": value}, None, None, None, 0, i, 0) for i, value in enumerate(values)
    ]
    plain = fit(training, StreamKey("m"), FitOptions(kinds={"v": Kind.CATEGORICAL}, ordered=True))
    column = plain.columns[0]
    assert column.name == "v"
    entry = ReferenceBook.entry(veil.reference(plain), 1)
    given = [*training, msgspec.structs.replace(training[0], features={"v": "unheard of"})]
    coded = binner_of(entry, veil).encode([veil.row(row) for row in given]).codes[:, 0].tolist()
    assert coded == [code_of(row.features["v"], column) for row in given]
    assert veil.reference(entry.reference) is entry.reference


def test_classes_of_a_map_of_scores() -> None:
    """They are named by labels too, so both go by the same pseudonym; a reference's columns follow."""
    veil = Veil(SALT.encode())
    plain = [
        Row("m", "", "", START_MS + i, {"x": i % 7}, {"canary-no": i % 10 / 10, "canary-yes": 1 - i % 10 / 10},
            "canary-yes" if i % 3 else "canary-no", None, 0, i, 0)
        for i in range(600)
    ]  # fmt: skip
    given = fit(plain, StreamKey("m"), FitOptions(season=Season.NONE, ordered=True))
    private_ = veil.reference(given)
    assert CANARY in given.to_json()
    assert CANARY not in private_.to_json()
    veiled_rows = [veil.row(row) for row in plain]
    coded = Binner(private_, veil.category).encode(veiled_rows).codes
    assert (coded == Binner(given).encode(plain).codes).all()
    assert veiled_rows[0].label in veiled_rows[0].prediction
    assert veil.reference(private_) is private_


@pytest.mark.parametrize(
    ("segment", "shown"),
    [("", ""), ("EU", "{EU}"), ("region=EU,plan=5", "region={EU},plan=5"), ("region=a,b", "{region=a,b}")],
)
def test_segments(segment: str, shown: str) -> None:
    veil = Veil(SALT.encode())
    expected = shown
    for text in ("EU", "region=a,b"):
        expected = expected.replace(f"{{{text}}}", veil.text(text))
    assert veil.segment(segment) == expected
    assert veil.segment(expected) == expected


def test_another_salt_gives_other_pseudonyms() -> None:
    assert Veil(b"one").text("EU") == Veil(b"one").text("EU") != Veil(b"two").text("EU")


def test_pseudonyms_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream_monitor.privacy.MOST_KNOWN", 10)
    veil = Veil(b"salt")
    first = [veil.text(str(i)) for i in range(50)]
    assert len(veil._known) <= 10
    assert first == [veil.text(str(i)) for i in range(50)]


def test_pseudonyms_need_a_salt_which_is_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "monitor.yaml"
    servers = "kafka: {bootstrap_servers: k:9092}\n"
    for faulty in ("{raw: hash}", "{raw: none}", "{raw: hash, salt: hunter2}"):
        file.write_text(f"{servers}privacy: {faulty}\n")
        with pytest.raises(ConfigError, match="salt") as raised:
            load(file)
        assert "hunter2" not in str(raised.value)
    (tmp_path / "salt").write_text(f"{SALT}\n")
    file.write_text(f"{servers}privacy: {{raw: hash, salt_file: {tmp_path / 'salt'}}}\n")
    from_file = veil_of(load(file))
    file.write_text(f"{servers}privacy: {{raw: hash, salt: {SALT}}}\n")
    given = load(file)
    assert SALT not in repr(given)
    veil = veil_of(given)
    assert from_file is not None
    assert veil is not None
    assert from_file.text("EU") == veil.text("EU")
    (tmp_path / "salt").write_text("\n")
    file.write_text(f"{servers}privacy: {{raw: hash, salt_file: {tmp_path / 'salt'}}}\n")
    with pytest.raises(ConfigError, match="is empty"):
        veil_of(load(file))
