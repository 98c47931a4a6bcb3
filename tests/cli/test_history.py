"""log, show and reflog."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path

import pytest

from .conftest import Run, run_here


def test_log_lists_what_is_behind_head_newest_first(run: Run, ids: dict[str, str]) -> None:
    result = run("log")
    assert (result.code, result.err) == (0, "")
    steps = [599, 499, 399, 299, 199, 99]
    assert [line.split()[:4] for line in result.lines] == [
        ["*", ids[f"main:{step}"][:8], "step", str(step)] for step in steps
    ]


def test_a_line_of_the_log(run: Run, ids: dict[str, str]) -> None:
    first, *_, warm_up, _ = run("log").lines
    pattern = (
        rf"\* {ids['main:599'][:8]}  step 599  .+ (ago|now)  loss=1\.75 accuracy=0\.7 +\+\S+ (B|KiB)"
        r"  \(HEAD -> main\)"
    )
    assert re.fullmatch(pattern, first)
    assert warm_up.endswith("  (tag: baseline)  after warm-up")


def test_the_columns_of_the_log_are_aligned(run: Run) -> None:
    lines = run("log").lines
    assert len({line.index("loss=") for line in lines}) == 1
    assert len({re.search(r" (B|KiB)(  |$)", line).start() for line in lines if "KiB" in line}) == 1  # type: ignore[union-attr]
    assert "step  99" not in lines[-1]
    assert "  step 99  " in lines[-1]


def test_log_of_another_revision_and_a_limit(run: Run, ids: dict[str, str]) -> None:
    assert [record["id"] for record in run("--json", "log", "lr-sweep", "-n", "2").records] == [
        ids["lr-sweep:499"],
        ids["lr-sweep:399"],
    ]
    assert len(run("log", "main~2", "--limit", "3").lines) == 3
    assert run("log", "-n", "0").out == ""


def test_log_of_everything_draws_the_branches(run: Run, ids: dict[str, str]) -> None:
    drawn = [re.split(r"  |[0-9a-f]{8}", line)[0].rstrip() for line in run("log", "--all").lines]
    assert drawn == ["*", "*", "| *", "| *", "| *", "|/", "*", "*", "*"]
    assert {record["id"] for record in run("log", "--all", "--json").records} == set(ids.values())


def test_log_as_json(run: Run, ids: dict[str, str]) -> None:
    newest, *_, oldest = run("--json", "log").records
    assert newest["version"] == 1
    assert newest["step"] == 599
    assert newest["epoch"] == 5
    assert newest["parents"] == [ids["main:499"]]
    assert newest["refs"] == ["HEAD -> main"]
    assert newest["metrics"] == {"loss": 1.75, "accuracy": 0.7}
    assert newest["config"]["betas"] == [0.9, 0.999]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", newest["timestamp"])
    assert newest["added_bytes"] > 0
    assert newest["pruned"] == []
    assert oldest["metrics"]["loss"] == "NaN", "JSON has no NaN"
    assert oldest["parents"] == []


def test_log_of_a_new_repository_is_empty(tmp_path: Path) -> None:
    place = str(tmp_path / "new")
    assert run_here("init", place).code == 0
    result = run_here("--repo", place, "log")
    assert (result.code, result.out, result.err) == (0, "No snapshots yet.\n", "")
    assert run_here("--repo", place, "--json", "log").out == ""
    assert run_here("-q", "--repo", place, "log", "--all").out == ""


def test_log_says_what_was_pruned(change: Run) -> None:
    change("prune", "HEAD~1", "--component", "optimizer")
    change("prune", "HEAD~2")
    _, second, third, *_ = change("log").lines
    assert "optimizer pruned" in second
    assert re.search(r"  pruned( |$)", third)
    assert [record["pruned"] for record in change("--json", "log", "-n", "3").records] == [
        [],
        ["optimizer"],
        ["*"],
    ]


def test_log_names_a_detached_head(change: Run) -> None:
    change("checkout", "main~1")
    assert "  (HEAD)" in change("log").lines[0]
    assert "  (main)" in change("log", "main").lines[0]


def test_show(run: Run, ids: dict[str, str]) -> None:
    result = run("show", "baseline")
    assert (result.code, result.err) == (0, "")
    assert result.lines[0] == f"snapshot {ids['main:199']}  (tag: baseline)"
    facts = [
        r"step +199",
        r"epoch +1",
        rf"parent +{ids['main:99'][:8]}",
        r"contains +.*model",
        r"loss +2",
        r"lr +0\.001",
        r"model +.* B",
        r"optimizer +.* B",
        r"    after warm-up",
    ]
    for fact in facts:
        assert re.search(rf"^ *{fact}", result.out, re.MULTILINE), fact


def test_show_says_what_was_pruned(change: Run) -> None:
    change("prune", "main~3", "--component", "optimizer")
    result = change("show", "main~3")
    assert re.search(r"^pruned +optimizer", result.out, re.MULTILINE)
    assert re.search(r"^ +optimizer .* pruned$", result.out, re.MULTILINE)
    change("prune", "main~3")
    assert "pruned      all of it" in change("show", "main~3").lines
    assert change("--json", "show", "main~3").record["pruned"][0] == "*"


def test_show_says_what_the_snapshot_cost(run: Run) -> None:
    """What was measured, in the order of the work; programs get seconds."""
    amount = r"(0|<?\d[\d.]*) (ms|s)"
    assert re.search(
        rf"^cost +(call {amount}, )?encode {amount}, (check {amount}, )?write {amount}$", run("show").out, re.MULTILINE
    )
    for record in (run("--json", "show").record, run("--json", "log", "-n", "1").record):
        assert set(record["cost"]) >= {"encode", "write"}
        assert all(isinstance(seconds, float) and seconds >= 0 for seconds in record["cost"].values())


def test_show_without_costs(tmp_path: Path) -> None:
    """A snapshot that says nothing of its cost has no such line; other names than ours are printed, safely."""
    place = str(tmp_path / "run")
    assert run_here("init", place).code == 0
    publish(place, cost={}, parents=())
    assert not re.search("^cost", run_here("--repo", place, "show").out, re.MULTILINE)
    assert "cost" not in run_here("--repo", place, "stats").out
    publish(place, cost={"wash\x1b[31m": 0.25, "write": 1.0, "call": 0.003}, parents=("HEAD",))
    shown = run_here("--repo", place, "show").out
    assert re.search(r"^cost +call 3\.0 ms, write 1\.0 s, wash\S+ 0\.25 s$", shown, re.MULTILINE)
    assert "\x1b" not in shown


def publish(place: str, cost: dict[str, float], parents: tuple[str, ...]) -> None:
    """A snapshot of some other writer, with a tree that is not there."""
    import ciuic
    from ciuic.objects.ids import Kind, object_id
    from ciuic.objects.snapshot import Snapshot, encode_snapshot
    from ciuic.store.store import Store

    repo, store = ciuic.Repo(place), Store(place)
    raw = encode_snapshot(
        Snapshot(
            id="", step=1, epoch=None, timestamp=datetime.now(timezone.utc), message="", metrics={}, config={},
            parents=tuple(repo.resolve(parent).id for parent in parents), tree={"model": "0" * 64}, contains=(),
            raw_bytes={"model": 5}, added_bytes=0, cost=cost,
        )
    )  # fmt: skip
    id = object_id(Kind.SNAPSHOT, raw)
    with store.shared():
        session = store.new_packs()
        session.add(Kind.SNAPSHOT, id, raw, codec=0, raw_length=len(raw))
        store.index_commit(session.publish(), {})
        store.move_ref("refs/heads/main", id.hex(), "by another writer")


def test_show_of_a_snapshot_that_changed_nothing(change: Run, copy: Path) -> None:
    """A run that did not move: the same trees as the parent's."""
    import ciuic

    assert "same state" not in change("show").out
    repo = ciuic.Repo(copy)
    for _ in range(2):
        repo.commit(extra={"still": 1}, rng=False)
    assert re.search(r"^size .*added 0 B to the store: the same state as its parent$", change("show").out, re.MULTILINE)
    assert "same state" not in change("show", "HEAD~1").out


def test_show_as_json(run: Run, ids: dict[str, str]) -> None:
    record = run("--json", "show").record
    assert record["id"] == ids["main:599"]
    assert set(record["tree"]) >= {"model", "optimizer", "extra", "rng"}
    assert "ciuic" in record["versions"]


def test_reflog(run: Run, ids: dict[str, str]) -> None:
    lines = run("reflog", "main").lines
    assert len(lines) == 6
    assert re.fullmatch(rf"{ids['main:599'][:8]}  main@\{{0}}  +1 hour ago  commit: step 599 .*", lines[0])
    assert re.fullmatch(rf"{ids['main:399'][:8]}  main@\{{2}}  3 hours ago  commit: step 399 .*", lines[2])
    records = run("--json", "reflog", "main").records
    assert [record["new"] for record in records] == [ids[f"main:{step}"] for step in (599, 499, 399, 299, 199, 99)]
    assert records[0]["old"] == ids["main:499"]
    assert records[-1]["old"] is None


def test_reflog_of_head_and_of_tags(change: Run, ids: dict[str, str]) -> None:
    change("checkout", "baseline")
    assert change("reflog").lines[0].startswith(f"{ids['main:199'][:8]}  HEAD@{{0}}")
    assert change("reflog", "baseline").lines[0].startswith(ids["main:199"][:8])


def test_reflog_of_a_deleted_branch_is_the_way_back(change: Run, ids: dict[str, str]) -> None:
    change("branch", "-d", "lr-sweep")
    lines = change("reflog", "lr-sweep").lines
    assert lines[0].startswith("-" * 8)
    assert lines[1].startswith(ids["lr-sweep:499"][:8])


def test_reflog_of_nothing(run: Run) -> None:
    result = run("reflog", "nobody")
    assert result.code == 33
    assert "nobody" in result.err


@pytest.mark.parametrize("arguments", [("log",), ("show",), ("log", "--all"), ("reflog", "main")])
def test_no_line_ends_with_blanks(run: Run, arguments: tuple[str, ...]) -> None:
    assert all(line == line.rstrip() for line in run(*arguments).lines)
