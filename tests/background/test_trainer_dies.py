"""The trainer's process ends, in every way; what was staged is there afterwards, and nothing else is."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import ciuic

KILLS = 50

TRAIN = """
import os, signal, sys, time
import torch
from torch import nn
import ciuic

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have both ignored
signal.signal(signal.SIGHUP, signal.SIG_DFL)

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def train(path, steps=10**9, pause=0.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Linear(1024, 256))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    repo = ciuic.Repo.open(path, create=True)
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 256)).square().mean().backward()
        optimizer.step()
        pending = repo.commit(model, optimizer, step=step, wait=False)
        if pending.staged():
            say("staged", step, repo._saving.engine()._writer.pid)
        time.sleep(pause)
    return repo, pending
"""

MANY = (
    TRAIN
    + """
# Importing torch takes a second and a training to be killed an instant: so each is a fork of this process.
import ciuic.background, ciuic.state.forecast
warm = nn.Parameter(torch.zeros(1))
warm.grad = torch.zeros(1)
torch.optim.AdamW([warm]).step()
for line in sys.stdin:
    path, awaited, delay = line.split()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        os.close(read)
        try:
            train(path)
        finally:
            os._exit(1)
    os.close(write)
    said = os.read(read, 1 << 16) if awaited == "staged" else b""
    time.sleep(float(delay))
    os.kill(child, 9)
    os.waitpid(child, 0)
    while piece := os.read(read, 1 << 16):
        said += piece
    os.close(read)
    print(said.decode().replace("\\n", ";"), flush=True)
"""
)


def until(true, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def start(script, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def staged(text):
    """The steps that were said to be staged, and the writers that had them."""
    lines = [line.split() for line in text.replace(";", "\n").splitlines() if line.startswith("staged")]
    return [int(line[1]) for line in lines], {int(line[2]) for line in lines if line[2] != "None"}


def check(path, steps, writers):
    """Every staged step is in the log, the repository is sound, and no writer and no temporary file is left."""
    until(lambda: not any(alive(pid) for pid in writers))
    if not steps and not (path / "format").exists():
        return 0
    repo = ciuic.Repo(path)
    logged = [snapshot.step for snapshot in repo.log()]
    assert logged == sorted(logged, reverse=True) and set(steps) <= set(logged) <= {*steps, len(steps)}
    assert repo.fsck(read_data=True).ok and set(repo.branches()) <= {"main"}
    repo.await_earlier_run()  # removes what a trainer left that died before its writer ran
    assert os.listdir(path / "tmp") == []
    return len(logged)


def test_killed_at_random_instants(tmp_path):
    """SIGKILL, fifty times: before the first step, in a copy, between two. All that was staged was published.

    The instants are counted from the first staged snapshot, and every fifth time from the start: a slow machine may not
    have come to any snapshot by then.
    """
    seeded = random.Random(7)
    with start(MANY, stdin=subprocess.PIPE) as process:
        kept = []
        for number in range(KILLS):
            path = tmp_path / str(number)
            awaited = "staged" if number % 5 else "start"
            process.stdin.write(f"{path} {awaited} {seeded.uniform(0.0, 0.4):.4f}\n")
            process.stdin.flush()
            kept.append(check(path, *staged(process.stdout.readline())))
        print("Snapshots kept:", kept)
        process.stdin.close()
        assert process.wait() == 0, process.stderr.read()
    assert all(kept[number] for number in range(KILLS) if number % 5), "a training ended before it was killed"


def test_an_exit_without_close_waits_for_the_last_snapshot(tmp_path):
    """The end of the program, and an exception that nobody catches."""
    for number, ending in enumerate(("", "raise SystemExit(3)", "raise ValueError('the training broke')")):
        path = tmp_path / str(number)
        with start(TRAIN + f"repo, pending = train({str(path)!r}, 3)\n{ending}\n") as process:
            said, errors = process.communicate(timeout=120)
        steps, writers = staged(said)
        assert steps == [0, 1, 2] and not any(alive(pid) for pid in writers), errors
        assert check(path, steps, writers) == 3
        assert ("ValueError" in errors) == (number == 2) and "Warning" not in errors


def test_ctrl_c_stops_the_training_and_not_the_writer(tmp_path):
    """The terminal signals the whole process group, in which the writer is not."""
    path = tmp_path / "run"
    with start(TRAIN + f"train({str(path)!r}, pause=0.01)", start_new_session=True) as process:
        said = [process.stdout.readline() for _ in range(5)]
        os.killpg(process.pid, signal.SIGINT)
        rest, errors = process.communicate(timeout=120)
    steps, writers = staged("".join(said) + rest)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    assert check(path, steps, writers) >= 5


def test_a_closed_terminal(tmp_path):
    """SIGHUP to the group kills the training at once; what was staged is published."""
    path = tmp_path / "run"
    with start(TRAIN + f"train({str(path)!r}, pause=0.01)", start_new_session=True) as process:
        said = [process.stdout.readline() for _ in range(5)]
        os.killpg(process.pid, signal.SIGHUP)
        rest, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGHUP
    assert check(path, *staged("".join(said) + rest)) >= 5


LOADER = (
    TRAIN
    + """
from torch.utils.data import DataLoader

repo, pending = train(sys.argv[1], 2)
rows = torch.arange(64.0)
seen = 0
for epoch in range(2):  # workers are forked while copies and a writer are there
    pending = repo.commit(extra={"epoch": epoch}, step=10 + epoch, wait=False)
    seen += sum(len(batch) for batch in DataLoader(rows, batch_size=4, num_workers=2))
say("seen", seen, pending.result(60).step, [each.step for each in repo.log()])
"""
)


def test_workers_forked_in_between(tmp_path):
    """A data loader's workers neither hang nor hold on to anything; the snapshots go on."""
    with start(LOADER, tmp_path / "run") as process:
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "seen 128 11 [11, 10, 1, 0]" in said, errors
    assert ciuic.Repo(tmp_path / "run").fsck().ok and os.listdir(tmp_path / "run/tmp") == []


CHILD = (
    TRAIN
    + """
repo, pending = train(sys.argv[1], 2)
model = nn.Linear(512, 512)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
repo.commit(model, optimizer, step=5, wait=False)
child = os.fork()
if child == 0:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # the parent's copies are none of its business
    own = repo.commit(model, optimizer, step=6, wait=False).result(60)
    say("child", own.step, repo.counts["published"])
    repo.close()
    os._exit(0)
status = os.waitpid(child, 0)[1]
say("parent", status, repo.commit(model, optimizer, step=7, wait=False).result(60).step)
"""
)


def test_a_forked_child_may_train_and_save_by_itself(tmp_path):
    """It has an engine of its own; that the two write to one branch is a race, and nothing is lost."""
    with start(CHILD, tmp_path / "run") as process:
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "child 6 1" in said and "parent 0 7" in said, errors
    steps = sorted(snapshot.step for snapshot in ciuic.Repo(tmp_path / "run").log_all())
    assert steps == [0, 1, 5, 6, 7]


def test_a_worker_that_holds_the_socket_does_not_keep_the_writer(tmp_path):
    """A forked process that outlives the trainer has its descriptors: the writer sees the death all the same."""
    script = TRAIN + (
        "repo, pending = train(sys.argv[1], 3)\n"
        "child = os.fork()\n"
        "if child == 0:\n    os.close(1); os.close(2); time.sleep(30); os._exit(0)\n"
        "say('worker', child)\nos.kill(os.getpid(), 9)\n"
    )
    with start(script, tmp_path / "run") as process:
        said, _ = process.communicate(timeout=120)
    worker = int(said.split("worker")[1])
    try:
        assert check(tmp_path / "run", *staged(said)) == 3
        assert alive(worker)
    finally:
        os.kill(worker, signal.SIGKILL)
