"""ls and cat."""

from __future__ import annotations

import base64
import re
import struct
from pathlib import Path

import pytest

from .conftest import Run, run_here


def test_ls_lists_the_components(run: Run) -> None:
    result = run("ls")
    assert (result.code, result.err) == (0, "")
    heading, *rows = result.lines
    assert re.split(r"  +", heading) == ["type", "shape or value", "size", "path"]
    assert {row.split()[-1] for row in rows} >= {"model/", "optimizer/", "extra/", "rng/"}
    (model,) = (row for row in rows if row.endswith("  model/"))
    assert re.fullmatch(r"module +4 entries +92 B +model/", model)


def test_ls_of_a_component_lists_its_tensors(run: Run) -> None:
    rows = [re.split(r"  +", line) for line in run("ls", "HEAD:model").lines[1:]]
    assert rows == [
        ["float32", "[3, 4]", "48 B", "model/layers.0.weight"],
        ["float32", "[3]", "12 B", "model/layers.0.bias"],
        ["float32", "[2, 3]", "24 B", "model/layers.1.weight"],
        ["float32", "[2]", "8 B", "model/layers.1.bias"],
    ]


def test_ls_of_one_module(run: Run) -> None:
    paths = [line.split()[-1] for line in run("ls", "main~1:model/layers.1").lines[1:]]
    assert paths == ["model/layers.1.weight", "model/layers.1.bias"]


def test_ls_of_plain_values(run: Run) -> None:
    rows = {record["path"]: record for record in run("--json", "ls", "HEAD:extra").records}
    assert rows["extra/tokens_seen"]["value"] == 599000
    assert rows["extra/ratio"]["value"] == "Infinity"
    assert rows["extra/data"]["value"] == {"base64": base64.b64encode(b"\x00\xff").decode()}
    assert r"'first line\nsecond'" in run("ls", "HEAD:extra").out


def test_ls_of_a_leaf_is_the_leaf(run: Run) -> None:
    assert run("--json", "ls", "HEAD:model/layers.0.bias").record["shape"] == [3]


def test_ls_of_everything_below(run: Run) -> None:
    records = run("--json", "ls", "--recursive").records
    paths = {record["path"] for record in records}
    assert {"model/layers.0.weight", "optimizer/state/layers.0.weight/exp_avg", "extra/tokens_seen"} <= paths
    assert all(record["type"] != "container" for record in records)
    assert len(run("ls", "-r").lines) == len(records) + 1


def test_ls_names_what_tied_tensors_share(tmp_path: Path) -> None:
    import torch

    import ciuic

    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embed"].weight  # type: ignore[assignment]
    ciuic.Repo.init(tmp_path / "tied").commit(model)
    records = run_here("--repo", str(tmp_path / "tied"), "--json", "ls", "HEAD:model").records
    assert [(record["path"], record["tied_to"]) for record in records] == [
        ("model/embed.weight", None),
        ("model/head.weight", "model/embed.weight"),
    ]
    listing = run_here("--repo", str(tmp_path / "tied"), "ls", "HEAD:model").out
    assert "model/head.weight = model/embed.weight" in listing


def test_cat_prints_a_tensor(run: Run) -> None:
    result = run("cat", "HEAD:model/layers.1.bias")
    assert result.lines[0] == "float32 [2]  8 B"
    assert re.fullmatch(r"tensor\(\[ ?-?\d\.\d+, +-?\d\.\d+\]\)", result.lines[1])


def test_cat_raw_writes_the_bytes_and_nothing_else(run: Run) -> None:
    raw = run("cat", "--raw", "HEAD:model/layers.0.weight").raw
    assert len(raw) == 48
    values = run("--json", "cat", "HEAD:model/layers.0.weight").record["values"]
    assert list(struct.unpack("=12f", raw)) == [value for row in values for value in row]
    assert run("cat", "--raw", "HEAD:extra/data").raw == b"\x00\xff"
    assert run("cat", "--raw", "HEAD:extra/name").raw == b"first line\nsecond"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("extra/tokens_seen", "599000\n"),
        ("extra/name", "first line\nsecond\n"),
        ("extra/ratio", "inf\n"),
        ("extra/data", "b'\\x00\\xff'\n"),
        ("optimizer/param_groups/0/lr", "0.001\n"),
    ],
)
def test_cat_prints_a_value(run: Run, path: str, text: str) -> None:
    assert run("cat", f"HEAD:{path}").out == text


def test_cat_as_json(run: Run) -> None:
    assert run("--json", "cat", "HEAD:extra/ratio").record["value"] == "Infinity"
    assert run("--json", "cat", "HEAD:optimizer/param_groups/0").record["value"]["lr"] == 0.001


@pytest.mark.parametrize(("revision", "hint"), [("HEAD:model", "ls"), ("HEAD", "ls"), ("HEAD:nothing", "model")])
def test_what_cat_cannot_print(run: Run, revision: str, hint: str) -> None:
    result = run("cat", revision)
    assert result.code == 23
    assert hint in result.err
    assert result.err.count("\n") <= 2


def test_a_pruned_component_reads_as_pruned(change: Run) -> None:
    change("prune", "HEAD", "--component", "optimizer", "--force")
    assert change("cat", "HEAD:optimizer/param_groups/0/lr").code == 70
    assert change("cat", "HEAD:extra/tokens_seen").out == "599000\n"
    assert change("ls", "HEAD:optimizer").code == 70
    paths = [line.split()[-1] for line in change("ls").lines]
    assert "model/" in paths
    change("prune", "HEAD", "--force")
    result = change("ls", "HEAD:model")
    assert result.code == 70
    assert "pruned" in result.err
