"""The detection benchmark measures what it says it does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console
from river.drift import PageHinkley

from benchmarks.detection import delays, episodes, gates, oracle
from benchmarks.detection.__main__ import main, verdict
from benchmarks.detection.false_alarms import Size, count
from benchmarks.detection.peers import page_hinkley
from benchmarks.detection.product import SETTINGS, STREAM, Watch, codes_of, only, reference_of, rows_of
from benchmarks.detection.results import Bound, Result
from benchmarks.detection.runner import QUICK, TESTS, families
from benchmarks.detection.values import CHANGES, MARGINALS, Floats, rng_of
from stream_monitor.alerts import Alert, State
from stream_monitor.config import Settings
from stream_monitor.encode import Binner
from stream_monitor.replay import Replay


def drawn(name: str, rows: int, columns: int, part: int = 0) -> Floats:
    rng = rng_of("test", name, part)
    return np.column_stack([MARGINALS[name].draw(rng, rows) for _ in range(columns)])


@pytest.mark.parametrize("name", ["normal", "normal, 1 % null", "Poisson 3", "90 % zeros", "4 categories", "sine"])
def test_codes_are_those_of_the_encoder(name: str) -> None:
    marginal = MARGINALS[name]
    flags = {"categorical": marginal.categorical, "seasonal": marginal.seasonal}
    reference = reference_of(drawn(name, 10_000, 2), **flags)
    values = drawn(name, 2_000, 2, part=1)
    values[:20, 0] = 9.0  # a category never seen, or far outside
    rows = rows_of(values, **flags)
    np.testing.assert_array_equal(codes_of(reference, values), Binner(reference).encode(rows).codes)


def test_a_watch_is_a_replay() -> None:
    """The same alerts at the same rows, with the same onsets, as `stream-monitor replay` gives."""
    reference = reference_of(drawn("normal", 5_000, 2))
    values = drawn("normal", 6_000, 2, part=1)
    values[2_000:4_000, 1] += 1.0
    ours = Watch(reference, budget=1e5).feed(codes_of(reference, values))
    alerts: list[Alert] = []
    settings = Settings.model_validate({"detection": {"budget_events": 50_000}})
    assert settings.detection.params() == SETTINGS.params()
    Replay(settings, [reference], alerts.append).feed(rows_of(values, seasonal=True))
    told = [a for a in alerts if a.state in (State.FIRING, State.RESOLVED)]
    assert told
    assert told[0].model == STREAM.model
    assert [(m.row, f"x{m.column}", m.state, m.onset_row) for m in ours] == [
        (a.detected.offset, a.column, a.state, a.onset.event.offset) for a in told if a.onset.event
    ]
    assert [m.state for m in ours if m.column == 1][:2] == [State.FIRING, State.RESOLVED]


def test_many_columns_are_watched_as_if_each_were_alone() -> None:
    reference = reference_of(drawn("normal", 5_000, 4))
    values = drawn("normal", 3_000, 4, part=2)
    values[1_000:] += np.array([0.0, 0.5, 1.0, -2.0])
    codes = codes_of(reference, values)
    together = Watch(reference).feed(codes)
    for column in range(4):
        alone = Watch(only(reference, column)).feed(codes[:, [column]])
        assert [(m.row, m.state) for m in together if m.column == column] == [(m.row, m.state) for m in alone]
    assert {m.column for m in together} == {1, 2, 3}


@pytest.mark.parametrize("threshold", [5.0, 50.0])
def test_page_hinkley_is_rivers(threshold: float) -> None:
    values = rng_of("test", "page_hinkley").normal(size=4_000)
    values[2_000:] += 2.0
    river, found = PageHinkley(threshold=threshold), []
    for row, value in enumerate(values.tolist()):
        river.update(value)
        if river.drift_detected:
            found.append(row)
    assert found
    assert page_hinkley(values, threshold).tolist() == found


def test_the_oracle_keeps_its_mean_time() -> None:
    """Simulated: 200 false alarms are expected in 200,000 rows at one in 1,000; five standard errors are allowed."""
    change = next(change for change in CHANGES if change.key == "B1 + 1 σ")
    assert change.ratio is not None
    h = oracle.threshold(change.key, 1_000)
    steps = change.ratio(rng_of("test", "oracle").normal(size=200_000))
    alarms, row = 0, 0
    while (found := oracle.first_alarm(steps[row:], h, 0)) >= 0:
        alarms, row = alarms + 1, row + found + 1
    assert abs(alarms - 200) < 5 * 200**0.5


def test_a_part_gives_the_same_numbers_again() -> None:
    size = Size(parts=1, columns=2, rows=((1e4, 10_000), (1e5, 4_000)), peer_columns=1, peer_rows=2_000)
    once, again = (count("normal", 2_000, size, part=0) for _ in range(2))
    assert once == again
    assert once.values == {1e4: 20_000, 1e5: 8_000}
    assert once.peer_alarms["always"] == 2_000


def test_a_shift_is_found_in_time_and_dated() -> None:
    found = delays.run("normal", 50_000, ("B1 + 2 σ",), delays.Size(runs=10, peer_runs=1), part=0)["B1 + 2 σ"]
    assert len(found.ours) + found.open_at_change == 10
    assert all(delay is not None and 0 < delay < 100 for delay in found.ours)
    assert found.peers["always"] == [1]


def test_every_gate_is_measured() -> None:
    cases = {(change.test, change.case) for change in CHANGES}
    delay_keys = [key for key in gates.ASKED if key[2] == gates.DELAY and key[0] != "C1"]
    assert {(test, case) for test, case, _ in delay_keys} == {key for key in cases if key[0] != "A2"}
    assert {test for test, _, _ in gates.ASKED} < set(TESTS)
    for profile in gates.KNOWN_FAILURES.values():
        assert all(reason for reason in profile.values())
    assert {test for family in families(QUICK, frozenset(TESTS)) for test in family.tests} == set(TESTS)


def test_the_command_reports(tmp_path: object) -> None:
    out = f"{tmp_path}/found.md"
    assert main(["--quick", "--only", "C3", "--jobs", "1", "--out", out]) in (0, 1)
    with open(out.replace(".md", ".json"), encoding="utf-8") as file:
        records = json.load(file)
    assert {"test", "case", "metric", "value", "unit", "peers", "oracle", "gate", "goal", "pass"} == set(records[0])
    with open(out, encoding="utf-8") as file:
        assert "## C3" in file.read()


def test_only_a_gate_that_is_not_known_to_fail_breaks_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Result("B1", "+ 1 σ", gates.DELAY, 40.0, "rows", gate=Bound(high=33), passed=False)
    console = Console(record=True, quiet=False, stderr=True)
    monkeypatch.setitem(gates.KNOWN_FAILURES, "quick", {})
    assert verdict([result], "quick", console, 1.0) == 1
    monkeypatch.setitem(gates.KNOWN_FAILURES, "quick", {result.key: "a reason"})
    assert verdict([result], "quick", console, 1.0) == 0
    assert "BROKEN: B1 · + 1 σ · median delay: 40 rows, gate ≤ 33" in (told := console.export_text())
    assert "known failure: B1" in told


def test_nothing_found_holds_no_gate() -> None:
    result = Result("B1", "+ 1 σ", gates.DELAY, None, "rows")
    assert delays.judged(result, Bound(high=33), None).passed is False
    assert delays.median([3, None, None]) is None
    assert delays.median([3, 5, None]) == 5


def test_a_drift_that_no_alternative_fits_reopens_once_at_most() -> None:
    assert max(episodes.flapping("2,000 rows, σ × 0.9", columns=10, part=0).reopenings) == 1


def test_a_clear_drift_that_comes_and_goes_closes_every_time() -> None:
    returns = episodes.recurring("+ 0.5 σ", columns=4, part=0).recoveries
    assert len(returns) == 4 * (episodes.TIMES - 1)
    assert all(rows is not None and rows <= 4_000 for rows in returns)
