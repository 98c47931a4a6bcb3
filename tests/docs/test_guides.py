"""What the pages show can be typed: commands have these options, scripts import what is there, settings hold."""

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

from ciuic.cli import main
from ciuic.cli.session import Command
from ciuic.retention.texts import policies_in
from ciuic.triggers.configured import configured

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```", re.M | re.S)
IN_A_LINE = re.compile(r"`(ciuic (?!1)[^`\n\\]*)")
STAND_IN = {"AGE": "30d", "DIR": "."}


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of each block in that language."""
    found = [(page.stem, block) for page in PAGES for block in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    return [(name, block["text"]) for name, block in found if block["language"] == language]


def commands() -> list[str]:
    """Those behind a prompt, and those named in the text."""
    shown = [line for _, text in blocks("console") for line in re.findall(r"^\$ (ciuic .*)$", text, re.M)]
    named = [line for page in PAGES for line in IN_A_LINE.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))]
    return list(dict.fromkeys([*shown, *named]))


def test_commands_have_these_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is understood, and not carried out; the text may name one without its arguments."""
    monkeypatch.setattr(Command, "invoke", lambda *_: None)
    assert len(commands()) > 60
    wrong = []
    for command in commands():
        words = [STAND_IN.get(word, word) for word in shlex.split(command, comments=True)[1:]]
        if main(words) != 0 and "Missing argument" not in (said := capsys.readouterr().err):
            wrong.append(f"{command}: {said}")
    assert wrong == []


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_scripts_compile_and_import_what_is_there(page: str, text: str) -> None:
    tree = ast.parse(text)
    imports = [each for each in tree.body if isinstance(each, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(imports, []), page, "exec"), {})


def test_settings_are_accepted() -> None:
    tables = [tomllib.loads(text) for _, text in blocks("toml")]
    assert any(configured(table.get("triggers", {})) for table in tables)
    assert any(policies_in(table.get("retention", {})) for table in tables)


@pytest.mark.parametrize("page", ["triggers", "retention", "pre-emption"])
def test_the_manager_of_the_guide_saves(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first script of the page as it stands, with a model of ours; what it leaves out, a step does."""
    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    names = {"model": model, "optimizer": optimizer, "steps": 3, "train_one_step": lambda: model(torch.ones(2)).sum()}
    script = next(text for name, text in blocks("python") if name == page)
    exec(compile(script, page, "exec"), names)
    manager = names.get("sm", names.get("manager"))
    with manager:
        manager.save(3, model, optimizer, metrics={"loss": 1.0}, force=True)
    assert manager.get_latest_snapshot().step == 3
