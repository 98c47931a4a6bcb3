"""The line between a training and its supervisor: pages of shared memory, and a few variables."""

import os
import subprocess
import sys

from ciuic.heartbeat import PAGE, PLACE, PLACES, PLACES_AT, blank, read, started
from ciuic.snapshot import SnapshotManager
from ciuic.supervised import EVERY, HEARTBEAT, INTERRUPT, REPOSITORY, Supervised
from ciuic.supervisor.pulse import Patience


def test_a_step_is_told_through_shared_memory(tmp_path):
    """What the training writes, the supervisor reads at once."""
    page = tmp_path / "heartbeat"
    page.write_bytes(blank())
    assert read(page.read_bytes()).step is None
    line = Supervised({HEARTBEAT: str(page)})
    line.opened("/run/schnappschüsse")
    line.restored(41)
    line.at_step(42)
    line.at_step(43)
    told = read(page.read_bytes())
    assert (told.beats, told.step, told.restored, told.closed) == (2, 43, 41, False)
    assert told.repository == "/run/schnappschüsse" and told.time_ns > 0
    line.closed()
    assert read(page.read_bytes()).closed
    line.at_step(44)
    assert not read(page.read_bytes()).closed


def test_two_managers_in_one_process_count_on(tmp_path):
    """The second one does not set the number of boundaries back, which would look like a new life."""
    page = tmp_path / "heartbeat"
    page.write_bytes(blank())
    first = Supervised({HEARTBEAT: str(page)})
    first.opened("/a")
    first.at_step(0)
    second = Supervised({HEARTBEAT: str(page)})
    second.opened("/b")
    second.at_step(1)
    assert (read(page.read_bytes()).beats, read(page.read_bytes()).repository) == (2, "/b")


def test_each_process_is_known_by_itself(tmp_path):
    """Two ranks: the one that told its last step first comes first, and counts for as long as it lives."""
    page = tmp_path / "heartbeat"
    page.write_bytes(blank())
    line = Supervised({HEARTBEAT: str(page)})
    line.at_step(0)
    code = "import sys\nfrom ciuic.supervised import Supervised\nSupervised().at_step(1)\n"
    code += "print(flush=True)\nsys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, HEARTBEAT: str(page)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        other.stdout.readline()
        line.at_step(2)
        told = read(page.read_bytes())
        assert [each.pid for each in told.tellers] == [other.pid, os.getpid()]
        assert all(each.lives for each in told.tellers) and told.step == 2
        patience = Patience(step_s=1.0, outside_s=9.0)
        assert patience.deadline(told, 0.0) == told.tellers[0].time_ns / 1e9 + 1.0
        other.communicate()
    assert not told.tellers[0].lives
    assert patience.deadline(told, 0.0) == told.time_ns / 1e9 + 1.0
    again = Supervised({HEARTBEAT: str(page)})
    again.at_step(3)
    assert [each.pid for each in read(page.read_bytes()).tellers].count(os.getpid()) == 1
    again.closed()
    told = read(page.read_bytes())
    assert os.getpid() not in [each.pid for each in told.tellers]
    assert patience.deadline(told, 0.0) == told.time_ns / 1e9 + 9.0


def test_more_processes_than_places(tmp_path):
    """The last place is everybody else's: what is told there is told, and nothing else is overwritten."""
    pages = bytearray(blank())
    mine = os.getpid(), started(os.getpid())
    for number in range(PLACES - 1):
        PLACE.pack_into(pages, PLACES_AT + number * PLACE.size, os.getppid(), started(os.getppid()), 0)
    PLACE.pack_into(pages, PLACES_AT + (PLACES - 1) * PLACE.size, os.getppid(), started(os.getppid()), 5)
    page = tmp_path / "heartbeat"
    page.write_bytes(pages)
    Supervised({HEARTBEAT: str(page)}).at_step(0)
    (teller,) = read(page.read_bytes()).tellers
    assert (teller.pid, teller.started) == mine


def test_without_a_supervisor_nothing_happens(tmp_path):
    """No variable, a page that is gone, and one that is none: training goes on."""
    short = tmp_path / "short"
    short.write_bytes(b"ciuicbt1")
    for environment in ({}, {HEARTBEAT: str(tmp_path / "gone")}, {HEARTBEAT: str(short)}):
        line = Supervised(environment)
        line.opened("/a")
        line.at_step(0)
        line.restored(None)
        line.closed()
    assert short.read_bytes() == b"ciuicbt1"
    assert read(b"").beats == 0 and read(bytes(PAGE)).repository is None


def test_what_is_asked_for():
    """Another repository, and snapshots more often."""
    asked = Supervised({REPOSITORY: "/elsewhere", EVERY: "3"})
    assert (asked.repository, asked.every) == ("/elsewhere", 3)
    nothing = Supervised({})
    assert (nothing.repository, nothing.every) == (None, None)


def test_nothing_is_pruned_of_what_is_compared(tmp_path, monkeypatch):
    """`ciuic verify-resume` ended with the error ``Pruned`` where a script with retention differed from itself."""
    monkeypatch.setenv(REPOSITORY, str(tmp_path / "compared"))
    run = SnapshotManager(tmp_path / "own", retention=["keep-last=1"])
    for step in range(3):
        run.save(step, extra={"step": step}, rng=False, force=True, wait=True)
    run.close()
    assert run.repo.path == str(tmp_path / "compared") and run.repo.prunes() == {}


def test_an_interruption_comes_at_its_step():
    """SIGKILL, at the boundary of the step that was named and not before."""
    code = (
        "from ciuic.supervised import Supervised\n"
        f"line = Supervised({{{INTERRUPT!r}: '2'}})\n"
        "for step in range(9):\n    print(step, flush=True)\n    line.at_step(step)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("0\n1\n2\n", -9), done.stderr
