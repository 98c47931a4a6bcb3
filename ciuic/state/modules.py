"""The module that a name belongs to, whatever it is wrapped in."""

from __future__ import annotations

from typing import Any

import torch


def unwrap(model: Any) -> Any:
    """The module inside torch.compile's and the data-parallel wrappers, so that names do not depend on them."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
            inner = model.module
        if not isinstance(inner, torch.nn.Module):
            return model
        model = inner


def plain_name(name: str) -> str:
    """A parameter's name without the parts that ``torch.compile`` of a submodule puts in."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod") if "_orig_mod" in name else name
