"""Configuration: one file, the environment over it, and every fault named at once with its place and remedy."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor import config_faults
from stream_monitor.broker.kafka.settings import KafkaSettings
from stream_monitor.config import DetectionSettings, Settings, load
from stream_monitor.config_base import ENV_PREFIX
from stream_monitor.config_kafka import LARGEST_RECORD_BYTES, KafkaSection
from stream_monitor.errors import ConfigError, Fault
from stream_monitor.events import Limits, Shape
from stream_monitor.lifecycle import Lifecycle
from stream_monitor.reference import Kind

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("STREAM_MONITOR_"):
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "monitor.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


MINIMAL = "kafka: {bootstrap_servers: 'kafka-1:9092'}\n"


def faults(path: Path | None) -> list[Fault]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return list(caught.value.faults)


# --- what a valid configuration gives -------------------------------------------------------------------------------


def test_the_bootstrap_servers_are_enough(write: Write) -> None:
    settings = load(write(MINIMAL))
    assert settings.kafka.bootstrap_servers == ("kafka-1:9092",)
    assert settings.topics.codes == "stream-monitor.codes"
    assert settings.detection.budget_events == 100_000_000


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_MONITOR_KAFKA__BOOTSTRAP_SERVERS", "a:1, b:2")
    assert load(None).kafka.bootstrap_servers == ("a:1", "b:2")


def test_the_environment_wins_over_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_MONITOR_TOPICS__PARTITIONS", "8")
    monkeypatch.setenv("STREAM_MONITOR_TOPICS__REPLICATION", "null")
    monkeypatch.setenv("STREAM_MONITOR_DETECTION__LIFECYCLE__UPDATE_ROWS", "7")
    monkeypatch.setenv("STREAM_MONITOR_MODELS", '[{"match": "fraud-*", "segment_by": ["region"]}]')
    monkeypatch.setenv("STREAM_MONITOR_GROUP", "")  # as docker-compose passes what is not set
    settings = load(write(MINIMAL + "topics: {partitions: 4, replication: 3, alerts: my-alerts}\n"))
    assert (settings.topics.partitions, settings.topics.replication) == (8, None)
    assert settings.topics.alerts == "my-alerts"
    assert settings.detection.policy().update_rows == 7
    assert settings.for_model("fraud-eu").segment_by == ("region",)
    assert settings.group == "stream-monitor"


def test_a_list_of_servers_may_be_a_list(write: Write) -> None:
    settings = load(write("kafka:\n  bootstrap_servers:\n  - a:1\n  - '[::1]:2'\n"))
    assert settings.kafka.bootstrap_servers == ("a:1", "[::1]:2")


def test_topics_are_named_after_the_group(write: Write) -> None:
    topics = load(write(MINIMAL + "group: second\ntopics: {state: mine}\n")).topics
    assert (topics.codes, topics.state, topics.references) == ("second.codes", "mine", "second.references")
    assert (topics.predictions, topics.alerts) == ("predictions", "drift-alerts")


def test_defaults_are_those_of_the_code_they_configure() -> None:
    section = KafkaSection(bootstrap_servers=("a:1",))
    assert section.to_settings() == KafkaSettings(("a:1",), max_request_size=LARGEST_RECORD_BYTES)
    settings = Settings()
    assert settings.input.to_shape() == Shape(limits=Limits())
    assert settings.detection.policy() == Lifecycle()


def test_the_shape_of_events_is_mapped(write: Write) -> None:
    text = MINIMAL + "input: {shape: {model: null, fixed_model: credit, features: payload.inputs, time: at}}\n"
    shape = load(write(text)).input.to_shape()
    assert (shape.model, shape.fixed_model, shape.features, shape.time) == (None, "credit", "payload.inputs", "at")


def test_how_far_ahead_events_may_be_dated(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(write(MINIMAL)).input.max_future_s == 3_600
    assert load(write(MINIMAL + "input: {max_future_s: null}\n")).input.max_future_s is None
    assert [fault.key for fault in faults(write(MINIMAL + "input: {max_future_s: -1}\n"))] == ["input.max_future_s"]
    monkeypatch.setenv("STREAM_MONITOR_INPUT__MAX_FUTURE_S", "60")
    assert load(write(MINIMAL)).input.max_future_s == 60


def test_a_file_without_kafka_will_do_where_none_is_needed(write: Write) -> None:
    assert load(write("log: {level: debug}\n"), needs_kafka=False).log.level == "debug"
    assert load(None, needs_kafka=False).kafka.bootstrap_servers == ()


def test_an_empty_file_lacks_only_the_servers(write: Write) -> None:
    assert [fault.key for fault in faults(write("# nothing yet\n"))] == ["kafka.bootstrap_servers"]


def test_another_instance_name(write: Write) -> None:
    settings = load(write(MINIMAL))
    assert settings.named("worker-2").instance == "worker-2"
    with pytest.raises(ConfigError, match=r"--instance: 'a b' cannot be .*use up to 200 of A-Z a-z 0-9"):
        settings.named("a b")


# --- models ---------------------------------------------------------------------------------------------------------

MODELS = """
detection: {budget_events: 1000000, lifecycle: {update_rows: 500}}
models:
- match: credit-risk
  features: {include: ["a*", b], exclude: [a_id], types: {b: categorical}}
  detection: {budget_events: 5000, detectors: {adwin: {enabled: false}}}
- match: fraud-*
  segment_by: region,plan
"""


def test_the_first_entry_that_matches_holds(write: Write) -> None:
    settings = load(write(MINIMAL + MODELS))
    credit = settings.for_model("credit-risk")
    assert credit.match == "credit-risk"
    assert [credit.features.watches(name) for name in ("age", "a_id", "b", "c")] == [True, False, True, False]
    assert credit.features.kinds() == {"b": Kind.CATEGORICAL}
    assert settings.for_model("fraud-1").segment_by == ("region", "plan")
    assert settings.for_model("other").match == "*"


def test_overrides_change_only_what_they_name(write: Write) -> None:
    settings = load(write(MINIMAL + MODELS))
    detection = settings.for_model("credit-risk").detection
    assert detection.budget_events == 5_000
    assert list(detection.params()) == ["evidence", "page_hinkley", "histogram"]
    assert detection.policy() == Lifecycle(update_rows=500)
    assert settings.for_model("fraud-1").detection == settings.detection


def test_the_models_of_one_entry_share_their_settings(write: Write) -> None:
    settings = load(write(MINIMAL + MODELS))
    assert settings.for_model("fraud-1") is settings.for_model("fraud-2")


def test_a_changed_copy_forgets_what_was_resolved(write: Write) -> None:
    settings = load(write(MINIMAL + MODELS))
    assert settings.for_model("m").detection.budget_events == 1_000_000
    copy = settings.model_copy(update={"detection": DetectionSettings(budget_events=7_000)})
    assert copy.for_model("m").detection.budget_events == 7_000


def test_an_override_that_only_clashes_when_merged_is_named(write: Write) -> None:
    text = MINIMAL + "models: [{match: m, features: {include: b}}, {match: m}]\n"
    [fault] = faults(write(text))
    assert str(fault).startswith(f"{write(text)}:2: models: the entry 'm' is never used: an earlier one matches first")
    assert "put special entries before general ones" in fault.remedy


# --- the digest -----------------------------------------------------------------------------------------------------


def test_the_digest_names_what_influences_detection(write: Write) -> None:
    base = load(write(MINIMAL)).detection.digest()
    assert len(base) == 16
    assert int(base, 16) >= 0
    for text in ("kafka: {bootstrap_servers: 'other:1', linger_ms: 9}\n", MINIMAL + "worker: {commit_interval_s: 5}\n"):
        assert load(write(text)).detection.digest() == base
    for text in ("budget_events: 5000", "warmup_events: 900", "lifecycle: {update_rows: 3}"):
        assert load(write(f"{MINIMAL}detection: {{{text}}}\n")).detection.digest() != base


def test_the_digest_is_that_of_the_values_however_given() -> None:
    assert DetectionSettings(budget_events=5_000).digest() == DetectionSettings.model_validate(
        {"budget_events": 5_000, "lifecycle": {"update_rows": Lifecycle().update_rows}}
    ).digest()  # fmt: skip


# --- secrets --------------------------------------------------------------------------------------------------------

SASL = "security_protocol: SASL_SSL, sasl_mechanism: PLAIN, sasl_username: me"


def test_a_secret_is_never_printed(write: Write) -> None:
    settings = load(write(f"kafka: {{bootstrap_servers: 'a:1', {SASL}, sasl_password: hunter2}}\n"))
    assert settings.kafka.to_settings().sasl_password == "hunter2"
    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.kafka.to_settings())):
        assert "hunter2" not in text


def test_a_secret_comes_from_a_file_relative_to_the_configuration(write: Write, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    settings = load(write(f"kafka: {{bootstrap_servers: 'a:1', {SASL}, sasl_password_file: password}}\n"))
    assert settings.kafka.to_settings().sasl_password == "hunter2"


def test_an_empty_secret_file_is_a_fault(write: Write, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("\n")
    settings = load(write(f"kafka: {{bootstrap_servers: 'a:1', {SASL}, sasl_password_file: password}}\n"))
    with pytest.raises(ConfigError, match=r"password: kafka.sasl_password_file: is empty \(write the password into it"):
        settings.kafka.to_settings()


@pytest.mark.parametrize(
    "text",
    [
        "kafka: {sasl_password: [hunter2]}",
        "kafka: {sasl_pasword: hunter2}",
        "kafka: hunter2: hunter2",
        "kafka: {bootstrap_servers: 'me:hunter2@host:1'}",
        "kafka: [hunter2]",
        "sasl_password: hunter2",
        "kafka: {sasl_password: hunter2, sasl_password: hunter2}",
    ],
)
def test_no_fault_quotes_a_secret(write: Write, text: str) -> None:
    assert "hunter2" not in "\n".join(map(str, faults(write(text))))


OAUTH = "security_protocol: SASL_SSL, sasl_mechanism: OAUTHBEARER"


def test_a_token_is_read_anew_each_time(write: Write, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    settings = load(write(f"kafka: {{bootstrap_servers: 'a:1', {OAUTH}, sasl_oauth_token_file: token}}\n"))
    provider = settings.kafka.to_settings().common()["sasl_oauth_token_provider"]
    assert provider.token() == "first"
    (tmp_path / "token").write_text("second")
    assert provider.token() == "second"


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe", None])
def test_no_usable_token_is_a_failed_login_that_quotes_nothing(
    write: Write, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"x")
    settings = load(write(f"kafka: {{bootstrap_servers: 'a:1', {OAUTH}, sasl_oauth_token_file: token}}\n"))
    provider = settings.kafka.to_settings().common()["sasl_oauth_token_provider"]
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(Exception, match="no OAuth token") as caught:
        provider.token()
    assert "two words" not in str(caught.value)


def hello_token() -> str:
    return "hello"


def test_a_token_may_come_from_a_function(write: Write) -> None:
    named = f"sasl_oauth_token_provider: '{__name__}:hello_token'"
    settings = load(write(f"kafka: {{bootstrap_servers: 'a:1', {OAUTH}, {named}}}\n"))
    assert settings.kafka.to_settings().common()["sasl_oauth_token_provider"].token() == "hello"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("no.such:thing", "No module named"), ("os:nothing", "has no attribute"), ("os:sep", "is no function")],
)
def test_a_token_function_that_cannot_be_had_is_a_fault(write: Write, name: str, complaint: str) -> None:
    settings = load(write(f"kafka: {{bootstrap_servers: 'a:1', {OAUTH}, sasl_oauth_token_provider: '{name}'}}\n"))
    with pytest.raises(ConfigError, match=complaint):
        settings.kafka.to_settings()


# --- faults ---------------------------------------------------------------------------------------------------------


def test_all_faults_are_listed_at_once(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_MONITOR_LOG__FORMAT", "xml")
    monkeypatch.setenv("STREAM_MONITOR_KAFKA__CLIENTID", "x")
    text = (
        "kafka:\n  linger_ms: abc\n  linger_ms: 5\n  client_idd: x\ntopics: {partitions: 0}\n"
        "models:\n- features: {}\nnonsense: 1\nreferences: [none.json]\n"
    )
    path = write(text)
    lines = [str(fault) for fault in faults(path)]
    assert lines == [
        f"{path}:3: kafka.linger_ms: stands twice, in line 2 and here (keep one of them)",
        "environment: STREAM_MONITOR_KAFKA__CLIENTID: no such setting (did you mean STREAM_MONITOR_KAFKA__CLIENT_ID?)",
        f"{path}: kafka.bootstrap_servers: is missing (add `kafka: {{bootstrap_servers: kafka-1:9092}}`, or set "
        "STREAM_MONITOR_KAFKA__BOOTSTRAP_SERVERS)",
        f"{path}:4: kafka.client_idd: unknown key (did you mean `client_id`?)",
        f"{path}:5: topics.partitions: 0 cannot be used (it should be greater than or equal to 1; the default is 32)",
        f"{path}:7: models[0].match: is missing (add it)",
        f"{path}:9: references[0]: no such file: '{path.parent / 'none.json'}' "
        "(give the path of a file that can be read)",
        "environment: STREAM_MONITOR_LOG__FORMAT: 'xml' cannot be used (it should be 'console' or 'json'; "
        "the default is console)",
        f"{path}:8: nonsense: unknown key (known here: alerts, detection, group, http, input, instance, kafka, labels, "
        "log, models, privacy, references, topics, worker)",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("kafka: {bootstrap_servers: kafka}", "'kafka' is no address (write host:port, as kafka-1:9092"),
        ("kafka: {bootstrap_servers: 'http://a:1'}", "'http://a:1' is no address"),
        ("kafka: {bootstrap_servers: 'a:99999'}", "'a:99999' is no address"),
        ("kafka: {bootstrap_servers: []}", "no address at all (write host:port"),
        ("kafka: {linger_ms: yes}", "true is no number (give a number)"),
        ("kafka: {heartbeat_interval_ms: 9000}", "session_timeout_ms: 15000 is less than 3 · heartbeat_interval_ms"),
        ("kafka: {delivery_timeout_ms: 5000}", "is less than request_timeout_ms + linger_ms = 8005 (set it to 8005"),
        ("kafka: {transaction_timeout_ms: 9000}", "9000 is less than delivery_timeout_ms + 1 = 12001"),
        ("kafka: {commit_timeout_ms: 9000}", "kafka.commit_timeout_ms: 9000 is less than delivery_timeout_ms + 3"),
        ("kafka: {security_protocol: SASL_SSL}", "needs credentials (add sasl_mechanism, sasl_username, sasl_password"),
        ("kafka: {sasl_username: me}", "PLAINTEXT would not use the SASL credentials that are given (set SASL_SSL"),
        ("kafka: {security_protocol: SASL_SSL, sasl_mechanism: OAUTHBEARER}", "add sasl_oauth_token_file or sasl_"),
        ("kafka: {security_protocol: SASL_SSL, sasl_mechanism: OAUTHBEARER, sasl_username: me, "
         "sasl_oauth_token_provider: 'a:b'}", "sasl_mechanism: OAUTHBEARER does not use sasl_username (take it out"),
        ("kafka: {sasl_oauth_token_provider: 'a:b'}", "PLAINTEXT would not use the SASL credentials that are given"),
        ("kafka: {sasl_oauth_token_provider: 'a.b'}", "kafka.sasl_oauth_token_provider: 'a.b' cannot be used"),
        ("kafka: {ssl_certfile: monitor.yaml}", "kafka.ssl_certfile: is given without ssl_keyfile (give both"),
        ("kafka: {ssl_cafile: ca.pem}", "kafka.ssl_cafile: no such file"),
        ("kafka: {compression_type: snappy}", "'snappy' cannot be used (it should be 'lz4', 'zstd', 'gzip' or 'none'"),
        ("topics: {codes: 'a b'}", "topics.codes: 'a b' is no Kafka topic name (use up to 249 of"),
        ("topics: {codes: x, state: x}", "'x' is the name of codes and state (give every topic a name of its own)"),
        ("group: 'a b'", "group: 'a b' cannot be part of a transactional id (use up to 200 of"),
        ("input: {start: now}", "'now' cannot be used (it should be 'earliest' or 'latest'; the default is earliest)"),
        ("models: [{match: '*'}, {match: m}]", "the entry 'm' is never used"),
        ("models: [{match: m, features: {types: {a: text}}}]", "models[0].features.types.a: 'text' cannot be used"),
        ("models: [{match: m, detection: {budget: 1}}]", "unknown key (did you mean `budget_events`?)"),
        ("detection: {budget_events: .nan}", "detection.budget_events: nan cannot be used"),
        ("detection: {lifecycle: {update_ratio: -1}}", "-1 cannot be used (it should be greater than 0; the"),
        ("worker: {commit_interval_s: .inf}", "worker.commit_interval_s: inf cannot be used"),
        ("privacy: full", "privacy: 'full' cannot be used"),
        ("a: [", "is not valid YAML"),
        ("- a", "holds a list, not a mapping (write `key: value`)"),
        ("&a {models: *a}", "models: a mapping cannot be used"),
        ("a: 2026-99-99", "is not valid YAML"),
        pytest.param("[" * 5000, "is not valid YAML", id="deep"),
    ],
)  # fmt: skip
def test_a_fault_names_the_thing_the_value_and_the_fix(write: Write, text: str, complaint: str) -> None:
    assert complaint in "\n".join(map(str, faults(write(text))))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    [fault] = faults(tmp_path / "none.yaml")
    assert str(fault).startswith(f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory (check the path")


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    [fault] = faults(path)
    assert fault.problem == "is not UTF-8 text"


def test_json_in_the_environment_that_is_none(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_MONITOR_MODELS", "[{")
    [fault] = faults(write(MINIMAL))
    assert (fault.where, fault.key) == ("environment", "STREAM_MONITOR_MODELS")
    assert "a list or mapping in the environment is written as JSON" in fault.remedy


def test_variables_that_kubernetes_sets_are_not_ours(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT_HTTP", "PORT", "PORT_8080_TCP", "PORT_8080_TCP_ADDR"):
        monkeypatch.setenv(f"STREAM_MONITOR_{name}", "tcp://10.0.0.1:8080")
    monkeypatch.setenv("STREAM_MONITOR_CONFIG", "monitor.yaml")
    load(write(MINIMAL))


def test_every_value_can_be_overridden(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever key the schema knows has a variable, and what the variable says arrives."""
    dumped = json.loads(load(write(MINIMAL)).model_dump_json())
    numbers = [(section, key) for section in ("kafka", "worker", "detection", "topics") for key, value in
               dumped[section].items() if isinstance(value, int) and not isinstance(value, bool)]  # fmt: skip
    assert len(numbers) > 20
    for section, key in numbers:
        monkeypatch.setenv(f"STREAM_MONITOR_{section}__{key}".upper(), str(dumped[section][key] + 1))
    changed = json.loads(load(write(MINIMAL)).model_dump_json())
    assert all(changed[section][key] == dumped[section][key] + 1 for section, key in numbers)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([at for _, at in config_faults.variables(Settings, ENV_PREFIX)] + [("models", 0), ("kafka",)])


@settings(max_examples=150, deadline=None)
@given(KEYS, VALUES)
def test_whatever_a_key_holds_is_a_value_or_a_fault(at: tuple[str | int, ...], value: object) -> None:
    document: object = value
    for part in reversed(at):
        document = [document] if isinstance(part, int) else {part: document}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "fuzz.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        with suppress(ConfigError):  # anything else would be a traceback
            load(path)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text("{}[]:,&*!|>'\"#- \n\tab0", max_size=40))
def test_whatever_a_file_holds_is_a_configuration_or_a_fault(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "fuzz.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with pytest.raises(ConfigError):
            load(path)
