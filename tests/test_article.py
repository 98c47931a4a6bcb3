"""The article that the project starts from prints a training loop: it runs as it stands, dies and resumes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import ciuic

BATCHES = 520

SETTING = f"""
import os
import torch
from ciuic.snapshot import SnapshotManager

torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
train_loader = [torch.randn(4, 8) for _ in range({BATCHES})]
"""

ARTICLE = """
snapshot_dir = "./snapshots"
os.makedirs(snapshot_dir, exist_ok=True)
sm = SnapshotManager(snapshot_dir=snapshot_dir, auto_save_interval=100)   # after every 100th completed step: 99, 199, …
if sm.has_snapshots():
    latest_snapshot = sm.get_latest_snapshot()
    print(f"恢复快照: {latest_snapshot}")               # Snapshot(step=499, timestamp=2025-04-05T14:23:12Z)
    sm.restore(latest_snapshot, model=model, optimizer=optimizer)
    start_step = latest_snapshot.step
else:
    start_step = 0
device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
model.to(device)
for step, batch in enumerate(train_loader, start=start_step):
    ...
    optimizer.step(); optimizer.zero_grad()
    sm.save(step=step, model=model, optimizer=optimizer)    # does something only when a snapshot is due; microseconds otherwise
    if step == 500:
        raise Exception("模拟训练中断!")
"""  # noqa: E501 - verbatim

FORWARD_AND_BACKWARD = """
    loss = model(batch.to(device)).square().mean()
    loss.backward()
    print(step, loss.item().hex())
"""

RESTORED = re.compile(r"恢复快照: (Snapshot\(step=(\d+), timestamp=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\))")


def start(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    (folder / "article.py").write_text(script, encoding="utf-8")
    command = [sys.executable, "-X", "utf8", "article.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")


def steps_in(output: str) -> list[int]:
    return [int(line.split()[0]) for line in output.splitlines() if line[0].isdigit()]


def test_the_article_dies_at_step_500_and_resumes_from_step_499(tmp_path: Path) -> None:
    """Each start is a process of its own; only the line that stands for the training is filled in."""
    script = SETTING + ARTICLE.replace("\n    ...\n", FORWARD_AND_BACKWARD)

    first = start(tmp_path, script)
    assert "模拟训练中断!" in first.stderr
    assert "恢复快照" not in first.stdout
    assert steps_in(first.stdout) == list(range(501))
    repo = ciuic.Repo.open(tmp_path / "snapshots")
    assert [snapshot.step for snapshot in repo.log()] == [499, 399, 299, 199, 99]
    tip = str(repo.resolve("HEAD"))

    # As it stands, the article fails at step 500 again; what matters is where it took up.
    copy = shutil.copytree(tmp_path, tmp_path / "as it stands")
    second = start(copy, script)
    assert "模拟训练中断!" in second.stderr
    assert restored(second.stdout) == (tip, 499)
    assert steps_in(second.stdout) == [499, 500]

    repaired = start(tmp_path, script.partition("    if step == 500:")[0])
    assert repaired.returncode == 0, repaired.stderr
    assert restored(repaired.stdout) == (tip, 499)
    assert steps_in(repaired.stdout) == list(range(499, 499 + BATCHES))
    assert [snapshot.step for snapshot in repo.log(limit=5)] == [999, 899, 799, 699, 599]


def restored(output: str) -> tuple[str, int]:
    line = RESTORED.match(output)
    assert line is not None, output
    return line[1], int(line[2])
