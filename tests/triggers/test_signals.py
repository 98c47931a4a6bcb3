"""Real signals: a snapshot at the next boundary, and leaving as the signal asked."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import ciuic
from ciuic.triggers import EverySteps, OnException, Signals


def log_of(path):
    return [(snapshot.step, snapshot.message) for snapshot in ciuic.Repo(path).log()]


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture
def before():
    """A SIGTERM handler of the program's own, which notes that it was called."""
    heard = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    yield heard
    signal.signal(signal.SIGTERM, previous)


def test_sigusr1_takes_a_snapshot_and_training_goes_on(training, path):
    """One snapshot, however often it was sent between two boundaries, and each time anew."""
    run = training(Signals())
    run.step()
    for _ in range(2):
        send(signal.SIGUSR1)
        send(signal.SIGUSR1)
        run.step()
        run.step()
    run.sm.wait()
    assert log_of(path) == [(3, "SIGUSR1"), (1, "SIGUSR1")]


def test_a_handler_that_was_there_is_called_and_put_back(training, before, path):
    """At SIGTERM when the snapshot is durable; and since it does not end the run, training goes on, and so do we."""
    ours = signal.getsignal(signal.SIGTERM)
    run = training(Signals())
    durable = []
    for step in range(4):
        if step % 2:
            send(signal.SIGTERM)
            assert len(before) == step // 2  # not before the boundary
        run.step()
        durable.append(len(log_of(path)))
    assert before == [signal.SIGTERM] * 2 and durable == [0, 1, 1, 2]
    assert log_of(path) == [(3, "SIGTERM"), (1, "SIGTERM")]
    run.sm.close()
    assert signal.getsignal(signal.SIGTERM) is ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_the_handler_raises_comes_out_of_the_step(training, path):
    """A program's own way to leave; the exception's snapshot is the one that was taken already."""

    class Preempted(Exception):
        pass

    def leave(_number, _frame):
        raise Preempted

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        run = training(Signals(), OnException())
        with pytest.raises(Preempted), run.sm:
            send(signal.SIGTERM)
            run.step()
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert log_of(path) == [(0, "SIGTERM")]


def test_ctrl_c_is_a_keyboard_interrupt_at_the_boundary(training, path):
    """And a program that catches it may go on: the next one is a first one again."""
    run = training(Signals(), OnException())
    for step in range(2):
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run.step()
        assert log_of(path)[0] == (step, "SIGINT")
    assert not run.sm._watch.engine.in_haste


def test_a_second_ctrl_c_leaves_at_once(training, path):
    """In the middle of a step, without a snapshot of it and without a wait."""
    run = training(Signals(), OnException())
    with pytest.raises(KeyboardInterrupt), run.sm:
        run.step()
        send(signal.SIGINT)
        run.forward()
        send(signal.SIGINT)
        raise AssertionError("it was to leave")
    assert log_of(path) == []


def test_ctrl_c_while_the_run_is_ending_leaves_at_once(training, path):
    """It waited for a boundary that never came, until the grace time was over."""

    class Impatient:
        def at_step(self, _moment):
            return None

        def at_exception(self, _error):
            send(signal.SIGINT)

    run = training(Signals(), Impatient(), OnException())
    with pytest.raises(KeyboardInterrupt), run.sm:
        run.step()
        raise ValueError
    assert log_of(path) == [] and run.sm._watch.engine.in_haste
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # it was closed all the same


def test_sigterm_while_the_run_is_ending_is_not_lost(training, before, path):
    """No boundary comes any more, what was saved becomes durable, and the program would have gone on for hours."""

    class Late:
        first = True

        def at_step(self, _moment):
            return "late"

        def ending(self):
            if self.first:
                send(signal.SIGTERM)
                assert before == []
            self.first = False

    run = training(Signals(), Late())
    run.step()
    run.sm.close()
    assert before == [signal.SIGTERM] and log_of(path) == [(0, "late")]


def test_a_signal_and_another_trigger_are_one_snapshot(training, before, path):
    """With both reasons in its message."""
    run = training(Signals(), EverySteps(1))
    send(signal.SIGTERM)
    send(signal.SIGUSR1)
    run.step()
    assert log_of(path) == [(0, "SIGUSR1, SIGTERM; every 1 steps")]


def test_an_ignored_signal_stays_ignored(training, path):
    """As after ``nohup``, or in a shell's background."""
    previous = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        run = training(Signals())
        send(signal.SIGUSR1)
        run.step()
        run.sm.close()
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN and log_of(path) == []
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_in_another_thread_it_says_that_it_cannot_hear(training, caplog):
    """Python has its signals in the main thread; training goes on."""
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: training(Signals()).step())
    thread.start()
    thread.join()
    assert "Signals are not heard" in caplog.text and signal.getsignal(signal.SIGTERM) == before


def test_forked_children_do_not_have_it(training):
    """Neither a data loader's workers nor anybody else: a signal means there what it meant before."""
    before = signal.getsignal(signal.SIGTERM)
    training(Signals())
    assert signal.getsignal(signal.SIGTERM) != before

    class Told(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, _index):
            return [str(signal.getsignal(signal.SIGINT)), str(signal.set_wakeup_fd(-1))]

    loader = torch.utils.data.DataLoader(Told(), num_workers=1, batch_size=None, multiprocessing_context="fork")
    assert list(loader) == [[str(signal.default_int_handler), "-1"]]
    child = os.fork()
    if child == 0:
        send(signal.SIGUSR1)  # to every process of the training: one to go on is no reason to die
        os._exit(0 if signal.getsignal(signal.SIGTERM) == before else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_wake_up_descriptor_is_handed_on(training):
    """asyncio's, for example: it hears every signal as before, and has it back at the end."""
    ears, mouth = os.pipe()
    os.set_blocking(mouth, False)
    previous = signal.set_wakeup_fd(mouth)
    try:
        run = training(Signals())
        send(signal.SIGUSR1)
        assert os.read(ears, 1) == bytes([signal.SIGUSR1])
        run.sm.close()
        assert signal.set_wakeup_fd(mouth) == mouth
    finally:
        signal.set_wakeup_fd(previous)
        os.close(ears)
        os.close(mouth)


def test_closed_in_another_thread(training, before, tmp_path):
    """Or forgotten, and collected there: the wake-up descriptor was closed and stayed Python's, so the next file that
    was opened got a byte for each signal."""
    previous = signal.set_wakeup_fd(-1)
    try:
        run = training(Signals(grace_s=0.01))
        run.step()
        thread = threading.Thread(target=run.sm.close)
        thread.start()
        thread.join()
        with contextlib.ExitStack() as opened:
            for number in range(64):
                opened.enter_context((tmp_path / f"file-{number}").open("wb"))
            send(signal.SIGTERM)
            assert before == [signal.SIGTERM]
        assert {each.stat().st_size for each in tmp_path.glob("file-*")} == {0}
    finally:
        signal.set_wakeup_fd(previous)


@pytest.mark.parametrize("names", [("SIGKILL",), ("NONSENSE",), ("SIG_DFL",), ("SIGUSR1",)])
def test_signals_that_make_no_sense_are_refused(names):
    """Those that no program can hear, none at all, and one in both lists."""
    with pytest.raises(ValueError, match=r"no signal|either"):
        Signals(leave=names)


TRAINING = """
import ctypes, os, signal, sys, time, torch
from ciuic.snapshot import SnapshotManager
from ciuic.triggers import EverySteps, Signals
import logging; logging.basicConfig()
path, mode = sys.argv[1:]
model = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
sm = SnapshotManager(path, 2, triggers=[Signals(grace_s=600 if mode == "boundary" else 0.2)])
for step in range(10**6):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    pending = sm.save(step, model, optimizer)
    if step == 3:
        sm.wait()
        print("ready", flush=True)
        if mode == "python":
            while True:
                time.sleep(0.01)
        if mode == "native":
            mutex = ctypes.create_string_buffer(128)
            for _ in range(2):
                ctypes.CDLL(None).pthread_mutex_lock(mutex)
    if step > 3:
        time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("mode", "number", "status"),
    [
        ("boundary", signal.SIGTERM, -signal.SIGTERM),
        ("python", signal.SIGINT, -signal.SIGINT),
        ("native", signal.SIGTERM, -signal.SIGTERM),
    ],
)
def test_a_process_ends_with_the_status_of_the_signal(path, mode, number, status):
    """At a boundary, with the snapshot durable; or after the grace time, while it is busy in Python or in native code
    that lets no Python run, with the newest staged snapshot, which it says."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, path, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == status, errors
    newest, message = log_of(path)[0]
    if mode == "boundary":
        assert message.startswith("SIGTERM") and f"the snapshot of step {newest} is durable" in errors
    else:
        assert newest == 3 and "leaving with the newest staged snapshot, of step 3" in errors


WITH_WORKERS = """
import sys, time, torch
from ciuic.snapshot import SnapshotManager
from ciuic.triggers import Signals

path, kind, context = sys.argv[1:]

class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        return torch.full((2,), float(index % 7))

class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(torch.ones(2) for _ in range(10**6))

if __name__ == "__main__":
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    data = Stream() if kind == "stream" else Numbers()
    loader = torch.utils.data.DataLoader(data, num_workers=2, multiprocessing_context=context)
    with SnapshotManager(path, triggers=[Signals()]) as sm:
        sm.track(model=model, optimizer=optimizer)
        for step, batch in sm.batches(loader, max_steps=10**6):
            model(batch).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            pending = sm.step()
            time.sleep(0.05)
            if step == 3:
                print("ready", flush=True)
            if pending is not None:
                sm.wait()
                print("saved", flush=True)
"""


@pytest.mark.parametrize(("kind", "context"), [("numbers", "fork"), ("numbers", "spawn"), ("stream", "fork")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_every_process_of_the_training(tmp_path, path, kind, context, number):
    """From a terminal's Ctrl-C, Slurm or systemd: a worker that died of it ended the training with an error before the
    next boundary, and no snapshot was taken at all. The workers are gone with the training."""
    script = tmp_path / "train.py"  # which spawned workers import
    script.write_text(WITH_WORKERS)
    process = subprocess.Popen(
        [sys.executable, script, path, kind, context],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, number)
        if number == signal.SIGUSR1:
            assert process.stdout.readline() == "saved\n"
            os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=300)  # the workers have its standard error, too
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM), errors
    messages = [message for _, message in log_of(path)]
    assert messages[-1].startswith(signal.Signals(number).name)


CAN_UNSHARE = shutil.which("unshare") is not None and os.geteuid() == 0


@pytest.mark.skipif(not CAN_UNSHARE, reason="a process number 1 of its own needs unshare and root")
def test_a_containers_first_process_ends_too(path):
    """For process number 1 the kernel passes over the default of a signal: it would train on until it is killed."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", TRAINING, path, "boundary"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    if first != "ready\n" and process.wait(timeout=300) != 0 and "unshare" in (errors := process.stderr.read()):
        pytest.skip(f"no process number 1 of its own here: {errors.strip()}")
    (inner,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    try:
        os.kill(int(inner), signal.SIGTERM)
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(inner), signal.SIGKILL)
    newest, message = log_of(path)[0]
    assert process.returncode == 128 + signal.SIGTERM and message.startswith("SIGTERM"), errors
    assert f"the snapshot of step {newest} is durable" in errors
