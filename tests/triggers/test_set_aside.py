"""What is set aside at a boundary and joined with what stayed where it was is what a snapshot there would have been."""

import copy
import random
import sys
import warnings

import numpy
import pytest
import torch

import ciuic
from ciuic.snapshot import SnapshotManager
from ciuic.triggers import OnException

Adam = torch.optim.AdamW


class Stopped(Exception):
    """What the user's code raises."""


class Run:
    """``model``: a module or several, all of which are trained on a squared output. ``optimizer``: one of torch's, or
    what takes the parameters. ``beside``: what else is tracked."""

    def __init__(self, path, model, optimizer=Adam, **beside):
        self.model = model
        self.modules = torch.nn.ModuleList(model.values() if isinstance(model, dict) else _listed(model))
        trained = [parameter for parameter in self.modules.parameters() if parameter.requires_grad]
        self.optimizer = optimizer(trained) if callable(optimizer) else optimizer
        self.sm = SnapshotManager(path, triggers=[OnException()])
        self.sm.track(model=model, optimizer=self.optimizer, **beside)

    def backward(self):
        loss = sum(module(torch.randn(4, 8)).square().mean() for module in self.modules)
        loss.backward()
        return loss

    def update(self):
        def closure():
            self.optimizer.zero_grad()
            return self.backward()

        self.optimizer.step(closure)
        self.optimizer.zero_grad()

    def die_after(self, steps, path, before=lambda: None, after=lambda: None):
        """Boundaries after ``steps`` steps, of which the newest is also committed elsewhere. ``after`` that one."""
        with pytest.raises(Stopped), self.sm:
            for _ in range(steps):
                self.update()
                before()
                self.sm.step()
            reference = ciuic.Repo.init(path / "reference").commit(step=steps - 1, **self.sm._tracked.for_commit())
            after()
            raise Stopped
        return reference


def _listed(model):
    return model if isinstance(model, list) else [model]


def net(*between):
    return torch.nn.Sequential(torch.nn.Linear(8, 8), *between, torch.nn.Linear(8, 4))


def tied():
    model = net(torch.nn.Linear(8, 8))
    model[1].weight = model[0].weight
    model.register_buffer("one", torch.ones(3))
    model.register_buffer("other", model.one)
    return model


def frozen():
    model = net(torch.nn.Linear(8, 300), torch.nn.Linear(300, 300), torch.nn.Linear(300, 8))
    for parameter in model[2].parameters():
        parameter.requires_grad_(False)
    return model


def strange():
    """Buffers of which not every one can be copied like any other."""
    model = net()
    model.register_buffer("empty", torch.zeros(0, 3))
    model.register_buffer("scalar", torch.tensor(3))
    model.register_buffer("narrow", torch.arange(4, dtype=torch.uint8).view(torch.int4))
    model.register_buffer("brain", torch.randn(5).bfloat16())
    model.register_buffer("eight", torch.randn(5).to(torch.float8_e4m3fn))
    model.register_buffer("conjugate", torch.randn(4, dtype=torch.complex64).conj())
    model.register_buffer("truth", torch.tensor([True, False, True]))
    model.register_buffer("transposed", torch.randn(3, 5).t())
    model.register_buffer("expanded", torch.randn(3, 1).expand(3, 4))
    model.register_buffer("part", torch.randn(10)[1::3])
    with torch.inference_mode():
        model.register_buffer("inference", torch.randn(3))
    return model


class WithMore(torch.nn.Linear):
    """A module with state of its own kind."""

    def get_extra_state(self):
        return torch.tensor([1.0, 2.0])

    def set_extra_state(self, state):
        pass


def hooked():
    model = net()
    model.register_state_dict_post_hook(lambda module, state, prefix, metadata: state.update(more=torch.ones(2)))
    return model


class Counting(torch.optim.Optimizer):
    """What many people write: a plain counter, a new tensor in each step, a list."""

    def __init__(self, parameters, lists=False, late=False):
        super().__init__(parameters, {"lr": 0.01, "names": ["some", "thing"]})
        self.lists, self.late = lists, late

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            closure()
        for parameter in self.param_groups[0]["params"]:
            slots = self.state[parameter]
            slots["step"] = slots.get("step", 0) + 1
            slots["norm"] = parameter.grad.norm()
            if self.lists:
                slots.setdefault("earlier", []).append(parameter.grad.clone())
            if self.late:
                slots["average"] = None if slots["step"] < 3 else [parameter.clone()]
            parameter.sub_(parameter.grad, alpha=0.01)


class Embedding(torch.nn.Module):
    """Changes its weights in ``forward``."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 4, max_norm=0.1)

    def forward(self, numbers):
        return self.embedding(numbers.argmax(dim=1))


class Keeps(torch.nn.Module):
    """An average of a model, which is not trained."""

    def __init__(self, model):
        super().__init__()
        self.inner = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))


def grouped(parameters):
    return Adam([{"params": [each], "lr": torch.tensor(0.01 * n)} for n, each in enumerate(parameters, 1)])


def one_rate(parameters):
    parameters = list(parameters)
    return Adam([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=torch.tensor(0.01))


def quantized():
    model = net()
    numbers = torch.arange(6.0).view(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants another library for it
        model.register_buffer("one", torch.quantize_per_tensor(numbers, 0.1, 3, torch.qint8))
        rows = torch.rand(2), torch.zeros(2)
        model.register_buffer("other", torch.quantize_per_channel(numbers, *rows, 0, torch.quint8))
    return model


def shared():
    """Weights and a buffer that are tied across a module that stays in place and one that has to be read."""
    plain, read = net(), hooked()
    read[0].weight = plain[0].weight
    plain.register_buffer("mask", torch.tensor([True, False]))
    read.register_buffer("mask", plain.mask)
    return [plain, read]


class Clamped(torch.nn.Linear):
    """Keeps a temperature in its bounds where no version counter moves."""

    def __init__(self):
        super().__init__(8, 4)
        self.temperature = torch.nn.Parameter(torch.tensor(5.0))

    def forward(self, numbers):
        self.temperature.data.mul_(0.9)
        return super().forward(numbers) * self.temperature


def average():
    return {"average": Keeps(net()), "generator": torch.Generator(), "values": {"seen": 3, "array": numpy.ones(3)}}


CASES = {
    "batch norm": lambda: (net(torch.nn.BatchNorm1d(8), torch.nn.Dropout()),),
    "no momentum": lambda: (net(), lambda parameters: torch.optim.SGD(parameters, lr=0.1)),
    "lbfgs": lambda: (net(), lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=2)),
    "fused": lambda: (net(), lambda parameters: Adam(parameters, fused=True)),
    "a group each": lambda: (net(), grouped),
    "an optimizer of one's own": lambda: (net(), Counting),
    "one with lists": lambda: (net(), lambda parameters: Counting(parameters, lists=True)),
    "several models": lambda: ([net(), net(torch.nn.BatchNorm1d(8))],),
    "models by name": lambda: ({"a": net(), "b": tied()},),
    "tied": lambda: (tied(),),
    "frozen": lambda: (frozen(),),
    "an embedding that keeps to a norm": lambda: (Embedding(),),
    "strange buffers": lambda: (strange(),),
    "extra state": lambda: (torch.nn.Sequential(WithMore(8, 4)),),
    "hooks": lambda: (hooked(),),
    "parametrized": lambda: (torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(8, 4)),),
    "spectral": lambda: (torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(8, 4)),),
    "a rate that groups share": lambda: (net(), one_rate),
    "an optimizer whose slots change their kind": lambda: (net(), lambda parameters: Counting(parameters, late=True)),
    "quantised": lambda: (quantized(),),
    "tied across models": lambda: (shared(),),
    "a temperature": lambda: (Clamped(),),
    "compiled": lambda: (torch.compile(net(), backend="eager"),),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_the_snapshot_of_an_exception_is_that_of_the_boundary(case, steps, tmp_path):
    """The very same trees, whatever the objects are: at the first boundary, at the one after an optimizer has made its
    state, and at later ones. Forward and backward of a further step have changed what they change."""
    torch.manual_seed(0)
    run = Run(tmp_path / "run", *CASES[case](), **average())
    reference = run.die_after(steps, tmp_path, after=lambda: (run.backward(), random.random(), numpy.random.random()))
    snapshot = ciuic.Repo(tmp_path / "run").resolve("HEAD")
    assert (snapshot.step, snapshot.contains) == (steps - 1, reference.contains)
    assert snapshot.tree == reference.tree


def test_gradients_that_are_accumulated_are_a_part_of_it(tmp_path):
    """Those of the boundary, and not what the next backward adds to them."""
    run = Run(tmp_path / "run", net())
    run.update()
    with pytest.raises(Stopped), run.sm:
        for _ in range(2):
            run.backward()
            run.sm.step()
        reference = ciuic.Repo.init(tmp_path / "reference").commit(step=1, **run.sm._tracked.for_commit())
        run.backward()
        raise Stopped
    snapshot = ciuic.Repo(tmp_path / "run").resolve("HEAD")
    assert "gradients" in snapshot.contains and snapshot.tree == reference.tree


def replaced(run):
    run.model[0] = torch.nn.Linear(8, 8)
    run.optimizer.add_param_group({"params": list(run.model[0].parameters())})


def other_memory(run):
    for parameter in run.model.parameters():
        parameter.data = parameter.data.clone()


def loaded(run):
    run.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))


def written(run):
    for slots in run.optimizer.state.values():
        slots["exp_avg"].zero_()


def written_as_data(run):
    for slots in run.optimizer.state.values():
        slots["exp_avg"].data.zero_()


def replaced_as_data(run):
    for slots in run.optimizer.state.values():
        slots["exp_avg"].data = torch.zeros_like(slots["exp_avg"])


def by_hand(run):
    run.model[0].weight.data.mul_(2)


def hook(run):
    run.model.register_state_dict_post_hook(lambda module, state, prefix, metadata: state.pop("0.bias"))


def more(run):
    run.model[0].add_module("more", torch.nn.Linear(2, 2))


def rearranged(run):
    run.model[0].weight.data = run.model[0].weight.data.t()


CHANGES = {
    replaced: "optimizer/state, model/0.weight", other_memory: "model/0.weight", loaded: "optimizer/state",
    written: "optimizer/state", written_as_data: "optimizer/state", replaced_as_data: "optimizer/state",
    by_hand: "model/0.weight", more: "model/0.more.bias, model/0.more.weight",
    hook: "model/what state_dict gives", rearranged: "model/0.weight",
}  # fmt: skip


@pytest.mark.parametrize("change", [replaced, other_memory, loaded, written, replaced_as_data, by_hand, more])
def test_what_is_changed_between_two_boundaries_is_seen_at_the_next(change, tmp_path):
    """Modules that come and go, weights that move, an optimizer's state from elsewhere."""
    run = Run(tmp_path / "run", net())
    steps = iter(range(10))
    reference = run.die_after(5, tmp_path, before=lambda: change(run) if next(steps) == 3 else None)
    assert ciuic.Repo(tmp_path / "run").resolve("HEAD").tree == reference.tree


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_after_the_boundary_is_not_made_up(change, tmp_path, caplog):
    """No snapshot is taken, and the log names what it was."""
    run = Run(tmp_path / "run", net())
    run.die_after(3, tmp_path, after=lambda: change(run))
    assert list(ciuic.Repo(tmp_path / "run").log()) == []
    assert f"cannot be saved: {CHANGES[change]}" in caplog.text


@pytest.mark.parametrize("layers", [30, 60])
def test_whatever_the_number_of_its_slots_a_reset_of_one_of_them_is_seen(layers, tmp_path):
    """Of AdamW's three slots for each of 64 parameters every third was looked at: the step counters."""
    run = Run(tmp_path / "run", net(*[torch.nn.Linear(8, 8) for _ in range(layers)]))
    run.die_after(2, tmp_path, after=lambda: written(run))
    assert list(ciuic.Repo(tmp_path / "run").log()) == []


def test_an_array_is_that_of_the_boundary_however_large(tmp_path):
    """A table with a loss for each example: nothing counts who writes to it, and one element is in no sample."""
    table = numpy.zeros(100_000)
    run = Run(tmp_path / "run", net(), table={"losses": table})

    def write():
        table[777] = 5.0

    reference = run.die_after(2, tmp_path, after=write)
    assert ciuic.Repo(tmp_path / "run").resolve("HEAD").tree == reference.tree


@pytest.mark.parametrize("model", [lambda: [hooked(), net()], lambda: {"a": net()}])
def test_the_names_are_those_of_the_boundary(model, tmp_path):
    """A module that was read has another one in it by then, and a dict has another model: the optimizer's state keeps
    the names of the parameters that it is of."""
    run = Run(tmp_path / "run", model())

    def exchange():
        if isinstance(run.model, dict):
            run.model["a"] = net()
        else:
            run.model[0][0] = torch.nn.Linear(8, 8)

    reference = run.die_after(2, tmp_path, after=exchange)
    assert ciuic.Repo(tmp_path / "run").resolve("HEAD").tree == reference.tree


def test_a_buffer_that_grows_in_forward(tmp_path):
    """Its old memory is given back, and is not looked at any more: that ended the process."""
    run = Run(tmp_path / "run", net())
    run.model.register_buffer("cache", torch.zeros(12_000_000))  # so large that the system takes it back at once
    with pytest.raises(Stopped), run.sm:
        for elements in (20_000_000, 30_000_000):
            run.backward()
            run.optimizer.step()
            run.sm.step()
            run.model.cache.resize_(elements)
        raise Stopped
    assert list(ciuic.Repo(tmp_path / "run").log()) == []


def test_a_buffer_whose_memory_was_freed_is_said_to_be(tmp_path, caplog):
    """Nobody can read it, and to try ended the process."""
    run = Run(tmp_path / "run", net(), teacher=net(torch.nn.BatchNorm1d(8)))
    mean = run.sm._tracked.extra["teacher"][1].running_mean
    run.update()
    run.sm.step()
    mean.untyped_storage().resize_(0)
    for _ in range(2):
        run.update()
        run.sm.step()
    run.sm.close()
    assert "extra/teacher/1.running_mean has no memory" in caplog.text


class Unheard(Adam):
    """Steps as a replayed CUDA graph does: no hook is called, no version counter moves."""

    def __init__(self, parameters):
        super().__init__(parameters)
        self.param_groups[0]["differentiable"] = True  # or capturable, which it can be on a GPU alone

    def replay(self):
        for parameter, slots in self.state.items():
            parameter.data.view(-1)[1000:1010] = 7.0
            slots["step"].data.add_(1)


def test_a_step_that_nobody_hears_of_is_seen_by_its_count(tmp_path, caplog):
    """The large weights would be new, and the small ones those of the boundary."""
    run = Run(tmp_path / "run", torch.nn.Sequential(torch.nn.Linear(8, 4000), torch.nn.Linear(4000, 4)))
    run.optimizer = Unheard(run.model.parameters())
    run.sm.track(optimizer=run.optimizer)
    for parameter in run.model.parameters():
        run.optimizer.state[parameter] = {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(parameter.detach())}
    with pytest.raises(Stopped), run.sm:
        run.sm.step()
        run.optimizer.replay()
        raise Stopped
    assert list(ciuic.Repo(tmp_path / "run").log()) == []
    assert "cannot be saved: optimizer/state/1.bias/step" in caplog.text


def test_what_an_optimizers_groups_say_is_that_of_the_boundary(tmp_path):
    """A rate that was set for the step that never came."""
    run = Run(tmp_path / "run", net(), grouped)
    reference = run.die_after(2, tmp_path, after=lambda: run.optimizer.param_groups[0]["lr"].fill_(7.0))
    assert ciuic.Repo(tmp_path / "run").resolve("HEAD").tree == reference.tree


def test_another_optimizer_and_model_in_mid_run(tmp_path):
    """Tracked anew: what was known of the old ones is forgotten, and they are not kept alive."""
    run = Run(tmp_path / "run", net())
    for _ in range(3):
        run.update()
        run.sm.step()
    run.model = net(torch.nn.BatchNorm1d(8))
    run.modules = torch.nn.ModuleList([run.model])
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1, momentum=0.9)
    run.sm.track(model=run.model, optimizer=run.optimizer)
    run.sm._next_step = 0
    reference = run.die_after(3, tmp_path, after=run.backward)
    assert ciuic.Repo(tmp_path / "run").resolve("HEAD").tree == reference.tree


def python_calls(call):
    """How many functions written in Python are called."""
    count = 0

    def heard(_frame, event, _argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(heard)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def test_a_boundary_visits_no_tensor(tmp_path):
    """Fourteen microseconds each it took to visit them, in every step: 84 milliseconds with AdamW's state of 2 000."""
    counts = {}
    for layers in (4, 64):
        run = Run(tmp_path / str(layers), net(*[torch.nn.Linear(8, 8) for _ in range(layers)]))
        for _ in range(4):
            run.update()
            counts[layers] = python_calls(run.sm.step)
        run.sm.close()
    assert counts[4] == counts[64]
