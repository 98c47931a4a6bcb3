"""A run's history on disk: bounded, readable whatever has happened to it, and nobody else's business."""

import json
import os
import subprocess
import sys

import pytest

import ciuic
from ciuic.errors import RepositoryError, UnknownRevision
from ciuic.supervised import HEARTBEAT, Supervised
from ciuic.supervisor import memory_kills, record
from ciuic.supervisor.output_log import OutputLog, last_lines
from ciuic.supervisor.record import Record
from ciuic.supervisor.runs import find_run, list_runs


@pytest.fixture
def repository(tmp_path):
    return ciuic.Repo.init(tmp_path / "run").path


@pytest.fixture
def begun(repository):
    """``begun()``: a run that has begun; closed at the end of the test."""
    made = []

    def begin(*command):
        made.append(Record(repository, command or ("train",), "/work"))
        return made[-1]

    yield begin
    for each in made:
        each.close()


def test_a_run_is_running_while_its_supervisor_lives(repository, begun):
    """And its step is what the training has told last."""
    running = begun("python", "train.py")
    running.add("started", {"attempt": 1})
    line = Supervised({HEARTBEAT: running.pulse.path})
    line.restored(4)
    line.at_step(7)
    (run,) = list_runs(repository)
    assert (run.state, run.step, run.command, run.attempts[0].resumed) == ("running", 7, ("python", "train.py"), 4)
    running.close()
    (run,) = list_runs(repository)
    assert (run.state, run.step, run.ended) == ("lost", 7, None)


def test_a_history_that_was_torn_is_read_as_far_as_it_goes(repository, begun):
    """A line cut short, bytes that are no text, objects of another kind, numbers where words belong."""
    whole = begun()
    whole.add("started", {"attempt": 1})
    whole.add("ended", {"attempt": 1, "kind": "crash", "words": "exit code 1", "exit_code": 1, "step": 3})
    whole.add("finished", {"state": "failed", "exit_code": 1, "why": "enough"})
    events = os.path.join(whole.path, "events.jsonl")
    with open(events, "rb") as file:
        lines = file.read().splitlines(keepends=True)
    odd = [b"\xff\xfe\n", b"[]\n", b"null\n", b'{"event": ["a"]}\n', b'{"event": "ended", "attempt": "x", "time": 5}\n']
    odd.append(b"[" * 100_000 + b"\n")
    with open(events, "wb") as file:
        file.write(b"".join([lines[0], *odd, lines[1], lines[2][:20]]))
    whole.close()
    (run,) = list_runs(repository)
    assert (run.state, run.step, run.attempts[0].words) == ("lost", 3, "exit code 1")
    with open(os.path.join(whole.path, "run.json"), "w") as file:
        json.dump({"command": 5, "folder": None, "began": "yesterday"}, file)
    (run,) = list_runs(repository)
    assert (run.command, run.began) == ((), None)
    os.unlink(os.path.join(whole.path, "run.json"))
    assert list_runs(repository) == []


def test_a_line_after_a_torn_one_counts(repository, begun, monkeypatch):
    """The disk took half a line; the next event is not lost with it."""
    run = begun()
    run.add("started", {"attempt": 1})
    with monkeypatch.context() as patch:
        patch.setattr(record.os, "write", lambda descriptor, data, write=os.write: write(descriptor, data[:9]))
        run.add("ended", {"attempt": 1, "kind": "crash"})
    run.add("finished", {"state": "done", "exit_code": 0})
    (read,) = list_runs(repository)
    assert (read.state, read.attempts[0].kind) == ("done", None)


def test_old_runs_make_room(repository, begun, monkeypatch):
    """The newest stay, and whatever still runs."""
    monkeypatch.setattr(record, "KEPT_RUNS", 3)
    first = begun()
    others = []
    for _ in range(4):
        others.append(begun())
        others[-1].close()
    names = {run.id for run in list_runs(repository)}
    assert names == {first.id, *(each.id for each in others[-3:])}


def test_a_run_is_found_by_either_end_of_its_id(repository, begun):
    """What no run or several are called is an error that says so."""
    ids = [begun().id for _ in range(2)]
    assert find_run(repository, ids[0]).id == find_run(repository, ids[0][-4:]).id == ids[0]
    for name in (ids[0][:8], "nonsense", ""):
        with pytest.raises(UnknownRevision, match="`ciuic runs` lists them"):
            find_run(repository, name)


def test_a_link_leads_nowhere(repository, tmp_path):
    """A repository from a stranger stays inside its folder."""
    os.symlink(tmp_path, os.path.join(repository, "runs"))
    assert list_runs(repository) == []
    with pytest.raises(RepositoryError, match="is a link"):
        Record(repository, ("train",), "/work")


def test_the_store_passes_it_by(repository, begun):
    """fsck and gc neither complain of it nor touch it."""
    run = begun()
    run.log(1).write(b"said\n")
    repo = ciuic.Repo.open(repository)
    repo.commit(extra={"a": 1}, step=0)
    repo.gc()
    assert repo.fsck(read_data=True).ok
    assert last_lines(os.path.join(run.path, "attempt-1.log"), 5) == ["said"]


def test_the_log_keeps_the_newest(tmp_path):
    """Two files of a limited size, whatever the command says; the end is read across both."""
    path = str(tmp_path / "log")
    log = OutputLog(path, limit=1000)
    for number in range(1000):
        log.write(b"line %d\n" % number)
    log.close()
    assert last_lines(path, 150) == [f"line {number}" for number in range(850, 1000)]
    assert sum(os.path.getsize(tmp_path / name) for name in os.listdir(tmp_path)) <= 2000
    assert sorted(os.listdir(tmp_path)) == ["log", "log.earlier"]
    assert log.end().endswith("line 999\n") and log.end().startswith("line 0\n")


def test_a_progress_bar_is_its_last_state(tmp_path):
    """Not the thousand before."""
    path = str(tmp_path / "log")
    log = OutputLog(path)
    log.write(b"begins\n" + b"".join(b"\r%3d %%" % share for share in range(101)) + b"\r\nends\r\n\n")
    log.close()
    assert last_lines(path, 10) == ["begins", "100 %", "ends"]


def test_the_kernel_counts_in_either_version(tmp_path):
    """Control groups of version 1 and 2, in a container too, and the machine as a whole."""

    def machine(cgroup, **counters):
        root = tmp_path / str(len(os.listdir(tmp_path)))
        files = {"proc/self/cgroup": cgroup, **{name.replace("__", "/"): text for name, text in counters.items()}}
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return root

    two = machine("0::/job\n", **{"sys/fs/cgroup/job/memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"})
    assert memory_kills.kills(two) == {"the control group /job": 2}
    one = machine(
        "5:cpu:/x\n4:memory:/docker/abc\n",
        **{"sys/fs/cgroup/memory/memory.oom_control": "under_oom 0\noom_kill 7\n", "proc/vmstat": "a 1\noom_kill 9\n"},
    )
    before = memory_kills.kills(one)
    assert before == {"the control group /docker/abc": 7, "the machine": 9}
    assert memory_kills.moved(before, before) is None
    said = memory_kills.moved(before, {**before, "the machine": 10})
    assert said == "the count of out-of-memory kills of the machine rose from 9 to 10"
    assert memory_kills.moved(before, {**before, "the machine": 10}, machine=False) is None, "it may be somebody else's"
    assert memory_kills.kills(tmp_path / "nothing") == {}


def test_a_supervisor_needs_no_torch():
    """It is there for as long as the training, so it is small."""
    code = (
        "import sys, ciuic.supervisor.supervising, ciuic.supervisor.resume_check, ciuic.cli.supervision\n"
        "print(sorted({'torch', 'numpy', 'rich', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
