"""Once captured, plain values belong to the capture: a commit that has returned reads them later, in the background.

Tensors and arrays may stay live; those who read them say when.
"""

import random
from collections import Counter, OrderedDict, defaultdict, namedtuple

import numpy
import pytest
import torch

from ciuic.objects.state_tree import Tensor, Value, walk
from ciuic.state.capture import capture_state
from ciuic.state.leaves import to_live


def captured(model=None, optimizer=None, scheduler=None, scaler=None, extra=None, rng=False):
    given = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "extra": extra}
    return capture_state(**given, rng=rng).components


def values(components):
    nodes = ((name, path, node) for name, tree in components.items() for path, node in walk(tree))
    return {(name, *path): repr(node.value) for name, path, node in nodes if isinstance(node, Value)}


class Meter:
    """An object whose state_dict is its own inside."""

    def __init__(self):
        self.state = {"seen": [1, 2], "raw": bytearray(b"abc"), "nested": {"x": ({"y": [3]},)}}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def spoil(value, seen=None):
    """Change every mutable thing below ``value`` in place."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        for item in list(value.values()):
            spoil(item, seen)
        value.clear()
        value["spoiled"] = 1
    elif isinstance(value, (list, tuple)):
        for item in value:
            spoil(item, seen)
        if isinstance(value, list):
            value[:] = ["spoiled"]
    elif isinstance(value, Meter):
        spoil(value.state, seen)
    elif isinstance(value, bytearray):
        value[:] = b"?" * len(value)


Pair = namedtuple("Pair", "a b")


class Names(list):
    pass


EXTRAS = {
    "list": lambda: [1, 2.5, "x"],
    "empty list": list,
    "nested list": lambda: [1, [2, [3, []]]],
    "list in a tuple": lambda: (1, ([2], {"a": [3]})),
    "named tuple": lambda: Pair([1], {"x": 2}),
    "dict": lambda: {"a": 1, 5: {"b": [1, {"c": bytearray(b"xyz")}]}},
    "ordered dict": lambda: OrderedDict(a=[1], b=OrderedDict(c=bytearray(b"x"))),
    "counter": lambda: Counter("abca"),
    "default dict": lambda: defaultdict(list, {"a": [1]}),
    "list of its own kind": lambda: Names([1, Names(["x"])]),
    "bytearray": lambda: bytearray(b"abc"),
    "bytearrays beside a tensor": lambda: {
        "t": torch.ones(2),
        "b": [bytearray(b"abc"), (bytearray(b"d"), torch.ones(1))],
    },
    "object": Meter,
    "objects": lambda: [Meter(), {"m": Meter()}],
}


@pytest.mark.parametrize("kind", EXTRAS)
def test_extra_is_private(kind):
    given = {"it": EXTRAS[kind](), "tensor": torch.ones(1)}
    components = captured(extra=given)
    before = values(components)
    spoil(given)
    assert values(components) == before
    assert "spoiled" not in str(before) and before


@pytest.mark.parametrize("make", [bytearray, lambda data: memoryview(bytearray(data))], ids=["bytearray", "memoryview"])
def test_buffers_become_bytes(make):
    """As they are stored; what is in a live buffer later is not."""
    buffer = make(b"abc")
    node = captured(extra={"a": buffer})["extra"]
    buffer[0] = 0
    assert to_live(node) == {"a": b"abc"} and type(to_live(node)["a"]) is bytes


def test_param_groups_are_private():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam([{"params": [model.weight], "tags": ["a", bytearray(b"b")]}, {"params": [model.bias]}])
    optimizer.param_groups[0]["betas"] = [0.9, 0.99]
    components = captured(model, optimizer)
    before = values(components)
    for group in optimizer.param_groups:
        spoil({key: value for key, value in group.items() if key != "params"})
        group["lr"] = 5.0
        group["params"].clear()
    optimizer.param_groups.clear()
    assert values(components) == before and "0.99" in str(before)


def test_the_state_of_an_optimizer_is_private():
    """Beside its tensors: numbers, lists of numbers, whole slots."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], 0.1)
    optimizer.state[parameter] = {"history": [1, [2]], "raw": bytearray(b"x"), "t": torch.ones(1)}
    optimizer.state["shared"] = {"list": [1]}
    components = captured(None, optimizer)
    before = values(components)
    for slots in optimizer.state.values():
        spoil(slots)
    assert values(components) == before and "spoiled" not in str(before)


def test_schedulers_are_private():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedulers = [
        torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5, 5]),
        torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [torch.optim.lr_scheduler.ConstantLR(optimizer), torch.optim.lr_scheduler.StepLR(optimizer, 3)],
            [4],
        ),
    ]
    components = captured(model, optimizer, schedulers, torch.amp.GradScaler("cpu"))
    before = values(components)
    schedulers[0].base_lrs.append(3)
    schedulers[0].milestones.clear()
    schedulers[1]._milestones.append(9)
    schedulers[1]._schedulers[0].base_lrs.clear()
    assert values(components) == before


def test_generator_states_are_copies():
    tree = captured(rng=True)["rng"]

    def content():
        tensors = [bytes(node.source.read(0, node.source.nbytes)) for _, node in walk(tree) if isinstance(node, Tensor)]
        return values({"rng": tree}), tensors

    before = content()
    torch.rand(700), numpy.random.rand(700), [random.random() for _ in range(700)]
    assert content() == before
    tree = captured(rng=True)["rng"]
    assert content() != before
