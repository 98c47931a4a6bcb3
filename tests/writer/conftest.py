"""Repositories and trainers of which nothing may be left behind."""

import logging
import os
import sys
import textwrap

import pytest
from trainers import FAULTY, ROOT, Trainer, running, until

import ciuic


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def repo(path):
    return ciuic.Repo.init(path, chunk_size=4096)


@pytest.fixture
def trainer(repo, path):
    """``trainer(**options)``: a Trainer on the repository; nothing of it is left behind."""
    made = []

    def make(**options):
        made.append(Trainer(path, **options))
        return made[-1]

    yield make
    pids = [each.writer.pid for each in made]
    for each in made:
        each.clean()
    for pid in filter(None, pids):
        until(lambda pid=pid: not running(pid))
    until(lambda: os.listdir(path / "tmp") == [])


@pytest.fixture
def warnings_of(caplog):
    """The log warnings since the last call."""

    def take():
        messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        caplog.clear()
        return messages

    return take


@pytest.fixture
def program(tmp_path):
    """``program(body)``: the command of a writer that is the real one but for what ``body`` does to it first."""

    def make(body=""):
        file = tmp_path / "program.py"
        file.write_text(FAULTY.format(root=str(ROOT), marks=str(tmp_path), body=textwrap.dedent(body)))
        return [sys.executable, str(file)]

    return make
