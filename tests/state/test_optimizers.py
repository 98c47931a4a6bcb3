"""Optimizer state: by parameter name, with its own dtypes, exact or refused."""

import copy

import pytest
import torch

import ciuic

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 0.01),
    "SGD momentum": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True),
    "SGD fused": lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, 0.01),
    "Adam amsgrad": lambda p: torch.optim.Adam(p, 0.01, amsgrad=True),
    "Adam tensor lr": lambda p: torch.optim.Adam(p, torch.tensor(0.01)),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
    "AdamW loop": lambda p: torch.optim.AdamW(p, 0.01, foreach=False),
    "AdamW fused": lambda p: torch.optim.AdamW(p, 0.01, fused=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 0.01, lr_decay=0.1),
    "Adadelta": torch.optim.Adadelta,
    "Adamax": torch.optim.Adamax,
    "Adafactor": torch.optim.Adafactor,
    "ASGD": lambda p: torch.optim.ASGD(p, t0=2),
    "LBFGS": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3, history_size=4),
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "RMSprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.5, centered=True),
    "Rprop": torch.optim.Rprop,
}


def net(seed, dtype=torch.float32):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).to(dtype)


def train(model, optimizer, steps, seed=0):
    """Deterministic steps; every optimizer takes a closure."""
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(steps):
        data = torch.randn(5, 4, generator=generator).to(next(model.parameters()).dtype)

        def closure(data=data):
            optimizer.zero_grad()
            loss = model(data).square().sum()
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    optimizer.zero_grad()
    return losses


def described(value):
    """State with tensors as (dtype, bits), to compare exactly."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), bytes(value.contiguous().view(-1).view(torch.uint8).numpy())
    if isinstance(value, dict):
        return {key: described(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    return value


def continues(repo, make, dtype=torch.float32):
    """Train 3 steps, commit, train 3 more; restore elsewhere (fresh, then used objects) and train the same 3 there."""
    model = net(0, dtype)
    optimizer = make(model.parameters())
    train(model, optimizer, 3)
    repo.commit(model, optimizer)
    saved = described(optimizer.state_dict())
    losses = train(model, optimizer, 3, seed=1)
    for used in (False, True):
        other = net(1, dtype)
        live = make(other.parameters())
        if used:
            train(other, live, 5, seed=2)
        repo.restore("HEAD", model=other, optimizer=live)
        assert described(live.state_dict()) == saved
        assert train(other, live, 3, seed=1) == losses
        assert described(other.state_dict()) == described(model.state_dict())
        assert described(live.state_dict()) == described(optimizer.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(repo, name):
    """Every optimizer of torch, in its variants that a CPU has: state, losses and weights are the same."""
    continues(repo, OPTIMIZERS[name])


@pytest.mark.parametrize("name", ["SGD momentum", "AdamW foreach", "Adafactor"])
def test_bf16_training_goes_on_bit_for_bit(repo, name):
    """Parameters in bf16."""
    continues(repo, OPTIMIZERS[name], torch.bfloat16)


class AdamWithFloatMoments(torch.optim.Optimizer):
    """bf16 parameters with fp32 moments, as mixed-precision optimizers keep them."""

    def __init__(self, parameters, lr=0.01):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state.update(step=0, master=parameter.float(), exp_avg=torch.zeros_like(parameter).float())
                state["step"] += 1
                state["exp_avg"].lerp_(parameter.grad.float(), 0.1)
                state["master"].sub_(state["exp_avg"], alpha=group["lr"] / state["step"])
                parameter.copy_(state["master"])
        return loss


def test_float_moments_of_bf16_parameters_stay_float(repo):
    """torch's own ``load_state_dict`` would cast them to bf16; here they come back bit for bit."""
    continues(repo, AdamWithFloatMoments, torch.bfloat16)


class LoadsItself(AdamWithFloatMoments):
    """An optimizer with a ``load_state_dict`` of its own, which has to be called."""

    def __init__(self, parameters, lr=0.01):
        super().__init__(parameters, lr)
        self.loaded = 0

    def state_dict(self):
        return {**super().state_dict(), "own": {"count": 3}}

    def load_state_dict(self, state):
        assert state.pop("own") == {"count": 3}
        super().load_state_dict(state)
        self.loaded += 1


def test_an_optimizers_own_load_state_dict_is_used(repo):
    """With what its ``state_dict`` added, and still with fp32 moments."""
    model = net(0, torch.bfloat16)
    optimizer = LoadsItself(model.parameters())
    continues(repo, LoadsItself, torch.bfloat16)
    repo.commit(model, optimizer)
    repo.restore("HEAD", model=model, optimizer=optimizer)
    assert optimizer.loaded == 1


def test_reordered_groups_and_parameters_are_exact(repo):
    """Names decide, not positions: what torch's ``load_state_dict`` would mix up comes back right."""
    model = net(0)
    weights, biases = [model[0].weight, model[2].weight], [model[0].bias, model[2].bias]
    optimizer = torch.optim.AdamW([{"params": weights, "lr": 0.1}, {"params": biases, "lr": 0.2, "weight_decay": 0.0}])
    train(model, optimizer, 3)
    repo.commit(model, optimizer)
    other = net(1)
    live = torch.optim.AdamW(
        [{"params": [other[2].bias, other[0].bias]}, {"params": [other[2].weight, other[0].weight]}], lr=1.0
    )
    repo.restore("HEAD", model=other, optimizer=live)
    assert [group["lr"] for group in live.param_groups] == [0.2, 0.1]
    assert [group["weight_decay"] for group in live.param_groups] == [0.0, 0.01]
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        assert described(optimizer.state[mine]) == described(live.state[its])
    assert train(model, optimizer, 3, seed=1) == train(other, live, 3, seed=1)


def test_differently_divided_groups_are_refused(repo):
    """Which hyper-parameters would a parameter get? Nobody can say."""
    model = net(0)
    repo.commit(model, torch.optim.SGD(model.parameters(), 0.1))
    live = torch.optim.SGD([{"params": [*model[0].parameters()]}, {"params": [*model[2].parameters()]}], 0.1)
    with pytest.raises(ciuic.StateMismatch, match="1 groups in the snapshot divide the parameters differently"):
        repo.restore("HEAD", model=model, optimizer=live)


def test_other_parameters_are_refused_by_name(repo):
    """Frozen here, trained there."""
    model = net(0)
    repo.commit(model, torch.optim.SGD(model.parameters(), 0.1))
    live = torch.optim.SGD([*model[0].parameters()], 0.1)
    with pytest.raises(ciuic.StateMismatch) as caught:
        repo.restore("HEAD", model=model, optimizer=live)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "optimizer/state/2.bias",
        "optimizer/state/2.weight",
    ]


def test_lbfgs_with_reordered_parameters_is_refused(repo):
    """Its state is one vector over all parameters in their order, kept at the first; it once came back at another."""
    model = net(0)
    optimizer = OPTIMIZERS["LBFGS"](model.parameters())
    train(model, optimizer, 2)
    repo.commit(model, optimizer)
    live = OPTIMIZERS["LBFGS"](reversed([*model.parameters()]))
    with pytest.raises(ciuic.StateMismatch, match="LBFGS joins all parameters into one vector"):
        repo.restore("HEAD", model=model, optimizer=live)


@pytest.mark.parametrize(
    ("stored", "live"),
    [("SGD", "Adam"), ("Adam", "SGD"), ("RAdam", "Adam"), ("Adamax", "NAdam"), ("Adamax", "Adam"), ("Adagrad", "SGD")],
)
def test_another_class_of_optimizer_is_refused(repo, stored, live):
    """RAdam's groups are a subset of Adam's and Adamax's of NAdam's, and so they were once taken for theirs."""
    model = net(0)
    optimizer = OPTIMIZERS[stored](model.parameters())
    train(model, optimizer, 1)
    repo.commit(model, optimizer)
    other = OPTIMIZERS[live](model.parameters())
    with pytest.raises(ciuic.StateMismatch, match=rf"the snapshot's optimizer is a {stored}, the live one a {live}"):
        repo.restore("HEAD", model=model, optimizer=other)


def test_a_derived_class_and_the_two_adams_are_taken(repo):
    """Adam and AdamW differ in a value of their groups, which is restored."""

    class Derived(torch.optim.AdamW):
        pass

    model = net(0)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    train(model, optimizer, 2)
    repo.commit(model, optimizer)
    losses = train(model, optimizer, 2, seed=1)
    for kind in (Derived, torch.optim.Adam):
        other = net(1)
        live = kind(other.parameters())
        repo.restore("HEAD", model=other, optimizer=live)
        assert train(other, live, 2, seed=1) == losses


def test_an_optimizer_without_its_model_goes_by_position(repo):
    """Both sides without names, or with the names that torch gives named parameters."""
    model = net(0)
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 2)
    repo.commit(optimizer=optimizer)
    live = torch.optim.Adam(net(1).parameters())
    repo.restore("HEAD", optimizer=live)
    assert described(live.state_dict()) == described(optimizer.state_dict())


def test_state_that_does_not_fit_its_parameter_is_refused(repo):
    """A model of other sizes, given with keys that leave its weights out."""
    model = net(0)
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 1)
    repo.commit(model, optimizer)
    other = torch.nn.Sequential(torch.nn.Linear(4, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    with pytest.raises(ciuic.StateMismatch) as caught:
        repo.restore("HEAD", model=other, optimizer=torch.optim.Adam(other.parameters()), keys="optimizer/*")
    assert (
        "optimizer/state/0.weight/exp_avg: float32 [6, 4] in the snapshot, but the parameter is float32 [7, 4]"
        in caught.value.problems
    )


def test_a_fresh_optimizer_clears_a_used_one(repo):
    """State that the snapshot has not is gone after the restore."""
    model = net(0)
    repo.commit(model, torch.optim.Adam(model.parameters()))
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 2)
    repo.restore("HEAD", model=model, optimizer=optimizer)
    assert not optimizer.state


def test_state_follows_a_model_that_moves_after_the_restore(repo):
    """``model.to(device)`` after the restore, as the article has it: at the next step the state goes after it."""
    model = net(0)
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, 2)
    repo.commit(model, optimizer)
    live_model = net(1)
    live = torch.optim.AdamW(live_model.parameters())
    repo.restore("HEAD", model=live_model, optimizer=live)
    torch.__future__.set_swap_module_params_on_conversion(True)  # else a parameter that goes to meta is a new one
    try:
        live_model.to("meta")
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    for parameter in live_model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    live.step()
    for slots in live.state.values():
        assert (slots["exp_avg"].device.type, slots["exp_avg_sq"].device.type) == ("meta", "meta")
        assert slots["step"].device.type == "cpu" and slots["step"] == 3


def test_a_model_cast_after_the_restore_keeps_its_moments(repo):
    """Only devices are followed: what the state's dtype is, the optimizer decides."""
    model = net(0)
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, 2)
    repo.commit(model, optimizer)
    saved = described(optimizer.state_dict())
    model.to(torch.bfloat16)
    with pytest.raises(ciuic.StateMismatch, match=r"model/0\.weight: float32 \[6, 4\] in the snapshot, bfloat16"):
        repo.restore("HEAD", model=model, optimizer=optimizer)
    repo.restore("HEAD", model=model, optimizer=optimizer, keys="optimizer/*")
    assert described(optimizer.state_dict()) == saved


def test_a_tensor_lr_stays_the_same_object(repo):
    """A captured graph or a scheduler may hold it."""
    model = net(0)
    optimizer = torch.optim.Adam(model.parameters(), torch.tensor(0.01))
    repo.commit(model, optimizer)
    rate = optimizer.param_groups[0]["lr"]
    rate.fill_(1.0)
    repo.restore("HEAD", model=model, optimizer=optimizer)
    assert optimizer.param_groups[0]["lr"] is rate and rate == torch.tensor(0.01)


def test_a_restore_aliases_nothing(repo):
    """Two optimizers restored from one snapshot share no tensor."""
    model = net(0)
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 1)
    repo.commit(model, optimizer)
    models = net(1), net(2)
    lives = [torch.optim.Adam(each.parameters()) for each in models]
    for each, live in zip(models, lives, strict=True):
        repo.restore("HEAD", model=each, optimizer=live)
    train(models[0], lives[0], 2)
    assert described(lives[1].state_dict()) == described(optimizer.state_dict())


def test_an_optimizer_can_be_copied_after_a_restore(repo):
    """The hook that follows devices is in nobody's way."""
    model = net(0)
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 1)
    repo.commit(model, optimizer)
    repo.restore("HEAD", model=model, optimizer=optimizer)
    assert described(copy.deepcopy(optimizer).state_dict()) == described(optimizer.state_dict())


def test_a_step_after_two_restores(tmp_path):
    """Each left a hook that took itself away during the step, which torch answered with a RuntimeError."""
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    repo = ciuic.Repo.init(tmp_path / "run")
    repo.commit(model, optimizer)
    repo.restore("main", model=model, optimizer=optimizer)
    repo.restore("main", model=model, optimizer=optimizer)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
