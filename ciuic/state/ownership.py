"""Which leaves change only inside an optimizer's step, so that their bytes may be read until the next one begins.

A wrong "ordered" tears a snapshot and a wrong "not ordered" costs a copy: whatever is not known is not ordered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ciuic.objects.state_tree import Container, StateNode, Tensor
from ciuic.state.gradients import optimizers_in
from ciuic.state.leaves import has_state
from ciuic.state.tensors import LiveTensor

PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)


def ordered_leaves(components: Mapping[str, StateNode], model: Any, optimizer: Any) -> set[int]:
    """The ``id()`` of each Tensor leaf that changes nowhere but in the step of a given optimizer, where hooks see it.

    These are the state of torch's optimizers, and the parameters of ``model``'s modules that they train. The rest
    changes at any time (buffers, gradients), or may.
    """
    modules = list(_modules(model))
    restless: set[int] = set()
    for module in modules:
        restless.update(_changing_in_forward(module))
    optimizers = optimizers_in(optimizer)
    ordered = {id(one) for one in optimizers if changes_only_in_step(one)}
    groups = [(id(one) in ordered, group) for one in [*optimizers, *_others(optimizer)] for group in one.param_groups]
    for of_ordered, group in groups:
        for parameter in group["params"]:
            if parameter.is_leaf and parameter.grad is not None:
                restless.add(_storage(parameter.grad))
            # A frozen one does not change in the step, so whoever changes it (a momentum encoder) does it elsewhere.
            if not of_ordered or not parameter.requires_grad:
                restless.add(_storage(parameter))
    of_modules = {id(parameter) for module in modules for parameter in module._parameters.values()}
    trained = {
        _memory(parameter)
        for of_ordered, group in groups
        if of_ordered
        for parameter in group["params"]
        if id(parameter) in of_modules and _is_plain(parameter)
    }

    found = {
        id(leaf)
        for leaf, tensor, storage in _leaves(components.get("model"))
        if storage not in restless and _memory(tensor) in trained
    }
    for one, node in _optimizer_nodes(optimizer, components.get("optimizer")):
        if id(one) in ordered:
            found.update(id(leaf) for leaf, _, storage in _leaves(node.get("state")) if storage not in restless)
    return found


def _modules(model: Any) -> Iterator[torch.nn.Module]:
    """Every module in what was given, once; what wraps a module has it as a submodule."""
    waiting, seen = [model], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.nn.Module):
            if id(value) not in seen:
                seen.add(id(value))
                yield value
                waiting += value._modules.values()
        elif isinstance(value, (dict, list, tuple)):
            waiting += value.values() if isinstance(value, dict) else value


def _changing_in_forward(module: torch.nn.Module) -> Iterator[int]:
    """The storages that a module's ``forward`` may write to: its buffers, and an embedding that keeps to a norm."""
    for buffer in module._buffers.values():
        if buffer is not None:
            yield _storage(buffer)
    if vars(module).get("max_norm") is not None:
        for weight in (*module._parameters.values(), vars(module).get("weight")):
            if isinstance(weight, torch.Tensor):
                yield _storage(weight)


def changes_only_in_step(optimizer: torch.optim.Optimizer) -> bool:
    """Whether what the optimizer changes, it changes in a ``step`` that calls torch's hooks."""
    if not getattr(type(optimizer).step, "hooked", False):
        return False
    own = vars(optimizer).get("step")
    if own is not None and not hasattr(own, "_wrapped_by_lr_sched"):
        return False
    # A replayed CUDA graph steps without a word to Python.
    return not any(group.get("capturable") or group.get("differentiable") for group in optimizer.param_groups)


def _others(optimizer: Any) -> Iterator[Any]:
    """The given optimizers that are not torch's, as far as their parameters are known."""
    if isinstance(optimizer, (dict, list, tuple)):
        for child in optimizer.values() if isinstance(optimizer, dict) else optimizer:
            yield from _others(child)
    elif not isinstance(optimizer, torch.optim.Optimizer):
        groups = getattr(optimizer, "param_groups", None)
        if isinstance(groups, list) and all(isinstance(group, dict) and "params" in group for group in groups):
            yield optimizer


def _optimizer_nodes(value: Any, node: StateNode | None) -> Iterator[tuple[torch.optim.Optimizer, Container]]:
    """Each torch optimizer with its part of the component's tree."""
    if not isinstance(node, Container):
        return
    if isinstance(value, torch.optim.Optimizer):
        yield value, node
    elif isinstance(value, (dict, list, tuple)) and not has_state(value):
        children = value.values() if isinstance(value, dict) else value
        for child, (_, below) in zip(children, node.items, strict=True):
            yield from _optimizer_nodes(child, below)


def _leaves(node: StateNode | None) -> list[tuple[Tensor, torch.Tensor, int]]:
    """The leaves below that are live tensors, as they were captured, with their tensors and storages."""
    found = []
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Container):
            waiting += [child for _, child in node.items]
        elif isinstance(node, Tensor) and isinstance(node.source, LiveTensor):
            source = node.source
            tensor = source.tensor  # strided: capture takes no other
            if node.array != "torch" or node.quantizer is not None or tensor.is_inference():
                continue  # an inference tensor has no version counter
            if tensor.is_cpu or tensor.is_cuda:
                # The storage's own address would be another object made.
                found.append((node, tensor, source.address - int(tensor.storage_offset()) * source.width))
    return found


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in PLAIN_TENSORS
        and (tensor.is_cpu or tensor.is_cuda)
        and tensor.layout is torch.strided
        and not tensor.is_quantized
    )


def _storage(tensor: torch.Tensor) -> int:
    """Where a tensor's storage begins; 0, which is nowhere, for a tensor that has none of its own."""
    return tensor.untyped_storage().data_ptr() if _is_plain(tensor) else 0


def _memory(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What is the same for two tensors of one storage with exactly the same elements, whatever their dtype's name."""
    return tensor.data_ptr(), tensor.element_size(), tensor.shape, tensor.stride()
