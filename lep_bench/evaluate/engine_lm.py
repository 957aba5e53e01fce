"""An engine as lm-eval's model, for `lm_eval.evaluate` and for tasks that need more than
`score_task` offers.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

# Before any model of ours: registering into an empty registry would hide lm-eval's own models.
import lm_eval.models  # noqa: F401
from lm_eval.api.model import TemplateLM

from lep_bench.engines.base import Engine, read_stop_ids
from lep_bench.evaluate.encode import Encoder
from lep_bench.evaluate.score import ask_engine
from lep_bench.records.artifact import Artifact


class EngineLM(TemplateLM):
    """For `lm_eval.evaluate(EngineLM(engine, artifact), ...)`. The artifact is loaded into the
    engine, which must keep it.
    """

    def __init__(self, engine: Engine, artifact: Artifact) -> None:
        super().__init__()
        engine.exchange(artifact)
        self.engine = engine
        self.encoder = Encoder(artifact.folder)
        self.tokenizer = self.encoder.tokenizer
        self._stop_ids = read_stop_ids(artifact.folder)

    @property
    def eot_token_id(self) -> int | None:
        """The tokenizer's EOS."""
        return self.encoder.eos

    @property
    def prefix_token_id(self) -> int:
        """The id before a text that has no context."""
        return self.encoder.prefix

    @property
    def max_length(self) -> int:
        """Positions of the model."""
        return self.engine.max_length

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's folder, as lm-eval writes names."""
        return str(self.encoder.folder).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of a text, with special tokens unless it begins with BOS already."""
        plain = add_special_tokens is False
        (ids,) = (self.encoder.encode_plain if plain else self.encoder.encode)([string])
        return list(ids)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as text, by the model's own template."""
        return self.encoder.render(chat_history, add_generation_prompt)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-probability, greedy) per request."""
        return self._ask(requests, self.encoder.encode_pairs(request.args for request in requests))

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of each whole text after one BOS."""
        return self._ask(
            requests,
            [
                ((self.encoder.prefix,), text)
                for text in self.encoder.encode_plain(request.args[0] for request in requests)
            ],
        )

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts, cut at the stop strings; sampled ones with seed 0."""
        return self._ask(
            requests,
            [(ids, ()) for ids in self.encoder.encode(request.args[0] for request in requests)],
        )

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        stand_ins = [
            SimpleNamespace(request_type="loglikelihood", task_name="", doc_id=n)
            for n in range(len(requests))
        ]
        pairs = [(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        return self._ask(stand_ins, pairs)

    def _ask(self, requests: Sequence[Any], ids: Sequence[Any]) -> list[Any]:
        (answers,) = ask_engine(self.engine, requests, ids, self.encoder, self._stop_ids)
        return [answer.response for answer in answers]
