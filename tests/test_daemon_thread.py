"""A thread that memory is too short for.

A training met its limit of memory while its first snapshot was being staged: the thread for the writer process died
before its first line, CPython's ``Thread.start`` waited for ever for it to come up, and the training never ended.
"""

import subprocess
import sys
import threading

import pytest

from ciuic import daemon_thread
from ciuic.daemon_thread import DaemonThread


@pytest.fixture
def impatient(monkeypatch):
    """The thread's death is noticed soon, and nobody is warned of it."""
    monkeypatch.setattr(daemon_thread, "STARTING_S", 0.2)
    monkeypatch.setattr(sys, "unraisablehook", lambda told: None)


def no_memory():
    raise MemoryError


def test_it_runs_what_it_was_given():
    """With its arguments and under its name, and never in the way of the program's end."""
    done = []
    thread = DaemonThread(lambda *all: done.append((all, threading.current_thread().name)), 1, 2, name="ciuic-test")
    thread.start()
    thread.join()
    assert done == [((1, 2), "ciuic-test")] and thread.daemon and not thread.is_alive()


def test_a_thread_that_dies_before_its_first_line(impatient):
    """RuntimeError, as when no thread can be had at all."""
    done = []
    thread = DaemonThread(done.append, 1, name="ciuic-test")
    thread._bootstrap = no_memory
    with pytest.raises(RuntimeError, match="The thread ciuic-test cannot be started"):
        thread.start()
    assert not thread.is_alive() and done == []


def test_a_thread_that_comes_up_too_late(impatient):
    """It does nothing: somebody else has done it."""
    done, late = [], threading.Event()
    thread = DaemonThread(done.append, 1, name="ciuic-test")
    bootstrap = thread._bootstrap

    def slowly():
        late.wait()
        bootstrap()

    thread._bootstrap = slowly
    with pytest.raises(RuntimeError):
        thread.start()
    late.set()
    while not thread._started.is_set():
        pass
    thread.join()
    assert done == []


STARVED = """
import torch
from ciuic import Repo, daemon_thread
from ciuic.errors import BackgroundError, WriterFailed

daemon_thread.STARTING_S = 2.0
start = daemon_thread.DaemonThread.start

def dies(thread):
    if thread.name in {names}:
        thread._bootstrap = lambda: [].no_memory
    start(thread)

daemon_thread.DaemonThread.start = dies
repo = Repo.init("run")
pending = repo.commit(torch.nn.Linear(2, 2), wait=False)
try:
    print("published", pending.result(60).step)
except WriterFailed as error:
    print("failed", "cannot be started" in str(error))
"""


@pytest.mark.parametrize(
    ("names", "said"),
    [(("ciuic-writer",), "failed True"), (("ciuic-copier",), "published None"), ((), "published None")],
)
def test_a_training_that_gets_no_thread_ends(tmp_path, names, said):
    """Its snapshot fails or is taken at once, and the end of the program waits for nobody who is not there."""
    ended = subprocess.run(
        [sys.executable, "-c", STARVED.format(names=names)], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, said), ended.stderr
