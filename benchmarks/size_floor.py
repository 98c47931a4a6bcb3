"""The floor that a history is measured against: the order-0 entropy of its byte planes, computed here and nowhere else.

A tensor's bytes are split into planes, the first bytes of all elements, the second bytes, and so on. The entropy of
a plane's histogram is what an ideal coder that knows nothing but the histogram needs. A tensor costs the smaller sum
of two: its own planes, or those of the zigzagged integer difference to the same tensor in the snapshot before.
"""

import numpy as np
import torch
from numpy.typing import NDArray

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
PIECE = 1 << 18  # elements: what is worked on stays in cache
PAIR = 1 << 16

State = dict[str, torch.Tensor]


def floor(state: State, before: State | None) -> tuple[float, int]:
    """Bytes that an ideal order-0 coder needs, and the raw bytes of the tensors that are not as they were before."""
    needed, changed = 0.0, 0
    for name, tensor in state.items():
        own, earlier = integers(tensor), None if before is None else before.get(name)
        if earlier is None or earlier.dtype != tensor.dtype or earlier.shape != tensor.shape:
            needed += planes_entropy(own, None)
            changed += own.nbytes
        elif not np.array_equal(own, base := integers(earlier)):
            needed += min(planes_entropy(own, None), planes_entropy(own, base))
            changed += own.nbytes
    return needed, changed


def integers(tensor: torch.Tensor) -> NDArray[np.unsignedinteger]:
    """The elements' bits, in a row."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat.view(UNSIGNED[tensor.element_size()])


def planes_entropy(elements: NDArray[np.unsignedinteger], base: NDArray[np.unsignedinteger] | None) -> float:
    """Bytes, over all planes of the elements or of their zigzagged differences to a base."""
    width = elements.dtype.itemsize
    counts = np.zeros((width, 256), np.int64)
    for start in range(0, len(elements), PIECE):
        piece = elements[start : start + PIECE]
        if base is not None:
            piece = zigzag(piece - base[start : start + PIECE])
        count_bytes(np.ascontiguousarray(piece), counts)
    return sum(entropy(plane) for plane in counts)


def zigzag(difference: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """0, -1, 1, -2, … as 0, 1, 2, 3, …: a small difference of either sign has high bytes of zero."""
    signed = difference.view(f"i{difference.dtype.itemsize}")
    return ((signed << 1) ^ (signed >> (8 * signed.itemsize - 1))).view(difference.dtype)


def count_bytes(elements: NDArray[np.unsignedinteger], counts: NDArray[np.int64]) -> None:
    """Add each plane's histogram. Two planes are counted at a time, as numbers of 16 bits: half the work."""
    width = elements.dtype.itemsize
    if width == 1:
        counts[0] += np.bincount(elements, minlength=256)
        return
    pairs = elements.view(np.uint16).reshape(-1, width // 2)
    for pair in range(width // 2):
        joint = np.bincount(pairs[:, pair], minlength=PAIR).reshape(256, 256)  # high byte, low byte
        counts[2 * pair] += joint.sum(axis=0)
        counts[2 * pair + 1] += joint.sum(axis=1)


def entropy(counts: NDArray[np.int64]) -> float:
    """Bytes that so many bytes need, by their histogram."""
    found = counts[counts > 0].astype(np.float64)
    total = found.sum()
    return float(-(found * np.log2(found / total)).sum() / 8) if total else 0.0
