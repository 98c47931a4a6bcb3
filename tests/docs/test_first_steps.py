"""The tutorial does what it says: its files are saved, its commands typed, in the order of the page."""

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "first-steps.md"
BLOCK = re.compile(r'^```(?:python title="(?P<file>[\w.]+)"|(?P<console>console))\n(?P<text>.*?)^```', re.M | re.S)


def test_every_command_of_the_tutorial_runs(tmp_path: Path) -> None:
    blocks = list(BLOCK.finditer(PAGE.read_text(encoding="utf-8")))
    for block in blocks:
        if block["file"]:
            (tmp_path / block["file"]).write_text(block["text"], encoding="utf-8")

    transcript = [block["text"] for block in blocks if block["console"]]
    commands = [line[2:] for text in transcript for line in text.splitlines() if line.startswith("$ ")]
    assert commands[0] == "pip install ciuic"
    output = type_into_a_shell(commands[1:], tmp_path)

    assert "Resuming after step 249, from snapshot " in output
    assert "Resuming after step 199, from snapshot " in output
    assert output.count("done after step 399") == 2
    assert "torch.Size([1, 64])" in output
    assert (tmp_path / "best.safetensors").stat().st_size > 0


def type_into_a_shell(commands: list[str], folder: Path) -> str:
    """One shell for all, because of `cd`. Each must succeed but the first, which kills itself."""
    first, *others = commands
    script = "\n".join([f"{first} && exit 1", *(f"{command} || exit 2" for command in others)])
    environment = {name: value for name, value in os.environ.items() if name != "CIUIC_REPO"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    shell = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert shell.returncode == 0, shell.stdout
    return shell.stdout
