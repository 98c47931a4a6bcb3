"""export and import."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ciuic

from .conftest import Run, run_here


def test_export_to_safetensors(run: Run, history: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    result = run("export", "main~1", str(file))
    assert (result.code, result.err) == (0, "")
    assert result.lines[0].startswith(f"{file}: 4 tensors, ")
    expected = ciuic.Repo.open(history).load("main~1")["model"]
    exported = load_file(file)
    assert exported.keys() == set(expected)
    assert all(torch.equal(exported[name], expected[name]) for name in exported)


def test_export_to_a_torch_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    assert run("export", "HEAD", str(file), "--component", "all").code == 0
    state = torch.load(file, weights_only=True)
    assert state["extra"]["tokens_seen"] == 599000
    assert state["model"]["layers.0.weight"].shape == (3, 4)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(size)) for size in ((3, 4), (3,), (2, 3), (2,))])
    optimizer.load_state_dict(state["optimizer"])


def test_export_as_json(run: Run, tmp_path: Path) -> None:
    record = run("--json", "export", "HEAD", str(tmp_path / "x"), "--format", "torch").record
    assert (record["format"], record["tensors"], record["components"]) == ("torch", 4, ["model"])


def test_export_replaces_a_file_only_when_told(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("mine")
    result = run("export", "HEAD", str(file))
    assert result.code == 60
    assert "--force" in result.err
    assert file.read_text() == "mine"
    assert run("export", "HEAD", str(file), "--force").code == 0
    assert len(load_file(file)) == 4


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("nothing", "x.pt"), 21),
        (("HEAD", "x.unknown"), 51),
        (("HEAD", "x.pt", "--component", "sheduler"), 23),
        (("HEAD", "x.safetensors", "--component", "all"), 51),
        (("HEAD",), 2),
    ],
)
def test_what_cannot_be_exported_leaves_no_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("export", *arguments)
    assert (result.code, result.out) == (code, "")
    assert list(tmp_path.iterdir()) == []


def test_a_pruned_component_is_not_exported(change: Run, tmp_path: Path) -> None:
    change("prune", "HEAD", "--component", "optimizer", "--force")
    assert change("export", "HEAD", str(tmp_path / "x.pt"), "--component", "optimizer").code in (23, 70)
    assert change("export", "HEAD", str(tmp_path / "x.pt")).code == 0


def test_import_of_safetensors(change: Run, copy: Path, tmp_path: Path, ids: dict[str, str]) -> None:
    file = tmp_path / "pretrained.safetensors"
    save_file({"embed.weight": torch.arange(6.0).reshape(2, 3)}, file)
    result = change("import", str(file), "--step", "7", "-m", "from elsewhere")
    assert (result.code, result.err) == (0, "")
    assert result.lines[0].endswith("(step 7) on main: 1 tensor, 24 B, as model")
    record = change("--json", "show").record
    assert (record["step"], record["message"], record["parents"]) == (7, "from elsewhere", [ids["main:599"]])
    assert change("--json", "cat", "HEAD:model/embed.weight").record["values"] == [[0, 1, 2], [3, 4, 5]]


def test_import_of_a_torch_file(change: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.pt"
    change("export", "main~2", str(file), "--component", "all")
    assert change("import", str(file), "--to", "all").code == 0
    assert change("--json", "diff", "main~3", "main", "--path", "model").records[0]["same_state"] is True


def test_import_on_trial(change: Run, tmp_path: Path, ids: dict[str, str]) -> None:
    file = tmp_path / "pretrained.safetensors"
    save_file({"weight": torch.zeros(3)}, file)
    assert change("import", str(file), "--dry-run").lines == ["Would import 1 tensor, 12 B, as model"]
    record = change("--json", "import", str(file), "--dry-run").record
    assert (record["snapshot"], record["dry_run"]) == (None, True)
    assert change("--json", "show").record["id"] == ids["main:599"]


def test_import_into_a_new_repository(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    run_here("init", str(tmp_path / "new"))
    assert run_here("--repo", str(tmp_path / "new"), "import", str(tmp_path / "a.safetensors")).code == 0
    assert len(run_here("--repo", str(tmp_path / "new"), "log").lines) == 1


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return exec, ("raise SystemExit('code of the file was run')",)


def test_bad_files_are_refused_and_change_nothing(change: Run, tmp_path: Path, ids: dict[str, str]) -> None:
    (tmp_path / "garbage.safetensors").write_bytes(b"\xff" * 64)
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "exploit.pt").write_bytes(pickle.dumps(Exploit()))
    (tmp_path / "notes.txt").write_text("no weights")
    index = {"metadata": {}, "weight_map": {"weight": "../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, code in {
        "garbage.safetensors": 80,
        "empty.pt": 80,
        "exploit.pt": 80,
        "notes.txt": 80,
        "model.safetensors.index.json": 81,
        "missing.pt": 2,
    }.items():
        result = change("import", str(tmp_path / name))
        assert (result.code, result.out) == (code, ""), name
        assert result.err.startswith("error: ")
    assert change("--json", "show").record["id"] == ids["main:599"]
