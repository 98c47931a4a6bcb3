"""Threads for the work on many chunks, in the moments in which snapshots matter most.

A commit by a handler that ran at the end of the program failed, since the standard library's pool takes no work then;
and one under a limit of memory could wait for ever for a thread that had died before its first line.
"""

import subprocess
import sys
import threading
import time

import pytest

from ciuic import daemon_thread
from ciuic.thread_pool import ThreadPool


def names():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ciuic-pool")]


def test_results_and_errors():
    """Each future has what its work returned or raised; no more threads than asked for, and none in the end."""
    with ThreadPool(2, "ciuic-pool") as pool:
        futures = [pool.submit(lambda number: 1 // number, number % 5) for number in range(100)]
        for number, future in enumerate(futures):
            if number % 5:
                assert future.result() == 1 // (number % 5)
            else:
                assert isinstance(future.exception(), ZeroDivisionError)
        assert names() == ["ciuic-pool_0", "ciuic-pool_1"]
    assert names() == []


def test_what_had_not_begun_is_cancelled():
    """Closing waits for what runs and for nothing else."""
    pool, begun, goes_on = ThreadPool(1, "ciuic-pool"), threading.Event(), threading.Event()

    def slowly():
        begun.set()
        goes_on.wait()
        return "done"

    first, second = pool.submit(slowly), pool.submit(slowly)
    begun.wait()
    threading.Thread(target=lambda: (time.sleep(0.05), goes_on.set())).start()
    pool.close()
    assert first.result() == "done" and second.cancelled() and names() == []
    assert pool.submit(threading.current_thread).result() is threading.current_thread(), "a closed one has no threads"


def test_without_a_thread(monkeypatch):
    """The caller does the work; with one of two, that does it all."""

    def no_memory():
        raise MemoryError

    had = []
    start = daemon_thread.DaemonThread.start

    def one_alone(thread):
        had.append(thread)
        if len(had) > 1:
            thread._bootstrap = no_memory
        start(thread)

    monkeypatch.setattr(daemon_thread.DaemonThread, "start", one_alone)
    monkeypatch.setattr(daemon_thread, "STARTING_S", 1.0)
    monkeypatch.setattr(sys, "unraisablehook", lambda told: None)
    with ThreadPool(3, "ciuic-pool") as pool:
        done = {pool.submit(lambda: threading.current_thread().name).result() for _ in range(10)}
    assert done == {"ciuic-pool_0"}
    with ThreadPool(3, "ciuic-pool") as pool:
        done = {pool.submit(lambda: threading.current_thread().name).result() for _ in range(10)}
    assert done == {threading.current_thread().name} and len(had) == 3


AT_THE_END = """
import atexit
import torch
from ciuic import Repo

model = torch.nn.Linear(2000, 2000)

@atexit.register
def last():
    repo = Repo.open("run")
    print((repo.commit(model, wait={wait}, step=2){then}).step, flush=True)
    print(repo.restore("HEAD", model=model).step, repo.gc() is not None)

repo = Repo.init("run")
repo.commit(model, wait={wait}, step=1)
"""


@pytest.mark.parametrize(("wait", "then"), [(True, ""), (False, ".result(60)")])
def test_a_commit_at_the_very_end_of_a_program(tmp_path, wait, then):
    """By a handler of the user's: it is stored, and can be restored there and then."""
    code = AT_THE_END.format(wait=wait, then=then)
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout.split()) == (0, ["2", "2", "True"]), ended.stderr
