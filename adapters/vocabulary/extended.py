"""The old vocabulary with new tokens added to it."""

from collections.abc import Iterator

from pydantic import Field
from tokenizers import Tokenizer

from lep_bench.plugin import Params, vocabulary


class ExtendedParams(Params):
    size: int = Field(32_000, gt=0, description="new tokens added to the old vocabulary")
    characters: int = Field(1_000_000_000, gt=0, description="text is read up to this many characters")


@vocabulary("extended")
def extended(base: Tokenizer, texts: Iterator[str], params: ExtendedParams) -> Tokenizer:
    """The old vocabulary keeps every id and gets new tokens; text without a new token keeps its ids.

    Source: arXiv 2412.21140, vocabulary variants, "Extended" (55,328 tokens in all for Mistral-7B, 174,816 for LLaMa-3-8B). The
    paper merges two BPE vocabularies; here the new merges are trained over old tokens, so that all can be reached.
    """
    from lep_bench.surgery import vocabulary as made

    return made.extended(base, made.limited(texts, params.characters), params.size)
