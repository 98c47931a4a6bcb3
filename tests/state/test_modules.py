"""Modules of every kind, and what they are wrapped in."""

import pytest
import torch

import ciuic


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def net():
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))


def test_parameters_and_buffers_are_filled_where_they_are(repo):
    """The objects and their memory stay the same, so an optimizer's and a compiled graph's references hold."""
    model = net()
    model(torch.randn(5, 4))
    repo.commit(model)
    live = net()
    before = [(id(tensor), tensor.data_ptr()) for tensor in (*live.parameters(), *live.buffers())]
    repo.restore("HEAD", model=live)
    assert equal(live, model)
    assert [(id(tensor), tensor.data_ptr()) for tensor in (*live.parameters(), *live.buffers())] == before
    assert all(parameter.requires_grad for parameter in live.parameters())


def test_a_compiled_model_has_the_names_of_what_it_compiles(repo):
    """Whole or by submodule, from either side, its optimizer as well."""
    plain, whole, inner = net(), torch.compile(net(), backend="eager"), net()
    inner[0] = torch.compile(inner[0], backend="eager")
    assert "0._orig_mod.weight" in inner.state_dict()
    optimizers = [torch.optim.SGD(model.parameters(), 0.1, momentum=0.9) for model in (plain, whole, inner)]
    for model, optimizer in zip((plain, whole, inner), optimizers, strict=True):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    for saved, optimizer in zip((plain, whole, inner), optimizers, strict=True):
        snapshot = repo.commit(saved, optimizer)
        assert list(repo.load(snapshot)["model"])[:2] == ["0.weight", "0.bias"]
        for live, live_optimizer in zip((plain, whole, inner), optimizers, strict=True):
            repo.restore(snapshot, model=live, optimizer=live_optimizer)
            assert torch.equal(live.state_dict().popitem()[1], saved.state_dict().popitem()[1])
            assert len(live_optimizer.state) == 6


def test_data_parallel_is_unwrapped(repo):
    """``DataParallel`` puts "module." before every name."""
    model = net()
    repo.commit(torch.nn.DataParallel(model))
    assert "0.weight" in repo.load("HEAD")["model"]
    live = net()
    repo.restore("HEAD", model=torch.nn.DataParallel(live))
    assert equal(live, model)


def test_an_averaged_model_is_a_module(repo):
    """Weights and their count, in ``extra`` or as the model."""
    model = net()
    ema = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(3):
        with torch.no_grad():
            model[0].weight += 1
        ema.update_parameters(model)
    repo.commit(model, extra={"ema": ema})
    live_model = net()
    live = torch.optim.swa_utils.AveragedModel(live_model)
    repo.restore("HEAD", model=live_model, extra={"ema": live})
    assert equal(live, ema) and live.n_averaged == 3
    assert not torch.equal(live.module[0].weight, live_model[0].weight)


class WithExtraState(torch.nn.Module):
    def __init__(self, extra):
        super().__init__()
        self.inner = torch.nn.Linear(2, 2)
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


@pytest.mark.parametrize(
    ("stored", "live"),
    [({"scale": [1.5, (2,)]}, None), (torch.arange(5.0), torch.zeros(2)), (7, 0), ({"t": torch.ones(2)}, {})],
    ids=["plain", "tensor of another size", "number", "dict with a tensor"],
)
def test_extra_state_goes_through_the_modules_own_methods(repo, stored, live):
    """``get_extra_state`` may give anything, and its size may change."""
    model = torch.nn.Sequential(WithExtraState(stored))
    repo.commit(model)
    other = torch.nn.Sequential(WithExtraState(live))
    repo.restore("HEAD", model=other)
    assert torch.equal(other[0].inner.weight, model[0].inner.weight)
    assert repr(other[0].extra) == repr(stored)


def test_lazy_modules_are_refused_by_name_until_they_are_initialised(repo):
    """On both sides, with their optimizer, too; a batch later all is well."""

    def trained(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        if not isinstance(model[0].weight, torch.nn.UninitializedParameter):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        return optimizer

    model = torch.nn.Sequential(torch.nn.LazyLinear(3))
    with pytest.raises(ciuic.UnsupportedState, match=r"^model/0\.weight is not initialised yet"):
        repo.commit(model)
    model(torch.ones(1, 2))
    repo.commit(model, trained(model))
    live = torch.nn.Sequential(torch.nn.LazyLinear(3))
    with pytest.raises(ciuic.StateMismatch, match=r"model/0\.weight is not initialised yet"):
        repo.restore("HEAD", model=live, optimizer=trained(live))
    live(torch.ones(1, 2))
    repo.restore("HEAD", model=live, optimizer=trained(live))
    assert equal(live, model)


def test_a_model_on_the_meta_device_is_refused(repo):
    """There is nothing that could be stored or filled."""
    repo.commit(net())
    with torch.device("meta"):
        empty = net()
    with pytest.raises(ciuic.UnsupportedState, match=r"model/0\.weight is on the meta device"):
        repo.commit(empty)
    with pytest.raises(ciuic.StateMismatch, match=r"model/0\.weight is on the meta device"):
        repo.restore("HEAD", model=empty)


@pytest.mark.parametrize("shape", ["list", "dict", "nested", "int keys"])
def test_several_models_and_optimizers(repo, shape):
    """Lists and dicts of them, each optimizer over one model's parameters or over all."""

    def make(value):
        torch.manual_seed(value)
        generator, critic = net(), net()
        both = [*generator.parameters(), *critic.parameters()]
        optimizers = torch.optim.Adam(generator.parameters()), torch.optim.SGD(both, 0.1, momentum=0.9)
        for parameter in both:
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        names = {"dict": ("g", "c"), "int keys": (0, 7)}.get(shape)
        if shape == "nested":
            return {"all": [generator, critic]}, {"all": list(optimizers)}
        if names:
            return dict(zip(names, (generator, critic), strict=True)), dict(zip(names, optimizers, strict=True))
        return [generator, critic], list(optimizers)

    def flat(value):
        items = value.values() if isinstance(value, dict) else value
        return [leaf for item in items for leaf in (flat(item) if isinstance(item, (dict, list)) else [item])]

    models, optimizers = make(1)
    repo.commit(models, optimizers)
    live_models, live_optimizers = make(2)
    repo.restore("HEAD", model=live_models, optimizer=live_optimizers)
    for live, stored in zip(flat(live_models), flat(models), strict=True):
        assert equal(live, stored)
    for live, stored in zip(flat(live_optimizers), flat(optimizers), strict=True):
        assert repr(live.state_dict()) == repr(stored.state_dict())
    with pytest.raises(ciuic.StateMismatch, match="model"):
        repo.restore("HEAD", model=flat(live_models)[0])


def test_a_named_model_too_few_is_a_mismatch(repo):
    """Silently leaving a part of the model would be worse."""
    repo.commit({"a": net(), "b": net()})
    with pytest.raises(ciuic.StateMismatch, match="model/b: in the snapshot, but not given"):
        repo.restore("HEAD", model={"a": net()})
    live = net()
    repo.restore("HEAD", model={"a": live}, strict=False)
    assert torch.equal(live[0].weight, repo.load("HEAD")["model"]["a"]["0.weight"])


def test_a_state_dict_serves_as_the_model(repo):
    """From a module to a state dict and back."""
    model = net()
    repo.commit(model.state_dict())
    live = net()
    repo.restore("HEAD", model=live)
    assert equal(live, model)
    repo.commit(model)
    tensors = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    repo.restore("HEAD", model=tensors)
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ciuic.StateMismatch, match=r"model/more: only in the live object"):
        repo.restore("HEAD", model={**tensors, "more": torch.zeros(1)})


def test_names_of_any_form_come_back(repo):
    """Keys of a ModuleDict and of a state dict may have spaces, slashes and non-ASCII letters."""
    model = torch.nn.ModuleDict({"a b/c": torch.nn.Linear(1, 1), "größe": torch.nn.Linear(1, 1), "0": net()})
    repo.commit(model)
    live = torch.nn.ModuleDict({"a b/c": torch.nn.Linear(1, 1), "größe": torch.nn.Linear(1, 1), "0": net()})
    repo.restore("HEAD", model=live)
    assert equal(live, model)
