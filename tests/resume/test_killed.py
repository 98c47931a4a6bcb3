"""The same, shown by processes that are really killed."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("killed.py")


@pytest.mark.parametrize("name", ["workers that live on", "stateful workers", "a stream in workers"])
def test_killed_at_random_moments(tmp_path, name):
    """SIGKILL to the training and its workers, three times in one run: batches, losses and final weights are those of
    a run without interruption. The writer process lives on, as it does when a training dies."""
    command = [sys.executable, "-W", "ignore", str(PROGRAM), name, str(tmp_path), "17"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=1200)
    assert done.returncode == 0, done.stderr
    lives, difference = done.stdout.splitlines()
    assert difference == "DIFFERENCE None", done.stderr
    assert int(lives.split()[1]) >= 4
