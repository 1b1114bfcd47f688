"""Checking configurations and references: every way in which they may not fit is found, with what to do."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from stream_monitor.check import check, check_config
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, fit
from stream_monitor.reference import Reference, StreamKey


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = random.Random(5)
    rows = [
        Row("m", "1", "", i * 60_000, {"age": rng.gauss(40, 9), "region": rng.choice(["EU", "US"])}, rng.random(),
            None, None, 0, i, 0)
        for i in range(400)
    ]  # fmt: skip
    return fit(rows, StreamKey("m", "1", ""), FitOptions(ordered=True))


def write(path: Path, reference: Reference, **changes: object) -> Path:
    path.write_bytes(msgspec.structs.replace(reference, **changes).to_json())
    return path


def config(tmp_path: Path, text: str = "") -> Path:
    path = tmp_path / "monitor.yaml"
    path.write_text("kafka: {bootstrap_servers: 'a:1'}\n" + text)
    return path


def test_what_fits_is_left_in_peace(tmp_path: Path, reference: Reference) -> None:
    assert check([config(tmp_path), write(tmp_path / "r.json", reference)]) == []


def test_the_references_of_a_configuration_are_checked_with_it(tmp_path: Path, reference: Reference) -> None:
    write(tmp_path / "r.json", reference)
    text = "references: [r.json]\nmodels: [{match: m, features: {exclude: [age]}}]\n"
    [fault] = check_config(config(tmp_path, text))
    assert str(fault) == (
        f"{tmp_path / 'r.json'}: age: is watched here, but the models entry 'm' leaves it out "
        "(build the reference again)"
    )


@pytest.mark.parametrize(
    ("text", "changes", "complaint"),
    [
        ("models: [{match: m, features: {types: {age: categorical}}}]", {},
         "age: is numeric here, categorical in the models entry 'm' (build the reference again)"),
        ("models: [{match: m, features: {include: [age, income]}}]", {},
         "income: the models entry 'm' names it, but this reference has no such column (correct the name"),
        ("models: [{match: m, segment_by: [region, plan]}]", {},
         "has segments by none, segment_by of 'm' asks for region,plan (build it with --segment-by region,plan)"),
        ("models: [{match: m, segment_by: [region]}]", {"segment": "plan=pro"}, "segment: 'plan=pro' never occurs"),
        ("input: {shape: {segment: null}}", {"segment": "region=EU"},
         "segment: 'region=EU' never occurs: neither segment_by nor input.shape.segment is set (build it again with"),
        ("input: {shape: {model: null, fixed_model: other}}", {},
         "model: 'm' never occurs: input.shape.fixed_model is 'other' (build it again with the options that fit"),
        ("input: {shape: {fixed_version: '2'}}", {}, "version: '1' never occurs: input.shape.fixed_version is '2'"),
    ],
)  # fmt: skip
def test_a_misfit_is_named(
    tmp_path: Path, reference: Reference, text: str, changes: dict[str, object], complaint: str
) -> None:
    faults = check([config(tmp_path, text), write(tmp_path / "r.json", reference, **changes)])
    assert any(complaint in str(fault) and fault.where == str(tmp_path / "r.json") for fault in faults), faults


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("models: [{match: m, segment_by: [region]}]", {"segment_by": ["region"], "segments": []}),
        ("input: {shape: {fixed_version: '2'}}", {"version": ""}),
        ("models: [{match: m, features: {include: [a*, region]}}]", {}),
        ("models: [{match: m, features: {exclude: [trace]}}]", {"skipped": {"trace": "left out"}}),
        ("models: [{match: m, features: {types: {row: numeric}}}]", {"skipped": {"row": "looks like a counter"}}),
    ],
)
def test_a_fit_is_no_fault(tmp_path: Path, reference: Reference, text: str, changes: dict[str, object]) -> None:
    assert check([config(tmp_path, text), write(tmp_path / "r.json", reference, **changes)]) == []


def test_two_references_of_one_stream(tmp_path: Path, reference: Reference) -> None:
    first, second = write(tmp_path / "a.json", reference), write(tmp_path / "b.json", reference)
    [fault] = check([first, second])
    assert str(fault) == f"{second}: is for m/1, and so is {first} (keep one reference a stream)"


def test_all_that_is_wrong_with_all_files_is_said_at_once(tmp_path: Path, reference: Reference) -> None:
    (tmp_path / "none.yaml").write_text("bogus: 1\n")
    (tmp_path / "broken.json").write_text("{")
    old = write(tmp_path / "old.json", reference, schema_version=9)
    columns = [msgspec.structs.replace(column, autocorrelation_time=0.0) for column in reference.columns]
    odd = write(tmp_path / "odd.json", reference, columns=columns)
    faults = check([tmp_path / "none.yaml", tmp_path / "broken.json", old, odd, tmp_path / "absent.json"])
    text = "\n".join(map(str, faults))
    assert f"{tmp_path / 'none.yaml'}:1: bogus: unknown key" in text
    assert f"{tmp_path / 'broken.json'}: not a reference document" in text
    assert f"{old}: schema version 9, but this release reads 1" in text
    assert text.count(f"{odd}: column ") == len(columns)
    assert f"{tmp_path / 'absent.json'}: cannot be read: No such file or directory" in text
