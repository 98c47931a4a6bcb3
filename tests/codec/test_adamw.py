"""The guesses of an Adam step: how near they come to torch, and that their bits are the same wherever they are made."""

import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ciuic.codec import CodecError, rules
from ciuic.codec.adamw import BLOCK, numbers
from ciuic.objects.recipe import NUMBERS, Recipe, decode_recipe, encode_recipe

sys.path.insert(0, str(Path(__file__).parent))
import scalar_rules

GROUP = {"lr": 3e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False, "maximize": False}
STEP = numbers(GROUP, 17.0, True)
RULES = ("adamw.second_moment", "adamw.weight")
EDGES = [
    *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x80800000, 0x3F800000, 0xBF800000),
    *(0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFABCDEF, 0x1F800000),
]
any_bits = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**32 - 1))
near_bits = st.integers(0x2F000000, 0x3F800000).flatmap(lambda bits: st.sampled_from([bits, bits | 0x80000000]))
usual = st.tuples(near_bits, near_bits, near_bits.map(lambda bits: bits & 0x7FFFFFFF))
rows = st.lists(st.one_of(usual, st.tuples(any_bits, any_bits, any_bits)), max_size=40)
groups = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 1),
        "betas": st.tuples(st.floats(0, 0.999), st.floats(0, 0.9999)),
        "eps": st.sampled_from([0.0, 1e-45, 1e-15, 1e-8, 1.0]),
        "weight_decay": st.floats(0, 2),
    }
)


def packed(column):
    return struct.pack(f"<{len(column)}I", *column)


def applied(rule, used, bases):
    out = bytearray(b"\xaa" * memoryview(bases[0]).nbytes)
    rules.apply(rule, used, bases, out)
    return bytes(out)


@given(rows, groups, st.integers(1, 10**6), st.sampled_from(RULES))
def test_every_bit_is_what_the_format_says(rows, group, step, rule):
    """NaNs of any payload, infinities, denormals, zeros of both signs and usual numbers: the guess is, bit for bit,
    what Python's floats give one element at a time. Numbers that a step may have always make one."""
    used = numbers(group, float(step), True)
    if used is None:
        return
    bases = [packed([row[place] for row in rows]) for place in range(3)]
    assert applied(rule, used, bases) == scalar_rules.apply(rule, used, bases)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("count", [0, 1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
def test_where_an_element_stands_changes_nothing(rule, count):
    """Blocks, vector tails, odd addresses: the same elements give the same bytes, also in place of the first base."""
    chance = np.random.default_rng(count)
    bases = [chance.integers(0, 2**32, count, dtype=np.uint32).tobytes() for _ in range(3)]
    whole = applied(rule, STEP, bases)
    cut = count // 3 * 4
    assert whole == applied(rule, STEP, [b[:cut] for b in bases]) + applied(rule, STEP, [b[cut:] for b in bases])
    odd = [memoryview(b"\0" + base)[1:] for base in bases]
    out = memoryview(bytearray(4 * count + 1))[1:]
    rules.apply(rule, STEP, odd, out)
    assert out == whole
    first = bytearray(bases[0])
    rules.apply(rule, STEP, [first, *bases[1:]], first)
    assert first == whole


def test_threads_do_not_disturb_each_other():
    """Each has scratch of its own."""
    chance = np.random.default_rng(0)
    works = [[chance.standard_normal(5 * BLOCK).astype(np.float32) ** 2 for _ in range(3)] for _ in range(8)]
    alone = [applied("adamw.second_moment", STEP, bases) for bases in works]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda bases: applied("adamw.second_moment", STEP, bases), works * 4))
    assert together == alone * 4


def trained(kind, steps, **options):
    """Moments and weights before and after the last step of a torch optimizer whose gradients are noise on a trend."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(20_011) * 0.02)
    optimizer = kind([weight], **options)
    trend = torch.randn_like(weight) * 1e-3
    for _ in range(steps):
        before = [weight.detach().numpy().copy()]
        before += [optimizer.state[weight][key].numpy().copy() for key in ("exp_avg", "exp_avg_sq") if optimizer.state]
        weight.grad = trend + torch.randn_like(weight) * 1e-3
        optimizer.step()
    after = [weight.detach().numpy(), *(optimizer.state[weight][key].numpy() for key in ("exp_avg", "exp_avg_sq"))]
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    return group, before, after


def right(guess, actual):
    """Share of elements that are guessed exactly, and share of those that are a few units off at most."""
    away = np.abs(np.frombuffer(guess, np.int32).astype(np.int64) - actual.view(np.int32))
    return float(np.mean(away == 0)), float(np.mean(away <= 4))


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {"fused": True}, {"maximize": True}])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam])
@pytest.mark.parametrize("rest", [{}, {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}])
def test_torch_is_guessed_nearly_everywhere(kind, options, rest):
    """Weights nearly always to the bit, on each of torch's paths; second moments mostly, and else by a few units.

    (On a CPU torch's square root of a tensor may be one unit off, save in fused steps.)"""
    group, (w0, m0, v0), (w1, m1, v1) = trained(kind, 40, **options, **rest)
    used = numbers(group, 40.0, kind is torch.optim.AdamW)
    exact, near = right(applied("adamw.weight", used, [w0, m1, v1]), w1)
    assert exact > (0.999 if options.get("fused") else 0.9) and near > 0.99
    exact, near = right(applied("adamw.second_moment", used, [v0, m0, m1]), v1)
    assert exact > 0.7 and near > 0.99


def test_the_first_step_is_guessed_too():
    """From no moments at all."""
    group, _, (w1, m1, v1) = trained(torch.optim.AdamW, 1)
    torch.manual_seed(0)
    w0 = (torch.randn(20_011) * 0.02).numpy()
    zero = np.zeros_like(w0)
    used = numbers(group, 1.0, True)
    assert right(applied("adamw.weight", used, [w0, m1, v1]), w1)[0] > 0.95
    exact, near = right(applied("adamw.second_moment", used, [zero, zero, m1]), v1)
    assert exact > 0.3 and near > 0.99


@pytest.mark.parametrize(
    "wrong",
    [
        {"amsgrad": True}, {"lr": None}, {"lr": float("nan")}, {"lr": float("inf")}, {"lr": 1e300}, {"lr": "0.1"},
        {"lr": True}, {"lr": 10**400}, {"betas": (0.9,)}, {"betas": (1.0, 0.9)}, {"betas": (0.9, 1.0)}, {"betas": None},
        {"betas": (0.9, -0.1)}, {"betas": (1 - 1e-17, 0.9)}, {"eps": float("inf")}, {"eps": None},
        {"weight_decay": None}, {"weight_decay": 1e300}, {"betas": (None, 0.999)},
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_make_no_rule(wrong):
    """AMSGrad, tensors and text for numbers, what is not finite or cannot be float32: no guess is tried."""
    assert numbers({**GROUP, **wrong}, 17.0, True) is None


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf"), True, "2"])
def test_a_step_that_was_not_taken_makes_no_rule(step):
    """Steps count from one."""
    assert numbers(GROUP, step, True) is None


def test_the_group_says_whether_its_decay_is_decoupled():
    """As newer versions of torch write it; the class decides where the group does not say."""
    assert numbers(GROUP, 1.0, False)["decay"] == 1.0
    assert numbers({**GROUP, "decoupled_weight_decay": True}, 1.0, False) == numbers(GROUP, 1.0, True)
    assert numbers({**GROUP, "decoupled_weight_decay": False}, 1.0, True) == numbers(GROUP, 1.0, False)


@given(groups, st.integers(1, 2**24), st.booleans())
def test_the_numbers_go_into_a_recipe(group, step, decoupled):
    """What a step gives is what both recipes take, and what comes back from them."""
    used = numbers(group, float(step), decoupled)
    if used is not None:
        for rule in RULES:
            back = decode_recipe(encode_recipe(Recipe(rule, (b"a" * 32, b"b" * 32, b"c" * 32), used)))
            assert back.numbers == {name: used[name] for name in NUMBERS[rule]}


@pytest.mark.parametrize("lengths", [(4, 4, 4, 8), (8, 4, 4, 4), (4, 4, 4), (4, 4), (6, 6, 6, 6), (4, 4, 4, 4, 4)])
@pytest.mark.parametrize("rule", RULES)
def test_lengths_that_do_not_fit(rule, lengths):
    """A CodecError, and nothing is written."""
    *bases, out = map(bytearray, lengths)
    with pytest.raises(CodecError):
        rules.apply(rule, STEP, bases, out)
    assert not any(out)


def test_a_rule_that_is_not_known():
    """A CodecError too."""
    with pytest.raises(CodecError, match="unknown rule"):
        rules.apply("adamw.first_moment", STEP, [b"", b"", b""], bytearray())
