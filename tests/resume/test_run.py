"""Where a run begins, where it ends, and what it says when something is missing."""

import itertools
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import resumed_training as training
import torch
from resumed_training import LOADERS, WORKERS
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler
from torchdata.stateful_dataloader import StatefulDataLoader

import ciuic
from ciuic.errors import PositionError
from ciuic.snapshot import SnapshotManager
from ciuic.store.pack_format import RECORD_LENGTH

pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
EVERY = {**LOADERS, **WORKERS}


@pytest.fixture
def manager(tmp_path):
    """``manager(interval)``: a manager of the test's repository, as the next process would have it."""
    made = []

    def make(interval=None, **options):
        made.append(SnapshotManager(tmp_path / "run", interval, when_busy="wait", **options))
        return made[-1]

    yield make
    for each in made:
        each.repo.close()


def linear(manager, **more):
    model = torch.nn.Linear(2, 2)
    manager.track(model=model, **more)
    return model


def said(caplog, text):
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


@pytest.mark.parametrize(
    "name", ["shuffled by its generator", "a dataset with generators", "a stream with state", "stateful, a stream",
             "stateful, with a generator", "a lazy sampler", "two workers"]
)  # fmt: skip
def test_a_run_that_ended_goes_on_with_a_larger_maximum(tmp_path, caplog, name):
    """By steps in mid epoch, by epochs, by both: in the end it is the run that was meant from the beginning. Run again
    as it is, it gives nothing, and says so."""
    loader = EVERY[name]
    expected = training.whole(tmp_path / "whole", loader, max_epochs=4)
    record = training.Record()
    for seed, limits in enumerate([{"max_steps": 4}, {"max_epochs": 2}, {"max_steps": 400, "max_epochs": 3}, {}]):
        limits = limits or {"max_epochs": 4}
        training.Training(tmp_path / "run", loader, seed=1 + 7 * seed, interval=1000).run(record, **limits)
    assert training.first_difference(record, expected) is None
    assert said(caplog, "Nothing to do") == []
    again = training.Record()
    training.Training(tmp_path / "run", loader, seed=77, interval=1000).run(again, max_epochs=4)
    assert again == training.Record({}, expected.weights)
    assert said(caplog, "Nothing to do") == [
        f"Nothing to do: this loop is complete, and the run has {len(expected.steps)} steps. "
        "A larger `max_steps` or `max_epochs` goes on."
    ]


def test_without_a_maximum_it_is_one_epoch(manager):
    """And not one more in the next process."""
    first = manager()
    linear(first)
    assert [step for step, _ in first.batches([0, 1, 2])] == [0, 1, 2]
    second = manager()
    linear(second)
    assert list(second.batches([0, 1, 2])) == []


def test_the_end_is_a_snapshot_and_it_is_durable(manager):
    """With the metrics of the last step; where the last step was due, that one serves."""
    first = manager(interval=4)
    linear(first)
    for step, _ in first.batches(range(6)):
        first.step(loss=step / 2)
    assert [(each.step, each.epoch, each.message, each.metrics) for each in ciuic.Repo(first.repo.path).log()] == [
        (5, 0, "end of the loop", {"loss": 2.5}),
        (3, 0, "", {"loss": 1.5}),
    ]
    second = manager(interval=4)
    linear(second)
    for _ in second.batches(range(6), max_steps=8):
        second.step()
    assert [each.step for each in ciuic.Repo(first.repo.path).log()] == [7, 5, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_generator_that_two_loaders_share(tmp_path, workers):
    """One for training and validation, as torch's page on reproducibility has it: what the validation has drawn in
    this epoch counts. The generator came back as it was before that."""

    def script(folder, record, stop=None):
        run = SnapshotManager(tmp_path / folder, 1, when_busy="wait")
        linear(run)
        shared = torch.Generator().manual_seed(1)
        training_loader = DataLoader(range(10), 2, shuffle=True, generator=shared, num_workers=workers)
        validation_loader = DataLoader(range(5), 5, shuffle=True, generator=shared)
        for step, batch in run.batches(training_loader, max_epochs=3):
            drawn = [each.tolist() for each in validation_loader] if step % 2 else []
            assert record.setdefault(step, (batch.tolist(), drawn)) == (batch.tolist(), drawn)
            run.step()
            if step == stop:
                break
        run.close()

    whole, seen = {}, {}
    script("whole", whole)
    for stop in (1, 3, 4, 8, None):
        script("killed", seen, stop)
    assert seen == whole and len(whole) == 15


def test_what_was_drawn_is_not_loaded_again(tmp_path):
    """A plain DataLoader passes over indices."""
    record = training.Record()
    training.Training(tmp_path, LOADERS["shuffled"], seed=1, interval=1000).run(record, max_steps=4)
    second = training.Training(tmp_path, LOADERS["shuffled"], seed=2, interval=1000)
    second.run(record, max_steps=5)
    assert len(second.loader.dataset.loaded) == training.BATCH


def test_a_stream_without_a_state_is_read_again(tmp_path, caplog):
    """And the log says so; one with a state is not."""
    for name, read_again in (("a stream", True), ("a stream with state", False), ("a list", False)):
        caplog.clear()
        record = training.Record()
        for steps in (3, 4):
            run = training.Training(tmp_path / name, LOADERS[name], seed=1, interval=1000)
            run.run(record, max_steps=steps)
        assert bool(said(caplog, "the 3 batches before it are loaded again and dropped")) == read_again
        if name == "a stream with state":
            assert run.loader.dataset.read == training.BATCH


def test_an_order_that_a_loaders_state_does_not_hold(manager, caplog):
    """torchdata passes over a sampler without a state as if it began anew: said before anything is trained."""
    for sampler, warned in ((None, False), (SequentialSampler(range(6)), False), (RandomSampler(range(6)), True)):
        run = manager()
        linear(run)
        loader = StatefulDataLoader(training.Indexed(6), 2, sampler=sampler, shuffle=sampler is None)
        for _ in run.batches(loader, max_epochs=9):
            break
        assert bool(said(caplog, "is not in the state of a StatefulDataLoader")) == warned


def test_an_iterator_can_be_gone_through_once(manager):
    """In its first epoch it is drawn and dropped to the position; another epoch is an error that says what to do."""
    first = manager()
    linear(first)
    assert [batch for _, batch in first.batches(iter("abcdef"), max_steps=2)] == ["a", "b"]
    second = manager()
    linear(second)
    assert [batch for _, batch in second.batches((letter for letter in "abcdef"), max_steps=3)] == ["c"]
    third = manager()
    linear(third)
    with pytest.raises(ciuic.CiuicError, match=r"iterator: it can be gone through once, and this is epoch 1\. Give"):
        for _ in third.batches(iter("abcdef"), max_epochs=2):
            third.step()


def test_a_loader_that_does_not_reach_the_position(manager, caplog):
    """Or has nothing to give at all: no silent run over other data. More data is said, and gone on with."""
    first = manager()
    linear(first)
    list(first.batches([0, 1, 2, 3], max_steps=3))
    with pytest.raises(ciuic.CiuicError, match=r"after batch 3 of its epoch, and the loader has 2\. Give it"):
        again = manager()
        linear(again)
        list(again.batches([0, 1], max_steps=5))
    longer = manager()
    linear(longer)
    assert [batch for _, batch in longer.batches([0, 1, 2, 3, 4], max_steps=4)] == [3]
    assert said(caplog, "has 5 batches an epoch, and had 4 at the snapshot")
    with pytest.raises(ciuic.CiuicError, match=r"no batch in epoch 0\. Give it data"):
        empty = SnapshotManager(Path(longer.repo.path).parent / "empty")
        list(empty.batches([], max_steps=5))


def test_the_command_that_is_offered_then(manager):
    """Gives up the position, and an epoch begins anew. It was one that `ciuic` does not know."""
    first = manager()
    linear(first)
    list(first.batches([0, 1, 2, 3], max_steps=3))
    second = manager()
    linear(second)
    with pytest.raises(PositionError) as said_so:
        list(second.batches([0, 1], max_steps=5))
    command = str(said_so.value).split("`ciuic ")[1].split("`")[0].replace("SNAPSHOT", "HEAD").split()
    subprocess.run([sys.executable, "-m", "ciuic", *command], cwd=first.repo.path, check=True, timeout=300)
    third = manager()
    linear(third)
    assert list(third.batches([0, 1], max_steps=5)) == [(3, 0), (4, 1)]


def test_a_break_takes_no_snapshot_and_the_next_loop_begins_an_epoch(manager):
    """Steps count on; ``save`` takes one by hand, from which the next process goes on in that loop."""
    first = manager()
    linear(first)
    for step, _ in first.batches(range(6)):
        first.step()
        if step == 1:
            break
    assert not first.has_snapshots()
    drawn = []
    for step, batch in first.batches(range(6), max_steps=100):
        drawn.append((step, batch))
        first.step()
        if step == 4:
            first.save(step, force=True, wait=True)
            break
    assert drawn == [(2, 0), (3, 1), (4, 2)]

    second = manager()
    linear(second)
    assert list(second.batches(range(6))) == []
    assert list(itertools.islice(second.batches(range(6), max_steps=100), 2)) == [(5, 3), (6, 4)]


def test_a_loop_that_an_exception_left(manager):
    """It lives on in the traceback; when it goes, the loop that runs now knows nothing of it."""
    run = manager(interval=1)
    linear(run)
    left = run.batches(range(6), max_steps=9)
    next(left)
    run.step()
    now = run.batches(range(6), max_steps=9)
    assert next(now) == (1, 0)
    left.close()
    assert run.step().step == 1 and next(now) == (2, 1)
    assert run.step().step == 2


def test_a_loop_inside_of_another_one(manager):
    """For validation, for example: the outer one went on with wrong numbers, and resumed somewhere else."""
    run = manager(interval=1)
    linear(run)
    outer = run.batches(range(6), max_steps=9)
    assert next(outer) == (0, 0)
    for _ in run.batches(range(2)):
        run.step()
    with pytest.raises(PositionError, match="for batch in loader"):
        next(outer)


def test_loops_one_after_the_other(manager, caplog):
    """A loop that a run has left behind is passed over; the epoch's number counts on, for samplers that ask for it."""
    seen = []

    def script(stop=None):
        run = manager(interval=1)
        linear(run)
        loader = DataLoader(training.Indexed(5), 2, sampler=training.ByEpoch(5))
        for epoch in range(3):
            for step, batch in run.batches(loader):
                seen.append((epoch, step, batch[:, 0].tolist(), int(batch[0, 2])))
                run.step()
                if step == stop:
                    run.close()
                    return
        run.close()

    script()
    expected = list(seen)
    seen.clear()
    assert [step for _, step, _, _ in expected] == list(range(9)) and [each[3] for each in expected[::3]] == [0, 1, 2]
    shutil.rmtree(manager(interval=1).repo.path)
    for stop in (2, 4, None):
        script(stop)
    assert seen == expected
    assert said(caplog, "Nothing to do: the run stands at step 5, in a later loop. ")
    caplog.clear()
    script()
    assert seen == expected
    once, complete = said(caplog, "Nothing to do")
    assert "at step 9, in a later loop" in once and "this loop is complete, and the run has 9 steps" in complete


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")  # in a process of its own, it is
@pytest.mark.parametrize("by_hand", [False, True])
def test_what_a_script_does_between_its_loops(tmp_path, by_hand):
    """A schedule's step, a validation that draws random numbers, a snapshot by hand after them: each counts once. A
    resumed run did them again, to the state that it had just restored, after each loop that it passed over."""

    def script(folder, seed, record, stop=None):
        torch.manual_seed(seed)
        run = SnapshotManager(tmp_path / folder, 2, when_busy="wait")
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        run.track(model=model, optimizer=optimizer, scheduler=scheduler)
        for _ in range(4):
            for step, batch in run.batches(DataLoader(range(3), 1, shuffle=True)):
                what = int(batch), optimizer.param_groups[0]["lr"], torch.rand(()).item()
                assert record.setdefault(step, what) == what
                optimizer.step()
                run.step()
                if step == stop:
                    run.close()
                    return
            torch.rand(7)
            scheduler.step()
            if by_hand and run.last_step is not None:
                run.save(run.last_step, force=True, wait=True)
        run.close()

    whole, seen = {}, {}
    script("whole", 1, whole)
    for seed, stop in enumerate((1, 3, 5, 6, 9, None), 1):
        script("killed", seed, seen, stop)
    assert seen == whole and sorted(whole) == list(range(12))


def test_loops_of_a_run_without_triggers(manager, caplog):
    """The end of a first loop was taken for a snapshot to resume from, and the second loop for the first one again:
    every other epoch was passed over."""
    run = manager()
    linear(run)
    seen = []
    for _ in range(3):
        for step, _ in run.batches(range(2)):
            seen.append(step)
            run.step()
    assert seen == list(range(6))
    assert said(caplog, "Nothing to do") == []


def test_a_run_under_way_does_not_resume_from_another_one(manager):
    """Without a snapshot of its own, too: what somebody else has saved meanwhile is not what comes before its batch."""
    first = manager()
    model = linear(first)
    next(first.batches(range(6)))
    second = manager(interval=1)
    linear(second)
    for _ in second.batches(range(6)):
        second.step()
    second.close()
    before = model.weight.detach().clone()
    assert next(first.batches(range(6), max_steps=9)) == (1, 0)
    assert torch.equal(model.weight, before)


def test_a_restore_between_loops_goes_back_in_the_data_too(manager):
    """The batches after an older snapshot are those that followed it."""
    run = manager(interval=1)
    linear(run)
    first = []
    for _, batch in run.batches(DataLoader(range(10), 1, shuffle=True)):
        first.append(int(batch))
        run.step()
    run.wait()
    run.restore("step:3")
    assert [int(batch) for _, batch in run.batches(DataLoader(range(10), 1, shuffle=True))] == first[4:]


def test_a_restore_inside_of_a_loop_that_goes_on(manager):
    """Back to good weights, and on with the next batch: the loop after this one went back in the data instead."""
    run = manager(interval=1)
    linear(run)
    seen = []
    for _ in range(2):
        for step, batch in run.batches(range(4)):
            seen.append((step, batch))
            run.step()
            if step == 2:
                run.wait()
                run.restore("step:0")
    assert seen == [(step, step % 4) for step in range(8)]


def test_a_loop_of_ones_own(manager):
    """``resume`` restores what is tracked, once, and gives the number of the next step; ``step`` counts on."""
    first = manager(interval=2)
    model = linear(first)
    assert first.resume() == 0
    for step in range(first.resume(), 4):
        with torch.no_grad():
            model.bias.fill_(step)
        first.step()
    first.close()
    second = manager(interval=2)
    again = linear(second)
    assert second.resume() == second.resume() == 4
    assert again.bias.tolist() == [3.0, 3.0]
    assert "data" not in second.get_latest_snapshot().contains


def test_a_step_of_several_batches(manager):
    """Where ``step`` is called once for three batches, an interval that is no multiple of three is kept, too."""
    run = manager(interval=4)
    linear(run)
    for step, _ in run.batches(range(30)):
        if step % 3 == 2:
            run.step()
    assert [each.step for each in run.snapshots()][::-1] == [11, 17, 20, 23, 29]


def test_a_step_is_ended_once(manager):
    """Another call for the same batch is no other step."""
    run = manager(interval=1)
    linear(run)
    for _ in run.batches(range(3)):
        assert run.step() is not None
        assert run.step() is None
    assert [each.step for each in run.snapshots()] == [2, 1, 0]


def test_whatever_is_tracked_comes_back(manager):
    """Generators of every library, tensors, arrays and plain values among it; what could not, is refused at once."""

    def objects():
        return {
            "torch_generator": torch.Generator(), "numpy_generator": numpy.random.default_rng(),
            "tensor": torch.zeros(3), "array": numpy.zeros(3), "values": {"tokens": 0},
        }  # fmt: skip

    first = manager()
    held = objects()
    linear(first, **held)
    for _, number in first.batches(range(3)):
        held["tensor"] += number
        held["array"] += number
        held["values"]["tokens"] += number
        torch.rand(1, generator=held["torch_generator"])
    second = manager()
    again = objects()
    linear(second, **again)
    list(second.batches(range(3)))
    assert again["tensor"].tolist() == again["array"].tolist() == [3, 3, 3] and again["values"] == {"tokens": 3}
    assert torch.equal(again["torch_generator"].get_state(), held["torch_generator"].get_state())
    assert again["numpy_generator"].random() == held["numpy_generator"].random()
    with pytest.raises(ciuic.UnsupportedState, match=r"tokens: a builtins\.int cannot be restored in place"):
        second.track(tokens=3)


def test_a_restore_says_what_is_missing(manager, caplog):
    """In the snapshot and not tracked, or the reverse; and it will not go on with a model that is another one."""
    caplog.set_level(logging.INFO, logger="ciuic")
    first = manager()
    linear(first, average=torch.zeros(2))
    list(first.batches(range(3), max_steps=2))
    assert {"model", "extra.average", "rng.torch", "rng.numpy", "rng.python", "data"} == set(
        first.get_latest_snapshot().contains
    )
    second = manager()
    model = torch.nn.Linear(2, 2)
    second.track(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1))
    assert next(iter(second.batches(range(3), max_steps=3))) == (2, 2)
    assert said(caplog, "Resuming after step 1, from snapshot ")
    assert said(caplog, "Not in the snapshot of step 1, and left as they are: optimizer.")
    assert said(caplog, "In the snapshot of step 1, and not tracked now: average.")

    with pytest.raises(ciuic.StateMismatch, match="has a model, and nothing is tracked"):
        next(iter(manager().batches(range(3))))
    bare = SnapshotManager(Path(first.repo.path).parent / "bare")
    bare.repo.commit(extra={"x": torch.zeros(1)}, step=5, rng=False)
    linear(bare)
    with pytest.raises(ciuic.StateMismatch, match="has no model, and a model is tracked"):
        bare.resume()


def test_a_snapshot_without_a_position(manager, caplog):
    """By the plain style, or with its position pruned: steps count on, and an epoch begins anew."""
    first = manager()
    first.save(6, torch.nn.Linear(2, 2), epoch=3, force=True, wait=True)
    second = manager()
    linear(second)
    assert list(itertools.islice(second.batches(range(4), max_epochs=9), 2)) == [(7, 0), (8, 1)]
    assert said(caplog, "The snapshot of step 6 has no position in the data: an epoch begins anew.")


def test_damage_costs_the_steps_since_the_snapshot_before(tmp_path, caplog):
    """The position in the data is that of the snapshot that is intact."""
    expected = training.whole(tmp_path / "whole", LOADERS["shuffled"], max_epochs=2)
    record = training.Record()
    run = training.Training(tmp_path / "run", LOADERS["shuffled"], seed=1, interval=2)
    with pytest.raises(training.Interrupted):
        run.run(record, until=7, max_epochs=2)
    run.snapshots.close()
    node = run.snapshots.repo.components("step:7")["optimizer"]
    moment = next(leaf for _, leaf in ciuic.objects.state_tree.walk(node) if getattr(leaf, "shape", ()) == (8, 4))
    at = moment.source.record(0)
    pack = Path(at.pack.path)
    data = bytearray(pack.read_bytes())
    data[at.offset + RECORD_LENGTH + 3] ^= 1
    pack.write_bytes(data)

    training.Training(tmp_path / "run", LOADERS["shuffled"], seed=5, interval=2).run(record, max_epochs=2)
    assert training.first_difference(record, expected) is None
    assert said(caplog, "(step 5)") and said(caplog, "is damaged, and passed over")


def test_the_position_is_small(manager):
    """A handful of values; the generators of the epoch's start are one chunk for all snapshots of the epoch."""
    run = manager(interval=1)
    linear(run)
    for _ in run.batches(DataLoader(range(6), 1, sampler=training.Lazy(6))):
        run.step()
    run.wait()
    nodes = [run.repo.components(each)["data"] for each in run.snapshots()]
    assert [node["offset"].value for node in nodes] == [6, 5, 4, 3, 2, 1]
    for generator in (("torch",), ("numpy", "state", "key"), ("python", "words")):
        chunks = set()
        for node in nodes:
            leaf = node["generators"]
            for key in generator:
                leaf = leaf[key]
            chunks.add(tuple(leaf.source.chunks))
        assert len(chunks) == 1
    assert max(each.raw_bytes["data"] for each in run.snapshots()) < 16384


def test_a_loaders_state_is_asked_for_when_a_snapshot_is_due(manager):
    """And not in every step."""

    class Counting:
        asked = 0

        def __iter__(self):
            return iter(range(10))

        def state_dict(self):
            self.asked += 1
            return {"asked": self.asked}

        def load_state_dict(self, state):
            self.asked = state["asked"]

    loader = Counting()
    run = manager(interval=4)
    linear(run)
    for _ in run.batches(loader, max_steps=9):
        run.step()
    assert loader.asked == 3


def test_a_metric_is_read_when_it_is_needed(manager):
    """A loss on an accelerator is waited for only where a snapshot is due."""

    class Loss:
        read = 0

        def item(self):
            self.read += 1
            return 0.5

    loss = Loss()
    run = manager(interval=4)
    linear(run)
    for _ in run.batches(range(8)):
        run.step(loss=loss)
    assert loss.read == 2
    assert [each.metrics for each in run.snapshots()] == [{"loss": 0.5}, {"loss": 0.5}]
