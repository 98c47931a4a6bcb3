"""The element widths of every dtype that can be stored, by torch's name for it. Pure: torch is not needed."""

from __future__ import annotations

DTYPE_WIDTHS: dict[str, int] = {
    **dict.fromkeys(
        (
            "bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
            "float8_e8m0fnu", "float4_e2m1fn_x2", "qint8", "quint8", "quint4x2", "quint2x4",
            "bits8", "bits1x8", "bits2x4", "bits4x2",
            *(f"uint{bits}" for bits in range(1, 8)), *(f"int{bits}" for bits in range(1, 8)),
        ),
        1,
    ),
    **dict.fromkeys(("uint16", "int16", "float16", "bfloat16", "bits16"), 2),
    **dict.fromkeys(("uint32", "int32", "float32", "complex32", "qint32"), 4),
    **dict.fromkeys(("uint64", "int64", "float64", "complex64"), 8),
    "complex128": 16,
}  # fmt: skip

NUMPY_DTYPES = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
}
"""Dtypes that numpy has too."""

PACKED_ELEMENTS: dict[str, int] = {"quint4x2": 2, "quint2x4": 4}
"""Quantised dtypes of which one stored byte holds several elements."""


def element_width(dtype: str) -> int:
    """Bytes of one element; KeyError for a dtype that is not known."""
    return DTYPE_WIDTHS[dtype]
