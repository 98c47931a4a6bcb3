"""Files of ``torch.save``, written plain, and read with ``weights_only=True`` alone."""

from __future__ import annotations

import os
import re
import zipfile
from typing import IO, Any, NoReturn, cast

from ciuic.errors import InvalidImport
from ciuic.interchange.atomic_file import AtomicFile
from ciuic.interchange.regular_file import open_regular

DEEPEST = 64


def write_torch(out: AtomicFile, state: Any) -> None:
    """``torch.save`` of plain containers and tensors, which ``torch.load(weights_only=True)`` reads."""
    import torch

    torch.save(state, cast("IO[bytes]", out))


def read_torch(file: str) -> Any:
    """What the file holds, with its tensors on the CPU.

    Raises InvalidImport for anything but an intact ``torch.save`` file of tensors and plain values. A file
    that claims more than it has bytes for (compressed or overlapping records, tensors larger than the file,
    containers that hold themselves) is refused.
    """
    import torch

    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        _check_archive(stream, size, file)
        stream.seek(0)
        try:
            state = torch.load(stream, map_location="cpu", weights_only=True)
        except MemoryError:
            _refuse(file, "there is no memory for what it says it holds")
        except Exception as error:  # torch.load raises whatever the first broken part happens to raise
            _refuse(file, _cause(error))
    _check_extent(state, size, file)
    return state


def _check_archive(stream: Any, size: int, file: str) -> None:
    """torch stores its records uncompressed and apart, so they cannot add up to more than the file."""
    try:
        with zipfile.ZipFile(stream) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        _refuse(file, str(error))
    if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records):
        _refuse(file, "its records are compressed")
    if sum(record.file_size for record in records) > size:
        _refuse(file, "its records add up to more than the file")


def _check_extent(state: Any, size: int, file: str) -> None:
    """Each value takes a byte of the file or more, so a walk past more values than bytes goes in circles."""
    import torch

    visited = 0
    stack: list[tuple[Any, int]] = [(state, 0)]
    while stack:
        value, depth = stack.pop()
        visited += 1
        if visited > size or depth > DEEPEST:
            _refuse(file, "its containers repeat or hold themselves")
        if isinstance(value, torch.Tensor):
            if value.layout == torch.strided and value.numel() * value.element_size() > size:
                _refuse(file, f"it claims a tensor of shape {list(value.shape)}, larger than itself")
        elif isinstance(value, (bytes, bytearray, str)):
            if len(value) > size:
                _refuse(file, f"it claims {len(value)} bytes of one value, more than itself")
        elif isinstance(value, dict):
            stack.extend((child, depth + 1) for child in value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            stack.extend((child, depth + 1) for child in value)


def _cause(error: Exception) -> str:
    """torch's refusals end with advice to load the file unsafely: only their cause is passed on."""
    text = str(error)
    blocked = re.search(r"GLOBAL ([\w.]+)", text)
    if blocked:
        return f"it needs {blocked[1]}"
    if "weights_only" in text:
        return "it holds more than tensors and plain values"
    return text.strip().partition("\n")[0] or type(error).__name__


def _refuse(file: str, why: str) -> NoReturn:
    raise InvalidImport(
        f"{file} cannot be read without running code from it, or is damaged: {why.rstrip('.')}. "
        "Save it again as a plain state_dict, or as safetensors."
    )
