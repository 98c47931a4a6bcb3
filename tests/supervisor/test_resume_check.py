"""`ciuic verify-resume`: scripts that resume rightly, and some that do not, told apart and told why."""

import random

import pytest

import ciuic
from ciuic.errors import CommandFailed
from ciuic.objects.state_tree import Value, expand
from ciuic.supervisor.causes import NOT_REPEATABLE, probable_cause
from ciuic.supervisor.comparing import Difference, compare
from ciuic.supervisor.resume_check import choose

TRAIN = """
import torch
from torch import nn
from ciuic.snapshot import SnapshotManager

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
noise = torch.Generator().manual_seed(1)
sm = SnapshotManager("snapshots")
sm.track(model=model, optimizer=optimizer, TRACKED)
for step in range(sm.resume(), 8):
    optimizer.zero_grad()
    inputs = torch.randn(4, 8, generator=noise)
    model(inputs).square().mean().backward()
    optimizer.step()
    scheduler.step()
    sm.step()
    WAIT
sm.close()
"""

DESCENT = """
import torch
from torch import nn
from ciuic.snapshot import SnapshotManager

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 1))
noise = torch.Generator().manual_seed(1)
sm = SnapshotManager("snapshots")
sm.track(model=model)
for step in range(sm.resume(), 5):
    model.zero_grad()
    model(torch.randn(4, 8, generator=noise)).square().mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    sm.step()
    sm.wait()
sm.close()
"""
"""Without torch's optimizers, which take as long to load as the rest of it."""


def verify(desk, tracked, *options, wait="pass", script=TRAIN):
    command = desk.script(script.replace("TRACKED", tracked).replace("WAIT", wait))
    result = desk.ciuic("verify-resume", *options, "--", *command)
    assert not (desk.folder / "snapshots").exists(), "the script's own repository is not touched"
    return result


def test_a_script_that_resumes_rightly(desk):
    """Dropout, a scheduler, a generator of its own: killed twice, once of them in the middle of a step, with copies of
    the steps before under way."""
    result = verify(desk, "scheduler=scheduler, noise=noise", "--interrupt-at", "2,4.5")
    assert result.code == 0, result.err + result.out
    assert "The same, bit for bit." in result.out and "compared     8 steps: model, optimizer" in result.out
    assert "interrupted  after step 2, " in result.out
    assert "left out     generators that nobody has seeded, and nothing depends on: " in result.out


def test_a_script_that_forgets_its_scheduler(desk):
    """The rate differs first, the weights a step later."""
    result = verify(desk, "noise=noise", "--interrupt-at", "3", "--keep", str(desk.folder / "kept"), wait="sm.wait()")
    assert result.code == 112, result.err + result.out
    assert "resumed from the snapshot of step 2" in result.out, result.out
    assert "Different from step 3 on:" in result.out and "  optimizer/param_groups/0/lr" in result.out
    assert "first tensor model/0.weight, after step 4" in result.out
    assert "no scheduler is in the snapshots" in result.out
    assert "does not end with the same bits" in result.err
    kept = ciuic.Repo.open(desk.folder / "kept" / "interrupted")
    assert kept.resolve("HEAD").step == 7


def test_a_generator_that_is_not_tracked(desk):
    """It begins anew with each start, so another batch comes: the weights differ from the first step on."""
    result = verify(desk, "", "--interrupt-at", "2", "--json", script=DESCENT)
    assert result.code == 112, result.err + result.out
    (record,) = result.records
    difference = record["comparison"]["difference"]
    assert (record["same"], record["repeatable"]) == (False, True)
    assert (difference["step"], difference["tensor"], difference["tensor_step"]) == (2, "model/0.weight", 2)
    assert "every generator of your own is tracked" in record["cause"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise SystemExit('no data')", "failed by itself, before its first step: exit code 1"),
        ("print('nothing')", "took no snapshot"),
    ],
)
def test_a_script_of_which_nothing_can_be_said(desk, text, said):
    """It has to run by itself first, and to end its steps."""
    result = desk.ciuic("verify-resume", "--", *desk.script(text))
    assert result.code == 111 and said in result.err


def test_moments_that_are_no_numbers(desk):
    """A usage error, before anything runs."""
    assert desk.ciuic("verify-resume", "--interrupt-at", "two", "--", "true").code == 2


def test_random_moments():
    """All different, ascending, with a snapshot before and steps after; as many as there is room for."""
    for seed in range(20):
        moments = choose([0, 1, 2, 9], 4, random.Random(seed))
        assert len({int(moment) for moment in moments}) == 4 and moments == sorted(moments)
        assert moments[0] >= 0 and moments[-1] < 9
    assert len(choose([3, 5], 10, random.Random(0))) == 2
    with pytest.raises(CommandFailed, match="one step alone"):
        choose([3], 1, random.Random(0))


@pytest.fixture
def two(tmp_path):
    """Two repositories with the same five steps."""
    repos = [ciuic.Repo.init(tmp_path / name) for name in ("a", "b")]
    for repo in repos:
        for step in range(5):
            repo.commit(extra={"n": step, "list": [1, {"deep": step}]}, step=step, rng=False)
    return repos


def test_two_that_are_the_same(two):
    """Also when one lacks a snapshot on the way; not when it lacks the last."""
    comparison = compare(*two)
    assert comparison.same and comparison.steps == (0, 1, 2, 3, 4)
    a, b = two
    a.commit(extra={"n": 6}, step=6, rng=False)
    assert not compare(a, b).same and compare(a, b).difference is None
    b.commit(extra={"n": 6}, step=6, rng=False)
    assert compare(a, b).same
    b.commit(extra={"n": 7}, step=7, rng=False)
    assert compare(a, b).last == (6, 7) and not compare(a, b).same


def test_the_first_difference_is_named(two):
    """A value deep inside, a key that comes or goes, 1 and 1.0: each by its path."""
    a, b = two
    for repo, state in ((a, {"n": 1, "same": 1, "x": [1, 2]}), (b, {"n": 1.0, "same": 1, "x": [1, 3], "new": 0})):
        repo.commit(extra=state, step=5, rng=False)
    found = compare(a, b).difference
    assert found == Difference(5, ("extra/n", "extra/x/1", "extra/new"))


def test_a_generator_that_nobody_has_seeded(tmp_path):
    """It differs from the first step on, wherever its state is kept: left out. One that begins to differ is not."""
    repos = [ciuic.Repo.init(tmp_path / name) for name in ("a", "b")]
    for number, repo in enumerate(repos):
        for step in range(4):
            late = step if step < 3 else 100 + number
            state = {"rng": {"python": [number, step], "torch": late}, "data": {"generators": {"python": number}}}
            repo.commit_components({name: expand(Value(value)) for name, value in state.items()}, ("rng",), step=step)
    comparison = compare(*repos, fresh_until=1)
    assert comparison.unseeded == ("python",)
    assert comparison.difference == Difference(3, ("rng/torch",))
    assert compare(*repos, fresh_until=-1).difference == Difference(0, ("rng/python", "data/generators/python"))


def test_every_branch_counts(two):
    """A step done twice after an interruption is compared both times."""
    a, b = two
    b.switch("step:2")
    other = ciuic.Repo.open(b.path)
    other.commit(extra={"n": 3, "list": [1, {"deep": 99}]}, step=3, rng=False)
    assert compare(a, b).difference == Difference(3, ("extra/list/1/deep",))


@pytest.mark.parametrize(
    ("paths", "components", "said"),
    [
        (("optimizer/param_groups/0/lr",), ("model", "optimizer"), "no scheduler is in the snapshots"),
        (("optimizer/param_groups/0/lr",), ("optimizer", "scheduler"), "not brought back before its first step"),
        (("data/position",), ("data",), "position in the data"),
        (("rng/torch", "model/0.weight"), ("model", "rng"), "random generator (torch)"),
        (("data/generators/torch",), ("model", "data"), "random generator (torch)"),
        (("model/0.weight",), ("model", "rng"), "`sm.batches(loader)`"),
        (("model/0.weight",), ("model", "rng", "data"), "tracked, and that nothing else"),
        (("scheduler/last_epoch",), ("scheduler",), "the scheduler"),
        (("ema/weight",), ("ema",), "ema: it is kept between steps"),
    ],
)
def test_what_it_probably_is(paths, components, said):
    """By what differs first."""
    assert said in probable_cause(Difference(7, paths), components)
    assert "does not repeat itself" in NOT_REPEATABLE
