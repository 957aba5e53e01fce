"""A new Unigram vocabulary in place of the old one."""

from collections.abc import Iterator

from pydantic import Field
from tokenizers import Tokenizer

from lep_bench.plugin import Params, vocabulary


class UnigramParams(Params):
    size: int = Field(32_000, gt=256, description="ordinary tokens, the 256 byte tokens included")
    characters: int = Field(1_000_000_000, gt=0, description="text is read up to this many characters")


@vocabulary("unigram")
def unigram(base: Tokenizer, texts: Iterator[str], params: UnigramParams) -> Tokenizer:
    """A new Unigram vocabulary replaces the old one; splitting, byte tokens and special tokens stay.

    Source: arXiv 2412.21140, vocabulary variants, "Unigram" (32,000 tokens for Mistral-7B, 128,000 for LLaMa-3-8B).
    """
    from lep_bench.surgery import vocabulary as made

    return made.new_unigram(base, made.limited(texts, params.characters), params.size)
