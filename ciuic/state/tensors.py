"""Torch tensors ↔ tensor leaves, bit for bit, for every dtype, layout in memory and device."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ciuic.errors import UnsupportedState
from ciuic.objects.dtypes import DTYPE_WIDTHS, PACKED_ELEMENTS
from ciuic.objects.state_tree import Key, Tensor, TensorSource, path_text
from ciuic.objects.tree import stored_nbytes

PIECE_BYTES = 16 << 20
FLOAT_SCALES = "per_channel_affine_float_qparams"
USUAL = frozenset((torch.Tensor, torch.nn.Parameter))
STRIDED = torch.strided
STRIDED_DTYPES: dict[Any, str] = {
    getattr(torch, name): name for name in DTYPE_WIDTHS if hasattr(torch, name) and not name.startswith("q")
}
"""The dtypes that need no quantizer, with their names."""


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a stored name ("bfloat16"); UnsupportedState when this torch has no such dtype."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedState(f"This torch ({torch.__version__}) has no dtype {name}. Use a newer torch.")
    return dtype


@functools.cache
def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class LiveTensor:
    """A TensorSource over a live strided tensor: nothing is copied until it is read.

    ``address``: of its first element, on its device. ``dense``: whether its bytes lie there in row-major order.
    """

    __slots__ = ("address", "dense", "nbytes", "tensor", "width")
    stable = False

    def __init__(self, tensor: torch.Tensor, dtype: str) -> None:
        self.width = width = DTYPE_WIDTHS[dtype]
        # torch cannot copy int1 … uint7; as bytes it can.
        self.tensor = tensor.view(torch.uint8) if width == 1 else tensor
        self.nbytes = tensor.numel() * width
        self.address = tensor.data_ptr()
        self.dense = tensor.is_contiguous()

    def read(self, start: int, stop: int) -> Any:
        piece = row_major(self.tensor, start // self.width, stop // self.width)
        return byte_view(piece.contiguous().cpu())


def row_major(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Elements ``[start, stop)`` in row-major order as a 1-D tensor, copying no more than a few times that."""
    if tensor.is_contiguous():
        return tensor.view(-1)[start:stop]
    row = tensor[0].numel()
    first, last = start // row, -(-stop // row)
    if last - first == 1:
        return row_major(tensor[first], start - first * row, stop - first * row)
    if row <= stop - start:
        return tensor[first:last].reshape(-1)[start - first * row : stop - first * row]
    # Rows longer than what is asked for: the end of one and the start of the next.
    return torch.cat(
        [
            row_major(tensor[first], start - first * row, row),
            row_major(tensor[first + 1], 0, stop - (first + 1) * row),
        ]
    )


def byte_view(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor, one byte an item; writable where the tensor is."""
    if tensor.numel() == 0:
        return memoryview(bytearray())
    array: Any = tensor.detach().view(-1).view(torch.uint8).numpy()
    return memoryview(array)


def check_supported(tensor: torch.Tensor, path: str) -> None:
    """UnsupportedState for a tensor whose bytes are not simply there."""
    kind = type(tensor)
    reason = ""
    if isinstance(tensor, (torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer)):
        reason = "is not initialised yet. Run a batch through the model first."
    elif kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        reason = f"is a {kind.__name__}, a tensor subclass with storage of its own. Pass its local or dense tensor."
    elif tensor.device.type == "meta":
        reason = "is on the meta device and has no data. Materialise the model first."
    elif tensor.layout is not torch.strided:
        reason = f"has the layout {tensor.layout}. Pass its indices and values, or make it dense."
    elif dtype_name(tensor.dtype) not in DTYPE_WIDTHS:
        reason = f"has the dtype {tensor.dtype}, which this ciuic does not know. Upgrade ciuic, or cast it."
    if reason:
        raise UnsupportedState(f"{path} {reason}")


def tensor_leaf(tensor: torch.Tensor, path: str | tuple[Key, ...], array: str = "torch") -> Tensor:
    """The leaf of a live tensor; UnsupportedState when it cannot be stored. A training loop waits for this."""
    name = STRIDED_DTYPES.get(tensor.dtype)
    if type(tensor) not in USUAL or name is None or tensor.layout is not STRIDED or tensor.is_meta:
        check_supported(tensor, _text(path))
    tensor = tensor.detach()  # its own hold on the memory: the parameter may be given another
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    if name is None:
        return _quantized_leaf(tensor, dtype_name(tensor.dtype), tuple(tensor.shape), _text(path))
    source = LiveTensor(tensor, name)
    if not source.address and source.nbytes:  # reading it would end the process
        raise UnsupportedState(f"{_text(path)} has no memory: its storage was freed. Save it while it has its values.")
    return Tensor(name, tuple(tensor.shape), source, None, array)


def _text(path: str | tuple[Key, ...]) -> str:
    """A path as people type it. Only for an error: nearly every tensor has none."""
    return path if isinstance(path, str) else path_text(path)


def _quantized_leaf(tensor: torch.Tensor, name: str, shape: tuple[int, ...], path: str) -> Tensor:
    scheme = str(tensor.qscheme()).removeprefix("torch.")
    if scheme in ("per_tensor_affine", "per_tensor_symmetric"):
        quantizer: dict[str, Any] = {"scale": tensor.q_scale(), "zero_point": tensor.q_zero_point()}
    elif scheme in ("per_channel_affine", "per_channel_symmetric", FLOAT_SCALES):
        quantizer = {
            "scale": tensor.q_per_channel_scales().tolist(),
            "zero_point": tensor.q_per_channel_zero_points().tolist(),
            "axis": tensor.q_per_channel_axis(),
        }
    else:
        raise UnsupportedState(f"{path} is quantised by {scheme}. Pass its integer representation and its scales.")
    integers = tensor.int_repr() if name not in PACKED_ELEMENTS else memory_of(tensor)
    if name in PACKED_ELEMENTS and integers.numel() != stored_nbytes(name, shape):
        raise UnsupportedState(f"{path} is a view into a tensor of the packed dtype {name}. Pass a copy of it.")
    return Tensor(
        name, shape, LiveTensor(integers, dtype_name(integers.dtype)), quantizer={"scheme": scheme, **quantizer}
    )


def memory_of(tensor: torch.Tensor) -> torch.Tensor:
    """All the memory of a tensor as uint8: packed dtypes have no other view."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def copy_bytes(source: TensorSource, target: memoryview, start: int = 0) -> None:
    """Fill ``target`` with the source's bytes from ``start`` on."""
    read_into = getattr(source, "read_into", None)
    if read_into is not None:
        read_into(target, start)
        return
    for offset in range(0, len(target), PIECE_BYTES):
        stop = min(offset + PIECE_BYTES, len(target))
        target[offset:stop] = memoryview(source.read(start + offset, start + stop)).cast("B")


def new_tensor(node: Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """A contiguous tensor of the leaf's dtype and shape, which need not be a quantised one. Its bits are any."""
    # As bytes first: torch warns about making an empty complex32.
    try:
        data = torch.empty(node.source.nbytes, dtype=torch.uint8, device=device)
    except (RuntimeError, MemoryError) as error:  # torch's own for a GPU is a RuntimeError
        raise UnsupportedState(
            f"There is no memory for a tensor of {node.source.nbytes >> 20} MiB ({node.dtype}, shape "
            f"{list(node.shape)}): {str(error).splitlines()[0]}. Free some, or load other parts."
        ) from error
    return data.view(torch_dtype(node.dtype)).view(node.shape)


def to_torch(node: Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
    """A new contiguous tensor with the leaf's dtype, shape and bits; a quantised one is moved to its device whole."""
    if node.quantizer is not None:
        return _to_quantized(node).to(device)
    tensor = new_tensor(node, device)
    if tensor.device.type == "cpu":
        copy_bytes(node.source, byte_view(tensor))
        return tensor
    piece = byte_view(torch.empty(min(PIECE_BYTES, node.source.nbytes), dtype=torch.uint8, device="cpu"))
    for start in range(0, node.source.nbytes, PIECE_BYTES):
        part = piece[: min(PIECE_BYTES, node.source.nbytes - start)]
        copy_bytes(node.source, part, start)
        put_bytes(tensor, start, part)
    return tensor


def _to_quantized(node: Tensor) -> torch.Tensor:
    quantizer, dtype = node.quantizer, torch_dtype(node.dtype)
    scale, zero_point = quantizer["scale"], quantizer["zero_point"]
    if "axis" not in quantizer:
        tensor = torch._empty_affine_quantized(
            node.shape, scale=scale, zero_point=zero_point, dtype=dtype, device="cpu"
        )
    else:
        floats = quantizer["scheme"] == FLOAT_SCALES
        tensor = torch._empty_per_channel_affine_quantized(
            node.shape,
            scales=torch.tensor(scale, dtype=torch.float32 if floats else torch.float64, device="cpu"),
            zero_points=torch.tensor(zero_point, dtype=torch.float32 if floats else torch.int64, device="cpu"),
            axis=quantizer["axis"],
            dtype=dtype,
            device="cpu",
        )
    copy_bytes(node.source, byte_view(memory_of(tensor)))
    return tensor


def put_bytes(live: torch.Tensor, position: int, piece: Any) -> None:
    """Put bytes where they belong in the row-major order of a tensor in any layout, on any device.

    ``piece`` begins with byte ``position``, at an element, and holds whole elements.
    """
    view = memoryview(piece)
    new = torch.frombuffer(bytearray(view) if view.readonly else view, dtype=torch.uint8)
    if live.element_size() == 1:
        live = live.view(torch.uint8)  # torch cannot copy int1 … uint7; as bytes it can
    _put(live, position // live.element_size(), new.view(live.dtype))


def _put(live: torch.Tensor, start: int, new: torch.Tensor) -> None:
    """``new`` (1-D) becomes the elements from ``start`` on, in row-major order."""
    if live.is_contiguous():
        live.view(-1)[start : start + len(new)].copy_(new)
        return
    row = live[0].numel()
    while len(new):
        first, inside = divmod(start, row)
        if inside or len(new) < row:
            count = min(row - inside, len(new))
            _put(live[first], inside, new[:count])
        else:
            rows = len(new) // row
            count = rows * row
            live[first : first + rows].copy_(new[:count].view(rows, *live.shape[1:]))
        start, new = start + count, new[count:]
