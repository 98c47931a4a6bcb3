"""Whether to try again, when, and from where."""

import signal

import pytest

from ciuic.supervisor.ending import Ending, Facts, judge
from ciuic.supervisor.policy import Past, Policy, decide

CRASH = Ending("crash", "exit code 1", 1)


def past(*steps, ending=CRASH, advanced=(), walked_back=()):
    return [Past(ending, step, n in advanced, n in walked_back) for n, step in enumerate(steps)]


def delays(policy, attempts):
    return [decide(policy, attempts[: n + 1]).delay_s for n in range(len(attempts))]


def test_the_pause_doubles_up_to_its_limit():
    """1, 2, 4, 5, 5 seconds, and then it is enough."""
    policy = Policy(max_restarts=5, backoff_s=1.0, backoff_limit_s=5.0)
    assert delays(policy, past(1, 2, 3, 4, 5, 6)) == [1.0, 2.0, 4.0, 5.0, 5.0, None]
    assert "5 times, which is the limit" in decide(policy, past(1, 2, 3, 4, 5, 6)).why


def test_a_new_snapshot_starts_the_count_anew():
    """The pause and the limit, both."""
    policy = Policy(max_restarts=2)
    assert delays(policy, past(1, 2, 3, 4, 5, advanced=(2,))) == [1.0, 2.0, 1.0, 2.0, None]
    assert "since its newest snapshot" in decide(policy, past(1, 2, 3, 4, 5, advanced=(2,))).why


def test_no_restarts_at_all():
    """``--max-restarts 0`` only keeps the history."""
    assert decide(Policy(max_restarts=0), past(7)).delay_s is None


def test_the_same_failure_before_the_first_step():
    """A typing error does not go away by itself; two different ones may."""
    other = Past(Ending("crash", "exit code 1: ImportError: numpy", 1))
    assert delays(Policy(), past(None, None, None)) == [1.0, 2.0, None]
    assert delays(Policy(), [*past(None, None), other]) == [1.0, 2.0, 4.0]
    assert delays(Policy(), past(None, 3, None)) == [1.0, 2.0, 4.0]


def test_what_has_come_to_a_step_once_can_start():
    """A disk that is away for ten seconds at a restart ended a run of days: three equal failures came within three."""
    assert delays(Policy(), past(9, None, None, None, None)) == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_how_the_limit_is_worded():
    """ "It was restarted 1 times"."""
    said = [decide(Policy(max_restarts=limit), past(*range(limit + 1))).why for limit in range(3)]
    times = ["not restarted", "restarted once", "restarted 2 times"]
    assert said == [f"it was {each}, which is the limit" for each in times]


@pytest.mark.parametrize("code", [126, 127])
def test_a_command_that_is_none(code):
    """Once is enough."""
    assert decide(Policy(), [Past(Ending("crash", "", code))]).delay_s is None


def test_twice_at_one_step_goes_back_by_one_snapshot():
    """And once more only after two further deaths there."""
    assert [decide(Policy(), past(9, 9)[: n + 1]).walk_back for n in range(2)] == [False, True]
    assert not decide(Policy(), past(9, 9, 9, walked_back=(2,))).walk_back
    assert decide(Policy(), past(9, 9, 9, 9, walked_back=(2,))).walk_back
    assert not decide(Policy(), past(9, 8)).walk_back and not decide(Policy(), past(None, None)).walk_back


@pytest.mark.parametrize("kind", ["done", "stopped"])
def test_what_ends_it(kind):
    assert decide(Policy(), [Past(Ending(kind, "so", 0), 3)]).delay_s is None


@pytest.mark.parametrize(
    ("facts", "kind", "code", "words"),
    [
        (Facts(0), "done", 0, "exit code 0"),
        (Facts(3), "crash", 3, "exit code 3"),
        (Facts(139), "crash", 139, "exit code 139, as after SIGSEGV"),
        (Facts(255), "crash", 255, "exit code 255"),
        (Facts(1, tail="Traceback\nValueError: no\n"), "crash", 1, "exit code 1: ValueError: no"),
        (Facts(-signal.SIGSEGV), "killed", 139, "killed by SIGSEGV"),
        (Facts(-signal.SIGABRT, silent_s=61.5), "hang", 134, "hung: no step for 61.5 s"),
        (Facts(-signal.SIGABRT, silent_s=1234.5), "hang", 134, "hung: no step for 1234 s"),
        (Facts(-9, stopped_by=signal.SIGTERM), "stopped", 137, "SIGTERM was passed on; killed by SIGKILL"),
        (Facts(0, stopped_by=signal.SIGINT), "stopped", 0, "SIGINT was passed on; exit code 0"),
        (Facts(-9, memory_kills="a count rose"), "memory", 137, "out of memory: killed by SIGKILL, and a count rose"),
        (Facts(1, tail="MemoryError\n"), "memory", 1, "out of memory: exit code 1, and it said MemoryError"),
        (Facts(1, tail="MemoryError\nKeyError: 'x'\n"), "crash", 1, "exit code 1: KeyError: 'x'"),
        (Facts(0, tail="MemoryError\n"), "done", 0, "exit code 0"),
        (
            Facts(
                1, tail="[rank1]: KeyError: 1\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
            ),
            "crash",
            1,
            "exit code 1: [rank1]: KeyError: 1",
        ),
    ],
)
def test_how_an_end_is_judged(facts, kind, code, words):
    """What the supervisor did itself, then what the kernel counted, then what was said last."""
    assert judge(facts) == Ending(kind, words, code)


LOST_RANK = """[rank0]: RuntimeError: Connection reset by peer
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
============================================================
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 27845) 
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-29_00:54:19
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 27846)  (SIGKILL)
  traceback : Signal 9 (SIGKILL) received by PID 27846
============================================================
"""  # noqa: W291 (as torchrun has it)


def test_a_rank_that_was_killed():
    """The others say that they have lost it, which is not why. The machine's count of kills is asked, too."""
    facts = Facts(1, tail=LOST_RANK)
    assert facts.by_kill
    assert judge(facts) == Ending("killed", "exit code 1, and rank 1 was killed by SIGKILL", 1)
    other = Facts(1, tail=LOST_RANK.replace("-9 (", "1 ("))
    assert not other.by_kill and judge(other).kind == "crash"
    aborted = Facts(1, tail="terminate: std::bad_alloc\n" + LOST_RANK.replace("-9 (", "-6 ("))
    assert judge(aborted).kind == "memory"


@pytest.mark.parametrize(
    "said",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
        "torch.cuda.OutOfMemoryError: CUDA out of memory.",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)",
        "RuntimeError: CUDA error: out of memory",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8.00 EiB",
        "numpy.core._exceptions.MemoryError: Unable to allocate",
        "MemoryError",
        "  what():  std::bad_alloc",
        "[rank1]: torch.OutOfMemoryError: CUDA out of memory.\n[rank0]: RuntimeError: Connection reset by peer\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
    ],
)
def test_how_a_lack_of_memory_is_worded(said):
    """By torch on either device, by numpy, by Python, by C++."""
    assert judge(Facts(1, tail=f"step 3\n{said}\n")).kind == "memory"
