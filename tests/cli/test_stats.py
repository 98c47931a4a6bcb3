"""stats, and what show says of how a snapshot is stored."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path

import pytest

import ciuic
from ciuic.cli.columns import Column, aligned, folded, wrapped
from ciuic.cli.paint import Paint, display_width
from ciuic.objects.ids import Kind, object_id
from ciuic.objects.snapshot import Snapshot, Storage, encode_snapshot
from ciuic.store.store import Store

from .conftest import Run, run_here

MIB = 1 << 20
STORAGE: Storage = {
    "weights": {"delta": (30 * MIB, 15 * MIB), "planes": (10 * MIB, 8 * MIB), "identical": (3 * MIB, 0)},
    "first moment": {"planes": (43 * MIB, 36 * MIB)},
    "second moment": {"predicted": (42 * MIB, MIB // 8), "raw": (MIB, MIB)},
    "other": {"identical": (5000, 0), "zstd": (100, 37)},
}
WORST: Storage = {
    part: {
        kind: (1023 * MIB - number, 100 * MIB)
        for number, kind in enumerate(("identical", "derived", "predicted", "delta", "planes", "zstd", "raw"))
    }
    for part in ("weights", "first moment", "second moment", "other")
}


@pytest.fixture
def place(tmp_path: Path) -> str:
    assert run_here("init", str(tmp_path / "run")).code == 0
    return str(tmp_path / "run")


def publish(place: str, storage: Storage, cost: dict[str, float] | None = None) -> None:
    """The next snapshot on main, as a writer leaves it."""
    store, tip = Store(place), ciuic.Repo(place).branches().get("main")
    raw_bytes = dict.fromkeys(("model", "optimizer", "scheduler", "scaler", "extra", "gradients", "rng"), 43 * MIB)
    raw = encode_snapshot(
        Snapshot(
            id="", step=1, epoch=None, timestamp=datetime.now(timezone.utc), message="", metrics={}, config={},
            parents=(tip,) if tip else (), tree={"model": "0" * 64}, contains=(), raw_bytes=raw_bytes,
            added_bytes=0, cost=cost or {}, storage=storage,
        )
    )  # fmt: skip
    id = object_id(Kind.SNAPSHOT, raw)
    with store.shared():
        session = store.new_packs()
        session.add(Kind.SNAPSHOT, id, raw, codec=0, raw_length=len(raw))
        store.index_commit(session.publish(), {})
        store.move_ref("refs/heads/main", id.hex(), "commit")


def test_stats(run: Run) -> None:
    """Of a repository that a training has made: counts, sizes, costs, and nothing wider than a screen."""
    result = run("stats")
    assert (result.code, result.err) == (0, "")
    assert result.lines[0].startswith("8 snapshots, 2 branches, 1 tag, ")
    assert all(len(line) <= 80 for line in result.lines)
    for row in ("raw", "identical", "coded", "stored", "on disk"):
        assert re.search(rf"^{row} +\S+ [KM]?i?B +[\d.]+ %", result.out, re.MULTILINE), row
    assert run("--json", "stats").record["version"] == 1


def test_stats_and_show_of_a_training_agree(run: Run) -> None:
    """The saving is the sum of what the snapshots say, one after the other."""
    record = run("--json", "stats").record
    snapshots = [run("--json", "show", each["id"]).record for each in run("--json", "log", "--all").records]
    total: dict[str, dict[str, dict[str, int]]] = {}
    for snapshot in snapshots:
        for part, kinds in snapshot["storage"].items():
            for kind, sizes in kinds.items():
                sums = total.setdefault(part, {}).setdefault(kind, {"raw_bytes": 0, "stored_bytes": 0})
                for name, size in sizes.items():
                    sums[name] += size
    assert record["saving"] == total
    assert record["silent"] == sum(not snapshot["storage"] for snapshot in snapshots)


def test_stats_sums_up_what_the_snapshots_cost(run: Run, change: Run) -> None:
    """Median and worst of what the reachable snapshots say, a pruned one among them."""
    costs = run("--json", "stats").record["costs"]
    recorded = [record["cost"] for record in run("--json", "log", "--all").records]
    assert set(costs) == set().union(*recorded)
    for name, cost in costs.items():
        seconds = sorted(each[name] for each in recorded if name in each)
        assert cost == {"snapshots": len(seconds), "median": seconds[len(seconds) // 2], "worst": seconds[-1]}
    change("prune", "main~3")
    assert change("--json", "stats").record["costs"] == costs


def test_stats_of_a_new_repository(place: str) -> None:
    """The counts alone."""
    assert len(run_here("--repo", place, "stats").lines) == 1
    assert run_here("--repo", place, "--json", "stats").record["saving"] == {}


def test_stats_has_a_line_for_each_part_and_a_total(place: str) -> None:
    """Raw, stored, their ratio, and which share went in which way, the largest first."""
    publish(place, STORAGE)
    publish(place, STORAGE)
    lines = run_here("--repo", place, "stats").lines
    assert lines[2:12] == [
        "as committed        raw    stored  of raw  as",
        "weights        86.0 MiB  46.0 MiB  53.5 %  delta 70 %, planes 23 %,",
        "                                           identical 7 %",
        "first moment   86.0 MiB  72.0 MiB  83.7 %  planes 100 %",
        "second moment  86.0 MiB  2.25 MiB  2.62 %  predicted 98 %, raw 2 %",
        "other          9.96 KiB      74 B  0.73 %  identical 98 %, zstd 2 %",
        "total           258 MiB   120 MiB  46.6 %  planes 41 %, predicted 33 %,",
        "                                           delta 23 %, identical 2 %, raw 1 %,",
        "                                           zstd <1 %",
        "",
    ]


def test_stats_says_how_many_snapshots_do_not_say(place: str) -> None:
    """Those from before storage was counted."""
    publish(place, {})
    assert "1 snapshot does not say" in run_here("--repo", place, "stats").lines
    publish(place, STORAGE)
    assert "1 snapshot does not say" in run_here("--repo", place, "stats").lines
    publish(place, {})
    assert "2 snapshots do not say" in run_here("--repo", place, "stats").lines
    assert run_here("--repo", place, "--json", "stats").record["silent"] == 2


def test_stats_fits_a_screen(place: str) -> None:
    """A usual repository 80 columns and 24 lines, whatever there is 80 columns; and nothing is left out."""
    costs = dict.fromkeys(("call", "fence", "copy", "encode", "check", "write"), 0.0123)
    publish(place, STORAGE, costs)
    lines = run_here("--repo", place, "stats").lines
    assert max(map(len, lines)) <= 80 and len(lines) <= 24
    publish(place, WORST, costs)
    result = run_here("--repo", place, "stats")
    assert max(map(len, result.lines)) <= 80
    for kind in WORST["other"]:
        assert len(re.findall(rf"\b{kind} \d+ %", result.out)) >= 5


def test_stats_for_programs(place: str) -> None:
    """The same numbers in bytes."""
    publish(place, STORAGE)
    saving = run_here("--repo", place, "--json", "stats").record["saving"]
    assert saving == run_here("--repo", place, "--json", "show").record["storage"]
    assert saving["other"] == {
        "identical": {"raw_bytes": 5000, "stored_bytes": 0},
        "zstd": {"raw_bytes": 100, "stored_bytes": 37},
    }


def test_names_of_other_writers_are_printed_safely(place: str) -> None:
    """Neither a part nor a kind steers the terminal."""
    publish(place, {"we\x1b[31mights": {"de\x1b[31mlta": (5, 3)}}, {"wash\x1b[31m": 1.0})
    for command in ("stats", "show"):
        result = run_here("--repo", place, command)
        assert (result.code, result.err) == (0, "")
        assert "\x1b" not in result.out and "de\\x1b[31mlta 100 %" in result.out


def test_show_says_how_the_snapshot_is_stored(place: str) -> None:
    """What share of what it holds, and in which ways; as wide as a screen, however many there are."""
    publish(place, STORAGE)
    shown = run_here("--repo", place, "show").out
    (line,) = re.findall(r"^stored .*\n(?: .*\n)?", shown, re.MULTILINE)
    assert " ".join(line.split()) == (
        "stored 46.6 % of 129 MiB: planes 41 %, predicted 33 %, delta 23 %, identical 2 %, raw 1 %, zstd <1 %"
    )
    publish(place, WORST)
    shown = run_here("--repo", place, "show").out
    (lines,) = re.findall(r"^stored .*\n(?: .*\n)*", shown, re.MULTILINE)
    assert all(len(line) <= 80 for line in lines.splitlines())
    assert all(re.search(rf"\b{kind} 14 %", shown) for kind in WORST["other"])


def test_show_of_a_snapshot_that_does_not_say(place: str) -> None:
    """No such line; for programs nothing is in it."""
    publish(place, {})
    assert not re.search("^stored", run_here("--repo", place, "show").out, re.MULTILINE)
    assert run_here("--repo", place, "--json", "show").record["storage"] == {}


def test_show_of_a_snapshot_that_stored_nothing_new(place: str) -> None:
    """All of it was there, or there was nothing to store."""
    publish(place, {"weights": {"identical": (1000, 0)}})
    assert "0.00 % of 1000 B: identical 100 %" in run_here("--repo", place, "show").out
    publish(place, {"weights": {"raw": (0, 0)}, "other": {}})
    assert not re.search("^stored", run_here("--repo", place, "show").out, re.MULTILINE)


@pytest.mark.parametrize("width", [20, 24, 31, 80])
def test_items_are_wrapped(width: int) -> None:
    """None is lost, none is cut, and no line is wider."""
    items = [f"{name} {10 * number} %" for number, name in enumerate(("identical", "derived", "変更", "x"))]
    lines = wrapped(items, width)
    assert " ".join(lines) == ", ".join(items)
    assert all(display_width(line) <= width for line in lines)


def test_a_folded_cell_stays_in_its_column() -> None:
    """What does not fit stands below; a row without items is a row."""
    columns = (Column(), Column(right=True), Column())
    rows = [(["weights", "5"], ["delta 50 %", "planes 30 %", "raw 20 %"]), (["none", "12"], [])]
    assert list(aligned(Paint(False), columns, folded(columns, rows, width=37))) == [
        "weights   5  delta 50 %, planes 30 %,",
        "             raw 20 %",
        "none     12",
    ]
