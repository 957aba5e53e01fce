"""The built-in world: checkpoints of two bilingual model families, and the texts that runs read.

`benchmarks/mini` in the checkout generates both.
"""
