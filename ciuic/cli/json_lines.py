"""JSON lines for programs: valid JSON whatever a run has recorded.

JSON has no NaN, no infinity, no bytes, no complex numbers and no integer keys. They become "NaN", "Infinity",
"-Infinity", {"base64": …}, {"real": …, "imag": …} and the key's digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

VERSION = 1


def json_line(record: Mapping[str, Any]) -> str:
    """One object on one line, with the version of the format."""
    import json  # here, so that commands that print text do not pay for it

    plain = {"version": VERSION, **{str(key): json_value(value) for key, value in record.items()}}
    return json.dumps(plain, allow_nan=False) + "\n"


def json_value(value: Any) -> Any:
    """What stands for ``value`` in JSON."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _not_finite(value)
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json_value(item) for item in value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, (bytes, bytearray, memoryview)):
        from base64 import b64encode

        return {"base64": b64encode(value).decode("ascii")}
    if isinstance(value, complex):
        return {"real": json_value(value.real), "imag": json_value(value.imag)}
    return str(value)


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
