"""Topics: what is asked for, and which differences stop a worker."""

from __future__ import annotations

import pytest

from stream_monitor import topics
from stream_monitor.broker.protocol import TopicInfo, TopicSpec
from stream_monitor.config import Settings
from stream_monitor.reference import MAX_DOCUMENT_BYTES


@pytest.fixture
def settings() -> Settings:
    return Settings.model_validate({"kafka": {"bootstrap_servers": "a:1"}, "topics": {"partitions": 8}})


def as_found(specs: list[TopicSpec]) -> dict[str, TopicInfo]:
    return {spec.name: TopicInfo(spec.name, spec.partitions, spec.settings) for spec in specs}


def test_codes_and_state_share_their_partitioning(settings: Settings) -> None:
    by_name = {spec.name: spec for spec in topics.specs(settings)}
    assert by_name["stream-monitor.codes"].partitions == by_name["stream-monitor.state"].partitions == 8


def test_codes_outlive_any_lag_of_a_week(settings: Settings) -> None:
    codes = topics.specs(settings)[0]
    assert codes.settings["retention.ms"] == str(7 * 24 * 3_600_000)
    assert codes.settings["retention.bytes"] == "-1"
    assert codes.settings["message.timestamp.type"] == "LogAppendTime", "events of 2018 must not expire at once"


@pytest.mark.parametrize("role", ["state", "references", "alerts"])
def test_what_is_a_table_is_compacted(settings: Settings, role: str) -> None:
    by_name = {spec.name: spec for spec in topics.specs(settings)}
    assert by_name[getattr(settings.topics, role)].settings["cleanup.policy"] == "compact"


def test_the_references_topic_takes_what_we_may_write(settings: Settings) -> None:
    by_name = {spec.name: spec for spec in topics.specs(settings)}
    largest = int(by_name["stream-monitor.references"].settings["max.message.bytes"])
    assert MAX_DOCUMENT_BYTES < settings.kafka.to_settings().max_request_size <= largest


def test_predictions_are_created_only_on_demand(settings: Settings) -> None:
    assert "predictions" not in {spec.name for spec in topics.specs(settings)}
    assert topics.specs(settings, predictions=6)[0] == TopicSpec("predictions", 6)


def test_what_was_created_is_accepted(settings: Settings) -> None:
    assert topics.mismatches(topics.specs(settings), as_found(topics.specs(settings, predictions=3))) == []


def test_every_missing_topic_is_named_with_the_command_that_makes_it(settings: Settings) -> None:
    specs = topics.specs(settings)
    problems = topics.mismatches(specs, {})
    assert len(problems) == len(specs)
    for spec, problem in zip(specs, problems, strict=True):
        assert repr(spec.name) in problem
        assert "stream-monitor topics create" in problem


def test_other_partitions_of_codes_or_state_stop_the_worker(settings: Settings) -> None:
    found = as_found(topics.specs(settings, predictions=1))
    found["stream-monitor.codes"] = TopicInfo("stream-monitor.codes", 16)
    [problem] = topics.mismatches(topics.specs(settings), found)
    assert "'stream-monitor.codes' has 16 partitions" in problem
    assert "set topics.partitions to 16" in problem


def test_other_partitions_of_the_rest_are_welcome(settings: Settings) -> None:
    found = as_found(topics.specs(settings))
    found["drift-alerts"] = TopicInfo("drift-alerts", 12)
    assert topics.mismatches(topics.specs(settings), found) == []


def test_a_state_topic_that_forgets_stops_the_worker(settings: Settings) -> None:
    found = as_found(topics.specs(settings, predictions=1))
    found["stream-monitor.state"] = TopicInfo("stream-monitor.state", 8, {"cleanup.policy": "delete"})
    [problem] = topics.mismatches(topics.specs(settings), found)
    assert "cleanup.policy=delete" in problem
    assert "--add-config cleanup.policy=compact" in problem


def test_rights_that_are_missing_are_all_named(settings: Settings) -> None:
    rights = topics.rights(settings)
    every = {name: TopicInfo(name, 1, allowed=allowed) for name, allowed in rights.items()}
    assert topics.refusals(rights, every) == []
    assert topics.refusals(rights, {name: TopicInfo(name, 1) for name in rights}) == [], "a broker that does not tell"
    every["stream-monitor.codes"] = TopicInfo("stream-monitor.codes", 1, allowed=frozenset({"READ", "DESCRIBE"}))
    every["drift-alerts"] = TopicInfo("drift-alerts", 1, allowed=frozenset({"WRITE"}))
    assert [problem.partition(";")[0] for problem in topics.refusals(rights, every)] == [
        "topic 'stream-monitor.codes': this user has no ACL that allows DescribeConfigs, Write",
        "topic 'drift-alerts': this user has no ACL that allows DescribeConfigs",
    ]
