"""What a chunk rests on: how each kind of change is stored, that it comes back, and when nothing is rested on."""

import copy

import pytest
import torch

import ciuic
from ciuic.codec import Codec
from ciuic.commit import bases, casts, coding
from ciuic.commit.bases import most_ratio


def beside(repo, training, step):
    """A snapshot as trainings take them."""
    return repo.commit(training.model, training.optimizer, step=step, wait=False).result(60)


def assert_restores(path, snapshot, training, state):
    """Bit for bit, into objects of another seed."""
    fresh = type(training)(seed=1)
    ciuic.Repo(path).restore(snapshot.id, model=fresh.model, optimizer=fresh.optimizer)
    model, optimizer = fresh.state()
    assert all(torch.equal(model[name], state[0][name]) for name in state[0])
    for number, slots in state[1]["state"].items():
        for name, value in slots.items():
            assert torch.equal(optimizer["state"][number][name], value), (number, name)


def test_ten_steps_apart_a_delta_is_stored(path, repo, training, codecs):
    """Weights and second moments rest on the parent's; first moments gain nothing and rest on nothing."""
    run = training()
    run.steps(50)
    beside(repo, run, 0)
    run.steps(10)
    snapshot = beside(repo, run, 1)
    assert set(codecs(path, snapshot, "weight")) == {"DELTA"}
    assert set(codecs(path, snapshot, "exp_avg_sq")) == {"DELTA"}
    assert not {"DELTA", "PREDICTED"} & set(codecs(path, snapshot, "exp_avg"))
    assert snapshot.added_bytes < 0.85 * sum(snapshot.raw_bytes.values())
    assert_restores(path, snapshot, run, run.state())


@pytest.mark.parametrize("options", [{}, {"foreach": True, "weight_decay": 0.0}, {"fused": True, "maximize": True}])
@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Adam])
def test_one_step_apart_the_step_is_predicted(path, repo, training, codecs, make, options):
    """By the rule of Adam: under a third of the bytes are left, and all of them come back."""
    run = training(make=make, **options)
    run.steps(50)
    states, snapshots = [], []
    for step in range(4):
        run.steps()
        states.append(run.state())
        snapshots.append(beside(repo, run, step))
    for snapshot in snapshots[1:]:
        assert set(codecs(path, snapshot, "0/weight")) == {"PREDICTED"}
        assert set(codecs(path, snapshot, "exp_avg_sq")) == {"PREDICTED"}
        assert snapshot.added_bytes < 0.36 * sum(snapshot.raw_bytes.values())
    for snapshot, state in zip(snapshots, states, strict=True):
        assert_restores(path, snapshot, run, state)


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_schedule_is_followed(path, repo, training, codecs, order):
    """The learning rate is set anew before the snapshot or after it: the one that the step used is found."""
    run = training()
    scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda step: 1 / (1 + step))
    run.steps(20)
    for step in range(3):
        run.steps()
        if order == "before":
            scheduler.step()
        snapshot = beside(repo, run, step)
        if order == "after":
            scheduler.step()
    assert set(codecs(path, snapshot, "0/weight")) == {"PREDICTED"}
    assert_restores(path, snapshot, run, run.state())


def test_masters_of_half_precision_are_predicted(path, repo):
    """The optimizer steps fp32 copies that the program keeps in ``extra``; the model is their cast."""
    torch.manual_seed(0)
    masters = [torch.randn(128, 64, requires_grad=True) for _ in range(3)]
    optimizer = torch.optim.AdamW(masters, lr=3e-4)
    for step in range(6):
        for master in masters:
            master.grad = torch.randn(128, 64)
        optimizer.step()
        model = {str(number): master.detach().to(torch.bfloat16) for number, master in enumerate(masters)}
        extra = {"masters": {str(number): master for number, master in enumerate(masters)}}
        snapshot = repo.commit(model, optimizer, extra=extra, step=step, rng=False, wait=False).result(60)
    assert set(snapshot.storage["weights"]) == {"derived"}
    assert set(snapshot.storage["second moment"]) == {"predicted"}
    assert snapshot.storage["other"]["predicted"][0] == 3 * masters[0].nbytes
    state = ciuic.Repo(path).load(snapshot.id)
    assert all(torch.equal(state["extra"]["masters"][str(n)], master) for n, master in enumerate(masters))


def test_a_wrong_guess_loses_nothing(path, repo, training):
    """Weights changed by hand after the step, and moments too: the guess is far off, the bytes are right."""
    run = training()
    run.steps(20)
    beside(repo, run, 0)
    run.steps()
    with torch.no_grad():
        run.model[0].weight.mul_(1.5)
        for slots in list(run.optimizer.state.values())[:2]:
            slots["exp_avg_sq"].add_(1.0)
    snapshot = beside(repo, run, 1)
    assert_restores(path, snapshot, run, run.state())


def test_without_the_bytes_in_memory_the_bottom_of_the_chain_is_the_base(path, training, stored):
    """A waiting commit reads its base from the packs: one decoding a chunk, however long the chain has become."""
    run = training()
    run.steps(50)
    with ciuic.Repo.init(path, chunk_size=16384) as repo:
        for step in range(4):
            beside(repo, run, step)
            run.steps(10)
    again = ciuic.Repo(path)
    snapshot = again.commit(run.model, run.optimizer, step=9)
    headers = [header for where, each in stored(path, snapshot).items() if where.endswith("weight") for header in each]
    assert {header.depth for header in headers} == {1}
    assert_restores(path, snapshot, run, run.state())


def test_chains_are_bounded(path, repo, training, stored):
    """A delta a snapshot, up to the depth that a restore can afford; then a chunk that rests on nothing."""
    run = training()
    run.steps(50)
    depths = []
    for step in range(12):
        run.steps(10)
        headers = stored(path, beside(repo, run, step))
        depths.append(max(header.depth for header in headers["model/0/weight"]))
    assert depths == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]
    assert_restores(path, next(iter(repo.log())), run, run.state())


def test_depth_is_for_what_is_small():
    """The deeper, the less a delta may take; beyond the last limit there is none."""
    assert most_ratio(1) == most_ratio(3) == 1.0
    ratios = [most_ratio(depth) for depth in range(1, 50)]
    assert ratios == sorted(ratios, reverse=True) and ratios[-2] > ratios[-1] == 0


def test_frozen_parts_and_equal_tensors_cost_nothing(path, repo, training):
    """What has not changed is identical, whatever the rest does."""
    run = training()
    run.model[0].requires_grad_(False)
    run.optimizer = torch.optim.AdamW(run.model[2].parameters(), lr=1e-3)
    run.steps(10)
    beside(repo, run, 0)
    run.steps()
    snapshot = beside(repo, run, 1)
    frozen = sum(p.nbytes for p in run.model[0].parameters())
    assert snapshot.storage["weights"]["identical"][0] >= frozen


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cast_of_masters_costs_nothing(path, repo, dtype):
    """Narrow weights beside the fp32 tensors that they were cast from: a recipe, and no bytes."""
    masters = {name: torch.randn(200, 100) for name in ("a", "b")}
    masters["a"][0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    narrow = {name: tensor.to(dtype) for name, tensor in masters.items()}
    snapshot = repo.commit(narrow, extra={"masters": masters}, rng=False)
    assert snapshot.storage["weights"] == {"derived": snapshot.storage["weights"]["derived"]}
    assert snapshot.storage["weights"]["derived"][1] < 2000
    state = ciuic.Repo(path).load(snapshot.id)
    for name in narrow:
        assert torch.equal(state["model"][name].view(torch.int16), narrow[name].view(torch.int16))


def test_many_layers_of_one_shape_find_their_masters_in_order(repo, monkeypatch):
    """A model of hundreds of equal layers is not compared all with all."""
    looks = []
    plain = casts._is_cast
    monkeypatch.setattr(casts, "_is_cast", lambda *given: looks.append(1) or plain(*given))
    masters = {f"layer.{number}": torch.randn(32, 32) for number in range(200)}
    narrow = {name: tensor.to(torch.bfloat16) for name, tensor in masters.items()}
    snapshot = repo.commit(narrow, extra={"masters": masters}, rng=False)
    assert set(snapshot.storage["weights"]) == {"derived"}
    assert len(looks) == 200 * casts.SAMPLES


def test_a_tensor_that_is_almost_a_cast_is_stored(path, repo):
    """One element off: that chunk is stored by itself, the others are derived."""
    master = torch.randn(40000)
    narrow = master.to(torch.bfloat16)
    narrow[20000] += 1
    snapshot = repo.commit({"w": narrow}, extra={"master": master}, rng=False)
    assert set(snapshot.storage["weights"]) > {"derived"}
    assert torch.equal(ciuic.Repo(path).load(snapshot.id)["model"]["w"], narrow)


def test_other_shapes_and_dtypes_begin_anew(path, repo):
    """A tensor that has grown, or changed its dtype, has nothing to rest on."""
    repo.commit({"w": torch.randn(100, 64), "v": torch.randn(100, 64)}, rng=False)
    new = {"w": torch.randn(101, 64), "v": torch.randn(100, 64).double()}
    snapshot = repo.commit(new, rng=False)
    assert "delta" not in snapshot.storage["weights"]
    state = ciuic.Repo(path).load(snapshot.id)["model"]
    assert torch.equal(state["w"], new["w"]) and torch.equal(state["v"], new["v"])


@pytest.mark.parametrize("apart", [1, 10])
def test_a_restore_over_the_snapshot_before(path, repo, training, apart):
    """The live tensors hold what the chunks rest on: equal bytes are no reason to work in another's buffer.

    Views were compared by content where identity was meant, and the live tensors kept the old step.
    """
    run = training()
    run.steps(50)
    before = beside(repo, run, 0)
    run.steps(apart)
    snapshot, state = beside(repo, run, 1), run.state()
    for id, wanted in ((before.id, None), (snapshot.id, state), (snapshot.id, state)):
        repo.restore(id, model=run.model, optimizer=run.optimizer)
        if wanted is not None:
            model, optimizer = run.state()
            assert all(torch.equal(model[name], wanted[0][name]) for name in model)
            assert all(
                torch.equal(slots[name], wanted[1]["state"][number][name])
                for number, slots in optimizer["state"].items()
                for name in slots
            )


def test_forks_and_resumed_runs_go_on_from_what_they_restored(path, training):
    """The parent is what was restored, and so are the bases; a pruned parent is none."""
    run = training()
    run.steps(50)
    with ciuic.Repo.init(path, chunk_size=16384) as repo:
        first = beside(repo, run, 0)
        run.steps(10)
        beside(repo, run, 1)
    fork = training(seed=2)
    with ciuic.Repo(path) as repo:
        repo.restore(first.id, model=fork.model, optimizer=fork.optimizer)
        fork.steps(10)
        snapshot = beside(repo, fork, 1)
        assert snapshot.parents == (first.id,) and "delta" in snapshot.storage["weights"]
        assert_restores(path, snapshot, fork, fork.state())
        repo.prune(snapshot.id)
        fork.steps(10)
        last = beside(repo, fork, 2)
        assert_restores(path, last, fork, fork.state())


def test_a_sweep_makes_the_memory_void(path, repo, training):
    """After gc the writer looks the parent up again, and goes on."""
    run = training()
    run.steps(50)
    beside(repo, run, 0)
    ciuic.Repo(path).gc()
    run.steps(10)
    snapshot = beside(repo, run, 1)
    assert "delta" in snapshot.storage["weights"]
    assert_restores(path, snapshot, run, run.state())


def test_a_repository_from_before_keeps_to_what_its_readers_know(path, training, records):
    """Without the feature no record has a base, and no codec is above zstandard."""
    ciuic.Repo.init(path, chunk_size=16384)
    text = (path / "format").read_text()
    (path / "format").write_text(text.replace("features deltas", "features"))
    run = training()
    with ciuic.Repo(path) as repo:
        for step in range(3):
            run.steps()
            beside(repo, run, step)
            repo.commit(run.model, run.optimizer, step=step, message="waiting")
    assert {header.codec for _, header in records(path)} <= {0, 1}
    assert all(header.depth == 0 for _, header in records(path))
    assert_restores(path, next(iter(ciuic.Repo(path).log())), run, run.state())


def test_the_full_check_finds_what_does_not_decode(path, training, monkeypatch):
    """A coder that errs: with the full check the raw bytes are stored instead, and the snapshot is right."""

    def wrong(raw, width, base=None, **options):
        encoded = honest(raw, width, base, **options)
        if encoded.codec == Codec.RAW:
            return encoded
        return encoded._replace(stored=bytes(encoded.stored[:-1]) + bytes([encoded.stored[-1] ^ 1]))

    honest = coding.encode
    monkeypatch.setattr(coding, "encode", wrong)
    run = training()
    run.steps(20)
    ciuic.Repo.init(path)
    settings = (path / "config.toml").read_text()
    (path / "config.toml").write_text(settings.replace("full_check = false", "full_check = true"))
    repo = ciuic.Repo(path)
    snapshot = repo.commit(run.model, run.optimizer, rng=False)
    assert snapshot.cost["check"] > 0
    assert_restores(path, snapshot, run, run.state())


def test_copies_are_shared_between_depths(path, repo, training):
    """The same bytes twice in one snapshot are one record, and whatever rests on either finds it."""
    twin = torch.randn(64, 128)
    model = {"a": twin, "b": twin.clone()}
    for step in range(3):
        state = copy.deepcopy(model)
        snapshot = repo.commit(model, rng=False, step=step)
        loaded = ciuic.Repo(path).load(snapshot.id)["model"]
        assert all(torch.equal(loaded[name], state[name]) for name in state)
        for tensor in model.values():
            tensor += 1e-3
    assert bases.MOST_DEPTH == 255
