"""The state whose saving and restoring is timed: a small GPT and its AdamW, trained on the text of torch's sources."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from blake3 import blake3
from torch import nn

VOCABULARY = 256
LEARNING_RATE = 3e-4
QUICK = 0.9
AS_AFTER_STEPS = 1000
PAGE = 4096


@dataclass(frozen=True)
class Shape:
    """A GPT of ``layers`` blocks of ``width``; ``warm_up`` steps of training come before the first snapshot."""

    name: str
    layers: int
    width: int
    context: int
    warm_up: int


FULL = Shape("1 GB", layers=12, width=760, context=16, warm_up=30)
TINY = Shape("8 MB", layers=3, width=128, context=16, warm_up=2)


class Gpt(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, shape.width)
        self.positions = nn.Embedding(shape.context, shape.width)
        block = nn.TransformerEncoderLayer(
            shape.width, 8, 4 * shape.width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(shape.width)
        self.blocks = nn.TransformerEncoder(block, shape.layers, norm, enable_nested_tensor=False)
        self.head = nn.Linear(shape.width, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.tokens(tokens) + self.positions.weight[:length]
        return self.head(self.blocks(hidden, mask=mask, is_causal=True))


class State:
    """A model and its AdamW; its memory is there, and holds zeros."""

    def __init__(self, shape: Shape) -> None:
        warnings.simplefilter("ignore")
        self.shape = shape
        with torch.device("meta"):
            model = Gpt(shape)
        self.model = model.to_empty(device="cpu")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE, fused=True)
        for parameter in self.model.parameters():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.empty_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.empty_like(parameter, requires_grad=False),
            }
        self.clear()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The live tensors, all of 32-bit floats, in an order that is always the same."""
        found = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, moments in sorted(self.optimizer.state_dict()["state"].items()):
            found |= {f"optimizer.{index}.{name}": moments[name] for name in sorted(moments)}
        return found

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def clear(self) -> None:
        for tensor in self.tensors().values():
            tensor.zero_()

    def dump(self, path: str) -> None:
        with open(path, "wb") as file:
            for tensor in self.tensors().values():
                file.write(tensor.numpy())

    def fill(self, path: str) -> None:
        """Take over, in place, what ``dump`` wrote."""
        values = torch.from_file(path, size=self.nbytes // 4, dtype=torch.float32)
        offset = 0
        for tensor in self.tensors().values():
            tensor.copy_(values[offset : offset + tensor.numel()].view(tensor.shape))
            offset += tensor.numel()

    def touch(self) -> float:
        """Read from every page: what a restore only mapped is there afterwards."""
        return sum(float(tensor.view(-1)[:: PAGE // 4].sum()) for tensor in self.tensors().values())

    def digest(self) -> str:
        hasher = blake3()
        for tensor in self.tensors().values():
            hasher.update(memoryview(tensor.numpy().reshape(-1)).cast("B"))
        return hasher.hexdigest()


class Training(State):
    """Real steps: the text is that of torch's own Python sources, the same in every run."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        torch.manual_seed(0)
        for name, parameter in self.model.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
            elif "norm" in name and name.endswith("weight"):
                nn.init.ones_(parameter)
        text = Path(nn.functional.__file__).read_bytes()
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
        self.warm_up()

    def warm_up(self) -> None:
        """To moments as after many steps: a second moment that forgets quickly is soon an average of gradients."""
        (group,) = self.optimizer.param_groups
        first, second = group["betas"]
        group["betas"] = first, QUICK
        self.steps(self.shape.warm_up)
        group["betas"] = first, second
        for moments in self.optimizer.state.values():
            moments["step"].fill_(AS_AFTER_STEPS)

    def steps(self, count: int) -> None:
        for _ in range(count):
            start = int(torch.randint(len(self.text) - self.shape.context - 1, ()))
            tokens = self.text[start : start + self.shape.context + 1][None]
            logits = self.model(tokens[:, :-1])
            nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
