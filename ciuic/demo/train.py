"""Train a small transformer on the Python standard library's own source code, byte by byte.

Start it, stop it however you like, start it again: it goes on from its last snapshot.
The three lines that do this are marked.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ciuic.snapshot import SnapshotManager

CONTEXT = 64
BATCH = 8
WIDTH = 96
HEADS = 4
LAYERS = 3
TEXT_BYTES = 4_000_000


def read_text() -> Tensor:
    """The first megabytes of the standard library, the same on every start: a vector of byte values."""
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = b"".join(source.read_bytes() for source in sources)[:TEXT_BYTES]
    if len(text) <= CONTEXT:
        raise SystemExit("This Python has no source files of its standard library to train on.")
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def draw_batch(text: Tensor) -> tuple[Tensor, Tensor]:
    """Random windows from the global generator: the same after a resume only if its state came back."""
    starts = torch.randint(len(text) - CONTEXT, (BATCH,)).tolist()
    inputs = torch.stack([text[start : start + CONTEXT] for start in starts])
    targets = torch.stack([text[start + 1 : start + CONTEXT + 1] for start in starts])
    return inputs, targets


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(WIDTH)
        self.attention_in = nn.Linear(WIDTH, 3 * WIDTH)
        self.attention_out = nn.Linear(WIDTH, WIDTH)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.dropout = nn.Dropout(0.1)

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        mixed = self.attention_in(self.attention_norm(hidden)).view(batch, length, 3, HEADS, width // HEADS)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        hidden = hidden + self.dropout(self.attention_out(attended))
        return hidden + self.dropout(self.feed_forward(hidden))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Embedding(256, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 256, bias=False)
        self.head.weight = self.bytes.weight
        nn.init.normal_(self.bytes.weight, std=0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden: Tensor = self.bytes(inputs) + self.positions.weight[: inputs.shape[1]]
        return self.head(self.norm(self.blocks(hidden)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--every", type=int, default=20, help="steps from one snapshot to the next")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--snapshots", default=".ciuic", help="where the snapshots go")
    options = parser.parse_args()

    # The number of threads decides the order of additions, so it is the same on every start.
    torch.set_num_threads(1)
    torch.manual_seed(1)
    text = read_text()
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)

    snapshots = SnapshotManager(snapshot_dir=options.snapshots, auto_save_interval=options.every)
    config = {"learning_rate": options.learning_rate, "batch": BATCH, "context": CONTEXT}
    snapshots.track(model=model, optimizer=optimizer, config=config)  # (1)
    start_step = snapshots.resume()  # (2)
    if start_step:
        print(f"resuming after step {start_step - 1}", flush=True)

    for group in optimizer.param_groups:  # what the command line says wins over what was restored
        group["lr"] = options.learning_rate
    for step in range(start_step, options.steps):
        inputs, targets = draw_batch(text)
        loss = functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step:4d}  loss {loss.item():#.9g}", flush=True)  # nine digits identify a float32
        snapshots.step(loss=loss)  # (3)

    torch.save(model.state_dict(), "weights.pt")


if __name__ == "__main__":
    main()
