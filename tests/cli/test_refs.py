"""checkout, branch, tag and reset."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Run, run_here


def head(change: Run) -> tuple[str | None, str]:
    """The branch that HEAD is on, and its snapshot."""
    record = change("--json", "log", "-n", "1").record
    branches = [label.removeprefix("HEAD -> ") for label in record["refs"] if label.startswith("HEAD -> ")]
    return (branches[0] if branches else None), record["id"]


def test_checkout_of_a_branch_attaches_head(change: Run, ids: dict[str, str]) -> None:
    result = change("checkout", "lr-sweep")
    assert result.lines[0] == f"HEAD is on branch lr-sweep at {ids['lr-sweep:499'][:8]} (step 499)"
    assert "next run resumes" in result.lines[1]
    assert head(change) == ("lr-sweep", ids["lr-sweep:499"])


@pytest.mark.parametrize(("revision", "meaning"), [("baseline", "main:199"), ("main~2", "main:399")])
def test_checkout_of_anything_else_detaches_it(change: Run, ids: dict[str, str], revision: str, meaning: str) -> None:
    result = change("checkout", revision)
    assert result.lines[0].startswith(f"HEAD is detached at {ids[meaning][:8]} ")
    assert "new branch" in result.lines[1]
    assert head(change) == (None, ids[meaning])


def test_checkout_as_json(change: Run, ids: dict[str, str]) -> None:
    record = change("--json", "checkout", "step:399").record
    assert record == {"version": 1, "branch": None, "snapshot": ids["main:399"], "step": 399}


def test_quiet_says_the_result_only(change: Run) -> None:
    assert len(change("-q", "checkout", "lr-sweep").lines) == 1


def test_checkout_of_nothing_changes_nothing(change: Run, ids: dict[str, str]) -> None:
    assert change("checkout", "nothing").code == 21
    assert head(change) == ("main", ids["main:599"])


def test_branches_are_listed_and_the_current_one_marked(run: Run, ids: dict[str, str]) -> None:
    first, second = run("branch").lines
    assert first.startswith(f"  lr-sweep  {ids['lr-sweep:499'][:8]}  step 499  ")
    assert second.startswith(f"* main      {ids['main:599'][:8]}  step 599  ")
    records = run("--json", "branch").records
    assert [(record["branch"], record["current"], record["step"]) for record in records] == [
        ("lr-sweep", False, 499),
        ("main", True, 599),
    ]


def test_a_detached_head_is_in_the_list(change: Run, ids: dict[str, str]) -> None:
    change("checkout", "step:499")
    first, *others = change("branch").lines
    assert first.startswith(f"* (HEAD is detached)  {ids['main:499'][:8]}  step 499  ")
    assert [line[0] for line in others] == [" ", " "]
    assert len(change("--json", "branch").records) == 2


def test_a_branch_is_made_and_checked_out_at_once(change: Run, ids: dict[str, str]) -> None:
    assert change("checkout", "-b", "warmer", "step:499").lines[0].startswith("HEAD is on branch warmer at ")
    assert head(change) == ("warmer", ids["main:499"])
    assert change("checkout", "-b", "warmer").code == 32
    assert change("checkout", "-b", "hotter").code == 0
    assert head(change) == ("hotter", ids["main:499"])
    assert change("checkout").code == 2


def test_a_branch_is_made_and_deleted(change: Run, ids: dict[str, str]) -> None:
    assert change("branch", "warmer", "step:499").lines[0] == f"branch warmer is at {ids['main:499'][:8]} (step 499)"
    assert change("branch", "here").code == 0
    names = {record["branch"]: record["snapshot"] for record in change("--json", "branch").records}
    assert names["warmer"] == ids["main:499"]
    assert names["here"] == ids["main:599"]
    assert head(change)[0] == "main", "making a branch leaves HEAD where it is"
    assert change("branch", "-d", "warmer").lines[0] == f"branch warmer deleted; it was at {ids['main:499'][:8]}"
    assert "warmer" not in change("branch").out


def test_a_name_with_slashes(change: Run) -> None:
    assert change("branch", "sweep/lr/1e-4").code == 0
    assert change("checkout", "sweep/lr/1e-4").code == 0
    assert "sweep/lr/1e-4" in change("branch").out


def test_tags(change: Run, ids: dict[str, str]) -> None:
    assert change("tag").lines[0].startswith(f"baseline  {ids['main:199'][:8]}  step 199  ")
    assert change("tag", "paper", "best:loss").lines == [f"tag paper is at {ids['main:299'][:8]} (step 299)"]
    assert [record["tag"] for record in change("--json", "tag").records] == ["baseline", "paper"]
    assert change("--json", "tag", "-d", "paper").record == {
        "version": 1, "tag": "paper", "snapshot": ids["main:299"], "deleted": True,
    }  # fmt: skip
    assert change("show", "paper").code == 21


def test_a_tag_for_what_was_pruned(change: Run, ids: dict[str, str]) -> None:
    """It was made without a word, as if the snapshot were there to be restored."""
    assert change("prune", "step:299", "--component", "optimizer").code == 0
    assert change("tag", "paper", "step:299").lines == [
        f"tag paper is at {ids['main:299'][:8]} (step 299)",
        "It keeps what is left of that snapshot: optimizer pruned.",
    ]


def test_no_refs_yet(tmp_path: Path) -> None:
    place = str(tmp_path / "new")
    run_here("init", place)
    assert run_here("--repo", place, "branch").out == "No branches yet.\n"
    assert run_here("--repo", place, "tag").out == "No tags yet.\n"
    assert run_here("--repo", place, "branch", "early").code == 21


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("branch", "lr-sweep", "HEAD"), 32),
        (("tag", "baseline"), 32),
        (("branch", "step"), 31),
        (("branch", "best"), 31),
        (("branch", "a..b"), 31),
        (("branch", "a b"), 31),
        (("tag", "x:y"), 31),
        (("branch", "-d", "nobody"), 33),
        (("tag", "-d", "nobody"), 33),
        (("branch", "new", "nothing"), 21),
        (("branch", "-d"), 2),
        (("branch", "-d", "lr-sweep", "main"), 2),
        (("reset", "nothing"), 21),
        (("reset", "--branch", "nobody", "main"), 33),
    ],
)
def test_what_cannot_be_done_changes_nothing(change: Run, arguments: tuple[str, ...], code: int) -> None:
    before = change("--json", "branch").out, change("--json", "tag").out
    result = change(*arguments)
    assert result.code == code
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") <= 2
    assert (change("--json", "branch").out, change("--json", "tag").out) == before


def test_reset_moves_the_branch_and_the_reflog_keeps_the_way_back(change: Run, ids: dict[str, str]) -> None:
    result = change("reset", "main~3")
    assert result.lines == [
        f"main moved: {ids['main:599'][:8]} (step 599) -> {ids['main:299'][:8]} (step 299)",
        "`ciuic reset main@{1}` takes it back.",
    ]
    assert head(change) == ("main", ids["main:299"])
    assert change("reset", "main@{1}").code == 0
    assert head(change) == ("main", ids["main:599"])


def test_reset_of_another_branch(change: Run, ids: dict[str, str]) -> None:
    record = change("--json", "reset", "--branch", "lr-sweep", "lr-sweep~1").record
    assert (record["branch"], record["dry_run"]) == ("lr-sweep", False)
    assert (record["old"], record["new"]) == (ids["lr-sweep:499"], ids["lr-sweep:399"])
    assert head(change) == ("main", ids["main:599"])


def test_the_way_back_moves_the_branch_that_was_moved(change: Run, ids: dict[str, str]) -> None:
    """It said `ciuic reset lr-sweep@{1}`, which moves the branch that HEAD is on."""
    said = change("reset", "--branch", "lr-sweep", "main").out
    assert "`ciuic reset --branch lr-sweep lr-sweep@{1}` takes it back." in said
    record = change("--json", "reset", "--branch", "lr-sweep", "lr-sweep@{1}").record
    assert (record["old"], record["new"]) == (ids["main:599"], ids["lr-sweep:499"])
    assert head(change) == ("main", ids["main:599"])


def test_reset_on_trial(change: Run, ids: dict[str, str]) -> None:
    assert "would move" in change("reset", "--dry-run", "main~3").out
    assert head(change) == ("main", ids["main:599"])


def test_reset_to_where_it_is(change: Run) -> None:
    assert "already" in change("reset", "main").out
