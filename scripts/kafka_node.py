"""A real Apache Kafka on this machine, for tests and for `make kafka`: KRaft, loopback only, no Docker needed.

    python -m scripts.kafka_node start|stop|status [--port 9092] [--dir .kafka/node]

The broker runs from its jars, which Maven fetches once into `.kafka/`; where Java or Maven is missing and a Docker
engine answers, the same command runs inside the image apache/kafka.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from stream_monitor.broker.kafka import KafkaBroker, KafkaSettings
from stream_monitor.errors import BrokerError

ROOT = Path(__file__).resolve().parent.parent
POM = Path(__file__).resolve().parent / "kafka" / "pom.xml"
JARS = ROOT / ".kafka" / "jars"
IMAGE = "apache/kafka:4.1.1"
JAVA_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

LOGGING = """\
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %c{1} %m%n
logger.groups.name=org.apache.kafka.coordinator.group
logger.groups.level=INFO
"""


class KafkaMissing(Exception):
    """There is no way to run a Kafka here; the text says what is missing."""


class KafkaFailed(Exception):
    """A Kafka node did not do as it was told; the text ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """How to run a main class of Kafka: a local JVM, or one in a container that sees the same paths and network."""

    classpath: str
    container: str | None = None

    def command(self, main: str, *arguments: str, options: Sequence[str], directory: Path) -> list[str]:
        """The command line; `directory` is where the node keeps everything."""
        java = [*options, "-cp", self.classpath, main, *arguments]
        if self.container is None:
            return ["java", *java]
        run = ["docker", "run", "--rm", "--init", "--network=host", f"--name={self.container}-{main.split('.')[-1]}"]
        return [*run, f"--user={os.getuid()}:{os.getgid()}", f"--volume={directory}:{directory}", "--entrypoint=java",
                IMAGE, *java]  # fmt: skip

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End the broker without a chance to clean up."""
        if self.container is not None:
            subprocess.run(["docker", "kill", f"{self.container}-Kafka"], check=False, capture_output=True)
        process.kill()


def find_runtime() -> Runtime:
    """The jars (fetched if need be) and a JVM, else a Docker engine; raises KafkaMissing."""
    if shutil.which("java"):
        if shutil.which("mvn") or _jars_dir().is_dir():
            return Runtime(f"{fetch_jars()}/*")
        missing = "mvn (Maven) is not installed"
    else:
        missing = "java is not installed"
    if shutil.which("docker") and subprocess.run(["docker", "info"], check=False, capture_output=True).returncode == 0:
        return Runtime("/opt/kafka/libs/*", container=f"kafka-node-{uuid.uuid4().hex[:8]}")
    raise KafkaMissing(f"{missing}, and no Docker engine answers; install Java 17 and Maven, or start Docker")


def fetch_jars() -> Path:
    """Where the jars lie; fetches them with Maven if the pom has changed since."""
    jars = _jars_dir()
    if not jars.is_dir():
        JARS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=JARS) as fresh:
            fetch = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime",
                     f"-DoutputDirectory={fresh}/jars"]  # fmt: skip
            done = subprocess.run(fetch, check=False, capture_output=True, text=True)
            if done.returncode:
                raise KafkaMissing(
                    f"Maven could not fetch the jars of Kafka:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
                )
            if not jars.is_dir():
                Path(fresh, "jars").rename(jars)
    return jars


def _jars_dir() -> Path:
    return JARS / hashlib.sha256(POM.read_bytes()).hexdigest()[:12]


def free_port() -> int:
    """A TCP port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Listener:
    """A further listener of a node; clients are told to come to `advertised_port` (a proxy's, say) if that is given."""

    name: str
    port: int
    protocol: str = "PLAINTEXT"
    advertised_port: int | None = None


@dataclass(slots=True)
class KafkaNode:
    """One node, broker and controller in one; keeps its data, log and pid in `directory`, across restarts.

    `overrides` are server properties that win over the defaults, `heap_mb` is the JVM's. `voters`
    (node id → controller port) and `cluster_id` are for a node of several, see `KafkaCluster`.
    """

    directory: Path
    port: int
    overrides: Mapping[str, str] = field(default_factory=dict)
    listeners: Sequence[Listener] = ()
    heap_mb: int = 512
    node_id: int = 1
    voters: Mapping[int, int] = field(default_factory=dict)
    cluster_id: str = field(default_factory=lambda: base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))
    _runtime: Runtime | None = None
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log_path(self) -> Path:
        return self.directory / "kafka.log"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Start and wait until clients are served."""
        deadline_s = time.monotonic() + timeout_s
        self.launch()
        self.await_ready(max(1.0, deadline_s - time.monotonic()))

    def launch(self) -> None:
        """Start without waiting; formats the storage the first time."""
        if self.is_running:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self._runtime = self._runtime or find_runtime()
        properties = self.directory / "server.properties"
        if not properties.exists():
            properties.write_text("".join(f"{key}={value}\n" for key, value in self._properties().items()))
            (self.directory / "log4j2.properties").write_text(LOGGING)
            self._run("kafka.tools.StorageTool", "format", f"--cluster-id={self.cluster_id}", "-c", str(properties))
        options = [f"-Xmx{self.heap_mb}m", *JAVA_OPTIONS, self._logging()]
        command = self._runtime.command("kafka.Kafka", str(properties), options=options, directory=self.directory)
        with self.log_path.open("ab") as out:
            # A session of its own: Ctrl-C in the terminal is for the tests, which then stop the broker in order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        (self.directory / "kafka.pid").write_text(str(self._process.pid))

    def await_ready(self, timeout_s: float) -> None:
        """Wait until the cluster describes itself and opens transactions; raises KafkaFailed."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                return self._check_ready()
            except (OSError, BrokerError) as error:
                if not self.is_running:
                    raise KafkaFailed(f"Kafka on {self.address} ended:\n{self._log_tail()}") from error
                if time.monotonic() > deadline_s:
                    self.kill()
                    raise KafkaFailed(f"Kafka on {self.address} is not ready: {error}\n{self._log_tail()}") from error
                time.sleep(0.1)

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """Shut down in order; what does not end in time is killed."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._forget()

    def kill(self) -> None:
        """End at once, as a power cut would."""
        if self._process is not None and self._runtime is not None:
            self._runtime.kill(self._process)
            self._process.wait()
        self._forget()

    def freeze(self) -> None:
        """Stop the process without closing its connections, as a machine that hangs; `thaw` lets it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen node go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def _forget(self) -> None:
        self._process = None
        (self.directory / "kafka.pid").unlink(missing_ok=True)

    def _check_ready(self) -> None:
        socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        broker = KafkaBroker(KafkaSettings((self.address,), connect_timeout_ms=5_000))
        try:
            broker.topics(["__consumer_offsets"])
            broker.producer("kafka-node-ready").close()
        finally:
            broker.close()

    def _run(self, main: str, *arguments: str) -> None:
        assert self._runtime is not None
        command = self._runtime.command(main, *arguments, options=[self._logging()], directory=self.directory)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise KafkaFailed(f"{main} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    def _logging(self) -> str:
        return f"-Dlog4j2.configurationFile={self.directory / 'log4j2.properties'}"

    def _log_tail(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-30:]) if self.log_path.exists() else ""

    def _properties(self) -> dict[str, str]:
        voters = dict(self.voters) or {self.node_id: free_port()}
        copies = min(3, len(voters))
        listeners = [Listener("PLAINTEXT", self.port), *self.listeners]
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.node_id),
            "controller.quorum.voters": ",".join(f"{each}@127.0.0.1:{port}" for each, port in voters.items()),
            "controller.listener.names": "CONTROLLER",
            # By number: "localhost" may mean ::1 to one side and 127.0.0.1 to the other.
            "listeners": f"CONTROLLER://127.0.0.1:{voters[self.node_id]},"
            + ",".join(f"{each.name}://127.0.0.1:{each.port}" for each in listeners),
            "advertised.listeners": ",".join(
                f"{each.name}://127.0.0.1:{each.advertised_port or each.port}" for each in listeners
            ),
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,"
            + ",".join(f"{each.name}:{each.protocol}" for each in listeners),
            "log.dirs": str(self.directory / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": str(copies),
            "min.insync.replicas": str(max(1, copies - 1)),
            "offsets.topic.num.partitions": "4",
            "offsets.topic.replication.factor": str(copies),
            "transaction.state.log.num.partitions": "4",
            "transaction.state.log.replication.factor": str(copies),
            "transaction.state.log.min.isr": str(max(1, copies - 1)),
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
            # A killed node may register again only when its old session has ended (9 s by default).
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "log.cleaner.dedupe.buffer.size": "8388608",
            **self.overrides,
        }


class KafkaCluster:
    """Three nodes: replication 3, two of them must be in sync for a write. Who leads what is asked with `leader_of`."""

    def __init__(self, directory: Path, overrides: Mapping[str, str] | None = None) -> None:
        voters = {node_id: free_port() for node_id in (1, 2, 3)}
        first = KafkaNode(directory / "1", free_port(), overrides or {}, heap_mb=320, node_id=1, voters=voters)
        others = (
            replace(first, directory=directory / str(node_id), port=free_port(), node_id=node_id) for node_id in (2, 3)
        )
        self.nodes = (first, *others)

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(node.address for node in self.nodes)

    def start(self, *, timeout_s: float = 120.0) -> None:
        with ThreadPoolExecutor() as formatting:
            list(formatting.map(KafkaNode.launch, self.nodes))
        for node in self.nodes:
            node.await_ready(timeout_s)

    def stop(self) -> None:
        """Stop all at once: one by one, the last could not hand its leaderships over and would wait in vain."""
        with ThreadPoolExecutor() as stopping:
            list(stopping.map(KafkaNode.stop, self.nodes))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; a node is told from others by its directory."""
    parser = argparse.ArgumentParser(prog="kafka_node", description="A Kafka on 127.0.0.1, from its jars.")
    parser.add_argument("command", choices=["start", "stop", "status"])
    parser.add_argument("--port", type=int, default=9092)
    parser.add_argument("--dir", type=Path, default=ROOT / ".kafka" / "node", dest="directory")
    options = parser.parse_args(arguments)
    directory: Path = options.directory.resolve()
    pid = _pid(directory)
    if options.command == "start":
        if pid is None:
            try:
                KafkaNode(directory, options.port).start()
            except (KafkaMissing, KafkaFailed) as error:
                print(error, file=sys.stderr)
                return 1
        print(f"Kafka runs on 127.0.0.1:{options.port}, its data and log are in {directory}")
    elif options.command == "stop" and pid is not None:
        _stop(pid, directory)
        print("Kafka is stopped")
    else:
        print("Kafka is not running" if pid is None else f"Kafka runs with pid {pid}")
    return 0 if options.command != "status" or pid is not None else 3


def _pid(directory: Path) -> int | None:
    """The running node's process, by its pid file; another process that got the same number since is not meant."""
    try:
        pid = int((directory / "kafka.pid").read_text())
    except (OSError, ValueError):
        return None
    command = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], check=False, capture_output=True, text=True)
    return pid if str(directory) in command.stdout else None


def _stop(pid: int, directory: Path, *, timeout_s: float = 30.0) -> None:
    os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + timeout_s
    while _pid(directory) is not None and time.monotonic() < deadline_s:
        time.sleep(0.1)
    if _pid(directory) is not None:
        os.kill(pid, signal.SIGKILL)
    (directory / "kafka.pid").unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
