"""What the detection is worth on given data: false alarms, the smallest change found, the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import orjson
import pytest

from stream_monitor.encode import code_of
from stream_monitor.errors import DataError
from stream_monitor.evaluate import Limits, assess, gather
from stream_monitor.evaluation import ColumnReport, Report
from stream_monitor.events import Row
from stream_monitor.fit import FitOptions, build_references, fit
from stream_monitor.reference import Kind, Reference, Season, StreamKey
from stream_monitor.trials import numeric_codes
from tests.unit.rows import row
from tests.unit.world import MODEL, reference, rows, settings

REFERENCE = reference()


def evaluated(given: Sequence[Row], known: Reference, windows: int = 10, chunk: int = 1_000) -> Report:
    limits = Limits(windows=windows)
    chunks = [given[start : start + chunk] for start in range(0, len(given), chunk)]
    steps: list[tuple[int, int]] = []
    base = settings()
    report = assess(gather(lambda: chunks, base, [known], limits), base, limits, lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1], "the progress comes to its end"
    return report


@cache
def quiet() -> Report:
    return evaluated(rows(12_000, seed=12), REFERENCE)


def column(report: Report, name: str) -> ColumnReport:
    (stream,) = report.streams
    return next(column for column in stream.columns if column.column == name)


def smallest(report: Report, name: str) -> dict[str, float | None]:
    return {found.change: found.amount for found in column(report, name).smallest}


def test_false_alarms_stand_beside_the_promise() -> None:
    x = column(quiet(), "x")
    assert (x.alarms, x.alarms_per_million, x.drifting_at_end) == (0, 0.0, False)
    assert x.promised_per_million == pytest.approx(1e6 / 10_000_000 / 4)
    assert x.alarms_at_most == pytest.approx(3.0 / 12_000 * 1e6, rel=0.01), "the rule of three"


def test_the_smallest_changes_are_of_a_credible_size() -> None:
    for name in ("x", "y"):
        mean = smallest(quiet(), name)["mean"]
        assert mean is not None
        assert 0.1 < mean < 0.5, "0.25 σ takes some 350 to 700 rows, 0.1 σ some 2,000"
    found = smallest(quiet(), "city")
    assert found.keys() == {"share", "new", "null"}
    assert all(amount is not None and 0.001 < amount < 0.2 for amount in found.values())


def test_the_same_rows_give_the_same_report_however_they_are_cut() -> None:
    again = evaluated(rows(12_000, seed=12), REFERENCE, chunk=777)
    assert msgspec.json.encode(again) == msgspec.json.encode(quiet())


def test_a_smaller_budget_is_recommended_where_events_are_few() -> None:
    thin = [msgspec.structs.replace(row, time_ms=row.time_ms * 1 + i * 600_000) for i, row in enumerate(rows(3_000))]
    report = evaluated(thin, REFERENCE, windows=3)
    (entry,) = report.config["models"]
    assert entry == {"match": MODEL, "detection": {"budget_events": 100_000}}
    assert "about one false alarm in 23 months" in report.advice[0]


def test_a_busy_model_needs_a_larger_one() -> None:
    (entry,) = quiet().config["models"]
    assert quiet().streams[0].events_per_week == pytest.approx(100 * 7 * 24 * 3600, rel=0.01)
    assert entry["detection"]["budget_events"] == 100_000_000


def test_a_column_that_drifts_in_the_data_is_said() -> None:
    report = evaluated(rows(6_000, seed=4, drift_at=2_000), REFERENCE, windows=3)
    x = column(report, "x")
    assert x.alarms == 1
    assert x.drifting_at_end
    assert any("still drifting at the end" in advice and "x" in advice for advice in report.advice)


def test_identifiers_and_constants_are_to_be_excluded() -> None:
    def make(count: int, first: int) -> list[Row]:
        rng = np.random.default_rng(first)
        return [
            row({"x": float(value), "flag": "a" if i else "b", "who": f"w{(first + i) % 40_000}"}, offset=i)
            for i, value in enumerate(rng.normal(size=count))
        ]

    options = FitOptions(season=Season.NONE, ordered=True, kinds={"who": Kind.CATEGORICAL})
    known = fit(make(5_000, 0), StreamKey("m"), options)
    report = evaluated(make(3_000, 20_000), known, windows=3)
    assert "like an identifier" in column(report, "who").exclude
    assert "near-constant" in column(report, "flag").exclude
    assert column(report, "x").exclude == ""
    assert report.config["models"][0]["features"] == {"exclude": ["flag", "who"]}
    assert any("no times" in advice for advice in report.advice)


def test_a_rhythm_that_the_reference_does_not_have_is_said() -> None:
    hours = np.arange(24 * 30)
    given = [
        row({"x": float(v)}, time_ms=int(hour) * 3_600_000 + k * 1_000, offset=int(hour) * 10 + k)
        for hour in hours
        for k, v in enumerate(np.random.default_rng(int(hour)).normal(np.sin(hour * np.pi / 12), 1, 10))
    ]
    known = fit(given, StreamKey("m"), FitOptions(season=Season.NONE, ordered=True))
    (stream,) = evaluated(given, known, windows=3).streams
    assert any("--season hour_of_day" in note for note in stream.notes)
    assert stream.columns[0].rhythm > 0.2


def test_few_rows_are_enough_to_be_told_so() -> None:
    (stream,) = evaluated(rows(400), REFERENCE, windows=3).streams
    assert any("within 200" in note for note in stream.notes)


def test_rows_of_another_model_cannot_be_evaluated() -> None:
    with pytest.raises(DataError, match="--model"):
        gather(lambda: [rows(300, model="other")], settings(), [REFERENCE], Limits())


def test_codes_of_whole_columns_are_those_of_single_values() -> None:
    x = next(column for column in REFERENCE.columns if column.name == "x")
    values = np.concatenate(
        [np.random.default_rng(1).normal(0, 2, 500), [np.inf, x.strata[0].low, x.strata[0].edges[3]]]
    )
    coded = numeric_codes(x, values, np.zeros(len(values), dtype=np.uint8))
    assert coded.tolist() == [code_of(float(value), x) for value in values]


def test_a_reference_with_a_season_is_evaluated_by_its_hours() -> None:
    def hourly(days: int, seed: int) -> list[Row]:
        hours = np.repeat(np.arange(24 * days), 20)
        values = np.random.default_rng(seed).normal(2 * np.sin(hours * np.pi / 12), 1)
        return [
            row({"x": float(v)}, time_ms=int(hour) * 3_600_000 + i % 20, offset=i)
            for i, (hour, v) in enumerate(zip(hours, values, strict=True))
        ]

    known = fit(hourly(30, 1), StreamKey("m"), FitOptions(ordered=True))
    assert known.season is Season.HOUR_OF_DAY
    (stream,) = evaluated(hourly(10, 2), known, windows=4).streams
    (x,) = stream.columns
    assert (x.alarms, x.rhythm, x.exclude, stream.notes) == (0, 0.0, "", [])
    found = {smallest.change: smallest.amount for smallest in x.smallest}
    assert found["mean"] is not None
    assert 0.02 < found["mean"] < 0.5


def labelled_rows(count: int, seed: int, wrong: float = 0.05) -> list[Row]:
    """Scores that are right but for a share `wrong`; the label is told within the event."""
    rng = np.random.default_rng(seed)
    scores, flips = np.round(rng.beta(0.3, 0.3, count), 3), rng.random(count) < wrong
    return [
        msgspec.structs.replace(row, prediction=float(score), label=float((score >= 0.5) != flip))
        for row, score, flip in zip(rows(count, seed=seed), scores.tolist(), flips.tolist(), strict=True)
    ]


@cache
def judged() -> Reference:
    """A reference that knows how good training was, with segments."""
    (found,) = build_references(lambda: [labelled_rows(20_000, 77)], FitOptions(season=Season.NONE, ordered=True,
                                                                                segment_by=("city",)))  # fmt: skip
    return found


def test_labels_say_which_fall_of_accuracy_is_found() -> None:
    outcomes = evaluated(labelled_rows(12_000, 78), judged()).streams[0].outcomes
    assert outcomes is not None
    assert (outcomes.outcomes, outcomes.alarms, outcomes.note) == (12_000, {}, "")
    accuracy = next(each for each in outcomes.metrics if each.metric == "accuracy")
    assert accuracy.low < 0.95 < accuracy.high
    assert accuracy.reference == pytest.approx(0.95, abs=0.01)
    assert outcomes.promised_per_million == pytest.approx(0.1)
    assert outcomes.windows == 10
    assert outcomes.smallest_fall is not None
    assert 0.02 < outcomes.smallest_fall < 0.06, "an oracle takes 1,000 labels for some 0.03 at that budget"
    again = evaluated(labelled_rows(12_000, 78), judged(), chunk=777).streams[0].outcomes
    assert again == outcomes


def test_a_fall_in_the_data_is_an_alarm_and_leaves_no_quiet_place() -> None:
    outcomes = evaluated(labelled_rows(6_000, 79, wrong=0.4), judged()).streams[0].outcomes
    assert outcomes is not None
    assert outcomes.alarms["error"] == 1
    assert (outcomes.windows, outcomes.smallest_fall) == (0, None)
    assert "drift in these data" in outcomes.note


def test_an_input_whose_relation_with_the_label_changed_is_an_alarm() -> None:
    given = [row if i < 3_000 else msgspec.structs.replace(row, label=float(float(row.features["x"]) > 0))
             for i, row in enumerate(labelled_rows(6_000, 81))]  # fmt: skip
    outcomes = evaluated(given, judged()).streams[0].outcomes
    assert outcomes is not None
    assert outcomes.alarms["x ~ label"] == 1


def test_relations_that_changed_are_alarms() -> None:
    relations = quiet().streams[0].relations
    assert relations is not None
    assert relations.alarms == {}
    assert relations.promised_per_million == pytest.approx(0.05 * 1e6 / settings().detection.budget_events)
    given = [row if i < 3_000 else msgspec.structs.replace(row, prediction=float(float(row.features["x"]) <= 0))
             for i, row in enumerate(rows(6_000, seed=82))]  # fmt: skip
    changed = evaluated(given, REFERENCE).streams[0].relations
    assert changed is not None
    assert changed.alarms.keys() >= {"x ~ prediction"}


def test_few_labels_and_none() -> None:
    some = labelled_rows(4_000, 80)
    few = [row if i < 500 else msgspec.structs.replace(row, label=None) for i, row in enumerate(some)]
    outcomes = evaluated(few, judged()).streams[0].outcomes
    assert outcomes is not None
    assert "500 labels are too few" in outcomes.note
    assert evaluated([msgspec.structs.replace(row, label=None) for row in some], judged()).streams[0].outcomes is None


def test_every_segment_has_a_line() -> None:
    drifting = [msgspec.structs.replace(row, features=row.features | {"y": 0.001})
                if row.features["city"] == "Rome" and i > 4_000 else row
                for i, row in enumerate(labelled_rows(8_000, 81))]  # fmt: skip
    (stream,) = evaluated(drifting, judged()).streams
    found = {each.segment: each for each in stream.segments}
    assert set(found) == {"city=Rome", "city=Paris", "city=Oslo"}
    assert sum(each.rows for each in found.values()) == 8_000
    assert found["city=Rome"].alarms >= 1
    assert found["city=Paris"].alarms == found["city=Oslo"].alarms == 0
    assert found["city=Rome"].promised == pytest.approx(found["city=Rome"].rows / 20_000_000)


def test_wrong_values_are_evaluated_too() -> None:
    rng = np.random.default_rng(3)

    def made(count: int) -> list[Row]:
        truth, off = rng.normal(100, 20, count), rng.normal(0, 5, count)
        return [msgspec.structs.replace(row, prediction=float(t + o), label=float(t))
                for row, t, o in zip(rows(count, seed=4), truth.tolist(), off.tolist(), strict=True)]  # fmt: skip

    (known,) = build_references(lambda: [made(20_000)], FitOptions(season=Season.NONE, ordered=True))
    outcomes = evaluated(made(8_000), known).streams[0].outcomes
    assert outcomes is not None
    assert outcomes.metric == "mae"
    assert outcomes.smallest_fall is not None
    assert 0.05 < outcomes.smallest_fall < 0.4


def test_the_command_takes_labels_from_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stream_monitor import cli

    given = labelled_rows(4_000, 82)
    (tmp_path / "reference.json").write_bytes(judged().to_json())
    lines = [
        f"{row.id},{row.features['x']},{row.features['y']},{row.features['city']},{row.prediction}" for row in given
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["id,x,y,city,score", *lines]) + "\n")
    (tmp_path / "labels.csv").write_text("\n".join(["id,late", *(f"{row.id},{row.label}" for row in given)]) + "\n")
    asked = ["evaluate", str(tmp_path / "rows.csv"), "--reference", str(tmp_path / "reference.json"), "--model", MODEL,
             "--id", "id", "--prediction", "score", "--windows", "3", "--max-columns", "1",
             "--labels", str(tmp_path / "labels.csv"), "--json", str(tmp_path / "report.json")]  # fmt: skip
    cli.app(asked, standalone_mode=False)
    shown = capsys.readouterr().err
    assert "4,000 labels; alarms: none" in shown
    assert "the smallest found within 1,000 labels in 4 of 5 of 3 random places" in shown
    assert "city=Paris" in shown
    outcomes = orjson.loads((tmp_path / "report.json").read_bytes())["streams"][0]["outcomes"]
    assert (outcomes["outcomes"], outcomes["metric"]) == (4_000, "accuracy")
