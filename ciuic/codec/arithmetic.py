"""Floating point that is the same in every thread of every machine: IEEE 754, to the nearest, nothing flushed.

A thread may round otherwise, or take denormals for zero (``torch.set_flush_denormal``): the processor keeps that for
each thread. ``ieee`` sets it right through C's <fenv.h>, tests real operations, and puts it back.
"""

from __future__ import annotations

import ctypes
import sys
from types import TracebackType

import numpy as np

from ciuic.codec import InexactArithmetic

ENVIRONMENT_BYTES = 512
"""Larger than any platform's fenv_t."""
# 1 + 2^-24 and 1 + 3·2^-24 are ties, the other two meet denormals as an operand and as a result.
TEST_LEFT = np.array([0x3F800000, 0x3F800000, 0x00000001, 0x00800000], np.uint32).view(np.float32)
TEST_RIGHT = np.array([0x33800000, 0x34400000, 0x00000002, 0x80000001], np.uint32).view(np.float32)
TEST_SUMS = np.array([0x3F800000, 0x3F800002, 0x00000003, 0x007FFFFF], np.uint32).tobytes()
TEST_DOUBLES = np.array([2.0**-148, -(2.0**-149)]).tobytes()


class _Environment:
    """C's floating-point environment of the calling thread."""

    def __init__(self) -> None:
        name = "libSystem.B.dylib" if sys.platform == "darwin" else "libm.so.6"
        try:
            library = ctypes.PyDLL(name)
        except OSError:
            library = ctypes.PyDLL(None)  # where libm is a part of libc
        self.get = library.fegetenv
        self.set = library.fesetenv
        for function in (self.get, self.set):
            function.argtypes = [ctypes.c_void_p]
            function.restype = ctypes.c_int
        if sys.platform == "darwin":
            self.default = ctypes.addressof(ctypes.c_char.in_dll(library, "_FE_DFL_ENV"))
        else:
            self.default = ctypes.c_void_p(-1).value or 0


def _environment() -> _Environment | None:
    try:
        return _Environment()
    except (AttributeError, OSError, TypeError, ValueError):
        return None


_ENVIRONMENT = _environment()


class ieee:
    """``with ieee():`` this thread computes as IEEE 754 says. InexactArithmetic where that cannot be had."""

    __slots__ = ("_errors", "_saved")

    def __enter__(self) -> None:
        self._saved: ctypes.Array[ctypes.c_char] | None = None
        if _ENVIRONMENT is not None:
            saved = ctypes.create_string_buffer(ENVIRONMENT_BYTES)
            if _ENVIRONMENT.get(saved) == 0:
                self._saved = saved
                _ENVIRONMENT.set(_ENVIRONMENT.default)
        self._errors = np.errstate(all="ignore")
        self._errors.__enter__()
        if not computes_exactly():
            self.__exit__(None, None, None)
            raise InexactArithmetic(
                "this thread flushes denormals or does not round to the nearest, and ciuic cannot change that here: "
                "call torch.set_flush_denormal(False) in it, or read the repository in another process"
            )

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._errors.__exit__(kind, value, trace)
        if _ENVIRONMENT is not None and self._saved is not None:
            _ENVIRONMENT.set(self._saved)


def computes_exactly() -> bool:
    """Whether numpy rounds to the nearest even here, and keeps denormals as operands and as results."""
    return (
        np.add(TEST_LEFT, TEST_RIGHT).tobytes() == TEST_SUMS
        and TEST_RIGHT[2:].astype(np.float64).tobytes() == TEST_DOUBLES
    )


def can_be_exact() -> bool:
    """Whether ``ieee`` can be had in this thread."""
    try:
        with ieee():
            return True
    except InexactArithmetic:
        return False
