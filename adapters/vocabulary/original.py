"""The control: the old vocabulary, trained on the same text as the new ones."""

from collections.abc import Iterator

from tokenizers import Tokenizer

from lep_bench.plugin import Params, vocabulary


@vocabulary("original")
def original(base: Tokenizer, texts: Iterator[str], params: Params) -> Tokenizer:
    """The old vocabulary kept: shows what continued pre-training alone does.

    Not in the paper, which compares with the untrained original (arXiv 2412.21140).
    """
    return base
