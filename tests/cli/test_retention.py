"""``ciuic prune`` by policies."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Run


def test_a_dry_run_lists_what_goes_and_why_the_rest_stays(change: Run) -> None:
    """And how much that would free; nothing is pruned."""
    result = change("prune", "--policy", "keep-last=2", "--policy", "drop=optimizer:1", "--dry-run")
    assert result.code == 0
    assert result.lines[0] == "Would prune 3 snapshots, and components of 2"
    assert any("tag baseline" in line for line in result.lines) and any(
        "HEAD, keep-last=2" in line for line in result.lines
    )
    assert result.lines[-1].startswith("`ciuic gc` would free at least ")
    assert change("--json", "log").records[0]["pruned"] == []
    assert all(not record["pruned"] for record in change("--json", "log", "--all").records)


def test_pruning_by_policies(change: Run) -> None:
    """What went, as a program reads it; a second time there is nothing left to do."""
    record = change("--json", "prune", "--policy", "keep-tagged").record
    assert record["dry_run"] is False and record["freed_bytes"] > 0
    assert {tuple(each["components"]) for each in record["pruned"]} == {("*",)}
    assert all(each["reasons"] for each in record["kept"])
    again = change("prune", "--policy", "keep-tagged")
    assert again.lines[0] == "There is nothing to prune"


def test_the_policies_of_the_repository(change: Run, copy: Path) -> None:
    """Without --policy those of config.toml; without either it is said what to do."""
    result = change("prune", "--dry-run")
    assert result.code == 2 and "There is no policy" in result.err
    config = copy / "config.toml"
    config.write_text(config.read_text() + "\n[retention]\nkeep-last = 1\n")
    assert change("prune", "--dry-run").lines[0].startswith("Would prune ")
    config.write_text("[retention]\nkeep-lats = 1\n")
    result = change("prune", "--dry-run")
    assert result.code == 14 and "keep-lats" in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--policy", "keep-lats=1"),
        ("--component", "optimizer"),
        ("HEAD~1", "--dry-run"),
        ("HEAD~1", "--policy", "keep-last=1"),
    ],
)
def test_what_does_not_go_together(change: Run, arguments: tuple[str, ...]) -> None:
    """Is a mistake in the command, and changes nothing."""
    assert change("prune", *arguments).code == 2
    assert all(not record["pruned"] for record in change("--json", "log").records)
