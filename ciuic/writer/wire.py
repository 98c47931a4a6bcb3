"""What travels in the messages: orders, positions, attempts, errors.

Trainer → writer:
    hello     {}   descriptor: {"repository", "trainer", "low", "beat", "path", "leftovers", "retention", "announced"}
    job       {"job", "key", "size", "base", "drop", "new", "position", "attempt", "own"}
              base: the slot of the job before, if it still holds what that staged, else 0
              descriptors: order, and the slot's if new
Writer → trainer:
    beat      {"beat": progress}                         a sign of life
    temporary {"job", "temporary": name}                 before a file is made in tmp/
    trying    {"job", "trying": attempt}                 before the branch moves
    retrying  {"job", "retrying": seconds, "kind", "text"}
    log       {"log": level, "text"}
    done      {"job", "done": snapshot, "id", "position", "unchanged"}
    failed    {"job", "failed": kind, "text", "position"}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from ciuic.commit.pipeline import Details
from ciuic.errors import BackgroundError, CiuicError, UnsupportedState
from ciuic.history.following import Attempt, Position
from ciuic.objects.encoding import EncodingError, decode, encode
from ciuic.objects.plain import from_encodable, to_encodable
from ciuic.objects.snapshot import EPOCH
from ciuic.objects.state_tree import StateNode
from ciuic.writer.channel import MOST_BYTES
from ciuic.writer.manifest import components_of, encodable

MOST_SAID_BYTES = MOST_BYTES // 2
"""What a snapshot says comes back in a message."""
ACTION_LENGTH = 512


def encode_order(details: Details, action: str, components: Mapping[str, StateNode]) -> bytes:
    """What is to be stored, but for the tensors' bytes. UnsupportedState for what cannot be."""
    time = details.timestamp or datetime.now(timezone.utc)
    try:
        said = encode(
            {
                "step": details.step,
                "epoch": details.epoch,
                "message": details.message,
                "metrics": details.metrics,
                "config": to_encodable(details.config, "config"),
                "contains": list(details.contains),
                "versions": details.versions,
                "time": (time - EPOCH) // timedelta(microseconds=1),
                "cost": details.cost,
            }
        )
        if len(said) > MOST_SAID_BYTES:
            raise UnsupportedState(f"The message, the metrics and the config are {len(said)} bytes. Say less.")
        manifest = encodable(components)
        return encode({"said": said, "action": _plain_text(action), "manifest": manifest})
    except (EncodingError, RecursionError) as error:
        raise UnsupportedState(f"A name, the message or the config: {error}. Choose a plainer one.") from error


def _plain_text(text: str) -> str:
    return text[:ACTION_LENGTH].encode("utf-8", "replace").decode()


def decode_order(
    data: bytes, slot: memoryview, progress: Callable[[], None]
) -> tuple[Details, str, dict[str, StateNode]]:
    """The details, the action and the components over a mapped slot; EncodingError for what is no order."""
    order = decode(data)
    try:
        said = decode(order["said"])
        details = Details(
            step=said["step"],
            epoch=said["epoch"],
            message=said["message"],
            metrics=said["metrics"],
            config=from_encodable(said["config"]),
            contains=tuple(said["contains"]),
            versions=said["versions"],
            timestamp=EPOCH + timedelta(microseconds=said["time"]),
            cost=said["cost"],
        )
        return details, order["action"], components_of(order["manifest"], slot, progress)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, StopIteration, RuntimeError) as error:
        raise EncodingError(f"not an order: {error!r}") from error


def position_fields(position: Position | None) -> list[str | None] | None:
    return None if position is None else [position.branch, position.origin, position.parent, position.head]


def position_of(fields: list[Any] | None) -> Position | None:
    return None if fields is None else Position(*fields)


def attempt_fields(attempt: Attempt | None) -> list[Any] | None:
    return None if attempt is None else [attempt.branch, attempt.snapshot, attempt.with_head]


def attempt_of(fields: list[Any] | None) -> Attempt | None:
    return None if fields is None else Attempt(*fields)


def error_fields(error: BaseException) -> tuple[str, str]:
    """(kind, text): an error on its way."""
    if isinstance(error, CiuicError):
        return error.kind, str(error)
    if isinstance(error, MemoryError):
        return "", "The writer process has not enough memory. Give it more, or snapshot less."
    return "", f"{type(error).__name__}: {error}"


def error_of(kind: str, text: str) -> CiuicError:
    """The typed error of a kind; BackgroundError for what is none of ours."""
    for each in _classes(CiuicError):
        if each.kind == kind:
            return each(text)
    return BackgroundError(text)


def _classes(base: type[CiuicError]) -> Iterator[type[CiuicError]]:
    yield base
    for child in base.__subclasses__():
        yield from _classes(child)
