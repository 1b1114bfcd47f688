"""The commands; thin. Every one says in its help what it does and shows examples."""

from __future__ import annotations

import json
import platform
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import structlog
import typer

import stream_monitor
from stream_monitor import cli_compare, cli_evaluate, cli_reference, cli_replay, cli_status, heartbeat
from stream_monitor.cli_common import (
    ConfigOption,
    Verbose,
    broker_of,
    explain,
    prepare,
    stop_on_signals,
    verbosity,
    wide_console,
)
from stream_monitor.errors import ConfigError, Fault, StreamMonitorError, TopicMismatch

EXIT_CODES = """
Start with `stream-monitor demo`: it needs no Kafka.

Exit codes: 0 done · 1 failed · 2 configuration or usage · 3 a file cannot be read or used · 4 broker ·
5 topics missing or of the wrong shape · 6 another worker took this name · 7 outcome of a commit unknown, start again ·
8 data of another release, see docs/upgrading.md.
"""

app = typer.Typer(
    name="stream-monitor",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
topics_app = typer.Typer(no_args_is_help=True, help="The topics the monitor needs.")
app.add_typer(cli_reference.app, name="reference")
app.add_typer(topics_app, name="topics")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stream-monitor {stream_monitor.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Verbose = 0,
) -> None:
    """Watch the predictions your models write to Kafka, and publish an alert when something drifts."""


@app.command(epilog="Example: `stream-monitor run --config config/monitor.yaml --instance worker-1`")
def run(
    config: ConfigOption = None,
    stage: Annotated[
        Literal["encode", "detect", "both"], typer.Option(help="Which stage to run; large set-ups scale them apart.")
    ] = "both",
    instance: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="This worker's name, unique in the group; else the hostname."),
    ] = None,
    verbose: Verbose = 0,
) -> None:
    """Watch predictions until told to stop: the long-running consumer.

    Any number of workers share the work; each needs a name of its own. It never loses its place: kill it, start it
    again, and it goes on where it was. SIGTERM or Ctrl-C stops it cleanly, a second one at once.
    """
    from stream_monitor import worker

    settings = prepare(config, service=True)
    if instance is not None:
        settings = settings.named(instance)
    stop = stop_on_signals(settings.worker.heartbeat_file)
    try:
        worker.run(settings, stages=worker.STAGES if stage == "both" else frozenset({stage}), stop=stop)
    except StreamMonitorError:
        raise
    except Exception:
        structlog.get_logger().exception("unexpected error")  # where the logs go, the traceback is wanted
        raise


app.command(epilog=cli_replay.EXAMPLE)(cli_replay.replay)
app.command(epilog=cli_evaluate.EXAMPLE)(cli_evaluate.evaluate)
app.command()(cli_status.status)
app.command(epilog=cli_compare.EXAMPLE)(cli_compare.compare)


@app.command(epilog="Example: `stream-monitor demo --to-kafka --config config/monitor.yaml`")
def demo(
    to_kafka: Annotated[
        bool, typer.Option("--to-kafka", metavar="", help="Send the events to the Kafka of the configuration instead.")
    ] = False,
    rate: Annotated[int, typer.Option(metavar="EVENTS", min=1, help="Events a second.")] = 10_000,
    config: ConfigOption = None,
    verbose: Verbose = 0,
) -> None:
    """Watch 50,000 real-looking loan decisions, of which the second half has drifted; no Kafka needed.

    Builds a reference, plays the events through the worker, prints the alerts as they fire and compares what was found
    with what is known about the data. Exits with 1 if that differs.

    With --to-kafka it is the producer for a monitor that runs elsewhere: it publishes the reference and sends the
    events to the predictions topic.
    """
    from stream_monitor import demo as demos

    if not to_kafka:
        raise typer.Exit(demos.demo(wide_console(), events_per_s=rate))
    from stream_monitor.demo_producer import produce

    settings = prepare(config)
    with broker_of(settings) as broker:
        produce(settings, broker, rate, typer.echo)


@app.command()
def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Configurations (.yaml) and references (.json).", show_default=False),
    ] = None,
    config: ConfigOption = None,
    verbose: Verbose = 0,
) -> None:
    """Check configurations, references and their fit to each other; needs no Kafka.

    Every fault is listed, with the file, the key, the value and what to do. Exits with 2 if there is one.
    """
    from stream_monitor.check import check as check_files
    from stream_monitor.check import check_config

    if files:
        faults = check_files([*files, *([config] if config and config not in files else [])])
    else:
        faults = check_config(config)
    if faults:
        raise ConfigError(faults)
    typer.echo(f"ok: {', '.join(map(str, files)) if files else config or 'the environment'}")


@topics_app.command("create")
def topics_create(
    config: ConfigOption = None,
    with_predictions: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Create the topics of predictions and labels too, with N partitions."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only say what would be created.")] = False,
    verbose: Verbose = 0,
) -> None:
    """Create the topics that do not exist yet, with the right partitions, compaction and retention.

    What exists is left alone; where it has a shape that cannot work, that is said, and the exit code is 5. The topics
    that your models write to are yours; where one is missing, that is said as well.
    """
    from stream_monitor import topics

    settings = prepare(config)
    wanted = topics.specs(settings, predictions=with_predictions)
    with broker_of(settings) as broker:
        found = broker.topics([*(spec.name for spec in wanted), *topics.inputs(settings).values()])
        missing = [spec for spec in wanted if spec.name not in found]
        if missing and not dry_run:
            broker.create_topics(missing)
    for spec in wanted:
        state = "exists" if spec.name in found else "to create" if dry_run else "created"
        number = found.get(spec.name, spec).partitions
        count = f"{number:>4} partition{'' if number == 1 else 's'}"
        configs = "" if spec.name in found else " ".join(f"{key}={value}" for key, value in spec.settings.items())
        typer.echo(f"{state:<10} {spec.name:<28} {count:<17}{configs}".rstrip())
    if with_predictions is None:
        for problem in topics.missing_inputs(settings, found):
            typer.echo(f"note: {problem}")
    problems = topics.mismatches([spec for spec in wanted if spec.name in found], found)
    if problems:
        raise TopicMismatch("\n".join(problems))


@app.command()
def health(
    config: ConfigOption = None,
    max_age: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="Oldest heartbeat of a living worker.")
    ] = 120,
    verbose: Verbose = 0,
) -> None:
    """Tell whether the worker on this machine is alive; exits with 1 if not. For container health checks.

    Needs `worker.heartbeat_file`; the worker touches it every second while its loop turns, also while it waits for an
    unreachable broker.
    """
    from stream_monitor.config import load

    path = load(config).worker.heartbeat_file
    if path is None:
        remedy = "name a file there, or in STREAM_MONITOR_WORKER__HEARTBEAT_FILE, for the worker and for this command"
        raise ConfigError([Fault(str(config or "configuration"), "worker.heartbeat_file", "is not set", remedy)])
    alive, why = heartbeat.is_alive(heartbeat.age_s(path, time.time()), max_age)
    typer.echo(why)
    if not alive:
        raise typer.Exit(1)


@app.command()
def schema(
    what: Annotated[Literal["event", "label", "alert", "config"], typer.Argument(help="Which schema.")],
) -> None:
    """Print the JSON Schema of events, of labels, of alerts or of the configuration file."""
    from stream_monitor.schemas import SCHEMAS

    typer.echo(json.dumps(SCHEMAS[what](), indent=2, ensure_ascii=False))


@app.command("version")
def print_version(verbose: Verbose = 0) -> None:
    """Print the version; with -v that of Python and of the libraries that matter as well."""
    typer.echo(f"stream-monitor {stream_monitor.__version__}")
    if verbose:
        typer.echo(f"python {platform.python_version()} on {platform.platform()}")
        for library in ("kafka-python", "numpy", "numba", "river", "scipy", "pydantic"):
            typer.echo(f"{library} {metadata.version(library)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs a command; errors become lines on standard error and an exit code."""
    try:
        app(args=arguments, prog_name="stream-monitor")
    except StreamMonitorError as error:
        if verbosity() > 1:
            traceback.print_exc()
        explain(error)
        sys.exit(error.exit_code)
    except Exception as error:
        if verbosity() > 1:
            traceback.print_exc()
        at = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {error} (at {Path(at.filename).name}:{at.lineno})"
        explain(StreamMonitorError(f"unexpected: {what}; -vv shows the traceback, please report it"))
        sys.exit(1)
