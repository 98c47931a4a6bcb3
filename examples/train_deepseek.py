"""Train a tiny DeepSeek-V3 on the Python standard library's source code, with snapshots to resume from.

The model comes from a configuration with random weights, the tokens are bytes: nothing is downloaded.

    pip install ciuic 'transformers>=5,<6'
    python examples/train_deepseek.py                    # stop it with Ctrl-C, kill -9 or the power switch
    python examples/train_deepseek.py                    # goes on from the last snapshot
    ciuic --repo snapshots log
"""

import os
import sysconfig
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from ciuic.snapshot import SnapshotManager

CONTEXT = 64
BATCH = 8


def make_model() -> DeepseekV3ForCausalLM:
    """Everything that makes a DeepSeek a DeepSeek, small: latent attention, shared and routed experts."""
    config = DeepseekV3Config(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=32,
        num_hidden_layers=3,
        first_k_dense_replace=1,
        n_shared_experts=1,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=32,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
        max_position_embeddings=CONTEXT,
        attention_dropout=0.1,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return DeepseekV3ForCausalLM(config)


def read_text(limit: int = 2_000_000) -> Tensor:
    """The first megabytes of the standard library as byte values, the same on every start."""
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = b"".join(source.read_bytes() for source in sources)[:limit]
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def batches(text: Tensor, count: int) -> Iterator[Tensor]:
    """Random windows of the text, drawn from torch's global generator, whose state each snapshot holds."""
    for _ in range(count):
        starts = torch.randint(len(text) - CONTEXT, (BATCH,)).tolist()
        yield torch.stack([text[start : start + CONTEXT] for start in starts])


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=100, help="steps from one snapshot to the next")
    parser.add_argument("--snapshots", default="./snapshots", help="their folder, a ciuic repository")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--threads", type=int, help="torch's threads; the same number gives the same bits")
    options = parser.parse_args()

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    text = read_text()
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)

    snapshot_dir = options.snapshots
    os.makedirs(snapshot_dir, exist_ok=True)
    sm = SnapshotManager(snapshot_dir=snapshot_dir, auto_save_interval=options.every)
    if sm.has_snapshots():
        latest_snapshot = sm.get_latest_snapshot()
        print(f"恢复快照: {latest_snapshot}", flush=True)  # "restoring snapshot"
        sm.restore(latest_snapshot, model=model, optimizer=optimizer)
        # One more than in the article, which computes the snapshot's own step twice.
        start_step = latest_snapshot.step + 1
    else:
        start_step = 0

    device = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")
    model.to(device)
    model.train()
    for step, batch in enumerate(batches(text, options.steps - start_step), start=start_step):
        tokens = batch.to(device)
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step:4d}  loss {loss.item():#.9g}", flush=True)
        sm.save(step=step, model=model, optimizer=optimizer, metrics={"loss": loss.item()})


if __name__ == "__main__":
    main()
