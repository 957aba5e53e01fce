"""The paper's own way to merge two vocabularies."""

from collections.abc import Iterator

from pydantic import Field
from tokenizers import Tokenizer

from lep_bench.plugin import Params, vocabulary


class ExtendedUnionParams(Params):
    size: int = Field(32_000, gt=256, description="ordinary tokens of the new BPE vocabulary, the 256 byte tokens included")
    characters: int = Field(1_000_000_000, gt=0, description="text is read up to this many characters")


class OptimizedUnionParams(Params):
    keep: int = Field(64_000, ge=256, description="old ordinary tokens kept, the 256 byte tokens included")
    size: int = Field(64_000, gt=256, description="ordinary tokens of the new BPE vocabulary, the 256 byte tokens included")
    characters: int = Field(1_000_000_000, gt=0, description="text is read up to this many characters")


@vocabulary("extended-union")
def extended_union(base: Tokenizer, texts: Iterator[str], params: ExtendedUnionParams) -> Tokenizer:
    """The old vocabulary and a new BPE vocabulary put together; some of the new tokens come out of no text.

    Source: arXiv 2412.21140, vocabulary variants, "Extended", in the paper's form; `extended` avoids what is wrong with it.
    """
    from lep_bench.surgery import vocabulary as made

    return made.union(base, made.limited(texts, params.characters), params.size)


@vocabulary("optimized-union")
def optimized_union(base: Tokenizer, texts: Iterator[str], params: OptimizedUnionParams) -> Tokenizer:
    """The most used old tokens and a new BPE vocabulary put together; some of the new tokens come out of no text.

    Source: arXiv 2412.21140, vocabulary variants, "Optimized", in the paper's form; `optimized` avoids what is wrong with it.
    """
    from lep_bench.surgery import vocabulary as made

    return made.union(base, made.limited(texts, params.characters), params.size, params.keep)
