"""The trainings whose histories are measured: a small GPT that learns the bytes of Python's own library.

A training's state at a step is kept in several ways at once (``KEEPS``), as 32-bit weights with their optimizer, as
16-bit casts, or both, so that series which differ in nothing else come from the same steps.
"""

import copy
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

VOCABULARY = 256
TEXT_BYTES = 4 << 20
RANK = 8
SEED = 20

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """Of the model and of a batch."""

    layers: int
    width: int
    heads: int
    context: int
    batch: int
    warm_up: int


FULL = Shape(layers=6, width=384, heads=6, context=128, batch=2, warm_up=100)
TINY = Shape(layers=2, width=64, heads=2, context=32, batch=2, warm_up=3)


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.width
        self.heads = shape.heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        batch, length, width = hidden.shape
        query, key, value = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(self.attention_norm(hidden)).split(width, dim=2)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.projection(seen.transpose(1, 2).reshape(batch, length, width))
        return hidden + self.down(functional.gelu(self.up(self.mlp_norm(hidden))))


class Gpt(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, VOCABULARY, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


class Lora(nn.Module):
    """A frozen layer beside the product of two small matrices, which are trained."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(RANK, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.base(hidden) + hidden @ self.a.T @ self.b.T


def freeze_half(model: Gpt) -> None:
    """The embeddings and the first half of the blocks."""
    for part in (model.tokens, model.positions, *model.blocks[: len(model.blocks) // 2]):
        part.requires_grad_(False)


def adapt(model: Gpt) -> None:
    """LoRA on every layer of every block; all else is frozen."""
    model.requires_grad_(False)
    for block in model.blocks:
        for name in ("qkv", "projection", "up", "down"):
            setattr(block, name, Lora(getattr(block, name)))


CHANGES = {"full": lambda model: None, "half-frozen": freeze_half, "LoRA": adapt}


class Training:
    """A model and its AdamW, with the same text in the same order whenever it is made."""

    def __init__(self, shape: Shape) -> None:
        torch.manual_seed(SEED)
        self.shape = shape
        self.model = Gpt(shape)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4)
        self.text = torch.frombuffer(library_text(), dtype=torch.uint8).long()
        self.half: nn.Module | None = None
        for _ in range(shape.warm_up):
            self.step()

    def fork(self, kind: str, lr: float) -> "Training":
        """Another training from here: all of it goes on as it is, or a part with an optimizer of its own."""
        other = copy.copy(self)
        other.model, optimizer_state = copy.deepcopy((self.model, self.optimizer.state_dict()))
        torch.manual_seed(SEED + 1)
        CHANGES[kind](other.model)
        trained = [parameter for parameter in other.model.parameters() if parameter.requires_grad]
        other.optimizer = torch.optim.AdamW(trained, lr=lr)
        if kind == "full":
            other.optimizer.load_state_dict(optimizer_state)
            other.optimizer.param_groups[0]["lr"] = lr
        other.half = copy.deepcopy(other.model).to(torch.bfloat16)
        return other

    def step(self) -> None:
        starts = torch.randint(len(self.text) - self.shape.context - 1, (self.shape.batch, 1))
        tokens = self.text[starts + torch.arange(self.shape.context + 1)]
        logits = self.model(tokens[:, :-1])
        functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def objects(self, keeps: str) -> dict[str, Any]:
        """What ``Repo.commit`` gets. The objects are the same ones each time, with what they hold now."""
        if keeps == "fp32":
            return {"model": self.model, "optimizer": self.optimizer}
        if keeps == "masters":
            return {"optimizer": self.optimizer, "extra": {"masters": self.model.state_dict()}}
        assert self.half is not None
        with torch.no_grad():
            for cast, master in zip(self.half.parameters(), self.model.parameters(), strict=True):
                cast.copy_(master)
        return {"model": self.half, **(self.objects("masters") if keeps == "bf16 + masters" else {})}


KEEPS = ("fp32", "bf16", "masters", "bf16 + masters")


def tensors_of(objects: dict[str, Any]) -> State:
    """The same state flat, for a safetensors file: the live tensors, name → tensor."""
    state = {f"model.{name}": tensor for name, tensor in named(objects.get("model"))}
    state |= {f"masters.{name}": tensor for name, tensor in objects.get("extra", {}).get("masters", {}).items()}
    if "optimizer" in objects:
        for index, moments in objects["optimizer"].state_dict()["state"].items():
            state |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    return state


def named(model: nn.Module | None) -> Iterator[tuple[str, torch.Tensor]]:
    return iter(()) if model is None else iter(model.state_dict().items())


def library_text() -> bytearray:
    """The first MiBs of the standard library's sources: text that is wherever Python is."""
    text = bytearray()
    for source in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += source.read_bytes()
        if len(text) >= TEXT_BYTES:
            break
    return text[:TEXT_BYTES]
