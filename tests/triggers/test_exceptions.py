"""The run ends with an exception: the boundary before it is saved as if the snapshot had been taken there."""

import gc
import logging
import subprocess
import sys
import weakref

import pytest
import torch

import ciuic
from ciuic.capture import fence
from ciuic.snapshot import SnapshotManager
from ciuic.triggers import EverySteps, OnException, OutOfMemory


def log_of(path):
    return [(snapshot.step, snapshot.message) for snapshot in ciuic.Repo(path).log()]


class Stopped(Exception):
    """What the user's code raises."""


def test_the_snapshot_is_that_of_the_boundary_bit_for_bit(training, path, tmp_path, same_state):
    """Forward has drawn numbers and moved batch statistics, backward has left gradients, a counter has counted: what is
    saved is what a snapshot at the boundary would have been, and the exception is the user's own."""
    run = training(OnException())
    with pytest.raises(Stopped), run.sm:
        for _ in range(3):
            run.step()
        reference = ciuic.Repo.init(tmp_path / "reference")
        reference.commit(step=2, **run.sm._tracked.for_commit())
        run.optimizer.zero_grad()
        run.forward().backward()
        raise Stopped("half-way")
    snapshot = ciuic.Repo(path).resolve("HEAD")
    assert (snapshot.step, snapshot.message) == (2, "before Stopped: half-way")
    wanted = reference.resolve("HEAD")
    assert snapshot.contains == wanted.contains and snapshot.metrics.keys() == {"loss"}
    assert same_state(ciuic.Repo(path).load("HEAD"), reference.load("HEAD"))


def test_the_next_run_goes_on_as_if_nothing_had_happened(training, same_state):
    """The same weights as an uninterrupted run's, at the end."""
    whole = training()
    for _ in range(6):
        whole.update()
    broken = training(OnException())
    with pytest.raises(Stopped), broken.sm:
        for _ in range(4):
            broken.step()
        broken.forward()
        raise Stopped
    resumed = training(OnException())
    assert resumed.sm.resume() == 4
    for _ in range(2):
        resumed.step()
    assert same_state(resumed.weights(), whole.weights()) and resumed.counter == whole.counter


class Loop:
    """A run over a shuffled DataLoader, which breaks in the forward pass of a step."""

    def __init__(self, path, breaks=None):
        torch.manual_seed(3)
        self.breaks = breaks
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Dropout(0.5), torch.nn.Linear(32, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        data = torch.utils.data.TensorDataset(torch.randn(40, 4))
        self.loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
        self.seen = []
        self.sm = SnapshotManager(path, triggers=[OnException()])

    def run(self):
        with self.sm as sm:
            sm.track(model=self.model, optimizer=self.optimizer)
            for step, (batch,) in sm.batches(self.loader, max_epochs=2):
                loss = self.model(batch).square().mean()
                if step == self.breaks:
                    raise Stopped
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.seen.append((step, batch.sum().item(), loss.item()))
                sm.step(loss=loss)
        return self


def test_a_loop_over_a_data_loader_goes_on_with_the_very_next_batch(tmp_path, same_state):
    """In the middle of an epoch and in the next one: the same batches, losses and weights as without the exceptions."""
    whole = Loop(tmp_path / "whole").run()
    seen = []
    for breaks in (6, 13):
        broken = Loop(tmp_path / "broken", breaks)
        with pytest.raises(Stopped):
            broken.run()
        seen += broken.seen
    last = Loop(tmp_path / "broken").run()
    assert seen + last.seen == whole.seen and [step for step, *_ in whole.seen] == list(range(20))
    assert same_state(last.model.state_dict(), whole.model.state_dict())


def test_once_a_step_has_begun_the_newest_snapshot_stands(training, path, caplog):
    """The weights may be half new: nothing is made up, and the log says so."""
    run = training(OnException(), EverySteps(2))
    with pytest.raises(Stopped), run.sm:
        for _ in range(3):
            run.step()
        run.update()
        raise Stopped
    assert [step for step, _ in log_of(path)] == [1]
    assert "The end of step 2 cannot be saved: an optimizer step has begun since" in caplog.text


def test_an_exception_inside_the_step_is_one_after_its_beginning(training, path, caplog):
    """The hook comes before the first element is changed."""
    run = training(OnException())

    def fail(*_):
        raise Stopped

    run.optimizer.register_step_post_hook(fail)
    with pytest.raises(Stopped), run.sm:
        run.sm.step()
        run.update()
    assert log_of(path) == [] and "an optimizer step has begun since" in caplog.text


def test_weights_changed_by_hand_are_noticed(training, path, caplog):
    """By their version counters, or in a sample of their elements where those do not move."""
    for change in (lambda weight: weight.data.add_(1), lambda weight: weight.detach().mul_(2)):
        caplog.clear()
        run = training(OnException())
        with pytest.raises(Stopped), run.sm:
            run.sm.step()
            change(run.model[0].weight)
            raise Stopped
        assert log_of(path) == [] and "model/0.weight changed since" in caplog.text


def test_large_things_that_change_in_forward_are_copied_once_that_is_seen(path, caplog):
    """A momentum encoder of a megabyte: the first boundary cannot be saved, the next ones can."""
    model = torch.nn.Linear(4, 4)
    encoder = torch.nn.Linear(256, 256).requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def forward():
        with torch.no_grad():
            encoder.weight.mul_(0.5)
        return model(torch.ones(1, 4)).sum()

    for steps in (1, 2):
        sm = SnapshotManager(path, triggers=[OnException()])
        with pytest.raises(Stopped), sm:
            sm.track(model=[model, encoder], optimizer=optimizer)
            for _ in range(steps):
                forward().backward()
                optimizer.step()
                sm.step()
            kept = encoder.weight.clone()
            forward()
            raise Stopped
        if steps == 1:
            assert log_of(path) == [] and "model/1/weight changed since" in caplog.text
    assert torch.equal(ciuic.Repo(path).load("HEAD")["model"][1]["weight"], kept)


def test_a_boundary_that_has_its_snapshot_needs_no_second_one(training, path):
    """The exception comes right after it."""
    run = training(OnException(), EverySteps(2))
    with pytest.raises(Stopped), run.sm:
        for _ in range(2):
            run.step()
        run.forward()
        raise Stopped
    assert [step for step, _ in log_of(path)] == [1]


def test_the_host_has_no_memory(training, path):
    """torch's own error of the CPU's allocator, for an exbibyte; and Python's MemoryError."""
    for provoke in (lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: bytearray(1 << 62)):
        run = training(OutOfMemory())
        with pytest.raises((RuntimeError, MemoryError)), run.sm:
            run.step()
            provoke()
        ((step, message),) = log_of(path)[:1]
        assert step == 0 and message.startswith("out of memory: ")


def test_two_triggers_at_one_exception_are_one_snapshot(training, path):
    """With both reasons; what is no lack of memory is not called so."""
    run = training(OnException(), OutOfMemory())
    with pytest.raises(RuntimeError), run.sm:
        run.step()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    ((_, message),) = log_of(path)
    said = "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB"
    assert message == f"before {said}; out of memory: {said}"
    assert OutOfMemory().at_exception(RuntimeError("shape mismatch")) is None
    worker = "Caught RuntimeError in DataLoader worker process 0.\nDefaultCPUAllocator: can't allocate memory"
    assert OutOfMemory().at_exception(RuntimeError(worker)) is not None


def test_the_users_exception_comes_out_whatever_happens_to_the_snapshot(training, path, caplog):
    """The folder is gone, for example: logged, and nothing is raised in its place."""
    import shutil

    run = training(OnException())
    with pytest.raises(Stopped, match="mine"), run.sm:
        run.step()
        shutil.rmtree(path)
        raise Stopped("mine")
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert any("Step 0 was not saved" in message for message in errors)


def test_what_cannot_be_set_aside_is_said_and_tried_again(training, path, caplog):
    """A value that cannot be stored comes up in mid-run, and goes. No step fails, and the log says when the next one is
    set aside: a lack of memory that passed had cost the run every exception's snapshot."""
    run = training(OnException())
    with pytest.raises(Stopped), run.sm:
        run.step()
        run.counter["seen"] = object()
        for _ in range(6):  # 1 and 3 are tried, and 7
            run.sm.step()
        run.counter["seen"] = 7
        run.sm.step()
        raise Stopped
    assert [step for step, _ in log_of(path)] == [7] and run.counter["seen"] == 7
    said = [each.getMessage() for each in caplog.records if "could not be set aside" in each.getMessage()]
    assert len(said) == 2 and said[-1].endswith("The next to be is step 7.")


def test_what_cannot_be_set_aside_is_no_snapshot(training, path):
    """An exception while it is so leaves the newest snapshot."""
    run = training(OnException())
    with pytest.raises(Stopped), run.sm:
        run.step()
        run.counter["seen"] = object()
        run.sm.step()
        run.sm.step()
        raise Stopped
    assert log_of(path) == []


def test_a_forgotten_run_keeps_nothing_alive(path):
    """Without ``close``, in a notebook for example: its model stayed in memory for as long as the process lived."""

    def begin():
        model = torch.nn.Linear(2, 2)
        sm = SnapshotManager(path, triggers=[OnException()])
        sm.track(model=model)
        sm.step()
        assert len(fence._watchers) == before + 1
        return weakref.ref(model)

    before = len(fence._watchers)
    model = begin()
    gc.collect()
    assert len(fence._watchers) == before and model() is None


def test_without_the_trigger_nothing_is_set_aside_and_nothing_hooked(training, path):
    """No cost in each step, no hook left behind; with it, the hook is put back at the end."""
    before = sys.excepthook
    run = training(EverySteps(5))
    run.step()
    assert run.sm._watch._boundary._boundaries is None
    run.sm.close()
    assert sys.excepthook == before


DYING = """
import sys, torch
from ciuic.snapshot import SnapshotManager
from ciuic.triggers import OnException
sys.excepthook = lambda kind, error, traceback: print("my own hook:", error, flush=True)
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sm = SnapshotManager(sys.argv[1], triggers=[OnException()])
for step in range(3):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    sm.save(step, model, optimizer)
    if step == 1:
        raise ValueError("no more")
"""


def test_a_script_without_a_with_block_dies_of_an_exception(path):
    """A process of its own: saved before the hook that was there is called, which still hears of it."""
    done = subprocess.run([sys.executable, "-c", DYING, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "my own hook: no more" in done.stdout
    assert log_of(path) == [(1, "before ValueError: no more")]


SHORT_OF_MEMORY = """
import resource, sys, torch
from ciuic.snapshot import SnapshotManager
from ciuic.triggers import EverySteps, OutOfMemory

path, where = sys.argv[1:]
short = False

def use_up(at):
    if not short or at != where:
        return
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
    kept = []
    while True:
        kept.append(torch.ones(1 << 18))

class Uses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        use_up("forward")
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        use_up("backward")
        return gradient

class HalfWay(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self):
        for number, parameter in enumerate(self.param_groups[0]["params"]):
            if number == 1:
                use_up("step")
            parameter.sub_(parameter.grad, alpha=0.1)

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        global short
        short = short or (where == "worker" and index == 5)
        use_up("worker")
        return torch.full((8,), float(index))

model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
optimizer = HalfWay(model.parameters(), {})
workers = {"num_workers": 1, "multiprocessing_context": "fork"} if where == "worker" else {}
loader = torch.utils.data.DataLoader(Data(), batch_size=2, drop_last=True, **workers)
with SnapshotManager(path, triggers=[EverySteps(1), OutOfMemory()] if where == "step" else [OutOfMemory()]) as sm:
    sm.track(model=model, optimizer=optimizer)
    for step, batch in sm.batches(loader):
        short = step == 2 and where != "worker"
        Uses.apply(model(batch)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        sm.step()
"""


@pytest.mark.parametrize("where", ["forward", "backward", "step", "worker"])
def test_a_limit_of_memory_is_reached(path, where):
    """A real limit, in a process of its own, used up by torch to the last megabyte, with which no commit could be made:
    the step before is saved all the same, with memory that was kept for it; but half-way through the optimizer's step,
    where the newest snapshot stands. The error is torch's, and comes out."""
    command = [sys.executable, "-c", SHORT_OF_MEMORY, path, where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "can't allocate memory" in done.stderr, done.stderr
    steps, messages = zip(*log_of(path), strict=True)
    if where == "step":
        assert steps == (1, 0)
    else:
        assert steps == (1,) and messages[0].startswith("out of memory: RuntimeError: ")
