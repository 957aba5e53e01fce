"""The two ways of asking: options by their log-probability, and answers in the model's own words."""

from typing import Any

from .base import DarumeruTask, Row


class OptionTask(DarumeruTask):
    """Options by the log-probability of " " + option after the prompt; results come in the order of the options.

    Protocol paper scores the first token of an option alone (where the tokenizer sets a token of white space before it,
    both: the white space is the same for all). Strict scores the whole option.
    """

    OPTIONS: tuple[str, ...] = ()

    def options(self, doc: Row) -> list[str]:
        """The texts that are scored."""
        lead = self.variants(doc)[0][-1]
        return self._texts(lead["content"] if lead["role"] == "assistant" else ":")

    def _texts(self, lead: str) -> list[str]:
        if self.protocol == "strict" or all(len(option) == 1 for option in self.OPTIONS):
            return [" " + option for option in self.OPTIONS]
        found = self.__dict__.setdefault("_first_tokens", {})
        if lead not in found:
            tokenizer = self.tokens_for(f"taking the first token of {' and '.join(self.OPTIONS)}")
            found[lead] = [tokenizer.first_token(lead, option) for option in self.OPTIONS]
        return found[lead]

    def reserve(self, doc: Row) -> int:
        # The last token of an option is only predicted, never read.
        return max(self.tokens.count(text) for text in self.options(doc)) - 1 if self.tokens else 0

    def requests(self, doc: Row, texts: list[str], chat: bool) -> list[tuple[str, Any]]:
        return [(text, option) for text in texts for option in self.options(doc)]


class GenerationTask(DarumeruTask):
    """An answer in the model's own words: sampled in protocol paper and scored as it is; greedy in strict, and cut at a
    number of characters."""

    CHARACTERS = 256  # strict
    STEP = 64  # strict: limits in tokens are multiples of it
    STOPS: tuple[str, ...] | None = None  # strict: instead of the format's own

    def generation_config(self) -> dict[str, Any]:
        sampled = {"do_sample": True, "temperature": 0.1, "top_p": 0.9, "top_k": 40, "max_gen_toks": self.NEW_TOKENS}
        # Strict: the limit in characters must bind, not the one in tokens: one token per character is more than any needs.
        greedy = {"do_sample": False, "max_gen_toks": self.CHARACTERS}
        return {"generation_kwargs": {"until": [], **(sampled if self.protocol == "paper" else greedy)}}

    @property
    def repeats_sampling(self) -> bool:
        """Whether answers are sampled: asked again, a row is answered otherwise."""
        return bool(self.config.generation_kwargs.get("do_sample"))

    @property
    def character_limit(self) -> int | None:
        """Protocol strict: no answer counts beyond that many characters."""
        return self.CHARACTERS if self.protocol == "strict" else None

    def characters_for(self, doc: Row) -> int:
        """Protocol strict: where the answer to this row is cut."""
        return self.CHARACTERS

    def reserve(self, doc: Row) -> int:
        return int(self._settings(doc)["max_gen_toks"])

    def _settings(self, doc: Row) -> dict[str, Any]:
        settings = dict(self.config.generation_kwargs)
        if self.protocol == "strict" and settings.get("max_gen_toks") == self.CHARACTERS:
            # In steps, because requests of equal settings go through the model together.
            settings["max_gen_toks"] = min(self.CHARACTERS, -(-self.characters_for(doc) // self.STEP) * self.STEP)
        return settings

    def requests(self, doc: Row, texts: list[str], chat: bool) -> list[tuple[str, Any]]:
        spoken = self._format(chat)
        stops = [] if spoken is None else list(self.STOPS if self.STOPS and self.protocol == "strict" else spoken.stops)
        settings = self._settings(doc)
        return [(text, {**settings, "until": list(settings.get("until") or stops)}) for text in texts]

    def score(self, doc: Row, text: str) -> dict[str, Any]:
        """Metrics of an answer."""
        raise NotImplementedError

    def process_results(self, doc: Row, results: list[Any]) -> dict[str, Any]:
        return self.score(doc, self.doc_to_prediction(doc, results))

    def doc_to_prediction(self, doc: Row, results: list[Any]) -> str:
        """The text that is scored."""
        return results[0] if self.protocol == "paper" else results[0][: self.characters_for(doc)]
