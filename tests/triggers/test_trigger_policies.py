"""The policies that look at numbers: made-up moments, so that no clock takes part."""

import math

import pytest

from ciuic.triggers import BestMetric, Budget, EverySeconds, EverySteps, LossSpike, Moment, NonFinite, Run


class Training:
    """Steps of ``step_s`` seconds, and a snapshot of ``cost_s`` seconds wherever ``trigger`` asks for one."""

    def __init__(self, trigger, step_s=1.0, cost_s=0.0):
        self.trigger, self.step_s, self.cost_s = trigger, step_s, cost_s
        self.now, self.step = 1000.0, 0
        self.last = None
        self.taken, self.costs = [], []

    def run(self, steps, also=()):
        """``also``: steps at which another trigger takes one."""
        for _ in range(steps):
            self.now += self.step_s
            step, time_s = self.last or (None, None)
            moment = Moment(
                self.step,
                self.now,
                step_s=self.step_s if self.step else None,
                cost_s=self.costs[-1] if self.costs else None,
                last_step=step,
                last_time_s=time_s,
            )
            due = self.trigger.at_step(moment) is not None
            if due:
                self.taken.append(self.step)
            if due or self.step in also:
                self.now += self.cost_s
                self.costs.append(self.cost_s)
                self.last = self.step, self.now
            self.step += 1
        return self.taken


def losses(trigger, values, metric="loss"):
    """The steps at which the trigger has a reason, each time taken."""
    found = []
    for step, value in enumerate(values):
        moment = Moment(step, float(step), metrics={} if value is None else {metric: value})
        if trigger.at_step(moment) is not None:
            found.append(step)
            getattr(trigger, "taken", lambda *_: None)(moment, None)
    return found


def test_every_steps():
    """After each so many steps have been completed."""
    assert Training(EverySteps(3)).run(10) == [2, 5, 8]


def test_every_seconds_counts_from_the_newest_snapshot_of_any_kind():
    """What is lost in a crash is at most that."""
    assert Training(EverySeconds(10)).run(35) == [10, 20, 30]
    assert Training(EverySeconds(10)).run(35, also=[8]) == [18, 28]
    assert Training(EverySeconds(0.5)).run(4) == [1, 2, 3]


@pytest.mark.parametrize(("cost_s", "interval"), [(0.02, 2), (0.5, 50), (1.0, 100)])
def test_a_budget_sets_its_own_interval(cost_s, interval):
    """cost / share: half a second at 1 % is a snapshot every 50 seconds, beside the snapshot's own time."""
    training = Training(Budget(0.01, least_s=0), cost_s=cost_s)
    first, *rest = training.run(1000)
    assert first == 1 and {b - a for a, b in zip(training.taken, rest, strict=False)} == {interval}
    assert sum(training.costs[:-1]) <= 0.01 * (training.now - 1000)


def test_a_budget_follows_the_cost():
    """A snapshot that becomes ten times as expensive is taken ten times as rarely, from the very next on."""
    training = Training(Budget(0.1, least_s=0), cost_s=1.0)
    training.run(42)
    training.cost_s = 10.0
    training.run(400)
    gaps = [b - a for a, b in zip(training.taken, training.taken[1:], strict=False)]
    assert gaps[:5] == [10] * 5 and set(gaps[5:]) == {100}
    assert sum(training.costs[:-1]) <= 0.1 * (training.now - 1000)


def test_a_cost_that_is_known_late_is_paid_all_the_same():
    """A snapshot's cost is measured when it is published; until then it is taken for what the one before has cost."""
    budget = Budget(0.1, least_s=0)
    facts = {"step_s": 1.0, "last_step": 10, "last_time_s": 10.0}
    assert budget.at_step(Moment(19, 19.0, cost_s=1.0, **facts)) is None
    assert budget.at_step(Moment(20, 20.0, cost_s=5.0, **facts)) is None
    assert budget.at_step(Moment(59, 59.0, cost_s=5.0, **facts)) is None
    assert budget.at_step(Moment(60, 60.0, cost_s=5.0, **facts)) is not None


def test_what_others_take_is_paid_from_the_same_budget():
    """Three snapshots in a row by another trigger, and the budget's next one waits for all three."""
    training = Training(Budget(0.1, least_s=0), cost_s=1.0)
    training.run(60, also=[3, 4, 5])
    assert training.taken[:2] == [1, 38]  # 40 seconds from the first one on, of which four went into snapshots
    assert sum(training.costs[:-1]) <= 0.1 * (training.now - 1000)


def test_a_budget_is_not_used_up_for_its_own_sake():
    """A snapshot that costs nothing is taken every ``least_s`` seconds all the same."""
    assert Training(Budget(0.01, least_s=25), cost_s=0.0).run(80) == [1, 26, 51, 76]


def test_the_best_metric():
    """Each improvement, by more than the margin; NaN, infinity and a step without the metric are passed over."""
    values = [3.0, 3.5, None, 2.0, math.nan, 2.0, -math.inf, 1.5]
    assert losses(BestMetric("loss"), values) == [0, 3, 7]
    assert losses(BestMetric("accuracy", "max"), [0.1, 0.5, 0.4, math.inf, 0.6], "accuracy") == [0, 1, 4]
    assert losses(BestMetric("loss", margin=0.5), [3.0, 2.6, 2.4, 2.0, 1.8]) == [0, 2, 4]


def test_the_best_so_far_is_that_of_the_history():
    """After a resume; what was never saved does not count."""
    trigger = BestMetric("loss")
    trigger.start(Run("repository", lambda: [{"loss": 2.5}, {}, {"loss": math.nan}, {"loss": 1.5}]))
    assert losses(trigger, [2.0, 1.6, 1.4]) == [2]
    skipped = BestMetric("loss")
    assert [skipped.at_step(Moment(step, 0.0, metrics={"loss": 1.0})) is not None for step in range(2)] == [True, True]


def test_a_loss_that_is_no_number_is_saved_once():
    """Not in each step while it stays so; anew when it has been finite in between."""
    nan, inf = math.nan, math.inf
    assert losses(NonFinite("loss"), [1.0, nan, nan, inf, None, nan, 2.0, -inf, 1.0]) == [1, 7]
    several = NonFinite("loss", "gradient_norm")
    moments = [{"loss": 1.0, "gradient_norm": inf}, {"loss": nan, "gradient_norm": inf}, {"gradient_norm": 1.0}]
    said = [several.at_step(Moment(step, 0.0, metrics=metrics)) for step, metrics in enumerate(moments)]
    assert said == ["gradient_norm is inf", "loss is nan", None]


def test_a_spike_stands_out_of_what_is_usual():
    """By median and median deviation: neither noise, nor a slow rise, nor the spike before hide or make one."""
    noise = [2.0 + 0.1 * math.sin(7.0 * step) for step in range(200)]
    assert losses(LossSpike(window=32, factor=8.0), noise) == []
    rising = [2.0 + 0.001 * step + 0.1 * math.sin(7.0 * step) for step in range(200)]
    assert losses(LossSpike(window=32, factor=8.0), rising) == []
    spiked = list(noise)
    spiked[100:104] = [9.0, 8.0, math.nan, 7.0]
    spiked[110] = 9.0
    assert losses(LossSpike(window=32, factor=8.0), spiked) == [100, 110]


def test_a_new_level_is_one_spike():
    """And is usual after half a window."""
    assert losses(LossSpike(window=16), [1.0] * 20 + [3.0] * 40 + [9.0] * 20) == [20, 60]


def test_no_spike_before_the_window_is_full():
    """The first steps of a run fall steeply, or rise."""
    assert losses(LossSpike(window=16), [1.0] * 15 + [50.0]) == []
    assert losses(LossSpike(window=16), [1.0] * 16 + [50.0]) == [16]


@pytest.mark.parametrize(
    "make",
    [
        lambda: EverySteps(0), lambda: EverySeconds(0), lambda: EverySeconds(math.nan), lambda: Budget(0),
        lambda: Budget(1.0), lambda: Budget(least_s=-1), lambda: Budget(least_s=math.nan),
        lambda: BestMetric("loss", "least"),
        lambda: BestMetric(margin=-1), lambda: LossSpike(window=2), lambda: LossSpike(factor=0),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_at_once(make):
    """When the trigger is made, and not hours later."""
    with pytest.raises(ValueError, match=r"at least|above|below|mode"):
        make()
