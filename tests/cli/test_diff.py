"""diff."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ciuic

from .conftest import Run, run_here


def test_diff_of_two_branches(run: Run, ids: dict[str, str]) -> None:
    result = run("diff", "main@step:499", "lr-sweep")
    assert (result.code, result.err) == (0, "")
    assert result.lines[0] == f"{ids['main:499'][:8]} (step 499) -> {ids['lr-sweep:499'][:8]} (step 499)"
    assert re.search(r"^config\n  lr +0\.001 +-> +0\.0003$", result.out, re.MULTILINE)
    assert re.search(r"^  optimizer/param_groups/0/lr +0\.001 +-> +0\.0003$", result.out, re.MULTILINE)
    assert re.search(r"^tensors\n +changed +L2 +relative +max abs +cosine +path$", result.out, re.MULTILINE)
    assert re.search(r"^ +100\.0 % .* model/layers\.0\.weight$", result.out, re.MULTILINE)
    assert re.search(r"^\d+ tensors changed, \d+ unchanged$", result.lines[-1])


def test_diff_compares_optimizer_state_alike(run: Run) -> None:
    result = run("diff", "--path", "optimizer", "--limit", "0")
    assert re.search(r"^ +100\.0 % .* optimizer/state/layers\.0\.weight/exp_avg$", result.out, re.MULTILINE)
    assert re.search(r"^ +100\.0 % .* optimizer/state/layers\.0  exp_avg_sq$", result.out, re.MULTILINE)


def test_diff_shows_metrics(run: Run) -> None:
    assert re.search(r"^  loss +1\.5 +-> +1\.75$", run("diff", "HEAD~1", "HEAD").out, re.MULTILINE)
    assert re.search(r"^  loss +nan +-> +2$", run("diff", "main~5", "main~4").out, re.MULTILINE)


def test_metrics_have_as_many_digits_as_tell_them_apart(tmp_path: Path) -> None:
    repo = ciuic.Repo.init(tmp_path)
    for step, (loss, accuracy) in enumerate([(0.123456789, 0.5), (0.123456788, 0.912345678)]):
        repo.commit(extra={"step": step}, step=step, metrics={"loss": loss, "accuracy": accuracy})
    lines = run_here("--repo", str(tmp_path), "diff").lines
    assert lines[lines.index("metrics") + 1].split() == ["loss", "0.123456789", "->", "0.123456788"]
    assert lines[lines.index("metrics") + 2].split() == ["accuracy", "0.5", "->", "0.9123"]


def test_the_weights_come_before_the_optimizer_and_its_counters_last(run: Run) -> None:
    """Moments always change more than weights do, and counters as regularly as a clock."""
    records = run("--json", "diff", "HEAD~1", "HEAD").records
    modules = [(each["path"], each["slot"]) for each in records if each["type"] == "module"]
    tensors = [each["path"].rsplit("/", 1) for each in records if each["type"] == "tensor"]
    for found in (modules, tensors):
        kinds = ["counter" if slot == "step" else path.split("/")[0] for path, slot in found]
        assert list(dict.fromkeys(kinds)) == ["model", "optimizer", "counter"]
        assert kinds == sorted(kinds, key=["model", "optimizer", "counter"].index)


def test_diff_without_arguments_is_what_the_last_snapshot_changed(run: Run) -> None:
    assert run("diff").out == run("diff", "HEAD~1", "HEAD").out
    assert run("diff", "HEAD~1").out == run("diff").out


def test_diff_of_a_snapshot_with_itself(run: Run) -> None:
    result = run("diff", "HEAD", "main")
    assert result.code == 0
    assert result.lines[-1].startswith("The same state, bit for bit")
    assert run("--json", "diff", "HEAD", "main").record["same_state"] is True


@pytest.mark.parametrize("path", ["optimizer", "model/layers.0", "model/layers.0.weight"])
def test_diff_of_a_part(run: Run, path: str) -> None:
    tensors = [record["path"] for record in run("--json", "diff", "--path", path).records if record["type"] == "tensor"]
    assert tensors
    assert all(each.startswith(path) for each in tensors)
    assert "config" not in run("diff", "--path", path).out


def test_the_limit_says_what_it_leaves_out(run: Run) -> None:
    result = run("diff", "--limit", "2")
    assert re.search(r"… \d+ more \(--limit 0 shows all\)", result.out)
    assert "more (" not in run("diff", "--limit", "0").out


def test_diff_as_json(run: Run) -> None:
    records = run("--json", "diff", "main@step:499", "lr-sweep").records
    assert all(record["version"] == 1 for record in records)
    by_type: dict[str, list[dict[str, object]]] = {}
    for record in records:
        by_type.setdefault(record["type"], []).append(record)
    assert by_type["snapshots"][0]["same_state"] is False
    assert {
        "type": "config",
        "path": "lr",
        "before": 0.001,
        "after": 0.0003,
        "change": "changed",
        "version": 1,
    } in records
    weight = next(record for record in by_type["tensor"] if record["path"] == "model/layers.0.weight")
    assert weight["changed_fraction"] == 1.0
    assert isinstance(weight["cosine"], float)
    assert {"model", "model/layers", "model/layers.0"} <= {record["path"] for record in by_type["module"]}


def test_diff_shows_keys_that_come_and_go(tmp_path_factory: pytest.TempPathFactory) -> None:
    import torch

    import ciuic

    from .conftest import run_here

    place = tmp_path_factory.mktemp("keys") / "run"
    repo = ciuic.Repo.init(place)
    repo.commit(extra={"old": torch.zeros(2), "stays": 1, "grows": torch.zeros(2)}, step=1)
    repo.commit(extra={"new": torch.zeros(2), "stays": 1, "grows": torch.zeros(3)}, step=2)
    text = run_here("--repo", str(place), "diff").out
    assert re.search(r"^added\n  \+ extra/new$", text, re.MULTILINE)
    assert re.search(r"^removed\n  - extra/old$", text, re.MULTILINE)
    assert re.search(r"^  ~ extra/grows: float32\[2\] -> float32\[3\]$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nothing", "HEAD"), 21),
        (("HEAD", "nothing"), 21),
        (("HEAD~1", "HEAD", "--path", "model/nothing"), 23),
    ],
)
def test_what_cannot_be_compared(run: Run, arguments: tuple[str, ...], code: int) -> None:
    result = run("diff", *arguments)
    assert (result.code, result.out) == (code, "")
    assert "nothing" in result.err


def test_a_pruned_component_is_left_out_and_named(change: Run) -> None:
    change("prune", "HEAD~1", "--component", "optimizer")
    result = change("diff")
    assert result.code == 0
    assert "optimizer was pruned" in result.out
    assert "model/layers.0.weight" in result.out
    assert change("--json", "diff").records[0]["pruned"] == ["optimizer"]


def test_diff_says_which_generators_moved(run: Run) -> None:
    assert "generators moved on: torch" in run("diff").out
    assert run("--json", "diff").records[0]["generators"] == ["rng/torch"]


def test_a_pruned_snapshot_cannot_be_compared(change: Run) -> None:
    change("prune", "HEAD~1")
    assert change("diff").code == 70
