"""The guide to loss spikes does what it says: its commands are typed, in the order of the page, on such a run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ciuic
from ciuic.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "loss-spikes.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?P<language>console|python)\n(?P<text>.*?)^```", re.M | re.S)
COMMAND = re.compile(r"^\$ (ciuic .*)$|`(ciuic [^`]*)`", re.M)
FAST = "import os, sys; sys.exit(int(os.environ['CIUIC_STEP']) >= 2199)"
MADE = "import torch\n\ndef make_model():\n    return torch.nn.Linear(3, 2)\n\ndef evaluate(model):\n    return 9.0\n"


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ciuic.Repo:
    """Steps 99, 199, … 2599; the loss jumps at 2199."""
    monkeypatch.setenv("CIUIC_REPO", str(tmp_path / "run"))
    repo, model = ciuic.Repo.init(tmp_path / "run"), torch.nn.Linear(3, 2)
    for step in range(99, 2600, 100):
        loss = 4000 / (step + 1000) if step < 2199 else 2.94 - (step - 2199) / 400
        repo.commit(model, step=step, metrics={"loss": loss})
    return repo


def commands() -> list[str]:
    """As they stand on the page; what the blocks show of outputs is left out."""
    typed = BLOCK.sub(lambda block: "\n".join(re.findall(r"^\$ .*$", block["text"], re.M)), PAGE)
    return ["".join(found) for found in COMMAND.findall(typed)]


def test_every_command_of_the_guide_runs(repo: ciuic.Repo, capsys: pytest.CaptureFixture[str]) -> None:
    """From the first look to the roll-back and its way back. Only what evaluates is exchanged for something fast."""
    tip, output = repo.resolve("main").id, {}
    assert len(commands()) > 12
    for command in commands():
        words = shlex.split(command)[1:]
        if words[-2:] == ["python", "eval.py"]:
            words = [*words[:-2], sys.executable, "-c", FAST]
        assert main(words) == 0, (command, capsys.readouterr())
        output[command] = capsys.readouterr().out
    log = output["ciuic log --metric loss -n 10"]
    assert re.search(r"step 2199 +2\.94 +worst$", log, re.M) and re.search(r"step 2099 .*best$", log, re.M)
    found = output["ciuic bisect run --good step:99 --bad main -- python eval.py"].splitlines()
    assert re.fullmatch(r"[0-9a-f]{8} \(step 2199\) loss=2\.94 is the first bad one", found[-3])
    assert re.fullmatch(r"[0-9a-f]{8} \(step 2099\) loss=1\.291, before it, is good", found[-2])
    assert repo.branches() == {"lower-rate": repo.resolve("main@step:2099").id, "main": tip}


def test_the_script_of_the_guide(repo: ciuic.Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads the state of the snapshot that it is asked about, and ends with 1 for a bad one."""
    (script,) = (block["text"] for block in BLOCK.finditer(PAGE) if block["language"] == "python")
    (tmp_path / "eval.py").write_text(script.replace("import ciuic\n", f"import ciuic\n{MADE}"), encoding="utf-8")
    monkeypatch.setenv("CIUIC_REVISION", repo.resolve("main").id)
    done = subprocess.run([sys.executable, "eval.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
