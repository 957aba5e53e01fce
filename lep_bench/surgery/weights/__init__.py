"""Weights as files: shards, checkpoints, patches and LoRA adapters."""
