"""my-method: say here in one line what the vocabulary is like."""

from lep_bench.plugin import Params, vocabulary


class Settings(Params):
    """Set in a family's YAML: `vocabularies: {my-method: {params: {size: 8000}}}`.

    Every field needs a default.
    """

    size: int = 1000  # ordinary tokens, the 256 byte tokens included
    characters: int = 1_000_000_000  # read at most this many characters of the texts


@vocabulary("my-method")
def my_method(base, texts, params: Settings):
    """A new BPE vocabulary, learned from lines that have a Cyrillic letter.

    Source: cite the paper or page that the method comes from. This example follows none.
    """
    # `base` is the base model's tokenizers.Tokenizer. `texts` is an iterator over documents that
    # can be read once. Return a tokenizers.Tokenizer that has every special token of the base, and
    # ids without gaps: new_bpe, extended and optimized of lep_bench.surgery.vocabulary do so. Any
    # tokenizer is checked before it is used.
    from lep_bench.surgery import vocabulary as tools

    russian = (text for text in texts if any("а" <= letter <= "я" for letter in text.lower()))
    return tools.new_bpe(base, tools.limited(russian, params.characters), params.size)
