"""The commands `reference build`, `show` and `publish`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import typer

from stream_monitor.cli_common import ConfigOption, Verbose, broker_of, prepare, wide_console
from stream_monitor.cli_tables import (
    Files,
    Id,
    Ignore,
    Label,
    Model,
    Prediction,
    Segment,
    TableOptions,
    Time,
    Version,
    listed,
    reading,
)
from stream_monitor.errors import ConfigError, DataError, Fault
from stream_monitor.privacy import veil_of
from stream_monitor.reference import MAX_SEGMENT_FEATURES, MAX_SEGMENTS, Reference, Season
from stream_monitor.reference_checks import load

FEW_ROWS: Final = 1_000
"""Of training data; fewer are built from, with a word about it."""

app = typer.Typer(
    no_args_is_help=True,
    help="What training looked like: build it from the training data, read it, publish it to the monitor.",
)

Documents = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Reference documents (.json).")]


@app.command(
    epilog="Examples: `stream-monitor reference build train.csv.gz --model credit-risk --time at --prediction score "
    "--label paid --ignore split,row_id --out credit-risk.json` · "
    "`stream-monitor reference build events.jsonl --model credit-risk --segment-by region,plan --out credit-risk.json`"
)
def build(
    files: Files,
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="The document; a directory where there are several streams.")
    ],
    model: Model = None,
    version: Version = None,
    segment_by: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,…",
            show_default=False,
            help="Features whose values and combinations are watched as segments; part of the one document.",
        ),
    ] = None,
    max_segments: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_SEGMENTS,
            metavar="N",
            show_default=False,
            help="Most of them, else the configuration's, 20; the other values are pooled, by feature, as `other`.",
        ),
    ] = None,
    season: Annotated[
        Literal["auto", "none", "hour_of_day", "hour_of_week"],
        typer.Option(help="Compare an event with the training data of its hour; auto: where the data has a rhythm."),
    ] = "auto",
    unordered: Annotated[
        bool,
        typer.Option(
            "--unordered", metavar="",
            help="The rows are shuffled: their order says nothing about that of the events.",
        ),
    ] = False,
    importances: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False,
            help="How much the model leans on each feature, as JSON (`{\"age\": 0.4, …}`): incidents rank by it.",
        ),
    ] = None,
    time: Time = None,
    id: Id = None,
    prediction: Prediction = None,
    label: Label = None,
    segment: Segment = None,
    ignore: Ignore = None,
    config: ConfigOption = None,
    verbose: Verbose = 0,
) -> None:  # fmt: skip
    """Build a reference from training data: what every column looked like when the model was made.

    Reads the files more than once, and never holds them in memory. The best data is what the model was tested on, in
    the order of time, with its predictions; 5,000 rows will do, 50,000 are better. Of tables, name the columns that are
    no features. JSON lines without any column named are read as events, as the monitor reads them from Kafka.

    How much one event depends on the last is measured on the rows in the order of their times (--time), or else of the
    file. Say --unordered where neither is known: it is then measured on the first 5,000 live events instead, before any
    alert. (Shuffled rows that pass for ordered make slow features cry wolf.)

    Features that look like identifiers or counters are not watched, and said; the configuration (`models:`) can list,
    exclude and type them.
    """
    from stream_monitor.fit import FitOptions, build_references

    settings = prepare(config, needs_kafka=False)
    rules = settings.for_model(model or settings.input.shape.fixed_model or "")
    features = rules.features
    by = listed(segment_by) or rules.segment_by
    if len(by) > MAX_SEGMENT_FEATURES:
        problem = f"{len(by)} features make too many combinations"
        raise ConfigError([Fault("--segment-by", ",".join(by), problem, f"name up to {MAX_SEGMENT_FEATURES}")])
    options = FitOptions(season=season if season == "auto" else Season(season), include=features.include,
                         exclude=features.exclude, kinds=features.kinds(), segment_by=by,
                         ordered=False if unordered else None, importance=_importances(importances),
                         relations=rules.detection.relations.enabled,
                         max_segments=max_segments or rules.max_segments)  # fmt: skip
    given = TableOptions(model, version, time, id, prediction, label, segment, ignore)
    with reading(files, given, settings, by) as reader:
        references = build_references(reader.chunks, options, [file.name for file in files])
    if veil := veil_of(settings):
        references = [veil.reference(reference) for reference in references]
    for reference, path in zip(references, _paths(out, references), strict=True):
        _write(path, reference)
        rows = f"{reference.source.rows:,} row{'' if reference.source.rows == 1 else 's'}"
        typer.echo(f"{path}: {reference.stream}, {len(reference.columns)} columns of {rows}, "
                   f"digest {reference.digest()}")  # fmt: skip
        for part in reference.parts:
            typer.echo(f"  segment: {part.name}, {part.rows:,} rows")
        for name, reason in sorted(reference.skipped.items()):
            typer.echo(f"  not watched: {name}: {reason}")
        for name in sorted(options.importance.keys() - {column.name for column in reference.columns}):
            typer.echo(f"  note: importance of {name}: no watched column is called that")
        if reference.source.rows < FEW_ROWS:
            typer.echo(f"  note: {rows} will show large drifts only; 5,000 will do, 50,000 are better")
        for note in reference.source.notes:
            typer.echo(f"  note: {note}")


def _importances(path: Path | None) -> dict[str, float]:
    """Feature → how much the model leans on it; raises DataError."""
    if path is None:
        return {}
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a JSON object of feature → number: {error}") from error
    if bad := [name for name, value in found.items() if not 0 <= value < float("inf")]:
        raise DataError(f"{path}: importances are numbers from 0 on; {', '.join(sorted(bad))} is none")
    return found


def _paths(out: Path, references: list[Reference]) -> list[Path]:
    """Where each document goes: `out` itself, or, where there are several or it is a directory, a file in it each."""
    if len(references) == 1 and not out.is_dir():
        return [out]
    if out.suffix == ".json" or out.is_file():
        streams = ", ".join(str(reference.stream) for reference in references[:3])
        problem = f"one file cannot hold the references of {len(references)} streams ({streams}, …)"
        raise ConfigError([Fault("--out", str(out), problem, "give a directory, as --out references/")])
    return [out / f"{_file_name(reference)}.json" for reference in references]


def _file_name(reference: Reference) -> str:
    """A name that says which stream it is, unique even where characters had to go."""
    readable = re.sub(r"[^A-Za-z0-9._=-]+", "_", "-".join(part for part in reference.stream if part))[:100]
    tag = hashlib.sha256("\0".join(reference.stream).encode()).hexdigest()[:6]
    return f"{readable}-{tag}"


def _write(path: Path, reference: Reference) -> None:
    """Whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(reference.to_json())
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error


@app.command(epilog="Example: `stream-monitor reference show credit-risk.json`")
def show(files: Documents, verbose: Verbose = 0) -> None:
    """Print references as tables: per column its bins, quantiles or categories, missing share and memory."""
    from stream_monitor.show import shown

    console = wide_console()
    for number, reference in enumerate(_read(files)):
        if number:
            console.print()
        console.print(shown(reference), highlight=False)


@app.command(epilog="Example: `stream-monitor reference publish credit-risk.json --config monitor.yaml`")
def publish(files: Documents, config: ConfigOption = None, verbose: Verbose = 0) -> None:
    """Publish references, in one transaction; running monitors switch to them at once.

    Each becomes the next epoch of its stream. One that the topic already holds is left alone, so it does no harm to
    publish the same file again.
    """
    from stream_monitor import publish as publishing

    references = _read(files)
    _refuse_twins(files, references)
    settings = prepare(config)
    with broker_of(settings) as broker:
        name = settings.transactional_id("publish")
        published = publishing.publish(broker, settings.topics.references, name, references, veil_of(settings))
    for each in published:
        state = "published" if each.new else "unchanged"
        stream = each.reference.stream
        typer.echo(f"{state}  {stream}  epoch {each.epoch}  digest {each.reference.digest()}")


def _read(files: list[Path]) -> list[Reference]:
    """The documents; raises DataError or ReferenceInvalid naming the file."""
    references = []
    for file in files:
        try:
            data = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
        references.append(load(data, name=str(file)))
    return references


def _refuse_twins(files: list[Path], references: list[Reference]) -> None:
    streams = [reference.stream for reference in references]
    faults = [
        Fault(str(file), "", f"is for {stream}, and so is {files[streams.index(stream)]}", "publish one of them")
        for number, (file, stream) in enumerate(zip(files, streams, strict=True))
        if stream in streams[:number]
    ]
    if faults:
        raise ConfigError(faults)
