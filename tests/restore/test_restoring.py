"""Restoring in threads, over chains and recipes: the same bits, in the live tensors' own memory."""

import copy
import threading

import pytest
import torch

from ciuic.codec import Codec
from ciuic.restore import filling
from ciuic.store import chains


@pytest.fixture(params=["deltas", "recipes"])
def history(request):
    return request.getfixturevalue(request.param)


def names_of_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ciuic-restore")]


@pytest.mark.parametrize("live", [False, True], ids=["fresh optimizer", "used optimizer"])
def test_every_snapshot_comes_back_bit_for_bit(history, workers, live, kit):
    """Deltas and predictions of every depth; no thread is left."""
    for step, state in enumerate(history.states):
        model, optimizer = history.fresh()
        if live:
            model(torch.randn(2, 100)).sum().backward()
            optimizer.step()
        history.repo.restore(f"HEAD~{len(history.states) - 1 - step}", model=model, optimizer=optimizer, rng=False)
        assert kit.same(kit.state_of(model, optimizer), state), step
    assert not names_of_threads()


def test_live_memory_is_filled_where_it_is(recipes, workers):
    """Parameters and existing optimizer state keep their memory, and autograd learns that they changed."""
    model, optimizer = recipes.fresh()
    model(torch.randn(2, 100)).sum().backward()
    optimizer.step()
    tensors = [*model.parameters(), *(slot for slots in optimizer.state.values() for slot in slots.values())]
    before = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
    recipes.repo.restore("HEAD", model=model, optimizer=optimizer, rng=False)
    after = [*model.parameters(), *(slot for slots in optimizer.state.values() for slot in slots.values())]
    for tensor, (address, version) in zip(after, before, strict=True):
        assert tensor.data_ptr() == address and tensor._version > version


def test_what_is_shared_is_decoded_once(recipes, monkeypatch):
    """A parameter's chunk and those of its moments are one group: the graph below them is walked together."""
    groups = []
    original = filling.decode_records

    def watched(records, outs, *, check):
        groups.append([record.header.id for record in records])
        return original(records, outs, check=check)

    monkeypatch.setattr(filling, "decode_records", watched)
    model, optimizer = recipes.fresh()
    recipes.repo.restore("HEAD", model=model, optimizer=optimizer, rng=False)
    predicted = recipes.of_codec(Codec.PREDICTED)
    assert predicted
    for record in predicted:
        bases = {base.header.id for base in record.bases[1:]} & {id for group in groups for id in group}
        (own,) = [group for group in groups if record.header.id in group]
        assert bases <= set(own)
    assert sum(map(len, groups)) == len({id for group in groups for id in group})


DTYPES = [
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.int64, torch.int8, torch.bool,
    torch.uint16, torch.float8_e4m3fn,
]  # fmt: skip


def layouts(dtype):
    """Name → a tensor of 13 600 elements with any bits that the dtype can have, lying in its way in memory."""

    def any_bits(*shape):
        generator = torch.Generator().manual_seed(1)
        numbers = torch.randint(0, 2, shape) if dtype == torch.bool else None
        if numbers is not None:
            return numbers.to(dtype)
        width = torch.empty(0, dtype=dtype).element_size()
        count = torch.Size(shape).numel() * width
        return torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator).view(dtype).view(shape)

    wide = any_bits(100, 2 * 136)
    return {
        "plain": any_bits(100, 136),
        "transposed": any_bits(136, 100).T,
        "every other column": wide[:, ::2],
        "permuted": any_bits(10, 10, 8, 17).permute(3, 1, 0, 2),
        "a row's part": any_bits(3, 136 * 100)[1],
        "empty": any_bits(0, 4),
        "scalar": any_bits(1)[0],
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_layout(repo, workers, dtype, kit):
    """What is not contiguous is filled piece by piece; the memory between its elements stays as it was."""
    stored = layouts(dtype)
    repo.commit({name: tensor.clone() for name, tensor in stored.items()}, rng=False)
    live = {name: torch.zeros_like(tensor) for name, tensor in layouts(dtype).items()}
    wide = torch.zeros(100, 2 * 136, dtype=dtype)
    live["every other column"] = wide[:, ::2]
    live["transposed"] = torch.zeros(136, 100, dtype=dtype).T
    assert not live["permuted"].is_contiguous()
    repo.restore("HEAD", model=live, rng=False)
    for name, tensor in stored.items():
        assert kit.same(live[name], tensor), name
    assert not kit.bits(wide[:, 1::2]).any()


def test_conjugate_views_are_filled(repo, workers):
    """Through their lazy conjugation."""
    stored = torch.randn(3000, dtype=torch.complex64)
    repo.commit({"w": stored}, rng=False)
    memory = torch.zeros_like(stored)
    repo.restore("HEAD", model={"w": memory.conj()}, rng=False)
    assert torch.equal(memory, stored.conj().resolve_conj())


def test_ties_and_overlaps(repo, workers):
    """Tied tensors are filled once; views that overlap in part are written one after the other."""
    memory = torch.randn(20_000)
    tied = {"a": memory, "b": memory, "head": memory[:9000], "tail": memory[5000:], "odd": memory[1::2]}
    repo.commit(tied, rng=False)
    other = torch.zeros(20_000)
    live = {"a": other, "b": other, "head": other[:9000], "tail": other[5000:], "odd": other[1::2]}
    repo.restore("HEAD", model=live, rng=False)
    assert torch.equal(other, memory)


def test_one_chunk_in_many_places(repo, workers):
    """A chunk of zeros that fills several tensors is decoded once and copied."""
    stored = {f"z{number}": torch.zeros(9000) for number in range(5)} | {"t": torch.zeros(100, 90)}
    repo.commit(stored, rng=False)
    live = {name: torch.ones_like(tensor) for name, tensor in stored.items()}
    live["t"] = torch.ones(90, 100).T
    repo.restore("HEAD", model=live, rng=False)
    assert not any(tensor.any() for tensor in live.values())


def test_an_error_in_a_thread_stops_the_others(deltas, workers, monkeypatch, kit):
    """Any error there is RestoreInterrupted; no thread is left behind, and the next restore works."""
    import ciuic

    original = filling.decode_records
    calls = []

    def failing(records, outs, *, check):
        calls.append(threading.current_thread())
        if len(calls) == 3:
            raise MemoryError("no more")
        return original(records, outs, check=check)

    monkeypatch.setattr(filling, "TASK_BYTES", 1)
    monkeypatch.setattr(filling, "decode_records", failing)
    model, optimizer = deltas.fresh()
    with pytest.raises(ciuic.RestoreInterrupted, match="no more"):
        deltas.repo.restore("HEAD", model=model, optimizer=optimizer, rng=False)
    assert not names_of_threads()
    assert len(calls) < len(deltas.chunks()), "what had not begun is not begun"
    monkeypatch.setattr(filling, "decode_records", original)
    deltas.repo.restore("HEAD", model=model, optimizer=optimizer, rng=False)
    assert kit.same(kit.state_of(model, optimizer), deltas.states[-1])


def test_an_error_in_the_calling_thread_leaves_no_thread(repo, workers, monkeypatch):
    """What is handed over is put in its place by whoever asked."""
    import ciuic

    repo.commit({"w": torch.randn(200, 300)}, rng=False)

    def failing(*_):
        assert threading.current_thread() is threading.main_thread()
        raise KeyboardInterrupt

    monkeypatch.setattr("ciuic.state.filling.put_bytes", failing)
    with pytest.raises(ciuic.RestoreInterrupted, match="KeyboardInterrupt"):
        repo.restore("HEAD", model={"w": torch.zeros(300, 200).T}, rng=False)
    assert not names_of_threads()


def test_a_small_state_starts_no_thread(deltas, monkeypatch, kit):
    """Below some megabytes threads cost more than they save."""
    started = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))
    model, optimizer = deltas.fresh()
    deltas.repo.restore("HEAD", model=model, optimizer=optimizer, rng=False)
    assert not started and kit.same(copy.deepcopy(model.state_dict()), deltas.states[-1][0])
    assert chains.decode_records is filling.decode_records


def test_live_memory_that_holds_a_base_already(history, workers, kit):
    """Restoring one step after the other into the same objects, forwards and backwards.

    A buffer was once taken for the base because it held the same bytes, and the live tensor kept the step before.
    """
    model, optimizer = history.fresh()
    last = len(history.states) - 1
    for step in [*range(last + 1), *range(last, -1, -1)]:
        history.repo.restore(f"HEAD~{last - step}", model=model, optimizer=optimizer, rng=False)
        assert kit.same(kit.state_of(model, optimizer), history.states[step]), step
