"""What a recipe's rule makes of its bases: the derived bytes, or a guess that a residual is added to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ciuic.codec import CodecError

STEP_BASES = 3


def apply(rule: str, numbers: Mapping[str, Any], bases: Sequence[Any], out: Any) -> None:
    """Fill the writable buffer ``out`` with what ``rule`` makes of the buffers ``bases``, the same on every machine.

    ``numbers``: those of the recipe (objects/recipe.py), or more. ``out`` may be the very memory of the first base of a
    step. CodecError where lengths do not fit; InexactArithmetic, which is one, where this thread's floating point is
    not IEEE's and cannot be made so.
    """
    from ciuic.codec.arithmetic import ieee  # and so numpy, which `ciuic log` need not load

    views, into = [memoryview(base).cast("B") for base in bases], memoryview(out).cast("B")
    if rule == "cast":
        from ciuic.codec.cast import cast

        with ieee():
            cast((numbers["from"], numbers["to"]), numbers["skip"], views, into)
        return
    from ciuic.codec import adamw

    if rule not in adamw.RULES:
        raise CodecError(f"unknown rule {rule!r}")
    if len(into) % adamw.WIDTH or [len(view) for view in views] != [len(into)] * STEP_BASES:
        raise CodecError("a step takes three bases of the chunk's length, of whole float32")
    with ieee():
        adamw.RULES[rule](numbers, *map(adamw.floats, (*views, into)))
