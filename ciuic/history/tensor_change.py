"""One changed tensor, in numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ciuic.history.tensor_statistics import compare_tensors, counted_elements
from ciuic.objects.state_tree import Tensor

COUNTER = "step"
"""What torch's optimizers call the number of steps that each of them counts for each parameter."""


@dataclass(frozen=True)
class TensorChange:
    """A tensor of one dtype and shape in both snapshots, with other bits.

    ``dtype`` is torch's name ("bfloat16"). ``changed_elements`` counts elements whose bits differ, out of
    ``elements`` (bytes, for dtypes that pack several elements into one); ``changed_fraction`` is their
    ratio. ``l2`` is ‖b - a‖, ``norm_before`` ‖a‖, ``relative_l2`` their ratio (infinite where a is all
    zeros), ``max_abs`` the largest absolute difference, ``cosine`` a·b / (‖a‖ ‖b‖), None where undefined.
    Changed elements that are NaN or infinite on either side are counted in ``nonfinite_elements`` and left
    out of the others.

    The statistics are None where the bytes stand for no numbers: raw bits, packed types.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    changed_elements: int
    changed_fraction: float
    l2: float | None
    norm_before: float | None
    relative_l2: float | None
    max_abs: float | None
    cosine: float | None
    nonfinite_elements: int

    @property
    def slot(self) -> str:
        """The last part of the path: of optimizer state, which kind it is."""
        return self.path.rsplit("/", 1)[-1]


def compare(
    path: str,
    a: Tensor,
    b: Tensor,
    *,
    advance: Callable[[int], None] = lambda read: None,
) -> TensorChange | None:
    """The change from ``a`` to ``b``, which have one dtype and shape; None when no bit differs."""
    changed, statistics = compare_tensors(a, b, advance=advance)
    if changed == 0:
        return None
    elements = counted_elements(a)
    return TensorChange(
        path=path,
        dtype=a.dtype,
        shape=a.shape,
        elements=elements,
        changed_elements=changed,
        changed_fraction=changed / elements,
        l2=statistics.l2 if statistics else None,
        norm_before=statistics.norm_a if statistics else None,
        relative_l2=statistics.relative_l2 if statistics else None,
        max_abs=statistics.max_abs if statistics else None,
        cosine=statistics.cosine if statistics else None,
        nonfinite_elements=statistics.nonfinite_elements if statistics else 0,
    )


class Measured(Protocol):
    """A tensor or module change, as the order sees it."""

    @property
    def path(self) -> str: ...
    @property
    def slot(self) -> str: ...
    @property
    def relative_l2(self) -> float | None: ...
    @property
    def changed_fraction(self) -> float: ...
    @property
    def nonfinite_elements(self) -> int: ...


def most_telling_first(change: Measured) -> tuple[bool, int, float, float, str]:
    """Sort key: new NaNs and infinities, then by component, then relative L2, the changed fraction, the path."""
    size = -1.0 if change.relative_l2 is None else change.relative_l2
    return change.nonfinite_elements == 0, _rank(change), -size, -change.changed_fraction, change.path


def _rank(change: Measured) -> int:
    """The model, then the rest, then the optimizer: its moments always change most. Its counters tell nothing."""
    component = change.path.split("/", 1)[0]
    if component == "optimizer":
        return 3 if change.slot == COUNTER else 2
    return 0 if component == "model" else 1
