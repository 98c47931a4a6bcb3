"""The DeepSeek example: killed in the middle of a step, it goes on to the losses and state of a whole run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import ciuic

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_deepseek.py"
FLAGS = ["--steps", "9", "--every", "3", "--threads", "1"]

# Dies by its own hand, so that it does not matter how fast a test notices; no handler runs on SIGKILL.
KILLED_IN_STEP_5 = f"""
import os, runpy, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook

updates = 0

def die_after_six_updates(*_):
    global updates
    updates += 1
    if updates == 6:
        os.kill(os.getpid(), signal.SIGKILL)

register_optimizer_step_post_hook(die_after_six_updates)
sys.argv = {["train_deepseek.py", *FLAGS]!r}
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""


def train(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-X", "utf8", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )


def losses(output: str) -> dict[int, str]:
    lines = (line.split() for line in output.splitlines() if line.startswith("step "))
    return {int(step): loss for _, step, _, loss in lines}


def test_a_killed_run_continues_to_the_same_bits(tmp_path: Path) -> None:
    """Fused experts, the router's bias and the moments all have to come back for the ids to be equal."""
    whole = train(tmp_path / "whole", str(EXAMPLE), *FLAGS)
    assert whole.returncode == 0, whole.stderr
    killed = train(tmp_path / "killed", "-c", KILLED_IN_STEP_5)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = train(tmp_path / "killed", str(EXAMPLE), *FLAGS)
    assert resumed.returncode == 0, resumed.stderr

    expected = losses(whole.stdout)
    assert list(expected) == list(range(9))
    assert resumed.stdout.startswith("恢复快照: Snapshot(step=2, timestamp=")
    assert losses(killed.stdout) == {step: expected[step] for step in range(5)}
    assert losses(resumed.stdout) == {step: expected[step] for step in range(3, 9)}
    last, last_resumed = (
        ciuic.Repo.open(tmp_path / name / "snapshots").resolve("HEAD") for name in ("whole", "killed")
    )
    assert last.step == last_resumed.step == 8
    for component in ("model", "optimizer"):
        assert last.tree[component] == last_resumed.tree[component]
