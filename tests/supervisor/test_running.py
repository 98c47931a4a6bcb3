"""`ciuic run`: what it does with a command's end, its signals, its output and what it leaves behind."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import STEPS, alive, state, until


def test_a_command_that_is_done(desk):
    """Exit code 0, its output as it was, and nothing of ours in between."""
    result = desk.run(desk.script("import sys; print('out'); print('err', file=sys.stderr)"))
    assert (result.code, result.out, result.err) == (0, "out\n", "err\n")
    run = desk.newest_run()
    assert (run["state"], run["exit_code"], len(run["attempts"])) == ("done", 0, 1)
    assert sorted(run["attempts"][0]["tail"]) == ["err", "out"]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("raise SystemExit(7)", 7, "in the same way before its first step"),
        ("import os; os.kill(os.getpid(), 11)", 139, "killed by SIGSEGV"),
    ],
)
def test_the_same_failure_before_the_first_step(desk, text, code, said):
    """Three times is enough; the code is the command's, or 128 + the signal."""
    result = desk.run(desk.script(text))
    assert result.code == code and said in result.err
    assert len(desk.newest_run()["attempts"]) == 3


def test_commands_that_are_none(desk):
    """As a shell has it: 127 for what is not there, 126 for what cannot be run. Once."""
    (desk.folder / "plain.txt").write_text("")
    result = desk.run(["./nowhere"])
    assert result.code == 127 and result.err.startswith("./nowhere: No such file or directory\n")
    result = desk.run(["./plain.txt"])
    assert result.code == 126 and "cannot be executed" in result.err
    assert [len(desk.newest_run()["attempts"])] == [1]


def test_nobody_reads_what_the_supervisor_says(desk):
    """The terminal is gone, or `| tee log` has died: the supervisor died of its own next word, and the run with it."""
    ears, mouth = os.pipe()
    os.close(ears)
    script = "import os\nif not os.path.exists('again'):\n    open('again', 'w').close()\n    raise SystemExit(5)\n"
    with os.fdopen(mouth, "wb") as errors, desk.start(desk.script(script), stderr=errors) as supervisor:
        supervisor.communicate()
    assert supervisor.returncode == 0
    assert [attempt["exit_code"] for attempt in desk.newest_run()["attempts"]] == [5, 0]


def test_it_gives_up_without_progress(desk):
    """A training that gets somewhere else each time and never publishes a snapshot."""
    counting = "n = len(os.listdir('.'))\nopen(str(n), 'w').close()\nline.at_step(n)\nraise SystemExit(5)\n"
    result = desk.run(desk.script(STEPS + counting), "--max-restarts", "4")
    assert result.code == 5 and "restarted 4 times" in result.err
    steps = [attempt["step"] for attempt in desk.newest_run()["attempts"]]
    assert len(steps) == 5 and steps == sorted(set(steps))


def test_sigterm_is_passed_on_and_ends_it(desk):
    """The training leaves as it likes, and is not started again."""
    text = (
        STEPS + "signal.signal(signal.SIGTERM, lambda *_: (print('leaving', flush=True), sys.exit(3)))\n"
        "print('ready', flush=True)\nsignal.pause()\n"
    )
    with desk.start(desk.script(text)) as supervisor:
        assert supervisor.stdout.readline() == "ready\n"
        supervisor.terminate()
        out, _ = supervisor.communicate()
    assert (supervisor.returncode, out) == (3, "leaving\n")
    run = desk.newest_run()
    assert (run["state"], len(run["attempts"])) == ("stopped", 1)
    assert run["why"] == "SIGTERM was passed on; exit code 3"


def test_a_training_that_does_not_leave(desk):
    """SIGKILL after the grace time."""
    text = STEPS + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(600)\n"
    with desk.start(desk.script(text), "--grace", "0.2s") as supervisor:
        assert supervisor.stdout.readline() == "ready\n"
        supervisor.terminate()
        assert supervisor.wait() == 128 + 9


def test_a_signal_between_two_attempts(desk):
    """Nothing is running then; nothing is started."""
    with desk.start(desk.script("raise SystemExit(1)"), "--backoff", "600") as supervisor:
        until(lambda: "Starting it again" in supervisor.stderr.readline())
        supervisor.send_signal(signal.SIGINT)
        assert supervisor.wait() == 130
        supervisor.communicate()
    assert desk.newest_run()["state"] == "stopped"


def test_a_shell_script_that_dies_first(desk):
    """The shell dies of the signal at once, without passing it on: what it was running gets it, and its time."""
    text = STEPS + (
        "signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w').close(), sys.exit(0)))\n"
        "print('ready', flush=True)\nsignal.pause()\n"
    )
    command = " ".join(desk.script(text))
    with desk.start(["sh", "-c", f"{command}; true"]) as supervisor:
        assert supervisor.stdout.readline() == "ready\n"
        supervisor.terminate()
        assert supervisor.wait() == 128 + signal.SIGTERM
        supervisor.communicate()
    assert (desk.folder / "saved").exists()


def test_sigusr1_is_for_the_training(desk):
    """It is passed on, and a training that goes on is left to go on. (The script called ``pause`` after it was ready:
    a signal in between was not waited for any more, and the test never ended.)
    """
    text = STEPS + (
        "asked = []\nsignal.signal(signal.SIGUSR1, lambda *_: asked.append('asked'))\n"
        "print('ready', flush=True)\nwhile not asked:\n    time.sleep(0.01)\nprint(*asked)\nprint('done')\n"
    )
    with desk.start(desk.script(text)) as supervisor:
        assert supervisor.stdout.readline() == "ready\n"
        supervisor.send_signal(signal.SIGUSR1)
        out, _ = supervisor.communicate()
    assert (supervisor.returncode, out) == (0, "asked\ndone\n")
    assert desk.newest_run()["state"] == "done"


def test_a_hang_says_where(desk):
    """No step for so long: Python prints where each thread is, and the next attempt begins."""
    text = STEPS + (
        "if os.path.exists('hung'):\n    sys.exit(0)\nopen('hung', 'w').close()\n"
        "def waits_for_ever():\n    time.sleep(600)\n\nline.at_step(0)\nline.at_step(1)\nwaits_for_ever()\n"
    )
    assert desk.run(desk.script(text), "--hang", "3s").code == 0
    first, second = desk.newest_run()["attempts"]
    assert (first["kind"], first["step"], second["kind"]) == ("hang", 1, "done")
    assert any("waits_for_ever" in line for line in first["tail"])


@pytest.mark.parametrize("options", [("--hang", "0"), ("--hang", "1s", "--hang-outside", "0"), ("--hang-outside", "9")])
def test_no_time_is_no_hang(desk, options):
    """`--hang 0` may mean "never" to somebody; it ended each attempt at its first step."""
    assert desk.run(["true"], *options).code == 2


def test_a_hang_of_a_rank_says_where(desk):
    """torchrun's ranks are in sessions of their own: the agent alone said where it was, which is never the reason."""
    text = STEPS + (
        "import subprocess\n"
        "if os.path.exists('hung'):\n    sys.exit(0)\nopen('hung', 'w').close()\n"
        "rank = 'import time\\ndef a_rank_that_waits():\\n    time.sleep(600)\\na_rank_that_waits()\\n'\n"
        "line.at_step(0)\nsubprocess.Popen([sys.executable, '-c', rank], start_new_session=True).wait()\n"
    )
    assert desk.run(desk.script(text), "--hang", "3s").code == 0
    first, _ = desk.newest_run()["attempts"]
    assert first["kind"] == "hang" and any("a_rank_that_waits" in line for line in first["tail"])


def test_one_of_two_processes_hangs(desk):
    """The one that went on told its steps in the same place, so nobody saw that the other had stopped."""
    text = STEPS + (
        "if os.path.exists('hung'):\n    sys.exit(0)\nopen('hung', 'w').close()\n"
        "if os.fork():\n    line.at_step(0)\n    time.sleep(60)\n    sys.exit(0)\n"
        "other = Supervised()\nother.opened(os.path.abspath('snapshots'))\n"
        "for step in range(6000):\n    other.at_step(step)\n    time.sleep(0.1)\n"
    )
    assert desk.run(desk.script(text), "--hang", "3s").code == 0
    assert [attempt["kind"] for attempt in desk.newest_run()["attempts"]] == ["hang", "done"]


WAITING = STEPS + (
    "line.at_step(0)\nprint(os.getpid(), flush=True)\n"
    "for _ in range(6000):\n    if os.path.exists('go'):\n        break\n    line.at_step(1)\n    time.sleep(0.01)\n"
)


def test_ctrl_z_stops_both(desk):
    """The supervisor stopped and the training went on, until nobody read what it said. `fg` continues both."""
    with desk.start(desk.script(WAITING), preexec_fn=os.setpgrp) as supervisor:
        training = int(supervisor.stdout.readline())
        supervisor.send_signal(signal.SIGTSTP)
        try:
            for pid in (training, supervisor.pid):
                until(lambda pid=pid: state(pid) == "T")
        finally:
            supervisor.send_signal(signal.SIGCONT)
        until(lambda: state(training) != "T")
        (desk.folder / "go").touch()
        supervisor.communicate()
    assert supervisor.returncode == 0


def test_time_in_which_nothing_runs_is_no_hang(desk):
    """A scheduler that suspends a job stops all of its processes: when they were continued, the training was killed."""
    with desk.start(desk.script(WAITING), "--hang", "3s") as supervisor:
        training = int(supervisor.stdout.readline())
        for pid in (training, supervisor.pid):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5)
        for pid in (supervisor.pid, training):
            os.kill(pid, signal.SIGCONT)
        (desk.folder / "go").touch()
        supervisor.communicate()
    assert supervisor.returncode == 0 and len(desk.newest_run()["attempts"]) == 1


def test_the_dead_are_buried_while_the_training_runs(desk):
    """What outlives its parent becomes the supervisor's: the first process of a container collected them for weeks."""
    text = STEPS + (
        "ours, theirs = os.pipe()\n"
        "if os.fork() == 0:\n    if os.fork() == 0:\n"
        "        os.write(theirs, str(os.getpid()).encode())\n    os._exit(0)\n"
        "os.wait()\norphan = os.read(ours, 20).decode()\n"
        "for _ in range(2000):\n    if not os.path.exists('/proc/' + orphan):\n        sys.exit(0)\n"
        "    time.sleep(0.01)\nsys.exit(9)\n"
    )
    assert desk.run(desk.script(text), "--max-restarts", "0").code == 0


def test_a_start_that_hangs(desk):
    """Before the first step another limit holds, and a stopped process dies all the same."""
    text = STEPS + (
        "if os.path.exists('hung'):\n    sys.exit(0)\nopen('hung', 'w').close()\nos.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    assert desk.run(desk.script(text), "--hang", "600", "--hang-outside", "8").code == 0
    kinds = [attempt["kind"] for attempt in desk.newest_run()["attempts"]]
    assert (kinds[0], kinds[-1]) == ("hang", "done")


def test_nothing_is_left_behind_by_a_crash(desk):
    """Not even a process in a session of its own, as torchrun's ranks are: it would hold the port and the memory."""
    text = STEPS + (
        "import subprocess\n"
        "if os.path.exists('left'):\n    sys.exit(0)\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "open('left', 'w').write(str(left.pid))\nos.kill(os.getpid(), 9)\n"
    )
    assert desk.run(desk.script(text)).code == 0
    left = int((desk.folder / "left").read_text())
    until(lambda: not alive(left))


def test_a_supervisor_that_is_killed(desk):
    """Its training gets SIGTERM rather than go on unseen beside the next one, and the run is known to be lost."""
    text = STEPS + (
        "signal.signal(signal.SIGTERM, lambda *_: (open('saved', 'w').close(), sys.exit(0)))\n"
        "line.at_step(4)\nprint('ready', flush=True)\nsignal.pause()\n"
    )
    with desk.start(desk.script(text)) as supervisor:
        assert supervisor.stdout.readline() == "ready\n"
        assert desk.newest_run()["state"] == "running" and desk.newest_run()["step"] == 4
        supervisor.kill()
        supervisor.communicate()
    until((desk.folder / "saved").exists)
    run = desk.newest_run()
    assert (run["state"], run["step"], run["attempts"][0]["kind"]) == ("lost", 4, None)


def test_a_terminal_stays_one(desk):
    """For the training, too: with its size, so that a progress bar looks as it should. A file is none."""
    text = "import os, sys\nprint(sys.stdout.isatty(), sys.stderr.isatty(), os.get_terminal_size(1).columns)\n"
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "cols", "123"], stdin=theirs, check=True)
    with desk.start(desk.script(text), stdout=theirs) as supervisor:
        _, errors = supervisor.communicate()
    said = os.read(ours, 1000).decode()
    for end in (ours, theirs):
        os.close(end)
    assert said == "True False 123\r\n", errors


def test_a_reader_that_has_gone_costs_the_training_nothing(desk):
    """`ciuic run … | head`: the training goes on, and the log has all of it."""
    text = "import time\nfor n in range(200):\n    print(n, 'x' * 1000)\n"
    reader, writer = os.pipe()
    os.close(reader)
    with desk.start(desk.script(text), stdout=writer) as supervisor:
        os.close(writer)
        supervisor.communicate()
    assert supervisor.returncode == 0
    assert desk.newest_run()["attempts"][0]["tail"][-1].startswith("199 ")


GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.mark.skipif(not os.access(GROUPS, os.W_OK) or os.getuid() != 0, reason="needs a memory control group to make")
def test_the_kernel_kills_it_for_memory(desk):
    """A real limit, and a real kill: SIGKILL alone does not say why, the kernel's count does."""
    group = GROUPS / f"ciuic-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(160 << 20))
        text = STEPS + (
            "if os.path.exists('big'):\n    sys.exit(0)\nopen('big', 'w').close()\nline.at_step(2)\n"
            "open('/proc/self/oom_score_adj', 'w').write('1000')\nbig = bytearray(os.urandom(1 << 20)) * 400\n"
        )
        enter = f"echo $$ > {group}/cgroup.procs; exec {sys.executable} -m ciuic run --backoff 0 -- "
        command = ["sh", "-c", enter + " ".join(desk.script(text))]
        done = subprocess.run(command, cwd=desk.folder, env=desk.environment(), capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        first, _ = desk.newest_run()["attempts"]
        assert (first["kind"], first["exit_code"], first["step"]) == ("memory", 137, 2), done.stderr
        assert "the count of out-of-memory kills of the control group" in first["words"]
    finally:
        group.rmdir()
