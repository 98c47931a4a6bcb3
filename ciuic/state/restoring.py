"""A restore in two passes: match everything and check every stored byte; then change the live objects."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from ciuic.errors import CiuicError, RestoreInterrupted, StateMismatch
from ciuic.objects.state_tree import Container, StateNode, Tensor
from ciuic.state.filling import Fill, Filler, fill_all
from ciuic.state.gradients import named_parameters
from ciuic.state.matching import match
from ciuic.state.optimizers import parameter_names
from ciuic.state.plan import KeyFilter, Plan, key_predicate
from ciuic.state.rng import set_rng
from ciuic.state.tensors import to_torch

MOST_LISTED = 20
logger = logging.getLogger("ciuic")


def restore_state(
    components: Callable[[str], StateNode | None],
    objects: Mapping[str, Any],
    *,
    strict: bool,
    keys: KeyFilter,
    rng: bool | None,
    check: Callable[[Iterable[Any]], None],
    filler: Filler,
) -> None:
    """Bring ``objects`` (component name → live object) to the stored state.

    ``components`` gives a component's tree, None when the snapshot has none. ``rng``: True demands the generators,
    None takes them when they are there, False leaves them. ``check`` verifies the stored bytes of sources, and
    ``filler`` brings them to their targets.
    StateMismatch and damage come before anything is changed; a later failure is RestoreInterrupted.
    """
    plan = Plan(key_predicate(keys), strict, parameter_names(objects.get("model")))
    for name, live in objects.items():
        if live is None:
            continue
        node = components(name)
        if node is None:
            plan.problem(f"{name}: the snapshot has none")
        else:
            match(plan, live, node, (name,))
    if objects.get("optimizer") is not None and keys is None:
        _match_gradients(plan, objects["optimizer"], components("gradients"))
    generators = components("rng") if rng is not False else None
    if rng and generators is None:
        plan.problem("rng: the snapshot has none")
    if generators is not None:
        plan.read(generators)
    if plan.problems:
        raise StateMismatch(_listing(plan.problems), plan.problems)
    check(tensor.source for tensor in plan.tensors)
    for line in plan.skipped:
        logger.warning("Not restored: %s", line)
    _apply(plan, generators, filler)


def _listing(problems: list[str]) -> str:
    more = f"\n  … and {len(problems) - MOST_LISTED} more" if len(problems) > MOST_LISTED else ""
    lines = "".join(f"\n  {problem}" for problem in problems[:MOST_LISTED])
    return (
        f"The snapshot does not fit the live objects; nothing was changed:{lines}{more}\n"
        "Build the objects as they were, or restore what fits with strict=False or a keys filter."
    )


def _apply(plan: Plan, generators: StateNode | None, filler: Filler) -> None:
    """The second pass; the generators come last, since loading may draw numbers."""
    try:
        with torch.no_grad():
            for are_fills, actions in itertools.groupby(plan.actions, lambda action: isinstance(action, Fill)):
                if are_fills:
                    fill_all(list(actions), filler)  # type: ignore[arg-type]  # grouped by what they are
                else:
                    for action in actions:
                        action()  # type: ignore[operator]
        if isinstance(generators, Container):
            set_rng(generators)
    except (Exception, KeyboardInterrupt) as error:
        reason = str(error) if isinstance(error, CiuicError) else f"{type(error).__name__}: {error}"
        raise RestoreInterrupted(
            f"The restore stopped half-way ({reason}). The live objects are a mixture of old and restored state: "
            "restore again, or build them anew, before training goes on."
        ) from error


def _match_gradients(plan: Plan, optimizers: Any, node: StateNode | None) -> None:
    """Pending gradients come back; without any in the snapshot the live ones, which are not its, are dropped."""
    stored = dict(node.items) if isinstance(node, Container) else {}
    for _, parameter, name in named_parameters(optimizers, plan.parameter_names):
        gradient = stored.pop(name, None)
        if gradient is None or plan.fits(parameter, gradient, f"gradients/{name}"):
            plan.actions.append(functools.partial(_set_gradient, parameter, gradient))
            plan.tensors += [gradient] if isinstance(gradient, Tensor) else []
    for left in stored:
        plan.problem(f"gradients/{left}: in the snapshot, but the live optimizer has no such parameter")


def _set_gradient(parameter: torch.Tensor, gradient: StateNode | None) -> None:
    parameter.grad = to_torch(gradient, parameter.device) if isinstance(gradient, Tensor) else None
