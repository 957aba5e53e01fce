"""The evaluated model's tokenizer: how long a text is, where it can be cut, and what the first token of an answer is."""

import json
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

_UNSET = 1_000_000  # transformers writes 1e30 where a tokenizer names no length


@lru_cache(maxsize=4)
def load(name: str, revision: str | None = None) -> "Tokens":
    """The tokenizer of a folder or of a Hub id, read at its first use and shared by the tasks."""
    return Tokens(name, revision)


class Tokens:
    """Token counts never include special tokens that the tokenizer adds, unless said so."""

    def __init__(self, name: str, revision: str | None = None) -> None:
        self.name, self.revision = name, revision
        self._counts: dict[str, int] = {}

    @cached_property
    def _raw(self) -> Any:
        # tokenizer.json as it stands: a class named in tokenizer_config.json may rebuild it as something else (a Unigram
        # file that says LlamaTokenizer becomes BPE, without an error).
        file = Path(self.name) / "tokenizer.json"
        try:
            if file.is_file():
                from tokenizers import Tokenizer

                raw = Tokenizer.from_file(str(file))
            else:
                from transformers import AutoTokenizer

                loaded = AutoTokenizer.from_pretrained(self.name, revision=self.revision, trust_remote_code=False)
                raw = type(loaded.backend_tokenizer).from_str(loaded.backend_tokenizer.to_str())
        except Exception as error:  # tokenizers raises bare Exceptions, transformers all sorts of things
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise OSError(f"{self.name}: its tokenizer cannot be loaded: {why}") from error
        raw.no_truncation()
        raw.no_padding()
        return raw

    @cached_property
    def bos(self) -> int | None:
        """The id that the tokenizer sets before every text, if it does."""
        plain, framed = (self._raw.encode("a", add_special_tokens=add).ids for add in (False, True))
        return framed[0] if framed[: len(framed) - len(plain)] and framed[0] != plain[0] else None

    @cached_property
    def max_length(self) -> int | None:
        """Positions of the model, where files beside the tokenizer say so: the smaller of what the two configs name."""
        named = (self._json("tokenizer_config.json").get("model_max_length"), self._json("config.json").get("max_position_embeddings"))
        found = [int(length) for length in named if isinstance(length, int | float) and 0 < length < _UNSET]
        return min(found, default=None)

    def _json(self, name: str) -> dict[str, Any]:
        file = Path(self.name) / name
        if not Path(self.name).is_dir():
            from huggingface_hub import hf_hub_download

            try:
                file = Path(hf_hub_download(self.name, name, revision=self.revision))
            except (OSError, ValueError):  # not there, or not at hand offline
                return {}
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    @cached_property
    def implicit_space(self) -> bool:
        """Whether the tokenizer itself sets a space before a text (Mistral: yes; LLaMa-3, Qwen: no)."""
        pieces = self._raw.encode("1", add_special_tokens=False).tokens
        return len(pieces) > 1 or len(pieces[0]) > 1

    def count(self, text: str) -> int:
        """Tokens of the text."""
        return len(self._raw.encode(text, add_special_tokens=False).ids)

    def count_often(self, text: str) -> int:
        """`count` of a text that comes again."""
        if text not in self._counts:
            if len(self._counts) >= 256:
                self._counts.clear()
            self._counts[text] = self.count(text)
        return self._counts[text]

    def count_prompt(self, text: str) -> int:
        """Tokens that the model reads: the text's and exactly one BOS, whoever writes it."""
        ids = self._raw.encode(text, add_special_tokens=False).ids
        return len(ids) + (self.bos is not None and ids[:1] != [self.bos])

    def count_copy(self, text: str) -> int:
        """Tokens of a text that an answer should repeat, with the space that stands between "Ответ:" and an answer.

        A model says that space itself; where the tokenizer sets one of its own (Mistral), a second would be a token too
        many. An answer needs no such care: LLaMa-3's decoded output begins with its space, and Mistral's, whose space
        decoding takes away, gets it back when it is tokenised.
        """
        return self.count(text if self.implicit_space else " " + text)

    def first_token(self, lead: str, option: str) -> str:
        """The text from the end of `lead` to the end of the first token that shows something of " " + `option`.

        What stands before it is at most a token of white space, the same for all options. Where the first token is only
        a part of a character's bytes, the text goes on to the end of that character.
        """
        text, shown = f"{lead} {option}", len(lead)
        for _, end in self._raw.encode(text, add_special_tokens=False).offsets[self.count(lead) :]:
            shown = max(shown, end)
            if text[len(lead) : shown].strip():
                break
        return text[len(lead) : shown] or f" {option}"

    def cut_alike(self, lead: str, texts: list[str]) -> list[str]:
        """Every " " + text, cut after as many tokens as the shortest of them has when it follows `lead`."""
        before = self.count(lead)
        wholes = [f"{lead} {text}" for text in texts]
        ends = [[end for _, end in found.offsets[before:]] for found in self._raw.encode_batch(wholes, add_special_tokens=False)]
        length = max(1, min(map(len, ends)))
        return [whole[len(lead) : own[length - 1]] if len(own) > length else whole[len(lead) :] for whole, own in zip(wholes, ends, strict=True)]

    def cut_left(self, text: str, room: int) -> str:
        """The end of the text that is at most `room` tokens long, BOS included: what a truncating tokenizer leaves.

        Its template and BOS are lost first; the encoder sets a new BOS before what stays.
        """
        room -= self.bos is not None
        ends = [end for _, end in self._raw.encode(text, add_special_tokens=False).offsets]
        for kept in range(min(room, len(ends)), 0, -1):
            # The end of the token before, not the token's own beginning: byte-level offsets leave spaces out of a token.
            cut = text[ends[len(ends) - kept - 1] if kept < len(ends) else 0 :]
            if self.count(cut) <= room:  # a text cut anew may begin with a token more
                return cut
        return ""
