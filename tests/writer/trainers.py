"""Real writer processes, real shared memory, real repositories; no torch."""

import os
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import ciuic
from ciuic.capture.placed import Placed
from ciuic.commit.pipeline import Details
from ciuic.objects.state_tree import Container, Tensor, Value
from ciuic.writer.memory_file import memory_file
from ciuic.writer.pending import PendingSnapshot
from ciuic.writer.process import Job, Writer

ROOT = Path(ciuic.__file__).parent.parent


def descriptors():
    return {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if exists(name)}


def exists(name):
    return os.path.islink(f"/proc/self/fd/{name}")


def running(pid):
    """Not gone, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition, timeout=60):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.01)


def state(step, count=4, size=8192):
    """(bytes of a slot, components over it): ``count`` tensors that say the step, and plain values."""
    data = b"".join(bytes([step % 256, number % 256]) * (size // 2) for number in range(count))
    tensors = tuple(
        (f"layers.{number}.weight", Tensor("float32", (size // 4,), Placed(number * size, size)))
        for number in range(count)
    )
    extra = Container("dict", (("at", Value(step)), (7, Value({"a": (1, b"x"), 2: [None, 1.5]}))))
    return data, {"model": Container("module", tensors), "extra": extra}


class Slot:
    """One piece of shared memory with a key of its own."""

    def __init__(self, size):
        self.key = id(self)
        self.size = size
        self.descriptor = memory_file(bytes(size))
        self.released = 0

    def release(self):
        self.released += 1


class Trainer:
    """A Writer, and what it has been told."""

    def __init__(self, path, **options):
        self.counts = Counter()
        self.positions = []
        self.slots = []
        self.jobs = 0
        self.writer = Writer(str(path), moved=self.positions.append, count=self.counted, **options)

    def counted(self, name):
        self.counts[name] += 1

    def submit(self, step, position=None, slot=None, **sizes):
        data, components = state(step, **sizes)
        if slot is None:
            slot = Slot(len(data))
            self.slots.append(slot)
        os.pwrite(slot.descriptor, data, 0)
        pending = PendingSnapshot(step)
        details = Details(
            step=step,
            message=f"step {step}",
            metrics={"loss": 0.5},
            config={"lr": 0.1, "betas": (0.9, 0.99)},
            contains=("model", "extra"),
            versions={"ciuic": "0"},
            timestamp=datetime(2026, 1, 2, 3, 4, 5, step % 1000, tzinfo=timezone.utc),
            cost={"call": 0.25},
        )
        self.writer.submit(
            Job(pending, details, f"commit: step {step}", components, slot.descriptor, len(data), slot.key, position,
                slot.release)
        )  # fmt: skip
        self.jobs += 1
        return pending

    def finish(self):
        assert self.writer.wait(60)
        self.writer.close(60)
        assert sum(slot.released for slot in self.slots) == self.jobs

    def clean(self):
        self.writer.close(20)
        for slot in self.slots:
            os.close(slot.descriptor)


FAULTY = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from ciuic.writer import service, storing

def once(name):
    try:
        os.close(os.open(os.path.join({marks!r}, name), os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Faulty(storing.CountingFileSystem):
    pass

storing.CountingFileSystem = Faulty
storing.PAUSES_S = (0.01, 0.01, 0.01)
{body}
service.main()
"""


def steps(repo, revision=None):
    return [snapshot.step for snapshot in repo.log(revision)]


def check(repo, **sizes):
    """Everything that is there is whole."""
    report = repo.fsck(read_data=True)
    assert report.problems == ()
    for snapshot in repo.log_all():
        data, components = state(snapshot.step, **sizes)
        node = repo.components(snapshot)["model"]
        for (_, stored), (_, placed) in zip(node.items, components["model"].items, strict=True):
            start = placed.source.offset
            assert bytes(stored.source.read(0, stored.source.nbytes)) == data[start : start + placed.source.nbytes]
