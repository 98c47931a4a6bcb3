"""What a person who starts a script sees of its run, without having configured logging."""

import subprocess
import sys

import pytest

TRAIN = """
import sys
import torch
from ciuic.snapshot import SnapshotManager

folder, steps, *tracked = sys.argv[1:]
model = torch.nn.Linear(2, 2)
with SnapshotManager(folder) as snapshots:
    snapshots.track(model=model, **{name: torch.zeros(1) for name in tracked})
    for step, batch in snapshots.batches(range(9), max_steps=int(steps)):
        snapshots.step()
print("trained")
"""


def ran(program, *arguments):
    """(stdout, stderr) in lines."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_what_is_seen_of_a_run(tmp_path):
    """Where it begins, where it resumes, what was missing, and that it is complete: on stderr. A run that was started
    again said nothing at all: neither that it went on, nor from where."""
    folder = tmp_path / "run"
    assert ran(TRAIN, folder, 3) == (["trained"], [f"Nothing to resume from in {folder}: the run begins anew."])

    stdout, (lacking, resuming) = ran(TRAIN, folder, 5, "average")
    assert stdout == ["trained"]
    assert lacking == "Not in the snapshot of step 2, and left as they are: average."
    assert resuming.startswith("Resuming after step 2, from snapshot ") and resuming.endswith(f" of {folder}.")

    _, (resuming, complete) = ran(TRAIN, folder, 5, "average")
    assert resuming.startswith("Resuming after step 4, from snapshot ")
    assert complete.startswith("Nothing to do: this loop is complete, and the run has 5 steps. A larger `max_steps`")


LOG = """
import logging, sys
{}
from ciuic.notices import notice
notice("step %d", 7)
"""
OWN = "logging.getLogger('ciuic')"


@pytest.mark.parametrize(
    ("configured", "seen"),
    [
        ("", ["step 7"]),
        (f"{OWN}.setLevel(logging.DEBUG)", ["step 7"]),
        ("logging.getLogger().setLevel(logging.INFO)", ["step 7"]),
        ("logging.basicConfig(level=logging.INFO)", ["INFO:ciuic:step 7"]),
        (f"{OWN}.addHandler(logging.StreamHandler()); {OWN}.setLevel('INFO')", ["step 7"]),
        ("logging.basicConfig()", []),
        (f"{OWN}.addHandler(logging.StreamHandler())", []),
        (f"{OWN}.addHandler(logging.NullHandler())", []),
        (f"{OWN}.setLevel(logging.WARNING)", []),
        ("logging.getLogger().setLevel(logging.ERROR)", []),
        (f"{OWN}.addFilter(lambda record: False)", []),
        ("logging.disable(logging.INFO)", []),
    ],
)
def test_a_program_that_has_configured_logging_decides(configured, seen):
    """Handlers show a notice, or not, as any message of level INFO, and never twice; levels and filters silence it.
    stdout is the program's own."""
    assert ran(LOG.format(configured)) == ([], seen)
