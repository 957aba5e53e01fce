"""The most used half of the old vocabulary with new tokens added to it."""

from collections.abc import Iterator

from pydantic import Field
from tokenizers import Tokenizer

from lep_bench.plugin import Params, vocabulary


class OptimizedParams(Params):
    keep: int = Field(64_000, ge=256, description="old ordinary tokens kept, the 256 byte tokens included")
    size: int = Field(64_000, gt=0, description="new tokens added to them")
    characters: int = Field(1_000_000_000, gt=0, description="text is read up to this many characters")


@vocabulary("optimized")
def optimized(base: Tokenizer, texts: Iterator[str], params: OptimizedParams) -> Tokenizer:
    """The old tokens most used on the text are kept, with their merge paths, and new ones are added.

    Source: arXiv 2412.21140, vocabulary variants, "Optimized" (64,000 kept for LLaMa-3-8B, 114,504 tokens in all). The paper takes
    the new ones from another BPE vocabulary; here their merges are trained over the kept tokens.
    """
    from lep_bench.surgery import vocabulary as made

    return made.optimized(base, made.limited(texts, params.characters), params.size, params.keep)
