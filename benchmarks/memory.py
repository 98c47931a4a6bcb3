"""How much memory `commit` needs beyond the state itself, waiting and beside training.

A fresh process makes a model and its AdamW state on the CPU, trains a step, commits, trains and commits
again, and commits what has not changed. The kernel's high-water mark of the resident set (VmHWM, reset
through /proc/self/clear_refs just before a commit) minus the resident set before the commit is what the
commit needed at its worst moment: imports, index pages and mapped files included.

Another process commits after each of five steps with ``wait=False``. Its proportional set size and the writer
process's (Pss of /proc/<pid>/smaps_rollup, so that memory which both map counts once) are added up every few
milliseconds; the largest sum minus the size before, minus the slots, is what that needed. Linux only.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from report import parse_destination, publish, surroundings, table

WIDTHS = (1024, 4096)
LAYERS = 5
SLOTS = 2
MIB = 1 << 20


def status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {field}: this benchmark needs Linux.")


class Training:
    """A model, its AdamW state, and a repository."""

    def __init__(self, width: int, path: str) -> None:
        import torch

        import ciuic

        torch.manual_seed(0)
        self.model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=False) for _ in range(LAYERS)))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.repo = ciuic.Repo.open(path, create=True, slots=SLOTS)
        self.state = 3 * sum(parameter.nbytes for parameter in self.model.parameters())
        self.inputs = torch.randn(8, width)

    def step(self) -> None:
        self.model(self.inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure_waiting(width: int, path: str) -> None:
    """In the child: one JSON object a commit on stdout."""
    training = Training(width, path)
    for step, which in enumerate(("first", "after a step", "unchanged")):
        if step < 2:
            training.step()
        before = status_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        snapshot = training.repo.commit(training.model, training.optimizer, step=step)
        extra = max(0, status_bytes("VmHWM") - before)
        print(json.dumps([training.state, which, snapshot.added_bytes, extra]), flush=True)


def measure_beside(width: int, path: str) -> None:
    """In the child: one JSON object on stdout."""
    training = Training(width, path)
    training.step()
    before, peak, over = proportional_bytes(os.getpid()), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.is_set():
            writers = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            peak = max(peak, sum(proportional_bytes(int(pid)) for pid in (os.getpid(), *writers)))
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    pending = []
    for step in range(5):
        training.step()
        pending.append(training.repo.commit(training.model, training.optimizer, step=step, wait=False))
    added = pending[-1].result().added_bytes
    over.set()
    watcher.join()
    training.repo.close()
    print(json.dumps([training.state, "beside training", added, peak - before - SLOTS * training.state]), flush=True)


def proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def main() -> None:
    page = parse_destination(__doc__)
    rows = []
    for width in WIDTHS:
        for child in CHILDREN:
            with tempfile.TemporaryDirectory(prefix="ciuic-bench-") as path:
                command = [sys.executable, __file__, child, str(width), path]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
            for state, which, added, extra in map(json.loads, output.splitlines()):
                beyond = (
                    f"{SLOTS} slots and {extra / MIB:.0f} MiB"
                    if which == "beside training"
                    else f"{extra / MIB:.0f} MiB"
                )
                rows.append([f"{state / MIB:.0f} MiB, {which}", f"{added / MIB:.1f} MiB", beyond])
    text = table(["state", "stored", "peak beyond the state"], rows)
    publish("memory", f"{text}\n\n{surroundings()}.", page)


CHILDREN = {"--waiting": measure_waiting, "--beside": measure_beside}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in CHILDREN:
        CHILDREN[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
    else:
        main()
