"""ciuic log --metric: one column a metric, the best and the worst, bars and a line of the whole course."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import pytest

from ciuic.cli.trend import SPARK_WIDTH, Series, series

from .conftest import Run, run_here

ANSI = r"\x1b\[[0-9;]*m"


class Listed:
    """As much of a snapshot as a series looks at."""

    def __init__(self, **metrics: float) -> None:
        self.metrics = metrics


def course(*oldest_first: float | None, metric: str = "x") -> Series:
    """Of values in the order in which they came about."""
    name = metric.removeprefix("-")
    return series([Listed(**({} if value is None else {name: value})) for value in oldest_first[::-1]], metric)  # type: ignore[misc]


def test_a_column_over_the_steps(run: Run, ids: dict[str, str]) -> None:
    """Plain where nobody looks on: a title, and a line a snapshot with the marks. The first one's loss is NaN."""
    result = run("log", "--metric", "loss")
    assert (result.code, result.err) == (0, "")
    title, *rows = result.lines
    assert title.split() == ["loss"]
    expected = [
        ("599", "1.75", ""), ("499", "1.5", ""), ("399", "2.5", "worst"), ("299", "1", "best"), ("199", "2", ""),
        ("99", "nan", ""),
    ]  # fmt: skip
    for line, (step, value, mark) in zip(rows, expected, strict=True):
        start = rf"\* {ids[f'main:{step}'][:8]}  +step {step}  +{re.escape(value)}"
        assert re.match(rf"{start}(  {mark})?(  |$)", line), line
        assert ("worst" in line, "best" in line) == (mark == "worst", mark == "best")
    assert rows[0].endswith("  (HEAD -> main)") and rows[4].endswith("  (tag: baseline)  after warm-up")
    assert result.out.isascii()
    assert title.index("loss") + 4 == rows[0].index("1.75") + 4, "numbers stand below the title's end"


def test_several_metrics(run: Run) -> None:
    """With a minus the highest is the best. Once each, in the order given."""
    result = run("log", "--metric", "-accuracy", "--metric", "loss", "--metric", "-accuracy")
    assert result.lines[0].split() == ["accuracy", "loss"]
    assert re.search(r"step 399 +0\.9  best +2\.5  worst$", result.out, re.MULTILINE)
    assert re.search(r"step 99 +0\.1  worst +nan$", result.out, re.MULTILINE)


def test_on_a_terminal(run: Run) -> None:
    """The course of each metric above, and a bar beside each value; the lowest has the shortest."""
    out = re.sub(ANSI, "", run("--color", "always", "log", "--metric", "loss").out)
    first, blank, title, *rows = out.splitlines()
    assert re.fullmatch(
        r"loss  !▆▁█▃▅  nan → 1\.75  best 1 at step 299  worst 2\.5 at step 399  1 not finite *", first
    )
    assert blank == "" and title.split() == ["loss"]
    bars = [len(re.sub("[^▏▎▍▌▋▊▉█]", "", row)) for row in rows]
    assert bars == [10, 7, 20, 1, 14, 0]


def test_colours_mark_what_matters(run: Run) -> None:
    out = run("--color", "always", "log", "--metric", "loss").out
    assert "\x1b[32mbest \x1b[0m" in out and "\x1b[31mworst\x1b[0m" in out
    assert re.search(r"\x1b\[31m *nan\x1b", out)


def test_as_json(run: Run, ids: dict[str, str]) -> None:
    records = run("log", "--metric", "loss", "--metric", "-accuracy", "--json").records
    assert [record["metrics"]["loss"] for record in records] == [1.75, 1.5, 2.5, 1.0, 2.0, "NaN"]
    assert [(record["best"], record["worst"]) for record in records] == [
        ([], []), ([], []), (["accuracy"], ["loss"]), (["loss"], []), ([], []), ([], ["accuracy"]),
    ]  # fmt: skip
    assert records[0]["id"] == ids["main:599"] and records[0]["step"] == 599 and records[0]["refs"] == ["HEAD -> main"]


def test_what_is_listed_is_what_counts(run: Run) -> None:
    """REV, -n and --all choose the snapshots, and the best is the best of these. Branches are drawn."""
    assert re.search(r"step 399 .*worst", run("log", "--metric", "loss", "lr-sweep").out)
    two = run("log", "--metric", "loss", "-n", "2").lines
    assert len(two) == 3 and two[1].split()[5] == "worst" and two[2].split()[5] == "best"
    everything = run("log", "--all", "--metric", "loss").lines[1:]
    drawn = [re.split(r"  |[0-9a-f]{8}", line)[0].rstrip() for line in everything]
    assert drawn == ["*", "*", "| *", "| *", "| *", "|/", "*", "*", "*"]


def test_a_metric_that_some_lack(tmp_path: Path) -> None:
    """An evaluation every second time: a dash, null in JSON, and no hole in the course."""
    import ciuic

    repo = ciuic.Repo.init(tmp_path / "run")
    for step in range(6):
        metrics = {"loss": 6.0 - step, **({"eval\x1b[1m": float(step)} if step % 2 else {})}
        repo.commit(extra={"at": step}, step=step, metrics=metrics, rng=False)
    place = str(tmp_path / "run")
    lines = run_here("--repo", place, "log", "--metric", "eval\x1b[1m", "--metric", "loss").lines
    assert [line.split()[4] for line in lines[1:]] == ["5", "-", "3", "-", "1", "-"]
    assert not any("\x1b" in line for line in lines)
    out = re.sub(ANSI, "", run_here("--repo", place, "--color", "always", "log", "--metric", "eval\x1b[1m").out)
    assert "  ▁▅█  1 → 5  best 1 at step 1  worst 5 at step 5" in out.splitlines()[0]
    records = run_here("--repo", place, "log", "--metric", "eval\x1b[1m", "--json").records
    assert [record["metrics"]["eval\x1b[1m"] for record in records] == [5.0, None, 3.0, None, 1.0, None]


def test_notes_stand_at_their_snapshots(change: Run) -> None:
    change("note", "step:399", "the spike")
    assert re.search(r"step 399 +2\.5  worst +note: the spike$", change("log", "--metric", "loss").out, re.MULTILINE)


@pytest.mark.parametrize("metric", ["los", "-", ""])
def test_an_unknown_metric(run: Run, metric: str) -> None:
    """An error that lists those that there are, and not an empty column."""
    result = run("log", "--metric", metric)
    assert (result.code, result.out) == (2, "")
    assert f"has the metric {metric.removeprefix('-')!r}; there are accuracy, loss." in result.err


def test_no_snapshots(tmp_path: Path) -> None:
    place = str(tmp_path / "new")
    run_here("init", place)
    assert run_here("--repo", place, "log", "--metric", "loss").out == "No snapshots yet.\n"
    assert run_here("--repo", place, "log", "--metric", "loss", "-n", "0").out == ""
    assert run_here("--repo", place, "log", "--metric", "loss", "--json").out == ""


def test_best_is_what_the_revision_names(run: Run, ids: dict[str, str]) -> None:
    """`best:loss` and `best:-accuracy` are the marked ones."""
    for metric in ("loss", "-accuracy"):
        best = [record["id"] for record in run("log", "--metric", metric, "--json").records if record["best"]]
        assert best == [run("show", f"best:{metric}", "--json").record["id"]]


def test_a_spike_is_never_averaged_away() -> None:
    """One value in 10 000 shows, up or down, in a line of 48 characters; so does one NaN."""
    for odd, shown in ((9.0, "█"), (0.0, "▁"), (math.nan, "!"), (math.inf, "!")):
        values = [1.0 + 0.001 * (place % 7) for place in range(10_000)] + [1.5]
        values[4321] = odd
        spark = course(*values).spark()
        assert len(spark) == SPARK_WIDTH
        assert spark[4321 * SPARK_WIDTH // 10_001] == shown


def test_of_equal_ones_the_newest_is_the_best() -> None:
    """As in best:loss; where all are equal, none is the worst."""
    found = course(2.0, 1.0, 3.0, 1.0, 3.0, 2.0)
    assert (found.best, found.worst) == (2, 1)
    assert (course(1.0, 1.0).best, course(1.0, 1.0).worst) == (0, None)
    assert (course(math.nan, math.inf).best, course(math.nan, math.inf).worst) == (None, None)


def test_lengths_follow_the_logarithm_where_values_span_hundreds() -> None:
    """A loss that falls from 100 to 0.01 has a bar of half the length at 1."""
    found = course(100.0, 1.0, 0.01)
    assert found.logarithmic and found.height(1.0) == pytest.approx(0.5)
    assert not course(10.0, 1.0).logarithmic and not course(100.0, -1.0).logarithmic


def test_any_numbers() -> None:
    """Whatever is recorded, the largest and the smallest floats too, a bar fits and a course has its length."""
    numbers = random.Random(0)
    odd = [0.0, -0.0, 5e-324, -5e-324, 1.8e308, -1.8e308, math.inf, -math.inf, math.nan, 1.0, None]
    for _ in range(300):
        values = [numbers.choice([*odd, numbers.gauss(0, 1)]) for _ in range(numbers.randint(1, 6))]
        if all(value is None for value in values):
            continue
        found = course(*values, metric=numbers.choice(["x", "-x"]))
        assert len(found.spark()) == sum(value is not None for value in values)
        for value in values:
            bar = found.bar(value, 8)
            assert len(bar) <= 8 and bool(bar) == (value is not None and math.isfinite(value))
