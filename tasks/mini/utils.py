"""The mini tasks for lm-eval. Plain lm-eval code: works with `lm_eval run --include_path` from any folder."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask

_FOLDER = Path(__file__).resolve().parent
_NEW_TOKENS = 64


def _load_metrics() -> Any:
    # lm-eval loads this file by path, so a sibling cannot be imported by name.
    spec = importlib.util.spec_from_file_location("mini_task_metrics", _FOLDER / "metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


metrics = _load_metrics()


def load_rows(file: str = "", **_: Any) -> dict[str, datasets.Dataset]:
    """The rows of data/`file`. lm-eval also passes the task's metadata and the model's arguments."""
    lines = (_FOLDER / "data" / file).read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}


def separator(context: str) -> str:
    """What stands between a prompt and an answer: a space, unless the prompt ends with white space.

    A chat template may end with "assistant:" or with a line break; lm-eval sets no separator at all in chats.
    """
    return "" if not context or context[-1].isspace() else " "


class _MiniTask(ConfigurableTask):
    """What the tasks share: rows from `load_rows`, no filters, metrics declared in `aggregation`, not in the YAML.

    A metric name of one's own in metric_list makes lm-eval ask the Hub for it.
    """

    def __init__(self, config: dict[str, Any], **_: Any) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def _requests_of(self, kind: str, doc: dict[str, Any], requests: list[tuple[Any, ...]], kwargs: dict[str, Any]) -> list[Instance]:
        # lm-eval passes the chat template on to construct_requests; an Instance does not take it.
        for name in ("apply_chat_template", "chat_template"):
            kwargs.pop(name, None)
        return [Instance(request_type=kind, doc=doc, arguments=arguments, idx=number, **kwargs) for number, arguments in enumerate(requests)]

    def aggregation(self) -> dict[str, Any]:
        # lm-eval's own mean, because lm-eval knows the standard error of that one only.
        return {name: mean for name in self.NAMES}

    def higher_is_better(self) -> dict[str, bool]:
        return {name: True for name in self.NAMES}


class FactTask(_MiniTask):
    """Four options, compared by the log-likelihood of their text after the question."""

    NAMES = ("acc", "score")

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        requests = [(ctx, separator(ctx) + choice) for choice in doc["choices"]]
        return self._requests_of("loglikelihood", doc, requests, kwargs)

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
        return metrics.score_choice([log_likelihood for log_likelihood, _ in results], doc["gold"])


class CopyTask(_MiniTask):
    """Greedy repetition of a text, exact match."""

    NAMES = ("em", "score")

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        settings = {"until": ["\n"], "do_sample": False, "max_gen_toks": _NEW_TOKENS}
        return self._requests_of("generate_until", doc, [(ctx, settings)], kwargs)

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
        return metrics.score_copy(results[0], doc["answer"])


class TextTask(_MiniTask):
    """Bits per byte of Russian text, and characters per token if the metadata or the model's arguments name a tokenizer."""

    NAMES = ("bits_per_byte", "symbols_per_token")

    def __init__(self, config: dict[str, Any], **_: Any) -> None:
        super().__init__(config)
        metadata = self.config.metadata or {}
        self._tokenizer_name = metadata.get("tokenizer") or metadata.get("pretrained")
        self._tokenizer: Any = None

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        return self._requests_of("loglikelihood_rolling", doc, [(self.doc_to_target(doc),)], kwargs)

    def _token_count(self, text: str) -> int:
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self._tokenizer_name)
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, tuple[float, float]]:
        text = doc["text"]
        found = {"bits_per_byte": (-results[0] / math.log(2), len(text.encode()))}
        if self._tokenizer_name:
            found["symbols_per_token"] = (len(text), self._token_count(text))
        return found

    def aggregation(self) -> dict[str, Any]:
        return {name: metrics.ratio for name in self.NAMES}

    def higher_is_better(self) -> dict[str, bool]:
        return {"bits_per_byte": False, "symbols_per_token": True}
