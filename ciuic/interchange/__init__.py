"""Snapshots in the formats of others, in and out: safetensors and torch.save."""
