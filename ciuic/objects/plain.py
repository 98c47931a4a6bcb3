"""Plain Python values ↔ the canonical encoding.

Lists are CBOR arrays. What CBOR cannot tell apart goes under tag 27 with its type's name: "tuple" (the items),
"complex" (real, imaginary), and "dict", "OrderedDict" and "Counter" (key, value, key, value, … in the order they had).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

from ciuic.errors import UnsupportedState
from ciuic.objects.encoding import EncodingError, Tagged, decode, encode

WRAPPING_DEPTH = 4
"""How deep a plain value stands in the encoding of its tree."""

MAPPINGS: dict[str, Any] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}


def mapping_kind(value: dict[Any, Any]) -> str:
    """The name a dict is stored under; subclasses that are not known become "dict"."""
    return type(value).__name__ if type(value) in MAPPINGS.values() else "dict"


def to_encodable(value: Any, path: str) -> Any:
    """``value`` in the encoder's terms; UnsupportedState names the path of anything that is not plain."""
    if value is None or isinstance(value, (bool, str, bytes)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, complex):
        return Tagged("complex", (value.real, value.imag))
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, list):
        return [to_encodable(item, f"{path}/{index}") for index, item in enumerate(value)]
    if isinstance(value, tuple):
        return Tagged("tuple", tuple(to_encodable(item, f"{path}/{index}") for index, item in enumerate(value)))
    if isinstance(value, dict):
        arguments: list[Any] = []
        for key, item in value.items():
            if isinstance(key, bool) or not isinstance(key, (str, int)):
                raise UnsupportedState(
                    f"{path}: dict key {key!r} is a {type(key).__name__}. Keys must be strings or integers."
                )
            arguments += [key, to_encodable(item, f"{path}/{key}")]
        return Tagged(mapping_kind(value), tuple(arguments))
    raise UnsupportedState(
        f"{path}: cannot store a {type(value).__module__}.{type(value).__qualname__}. "
        "Give it state_dict and load_state_dict, or pass numbers, strings, bytes, tensors, and lists, tuples "
        "and dicts of these."
    )


def from_encodable(value: Any) -> Any:
    """The plain value; EncodingError for a type name that is not known."""
    if isinstance(value, list):
        return [from_encodable(item) for item in value]
    if isinstance(value, dict):
        raise EncodingError("a bare map is no plain value")
    if not isinstance(value, Tagged):
        return value
    arguments = value.arguments
    if value.name == "tuple":
        return tuple(from_encodable(item) for item in arguments)
    if value.name == "complex" and len(arguments) == 2 and all(isinstance(part, float) for part in arguments):
        return complex(arguments[0], arguments[1])
    if value.name in MAPPINGS and len(arguments) % 2 == 0:
        return _mapping(value.name, arguments)
    raise EncodingError(f"unknown plain type {value.name!r}")


def _mapping(name: str, arguments: tuple[Any, ...]) -> Any:
    result = MAPPINGS[name]()
    for key, item in zip(arguments[::2], arguments[1::2], strict=True):
        if isinstance(key, bool) or not isinstance(key, (str, int)) or key in result:
            raise EncodingError(f"bad or repeated dict key {key!r}")
        result[key] = from_encodable(item)
    return result


def encode_plain(value: Any, path: str) -> bytes:
    """Canonical bytes of a plain value; UnsupportedState names the path of what cannot be stored."""
    try:
        return encode(to_encodable(value, path), WRAPPING_DEPTH)
    except (EncodingError, RecursionError) as error:
        raise UnsupportedState(f"{path}: {error or 'nested too deep'}. Store it in a plainer form.") from error


def decode_plain(data: bytes) -> Any:
    """The plain value of canonical bytes; EncodingError for anything else."""
    return from_encodable(decode(data))


def number_of(value: Any, path: str) -> float:
    """A metric as a number, a 0-d tensor's too; UnsupportedState names the path of anything else."""
    item = getattr(value, "item", None)  # a loss with a graph behind it warns about being made a float
    try:
        return float(item() if callable(item) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise UnsupportedState(
            f"{path}: a metric is a number, not {value!r}. Put other values into config or extra."
        ) from None
