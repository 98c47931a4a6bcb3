"""Which leaves may wait for the next optimizer step: what is not known to change there, and there only, may not."""

import copy

import pytest
import torch

from ciuic.objects.state_tree import Tensor, Value, path_text, walk
from ciuic.state.capture import capture_state
from ciuic.state.gradients import watch
from ciuic.state.ownership import ordered_leaves


def ordered(model=None, optimizer=None, extra=None):
    """The paths of the ordered leaves."""
    given = {"model": model, "optimizer": optimizer, "extra": extra, "scheduler": None, "scaler": None}
    components = capture_state(**given, rng=False).components
    found = ordered_leaves(components, model, optimizer)
    paths = {path_text((name, *path)): node for name, tree in components.items() for path, node in walk(tree)}
    assert found <= {id(node) for node in paths.values() if isinstance(node, Tensor)}
    assert not any(id(node) in found for node in paths.values() if isinstance(node, Value))
    return {path for path, node in paths.items() if id(node) in found}


def trained(model, make, steps=1):
    optimizer = make(model.parameters())
    for _ in range(steps):

        def closure():
            optimizer.zero_grad()
            loss = sum(parameter.square().sum() for parameter in model.parameters())
            loss.backward()
            return loss

        optimizer.step(closure)
    return optimizer


def net():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2, bias=False))


PARAMETERS = {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight"}


def in_model(paths):
    return {path.removeprefix("model/") for path in paths if path.startswith("model/")}


def in_optimizer(paths):
    return {path.removeprefix("optimizer/") for path in paths if path.startswith("optimizer/")}


def test_parameters_and_their_state_are_ordered_and_buffers_are_not():
    model = net()
    paths = ordered(model, trained(model, torch.optim.AdamW))
    assert in_model(paths) == PARAMETERS
    assert in_optimizer(paths) == {
        f"state/{name}/{slot}" for name in PARAMETERS for slot in ("step", "exp_avg", "exp_avg_sq")
    }


def test_only_what_an_optimizer_has_is_ordered():
    model = net()
    assert ordered(model) == set()
    head = torch.optim.SGD(model[2].parameters(), 0.1)
    assert ordered(model, head) == {"model/2.weight"}
    # A model that is not given, or only as its state dict, may have a forward that writes to its parameters.
    assert ordered(None, head) == set()
    assert ordered(dict(model.state_dict()), head) == set()


def test_extra_is_never_ordered():
    """Not even parameters and optimizers in it."""
    model = net()
    optimizer = trained(model, torch.optim.Adam)
    extra = {"weight": model[0].weight, "optimizer": optimizer, "model": model}
    paths = ordered(model, optimizer, extra)
    assert in_model(paths) == PARAMETERS
    assert not any(path.startswith("extra") for path in paths)


def test_tied_weights_are_both_ordered():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    assert ordered(model, torch.optim.SGD(model.parameters(), 0.1)) == {"model/0.weight", "model/1.weight"}


@pytest.mark.parametrize("kind", [torch.nn.Embedding, torch.nn.EmbeddingBag])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_an_embedding_that_keeps_to_a_norm_is_not_ordered(kind, max_norm):
    """Its forward renormalises rows; nor is what is tied to it."""
    model = torch.nn.ModuleDict({"a": kind(5, 3, max_norm=max_norm), "b": torch.nn.Linear(3, 5, bias=False)})
    rest = torch.nn.Linear(2, 2, bias=False)
    model["b"].weight = model["a"].weight
    model["c"] = rest
    paths = in_model(ordered(model, torch.optim.SGD(model.parameters(), 0.1)))
    assert paths == ({"c.weight"} if max_norm else {"a.weight", "b.weight", "c.weight"})
    wrapped = torch.nn.DataParallel(model)
    assert in_model(ordered(wrapped, torch.optim.SGD(model.parameters(), 0.1))) == paths
    assert in_model(ordered({"x": [wrapped]}, torch.optim.SGD(model.parameters(), 0.1))) == {
        f"x/0/{name}" for name in paths
    }


def test_frozen_parameters_are_not_ordered():
    """They do not change in the step; a momentum encoder's are frozen and change in its forward."""
    model = net()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    assert in_model(ordered(model, optimizer)) == PARAMETERS - {"0.weight", "0.bias"}


def test_a_buffer_in_a_parameters_memory_makes_it_unordered():
    """And a view of more than a parameter is not the parameter."""
    model = net()
    flat = torch.zeros(6)
    model[0].bias.data = flat[:4]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert in_model(ordered(model, optimizer)) == PARAMETERS
    model.register_buffer("flat", flat)
    assert in_model(ordered(model, optimizer)) == PARAMETERS - {"0.bias"}


def test_two_optimizers_in_lists_and_dicts():
    model, other = net(), net()
    first, second = trained(model, torch.optim.Adam), trained(other, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9))
    both = [
        ordered({"g": model, "d": other}, {"g": first, "d": second}),
        ordered({"g": model, "d": other}, {"all": [first, (second,)]}),
    ]
    assert in_model(both[0]) == in_model(both[1]) == {f"{name}/{key}" for name in "gd" for key in PARAMETERS}
    assert len(in_optimizer(both[0])) == len(in_optimizer(both[1])) == 5 * 3 + 5
    assert "g/state/g/0.bias/exp_avg" in in_optimizer(both[0])
    assert "all/1/0/state/d/0.bias/momentum_buffer" in in_optimizer(both[1])


class Own:
    """An optimizer that is not torch's."""

    def __init__(self, parameters):
        self.param_groups = [{"params": list(parameters)}]

    def state_dict(self):
        return {"state": {"x": {"momentum": torch.ones(2)}}}

    def load_state_dict(self, state):
        pass


def test_optimizers_that_are_not_torchs_are_not_ordered():
    """Nor are parameters that they share with one of torch's."""
    model = net()
    assert ordered(model, Own(model.parameters())) == set()
    optimizer = trained(model, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9))
    paths = ordered(model, [optimizer, Own(model[0].parameters())])
    assert in_model(paths) == PARAMETERS - {"0.weight", "0.bias"}
    assert all(path.startswith("0/state/") for path in in_optimizer(paths))


class Plain(torch.optim.SGD):
    def step(self, closure=None):
        return super().step(closure)


class Unhooked(torch.optim.SGD):
    def _patch_step_function(self):
        self._zero_grad_profile_name = "zero_grad"

    def step(self, closure=None):
        return None


def test_steps_without_hooks_are_not_ordered():
    model = net()
    assert in_model(ordered(model, Plain(model.parameters(), 0.1))) == PARAMETERS
    assert ordered(model, Unhooked(model.parameters(), 0.1)) == set()
    shared = [torch.optim.SGD(model.parameters(), 0.1), Unhooked(model[0].parameters(), 0.1)]
    assert in_model(ordered(model, shared)) == PARAMETERS - {"0.weight", "0.bias"}
    replaced = torch.optim.SGD(model.parameters(), 0.1)
    replaced.step = lambda: None
    assert ordered(model, replaced) == set()
    graphed = torch.optim.Adam(model.parameters())
    graphed.param_groups[0]["capturable"] = True
    assert ordered(model, graphed) == set()


def test_a_scheduler_on_the_optimizer_changes_nothing():
    """It puts a step of its own on the instance, which calls the class's."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    assert in_model(ordered(model, optimizer)) == PARAMETERS


def test_what_is_ordered_by_hooks_has_the_hook():
    """torch marks the wrapped ``step`` as hooked: the pre-hook of every optimizer runs in it."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    model = net()
    calls = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: calls.append(type(optimizer)))
    try:
        for kind in (torch.optim.SGD, torch.optim.Adam, Plain, Unhooked):
            optimizer = kind(model.parameters(), 0.1)
            before = len(calls)
            copy.deepcopy(optimizer).step()
            assert (len(calls) > before) == bool(ordered(model, optimizer))
    finally:
        handle.remove()


def test_wrapped_models():
    model = net()
    for wrapped in (torch.nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert in_model(ordered(wrapped, torch.optim.SGD(model.parameters(), 0.1))) == PARAMETERS
    part = torch.nn.Sequential(torch.compile(torch.nn.Embedding(4, 2, max_norm=1.0), backend="eager"))
    assert ordered(part, torch.optim.SGD(part.parameters(), 0.1)) == set()


def test_the_state_of_lbfgs():
    """Its lists of tensors too, under the name of its first parameter."""
    model = torch.nn.Linear(3, 2)
    paths = in_optimizer(ordered(model, trained(model, lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3), 3)))
    assert {"state/weight/d", "state/weight/prev_flat_grad", "state/weight/old_dirs/0"} <= paths


class KeepsGradients(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter].update(gradient=parameter.grad, flag=torch.zeros(1), buffer=None)


def test_a_gradient_in_the_state_is_not_ordered():
    """The next backward adds to it."""
    model = torch.nn.Linear(3, 2)
    paths = in_optimizer(ordered(model, trained(model, lambda p: KeepsGradients(p, 0.1))))
    assert paths == {"state/weight/flag", "state/bias/flag"}


def test_a_tensor_lr_is_not_ordered():
    """A scheduler fills it in place."""
    model = net()
    optimizer = trained(model, lambda p: torch.optim.Adam(p, torch.tensor(0.01)))
    assert not any("param_groups" in path for path in ordered(model, optimizer))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64, torch.float64])
def test_dtypes_and_strides(dtype):
    model = torch.nn.Module()
    model.a = torch.nn.Parameter(torch.ones(3, 4, dtype=dtype).t())
    model.b = torch.nn.Parameter(torch.ones((), dtype=dtype))
    assert ordered(model, torch.optim.SGD(model.parameters(), 0.1)) == {"model/a", "model/b"}


def test_odd_tensors_are_not_ordered():
    """A conjugate's bytes are a copy; a sparse gradient has no storage to look at."""
    model = torch.nn.Module()
    model.a = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64).conj())
    model.b = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watch()
    model.b(torch.tensor([1])).sum().backward()
    optimizer.step()
    assert ordered(model, optimizer) == {"model/b.weight"}
