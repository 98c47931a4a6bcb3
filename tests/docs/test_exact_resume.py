"""The guide's script does what the guide says."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "exact-resume.md"
SCRIPT = re.search(r'^```python title="train.py"\n(.*?)^```', PAGE.read_text(encoding="utf-8"), re.M | re.S)[1]
STOP = "    if step == 50:\n        raise KeyboardInterrupt\nsm.close()\n"


def run(folder, monkeypatch, script):
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    names = {}
    try:
        exec(compile(script, "train.py", "exec"), names)
    finally:
        names["sm"].close()
    return names


def test_stopped_and_started_again(tmp_path, monkeypatch):
    """The same weights and the same last loss, whether or not it was stopped in mid epoch."""
    expected = run(tmp_path / "whole", monkeypatch, SCRIPT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", monkeypatch, SCRIPT.replace("sm.close()\n", STOP))
    resumed = run(tmp_path / "stopped", monkeypatch, SCRIPT)
    assert resumed["step"] == expected["step"] == 95
    assert resumed["loss"].item() == expected["loss"].item()
    for ours, theirs in zip(resumed["model"].parameters(), expected["model"].parameters(), strict=True):
        assert ours.equal(theirs)
    assert "loss" not in run(tmp_path / "stopped", monkeypatch, SCRIPT)  # a finished run gives nothing
