"""A training that is killed, hangs, runs out of memory and dies of its own snapshot comes to the same end."""

from pathlib import Path

import ciuic
from ciuic.supervisor.going_back import look, walk_back

TRAIN = """
import os, random, resource, signal, threading
import numpy
import torch
from torch import nn
from ciuic.snapshot import SnapshotManager

torch.set_num_threads(1)
for seed in (torch.manual_seed, numpy.random.seed, random.seed):
    seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
sm = SnapshotManager("snapshots", auto_save_interval=1)
sm.track(model=model, optimizer=optimizer)
first = sm.resume()


def once(name):
    if os.environ.get("CALM") or os.path.exists(name):
        return False
    open(name, "w").close()
    return True


for step in range(first, 12):
    optimizer.zero_grad()
    loss = model(torch.randn(8, 16)).square().mean()
    loss.backward()
    if step == 3 and once("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if step == 5 and once("hung"):
        threading.Event().wait(600)
    if step == 6 and once("starved"):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
        torch.empty(1 << 28)  # a gibibyte
    if step == 9 and first == 9 and not os.environ.get("CALM"):
        raise ValueError("nothing good comes from this snapshot")
    optimizer.step()
    sm.step(loss=loss)
    if step == 8 and first < 8 and once("poisoned"):
        sm.wait()
        raise ValueError("it begins")
"""


def test_a_training_comes_to_its_end_whatever_happens(desk, monkeypatch):
    """SIGKILL, a hang, a real limit of memory, and a snapshot from which it dies again and again: the final weights,
    moments and generators are those of a run that nothing happened to.
    """
    calm = type(desk)(desk.folder / "calm")
    calm.folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setenv("CALM", "1")
        whole = calm.run(calm.script(TRAIN))
    assert whole.code == 0, whole.err
    # A step takes milliseconds. Where a loaded machine takes ten seconds over one, there is one hang more, and no harm.
    result = desk.run(desk.script(TRAIN), "--hang", "10s")
    assert result.code == 0, result.err
    attempts = desk.newest_run()["attempts"]
    kinds = [attempt["kind"] for attempt in attempts]
    assert kinds[0] == "killed" and kinds[-1] == "done" and {"hang", "memory", "crash"} <= set(kinds)
    (starved,) = [attempt for attempt in attempts if attempt["kind"] == "memory"]
    assert "can't allocate memory" in starved["words"]
    (walked,) = [attempt for attempt in attempts if attempt["walked_back"]]
    assert walked["step"] == 8 and "(step 8) to" in walked["walked_back"] and "main stays" in walked["walked_back"]
    assert attempts[-1]["resumed"] == 7
    ends = [ciuic.Repo.open(each.folder / "snapshots").resolve("HEAD") for each in (calm, desk)]
    assert [end.step for end in ends] == [11, 11]
    assert ends[0].tree == ends[1].tree, "not the same bits"
    assert ciuic.Repo.open(desk.folder / "snapshots").resolve("main").step == 8, "the branch stays"


def test_going_back_loses_nothing(tmp_path: Path):
    """HEAD alone moves, to the newest snapshot before the one resumed from; pruned ones are passed over."""
    path = tmp_path / "run"
    repo = ciuic.Repo.init(path)
    assert walk_back(str(path), None) is None
    for step in range(4):
        repo.commit(extra={"step": step}, step=step)
    assert look(str(path)).step == 3
    repo.prune("step:2")
    walk = walk_back(str(path), 3)
    assert (walk.before.step, walk.after.step, walk.branch) == (3, 1, "main")
    head = repo.head()
    assert (head.branch, head.snapshot) == (None, walk.after.id)
    assert repo.resolve("main").step == 3
    again = walk_back(str(path), 1)
    assert (again.after.step, again.branch) == (0, None)
    assert walk_back(str(path), 0) is None
    assert [entry.action for entry in repo.reflog("HEAD")][:2] == [
        "checkout: moving to " + each.id[:8] for each in (again.after, walk.after)
    ]


def test_what_counts_as_progress(tmp_path: Path):
    """A snapshot that is further than all before; the same steps once more are none."""
    path = tmp_path / "run"
    repo = ciuic.Repo.init(path)
    nothing = look(str(path))
    repo.commit(extra={"a": 1}, step=5)
    five = look(str(path))
    assert nothing.advanced(five) and not five.advanced(look(str(path)))
    repo.commit(extra={"a": 2}, step=6)
    six = look(str(path))
    assert five.advanced(six)
    walk_back(str(path), 6)
    again = ciuic.Repo.open(path)
    again.commit(extra={"a": 3}, step=6)
    assert again.head().branch != "main" and not six.advanced(look(str(path)))
    without = ciuic.Repo.init(tmp_path / "without")
    without.commit(extra={"a": 1})
    assert nothing.advanced(look(str(tmp_path / "without")))
