"""TLS, SASL and ACLs on a real broker: every way in, exactly the rights that the docs list, no secret shown."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from scripts.kafka_node import KafkaNode, Listener, free_port
from stream_monitor import cli
from stream_monitor.errors import BrokerError, TopicMismatch
from tests.faults import certificates
from tests.faults.arena import Arena
from tests.faults.certificates import Certificates
from tests.faults.conftest import MakeArena
from tests.faults.outside import pages

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.slow,
    # kafka-python leaves sockets to the garbage collector when a connection ends while it is being opened
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]
USER: Final = "monitor"
PASSWORD: Final = "canary-password-5417"
KEY_PASSWORD: Final = "canary-key-8812"
WRONG: Final = "canary-wrong-2290"
ACLS: Final = Path(__file__).parents[2] / "docs" / "security.md"


class Fort(NamedTuple):
    """A node that asks who one is: by certificate on one port, by password or token on another; all over TLS."""

    node: KafkaNode
    certificates: Certificates
    tls: str
    sasl: str


def token(subject: str, lasts_s: float = 3600.0) -> str:
    """An unsecured JWT, as the broker's default validator takes it (never in production)."""
    now_s = int(time.time())  # the broker rounds to milliseconds, and takes what is half of one old for the future
    parts = ({"alg": "none"}, {"sub": subject, "iat": now_s, "exp": now_s + lasts_s})
    return ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + "."


def provided_token() -> str:
    """What a user's own provider would be; named in a configuration below."""
    return token(USER)


@pytest.fixture(scope="module")
def fort(kafka: KafkaNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fort]:
    assert kafka.is_running  # asked for first: it decides whether there is a Kafka here at all
    directory = tmp_path_factory.mktemp("fort")
    made = certificates.make(directory, USER, KEY_PASSWORD)
    tls, sasl = Listener("TLS", free_port(), "SSL"), Listener("SASL", free_port(), "SASL_SSL")
    stores = {"ssl.keystore.type": "PEM", "ssl.keystore.location": str(made.broker),
              "ssl.truststore.type": "PEM", "ssl.truststore.location": str(made.ca)}  # fmt: skip
    jaas, security = "sasl.jaas.config", "org.apache.kafka.common.security"
    overrides = {
        **{f"listener.name.{name}.{key}": value for name in ("tls", "sasl") for key, value in stores.items()},
        "listener.name.tls.ssl.client.auth": "required",
        "listener.name.tls.ssl.principal.mapping.rules": "RULE:^CN=(.*)$/$1/",
        "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        f"listener.name.sasl.plain.{jaas}": f'{security}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
        f"listener.name.sasl.scram-sha-256.{jaas}": f"{security}.scram.ScramLoginModule required;",
        f"listener.name.sasl.scram-sha-512.{jaas}": f"{security}.scram.ScramLoginModule required;",
        f"listener.name.sasl.oauthbearer.{jaas}":
            f'{security}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",  # the test itself and the node's own listeners, in the clear on loopback
    }  # fmt: skip
    node = KafkaNode(directory / "node", free_port(), overrides, [tls, sasl])
    node.start()
    admin = AdminClient({"bootstrap.servers": node.address})
    kinds = (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
    users = [UserScramCredentialUpsertion(USER, ScramCredentialInfo(kind, 4096), PASSWORD.encode()) for kind in kinds]
    for upserted in users:
        for done in admin.alter_user_scram_credentials([upserted]).values():
            done.result()
    yield Fort(node, made, f"127.0.0.1:{tls.port}", f"127.0.0.1:{sasl.port}")
    node.stop()


# ---- who it is ----


def credentials(fort: Fort, way: str, directory: Path) -> tuple[str, dict[str, Any]]:
    """The address and the section `kafka` of a way in."""
    ca = {"ssl_cafile": str(fort.certificates.ca)}
    if way == "certificate":
        (directory / "key-password").write_text(KEY_PASSWORD)
        return fort.tls, ca | {
            "security_protocol": "SSL",
            "ssl_certfile": str(fort.certificates.client),
            "ssl_keyfile": str(fort.certificates.client_key),
            "ssl_password_file": str(directory / "key-password"),
        }
    given: dict[str, Any] = ca | {"security_protocol": "SASL_SSL", "sasl_mechanism": way.partition(" ")[0]}
    if way == "OAUTHBEARER file":
        (directory / "token").write_text(f"{token(USER)}\n")
        return fort.sasl, given | {"sasl_oauth_token_file": str(directory / "token")}
    if way == "OAUTHBEARER function":
        return fort.sasl, given | {"sasl_oauth_token_provider": f"{__name__}:provided_token"}
    (directory / "password").write_text(f"{PASSWORD}\n")
    return fort.sasl, given | {"sasl_username": USER, "sasl_password_file": str(directory / "password")}


def enter(fort: Fort, make_arena: MakeArena, way: str, directory: Path, **more: Any) -> Arena:
    address, section = credentials(fort, way, directory)
    return make_arena([fort.node.address], 1, workers_at=[address], label_partitions=0, kafka=section, **more)


WAYS = ("certificate", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER file", "OAUTHBEARER function")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_under_exactly_the_documented_rights(
    fort: Fort, make_arena: MakeArena, tmp_path: Path, way: str
) -> None:
    field = enter(fort, make_arena, way, tmp_path, log={"level": "debug"})
    allow(field, rights())
    field.produce(3_000)
    field.start("a")
    field.await_caught_up()
    served = [text for _, text in pages(field.log_of("a"))]
    assert f'instance="a",version="{version("stream-monitor")}"' in served[-1]
    field.reckon()
    assert_no_canary(field, tmp_path, *served, _printed("check", str(field.config)))


# ---- what it may do ----


class Right(NamedTuple):
    """One operation on one resource, as the docs list it."""

    resource: str
    name: str
    operation: str

    def __str__(self) -> str:
        return f"{self.operation} on {self.resource} {self.name}"


def rights() -> list[Right]:
    """The table of docs/security.md."""
    rows = re.findall(r"^\| (topic|group|transactional id) \| `(.+?)` \| (.+?) \|$", ACLS.read_text(), re.MULTILINE)
    assert len(rows) == 10
    return [Right(resource, name, operation) for resource, name, given in rows for operation in given.split(", ")]


def allow(field: Arena, given: list[Right]) -> None:
    for binding in field.admin.create_acls([_binding(field, right) for right in given]).values():
        binding.result()


def _name(field: Arena, right: Right) -> str:
    topics = field.settings.topics
    named = {"<predictions>": topics.predictions, "<alerts>": topics.alerts, "<group>": field.name}
    return re.sub("<.*?>", lambda match: named[match[0]], right.name)


def _binding(field: Arena, right: Right) -> AclBinding:
    name = _name(field, right)
    kind = (
        ResourceType.TRANSACTIONAL_ID if right.resource == "transactional id" else ResourceType[right.resource.upper()]
    )
    pattern = ResourcePatternType.PREFIXED if name.endswith("*") else ResourcePatternType.LITERAL
    operation = AclOperation[re.sub(r"(?<!^)(?=[A-Z])", "_", right.operation).upper()]
    return AclBinding(kind, name.rstrip("*"), pattern, f"User:{USER}", "*", operation, AclPermissionType.ALLOW)


@pytest.mark.parametrize("missing", rights(), ids=str)
def test_one_right_fewer_ends_the_worker_and_the_last_line_names_it(
    fort: Fort, make_arena: MakeArena, tmp_path: Path, missing: Right
) -> None:
    field = enter(fort, make_arena, "PLAIN", tmp_path)
    allow(field, [right for right in rights() if right != missing])
    field.produce(3_000)
    field.start("a")
    code = field.join("a", 60.0)
    assert code in (BrokerError.exit_code, TopicMismatch.exit_code), field.tail("a")
    last = field.log_of("a").splitlines()[-1]
    assert _name(field, missing).rstrip("*") in last
    assert re.search(r"ACL|allow", last), last


def test_the_status_command_needs_read_on_its_topic_alone(fort: Fort, make_arena: MakeArena, tmp_path: Path) -> None:
    """Under the rights of a worker nothing is read there; and of a reader nothing else is asked."""
    field = enter(fort, make_arena, "PLAIN", tmp_path)
    allow(field, rights())
    field.produce(3_000)
    field.start("a")
    field.reckon()
    refused, told = _ran("status", "--config", str(field.config))
    assert (refused, "status" in told) == (BrokerError.exit_code, True), told
    section = field.write_config("reader.yaml", kafka=credentials(fort, "SCRAM-SHA-512", tmp_path)[1])
    everything = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{USER}", None, AclOperation.ANY, AclPermissionType.ANY
    )
    for deleted in field.admin.delete_acls([everything]).values():
        deleted.result()
    allow(field, [Right("topic", "<group>.status", "Read")])
    code, told = _ran("status", "--config", str(section))
    assert code == 0, told
    assert all(re.search(rf"^{model}\b", told, re.MULTILINE) for model in "mnw"), told


# ---- what it never shows ----


def assert_no_canary(field: Arena, directory: Path, *shown: str) -> None:
    tokens = [path.read_text().strip() for path in directory.glob("token*")]
    texts = "\n".join([*(path.read_text(errors="replace") for path in field.directory.glob("*.log")), *shown])
    assert [canary for canary in (PASSWORD, KEY_PASSWORD, WRONG, *tokens) if canary in texts] == []


@pytest.mark.parametrize("way", ["certificate", "PLAIN", "SCRAM-SHA-512", "OAUTHBEARER file"])
def test_a_refused_login_says_why_and_shows_no_secret(
    fort: Fort, make_arena: MakeArena, tmp_path: Path, way: str
) -> None:
    field = enter(fort, make_arena, way, tmp_path, log={"level": "debug"})
    for name in ("password", "key-password"):
        if (tmp_path / name).exists():
            (tmp_path / name).write_text(WRONG)
    if way.startswith("OAUTH"):
        (tmp_path / "token").write_text(token(USER, lasts_s=-60))
    field.start("a")
    assert field.join("a", 60.0) == BrokerError.exit_code, field.tail("a")
    assert re.search("credentials|ssl_password", field.log_of("a").splitlines()[-1])
    assert_no_canary(field, tmp_path, _printed("check", str(field.config)), _printed("-vv", "check", str(field.config)))


def _printed(*arguments: str) -> str:
    """What a command prints, to either side."""
    return _ran(*arguments)[1]


def _ran(*arguments: str) -> tuple[int, str]:
    """A command's exit code, and what it prints, to either side."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    return int(ended.value.code or 0), out.getvalue()
