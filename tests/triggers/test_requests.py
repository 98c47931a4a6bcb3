"""``ciuic snap``: a running training is asked for a snapshot, by another process."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

import ciuic
from ciuic.errors import NoTraining
from ciuic.triggers import EverySteps, OnRequest
from ciuic.triggers.letter_box import append, open_boxes
from ciuic.triggers.requests import ask


class Asking(threading.Thread):
    """Somebody who asks, while the test goes on training."""

    def __init__(self, path, message="", wait=True):
        super().__init__()
        self.arguments, self.answers, self.failure = (str(path), message, wait), None, None
        self.start()

    def run(self):
        path, message, wait = self.arguments
        try:
            self.answers = list(ask(path, message, wait=wait))
        except Exception as error:
            self.failure = error


def snap(path, *options):
    command = [sys.executable, "-m", "ciuic", "--repo", str(path), "snap", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def train_until(run, until, done):
    def step():
        run.step()
        return done()

    until(step)


def test_a_snapshot_is_taken_at_the_next_boundary_and_reported(training, path, until):
    """The command ends when it is durable, with its id and step; its message says who wanted it, and why."""
    run = training(OnRequest())
    run.step()
    process = snap(path, "--wait", "-m", "before the demo")
    train_until(run, until, lambda: process.poll() is not None)
    out, errors = process.communicate()
    snapshot = ciuic.Repo(path).resolve("HEAD")
    assert (process.returncode, errors) == (0, "")
    assert out == f"{snapshot.id[:8]} (step {snapshot.step})\n" and snapshot.message == "on request: before the demo"
    run.sm.close()
    assert len(list(ciuic.Repo(path).log())) == 1 and open_boxes(str(path)) == []


def test_without_wait_it_ends_as_soon_as_it_was_heard(training, path, until):
    """Which process takes it is said; training need not take a step for that."""
    run = training(OnRequest())
    run.step()
    process = snap(path, "--json")
    until(lambda: process.poll() is not None)
    out, errors = process.communicate()
    answer = json.loads(out)
    assert (process.returncode, errors) == (0, "")
    assert (answer["pid"], answer["snapshot"], answer["error"]) == (os.getpid(), None, None)
    run.step()
    run.sm.wait()
    assert [(each.step, each.message) for each in ciuic.Repo(path).log()] == [(1, "on request")]


def test_nobody_trains(path):
    """Said plainly, with an exit code of its own: no training at all, and one that has died."""
    ciuic.Repo.init(path)
    dead = path / "tmp" / "run-00.asks"
    dead.touch()
    with pytest.raises(NoTraining, match="No training is running"):
        list(ask(str(path)))
    assert not dead.exists()
    process = snap(path)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == NoTraining.exit_code == 105 and "No training is running" in errors


def test_many_who_ask_at_once_get_one_snapshot(training, path, until):
    """With every trigger's reason in its message, and each message once."""
    run = training(OnRequest(), EverySteps(1))
    run.step()
    asking = [Asking(path, message) for message in ("one", "two", "one")]
    until(lambda: len(run.sm._watch.engine.triggers[0]._asked) == 3)
    run.step()
    until(lambda: not any(each.is_alive() for each in asking))
    ids = {answer.snapshot for each in asking for answer in each.answers}
    (snapshot,) = [ciuic.Repo(path).resolve(id) for id in ids]
    assert snapshot.step == 1
    assert sorted(snapshot.message.split("; ")) == ["every 1 steps", "on request: one", "on request: two"]


def test_every_training_on_the_repository_answers(training, path, until):
    """Each takes one of its own; none is left out, and none is guessed."""
    first, second = training(OnRequest()), training(OnRequest())
    asking = Asking(path)

    def step():
        first.step()
        second.step()
        return not asking.is_alive()

    first.step()
    second.step()
    until(step)
    if asking.failure is not None or len(asking.answers) < 2:  # it came before both had begun
        asking = Asking(path)
        until(step)
    assert len({answer.snapshot for answer in asking.answers}) == 2


def test_a_training_that_ends_before_its_boundary_says_so(training, path, until):
    """The one who waits is told, and does not wait for ever."""
    run = training(OnRequest())
    run.step()
    asking = Asking(path)
    until(lambda: run.sm._watch.engine.triggers[0]._asked)
    run.sm.close()
    until(lambda: not asking.is_alive())
    (answer,) = asking.answers
    assert answer.snapshot is None and "ended" in answer.error


def test_gc_leaves_the_letter_box_of_the_living_alone(training, path, until):
    """And empties ``tmp/`` of those of the dead."""
    run = training(OnRequest())
    run.step()
    (path / "tmp" / "run-00.asks").touch()
    run.sm.repo.gc()
    assert len(open_boxes(str(path))) == 1 and not (path / "tmp" / "run-00.asks").exists()
    asking = Asking(path)
    train_until(run, until, lambda: not asking.is_alive())
    assert asking.answers[0].snapshot is not None


def test_lines_that_are_none_of_ours_are_passed_over(training, path, until):
    """Half a line, garbage, another version's words, a line without an end: nothing breaks, and later ones are read."""
    run = training(OnRequest())
    run.step()
    (box,) = open_boxes(str(path))
    with open(box, "ab") as file:
        file.write(b'{"ask": 7}\n[1]\nnull\n\xff\xfe\n{"ask": "x"\n' + b"[" * 100_000 + b"\n" + b'{"other": 1}\n')
    append(run.sm.repo._store.fs, box, {"ask": "long", "message": "m" * 10_000})
    trigger = run.sm._watch.engine.triggers[0]
    assert until(lambda: list(trigger._asked)) == [("long", "m" * 4096)]


def test_a_forked_worker_does_not_hold_the_letter_box(training, path):
    """It would look as if the training were alive for as long as its worker is."""
    run = training(OnRequest())
    run.step()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b".")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"."  # the kernel may leave a child waiting before it has closed its copy
        run.sm._watch.engine.triggers[0]._box._file.let_go()  # as the end of this process would
        assert open_boxes(str(path)) == []
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


def test_a_repository_that_takes_no_letter_box_is_no_reason_to_stop(alone, tmp_path, caplog):
    """It is said once, and training goes on."""
    assert alone(OnRequest()).ask() is None and "will not reach this run" in caplog.text
