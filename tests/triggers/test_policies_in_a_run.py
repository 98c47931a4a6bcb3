"""The policies that look at numbers, each brought about by a real training, real losses and the real clock."""

import math

import pytest
import torch

import ciuic
from ciuic.triggers import BestMetric, Budget, EverySeconds, EverySteps, LossSpike, NonFinite, OnException


def log_of(path):
    return [(snapshot.step, snapshot.message) for snapshot in ciuic.Repo(path).log()]


def test_every_so_many_seconds(training, path):
    """Each step takes longer than that here; the first one begins the time."""
    run = training(EverySeconds(1e-9))
    for _ in range(3):
        run.step()
        run.sm.wait()
    assert log_of(path) == [(2, "every 1e-09 seconds"), (1, "every 1e-09 seconds")]


def test_a_share_of_the_time(training, path, until):
    """The first one after two steps; the next when that is paid for, whatever it has cost here."""
    run = training(Budget(0.5, least_s=0))

    def trained():
        run.step()
        run.sm.wait()
        return len(log_of(path)) == 3

    until(trained)
    steps = [step for step, _ in log_of(path)]
    assert steps[-1] == 1 and {message for _, message in log_of(path)} == {"a budget of 0.5 of the time"}


def test_the_best_loss_of_a_training_and_of_the_one_that_resumes_it(training, path):
    """Whatever is above it is not saved, in the next process neither."""
    run = training(BestMetric("loss"))
    losses = []
    for _ in range(8):
        loss = run.update()
        losses.append(loss.item())
        run.sm.step(loss=loss)
        run.sm.wait()
    best = [step for step, loss in enumerate(losses) if loss == min(losses[: step + 1])]
    assert [step for step, _ in reversed(log_of(path))] == best
    resumed = training(BestMetric("loss"))
    step = resumed.sm.resume()
    assert step == best[-1] + 1
    resumed.sm.step(loss=min(losses))
    resumed.sm.step(loss=min(losses) / 2)
    resumed.sm.wait()
    assert log_of(path)[0] == (step + 1, f"best loss: {min(losses) / 2:.6g}") and len(log_of(path)) == len(best) + 1


def test_a_training_that_diverges(training, path):
    """A rate that is far too high, and weights that are no numbers from then on: one snapshot."""
    run = training(NonFinite("loss"))
    run.step()
    run.optimizer.param_groups[0]["lr"] = math.inf
    for _ in range(4):
        run.step()
    run.sm.wait()
    ((step, message),) = log_of(path)
    assert (step, message) == (2, "loss is nan")


def test_a_batch_that_is_poison(training, path):
    """The loss jumps, and its snapshot says by how much; beside another trigger that is one snapshot."""
    run = training(LossSpike(window=8, factor=50), EverySteps(9))
    for step in range(9):
        loss = run.update()
        run.sm.step(loss=loss * 1000 if step == 8 else loss)
    run.sm.wait()
    ((step, message),) = log_of(path)
    assert step == 8 and message.startswith("loss spiked: ") and message.endswith("; every 9 steps")


LOSSES = {
    "a tensor with a graph": lambda: (torch.ones(1, requires_grad=True) * 2).sum(),
    "of half the bits": lambda: torch.tensor(2.0, dtype=torch.bfloat16),
    "of one element": lambda: torch.tensor([[2.0]]),
    "of another library": lambda: __import__("numpy").float32(2.0),
    "an array": lambda: __import__("numpy").array(2.0),
    "a whole number": lambda: 2,
    "truth": lambda: torch.tensor(2),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_of_any_kind(kind, training, path):
    """They are what triggers see, and what the snapshot holds."""
    run = training(BestMetric("loss"))
    run.sm.step(loss=LOSSES[kind]())
    run.sm.wait()
    assert log_of(path) == [(0, "best loss: 2")] and ciuic.Repo(path).resolve("HEAD").metrics == {"loss": 2.0}


NO_LOSSES = {
    "without data": lambda: torch.zeros((), device="meta"),
    "of several elements": lambda: torch.ones(3),
    "text": lambda: "low",
    "complex": lambda: torch.tensor(1j),
}


@pytest.mark.parametrize("kind", NO_LOSSES)
def test_what_is_no_loss_costs_no_snapshot(kind, training, path, caplog):
    """A run with such a metric had no snapshots at all. The state is saved, at an exception too, and the log says what
    is left out; the triggers that need it are."""
    run = training(BestMetric("loss"), EverySteps(2), OnException())
    with pytest.raises(ZeroDivisionError), run.sm:
        for _ in range(3):
            run.sm.step(loss=NO_LOSSES[kind](), other=1)
        raise ZeroDivisionError
    assert log_of(path) == [(2, "before ZeroDivisionError"), (1, "every 2 steps")]
    assert [each.metrics for each in ciuic.Repo(path).log()] == [{"other": 1.0}] * 2 and run.sm.failures == 0
    assert caplog.text.count("The snapshot goes without a metric. metrics/loss") == 2
    assert list(run.sm._watch.engine.failures) == ["BestMetric"]


def test_a_metric_that_is_none_was_not_given(training, path):
    """At the steps without an evaluation; the trigger was left out from the first of them on."""
    run = training(BestMetric("accuracy", "max"), EverySteps(4))
    for accuracy in (None, 0.5, None, None, 0.25, 0.75):
        run.sm.step(loss=1.0, accuracy=accuracy)
    run.sm.wait()
    assert [step for step, _ in log_of(path)] == [5, 3, 1]
    assert [each.metrics.get("accuracy") for each in ciuic.Repo(path).log()] == [0.75, None, 0.5]
