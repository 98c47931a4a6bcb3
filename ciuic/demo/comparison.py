"""Whether two runs were the same run: every loss, every final weight, every bit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ciuic.errors import DemoFailed


@dataclass(frozen=True)
class Agreement:
    steps: int
    repeated_steps: int
    tensors: int
    elements: int


def losses_by_step(lines: Iterable[str]) -> dict[int, list[str]]:
    """The losses that a run printed: several for a step that was lost with the process and computed again."""
    losses: dict[int, list[str]] = {}
    for line in lines:
        match line.split():
            case ["step", step, "loss", loss]:
                losses.setdefault(int(step), []).append(loss)
    return losses


def compare_runs(
    reference_lines: Iterable[str], lines: Iterable[str], reference_weights: Path, weights: Path
) -> Agreement:
    """Raises DemoFailed, naming the first step or tensor, unless both runs agree in every bit."""
    expected, seen = losses_by_step(reference_lines), losses_by_step(lines)
    _compare_losses(expected, seen)
    tensors, elements = _compare_weights(reference_weights, weights)
    repeated = sum(len(losses) > 1 for losses in seen.values())
    return Agreement(steps=len(seen), repeated_steps=repeated, tensors=tensors, elements=elements)


def _compare_losses(expected: dict[int, list[str]], seen: dict[int, list[str]]) -> None:
    if not expected:
        raise DemoFailed("The reference run printed no loss. Run its train.py by hand to look closer.")
    for step in sorted(expected.keys() | seen.keys()):
        reference = expected.get(step, ["nothing"])[0]
        for loss in seen.get(step, ["nothing"]):
            if loss != reference:
                raise DemoFailed(
                    f"The resumed run is not the reference run: the loss of step {step} is {loss} instead of "
                    f"{reference}. Please report this, with the versions of torch and ciuic."
                )


def _compare_weights(reference: Path, weights: Path) -> tuple[int, int]:
    import torch  # here, so that nothing else of the tour pays for it

    expected, seen = (torch.load(path, weights_only=True) for path in (reference, weights))
    if expected.keys() != seen.keys():
        raise DemoFailed(f"The final weights have different names: {sorted(expected.keys() ^ seen.keys())}.")
    for name, tensor in expected.items():
        # As bytes: an ordinary comparison calls 0.0 and -0.0 equal, and NaN different from itself.
        left, right = (each.contiguous().reshape(-1).view(torch.uint8) for each in (tensor, seen[name]))
        if not torch.equal(left, right):
            raise DemoFailed(
                f"The resumed run is not the reference run: the final weights differ in {name}. "
                f"Compare {reference} with {weights} ."
            )
    return len(expected), sum(tensor.numel() for tensor in expected.values())
