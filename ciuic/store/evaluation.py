"""Raw bytes of records that rest on others: each node of the graph decoded once, bottom up, in few buffers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence

from ciuic.codec import Codec, CodecError, InexactArithmetic, decode_into
from ciuic.errors import CiuicError, DamagedData, StorageError, UnsupportedState
from ciuic.objects.ids import digest
from ciuic.objects.recipe import SECOND_MOMENT, WEIGHT
from ciuic.store.resolving import Record

MOST_LIVE_BYTES = 1 << 30
"""Of intermediates at once. What writers make needs less than ten chunks."""
KEPT_PAYLOAD = 4 << 20
IN_PLACE_RULES = (SECOND_MOMENT, WEIGHT)
"""Their result may take the place of their first base."""


class NodeFailed(Exception):
    """``record`` cannot be decoded, for a reason of its own."""

    def __init__(self, record: Record, error: CiuicError) -> None:
        super().__init__(str(error))
        self.record = record
        self.error = error


class WrongId(Exception):
    """What was asked for decodes to something else, though no checksum said so; which record is at fault is unknown."""


class _Payload(threading.local):
    """Stored bytes on their way, one record's at a time."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def room(self, length: int) -> memoryview:
        if length > KEPT_PAYLOAD:
            return memoryview(bytearray(length))
        if len(self.buffer) < length:
            self.buffer = bytearray(min(KEPT_PAYLOAD, max(length, 2 * len(self.buffer))))
        return memoryview(self.buffer)[:length]


_payload = _Payload()


class Evaluation:
    """One run over the graph below several records. Used by one thread, beside others that have their own."""

    def __init__(self, records: Sequence[Record], outs: Sequence[memoryview | None]) -> None:
        """``outs``: where each one's raw bytes go; None: nowhere, they are verified only."""
        self.asked = set(records)
        self.outs: dict[Record, list[memoryview]] = {}
        for record, out in zip(records, outs, strict=True):
            if out is not None:
                view = memoryview(out).cast("B")
                if len(view) != record.header.raw_length:
                    raise DamagedData(f"{record.where}: a chunk of {record.header.raw_length} bytes, not {len(view)}.")
                self.outs.setdefault(record, []).append(view)
        self.order = list(_bottom_up(records))
        self.most_live = 0
        self._uses = Counter(base for node in self.order for base in set(node.bases))
        self._homes = {record: views[0] for record, views in self.outs.items()}
        for node in reversed(self.order):
            self._settle_below(node)
        self._values: dict[Record, memoryview] = {}
        self._live = 0
        self._free: dict[int, list[memoryview]] = {}

    def run(self, *, check: bool, check_ids: bool = False) -> None:
        """Fill the outs. NodeFailed or WrongId. ``check``: stored bytes against their checksums, before they are
        decoded. ``check_ids``: the ids of what the records rest on too, and their headers, which footers repeat."""
        for node in self.order:
            id = node.header.id
            try:
                if check_ids:
                    node.pack.check_header(node)
                value = self._value(node, check)
            except InexactArithmetic as error:
                raise UnsupportedState(f"{node.where}: chunk {id.hex()[:12]}: {error}.") from error
            except CodecError as error:
                raise NodeFailed(node, DamagedData(f"{node.where}: chunk {id.hex()[:12]}: {error}.")) from error
            except (DamagedData, StorageError) as error:
                raise NodeFailed(node, error) from error
            self._values[node] = value
            if (check_ids or node in self.asked) and digest(value) != id:
                if check_ids:
                    raise NodeFailed(node, _made_wrong(node))
                raise WrongId
            for other in self.outs.get(node, ())[1:]:
                other[:] = value
            for base in set(node.bases):
                self._uses[base] -= 1
                if not self._uses[base]:
                    self._release(base, value)
            if not self._uses[node]:
                self._release(node)

    # The plan

    def _settle_below(self, node: Record) -> None:
        """The first base is made where the node will be, if nobody else needs it: so a chain needs one buffer."""
        home = self._homes.get(node)
        if home is not None and _may_take_place(node):
            first = node.bases[0]
            if self._uses[first] == 1 and first not in self._homes and first.header.raw_length == len(home):
                self._homes[first] = home

    # The work

    def _value(self, node: Record, check: bool) -> memoryview:
        header = node.header
        home = self._homes.get(node)
        if not node.bases:
            out = self._take(header.raw_length) if home is None else home
            self._read(node, out, check)
            return out
        values = [self._values[base] for base in node.bases]
        first, base = values[0], node.bases[0]
        free = self._uses[base] == 1 and (base not in self._homes or first is home) and _may_take_place(node)
        if free and (home is None or home is first) and len(first) == header.raw_length:
            out = first
        else:
            out = self._take(header.raw_length) if home is None else home
        if node.recipe is not None:
            from ciuic.codec import rules  # numpy

            rules.apply(node.recipe.rule, node.recipe.numbers, values, out)
        elif out is not first:
            out[:] = first  # of one length: the resolver has seen to it
        if header.codec != Codec.DERIVED:
            self._read(node, out, check)
        return out

    def _read(self, node: Record, out: memoryview, check: bool) -> None:
        """Bring the stored bytes of a record into ``out``, which holds the base or guess if there is one."""
        header = node.header
        raw = header.codec == Codec.RAW and header.stored_length == header.raw_length
        stored = out if raw else _payload.room(header.stored_length)
        node.pack.read_payload(node, stored)
        if check and digest(stored) != header.stored_checksum:
            raise DamagedData(f"{node.where}: chunk {header.id.hex()[:12]} does not match its checksum.")
        if not raw:
            decode_into(header.codec, stored, out, header.width)

    # Buffers

    def _take(self, length: int) -> memoryview:
        free = self._free.get(length)
        if free:
            return free.pop()
        self._live += length
        self.most_live = max(self.most_live, self._live)
        if self._live > MOST_LIVE_BYTES:
            raise DamagedData(f"more than {MOST_LIVE_BYTES >> 20} MiB of chunks rest on each other at once.")
        return memoryview(bytearray(length))

    def _release(self, node: Record, taken: memoryview | None = None) -> None:
        """Nobody needs it any more; ``taken``: memory that holds something else by now."""
        value = self._values.pop(node, None)
        if value is not None and value is not taken and node not in self._homes:
            self._free.setdefault(len(value), []).append(value)


def _bottom_up(records: Sequence[Record]) -> Iterator[Record]:
    """Each node after its bases, the first base's line first; from the deepest on, which most of the others serve, so
    that little has to wait for its last user."""
    done: set[Record] = set()
    for record in sorted(records, key=lambda each: -each.header.depth):
        stack = [record]
        while stack:
            node = stack[-1]
            below = None if node in done else next((base for base in node.bases if base not in done), None)
            if below is not None:
                stack.append(below)
                continue
            stack.pop()
            if node not in done:
                done.add(node)
                yield node


def _may_take_place(node: Record) -> bool:
    """Whether a node's bytes may be made in the memory of its first base."""
    if node.recipe is None:
        return bool(node.bases)
    first, *others = node.bases
    return node.recipe.rule in IN_PLACE_RULES and first not in others


def _made_wrong(node: Record) -> DamagedData:
    bases = ", ".join(base.header.id.hex()[:12] for base in node.bases)
    return DamagedData(
        f"{node.where}: chunk {node.header.id.hex()[:12]} does not match its id, though its stored bytes match their "
        f"checksum{f' and the chunks it rests on ({bases}) are right' if bases else ''}: the writer or its memory was "
        "at fault, not the disk. Run `ciuic fsck --read-data`."
    )
