"""What the Darumeru tasks share: settings, rows, prompts under two protocols, and lm-eval's interface.

Building a task reads no file and needs no network: rows are read when they are first asked for, the tokenizer when a
length must be known.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from functools import cached_property
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.config.task import TaskConfig
from lm_eval.filters import build_filter_ensemble

from . import checks, prompts, rows, tokens

Row = dict[str, Any]
PROMPT_TOKENS = 4000  # protocol paper: a prompt with shots stays below that
_LOG = logging.getLogger("lm_eval.darumeru")
NEAR = 32  # tokens: farther than that from a budget, the sum of two parts decides as the whole would
PROMPT_CHARACTERS = 6000  # protocol strict: prompts of all models, in characters of the messages


class DarumeruTask(checks.Checked, ConfigurableTask):
    """A task of the benchmark. Read from the metadata: protocol, conversation, tokenizer (else pretrained), data,
    max_length, prompt_characters. Metrics are declared in NAMES, with what aggregates them."""

    NAMES: dict[str, Callable[..., float]] = {}
    FIELDS: tuple[str, ...] = ("messages", "inputs", "outputs", "meta")
    CONFIGS: tuple[str, ...] = ()  # of the dataset; empty: the one that the YAML names
    FIRST_ROWS: int | None = None  # how many test rows the benchmark takes
    FIRST_SHOT = 0
    NATURAL_ORDER = False  # shots stand as in their file; else the first is nearest to the question
    NEW_TOKENS = 64

    def __init__(self, config: dict[str, Any], **_: Any) -> None:
        # ConfigurableTask's own __init__ reads the rows; this sets what lm-eval uses of a task, and reads nothing.
        config = {key: value for key, value in config.items() if key != "class"}
        metadata = config.get("metadata") or {}
        self.protocol = str(metadata.get("protocol") or "paper")
        self.conversation = metadata.get("conversation")
        checks.settings(config["task"], self.protocol, self.conversation, metadata)
        self._config = TaskConfig(**{**config, **self.generation_config()})
        self.VERSION = metadata.get("version", self.VERSION)
        self.OUTPUT_TYPE = self.config.output_type
        self.DATASET_PATH, self.DATASET_NAME = self.config.dataset_path, self.config.dataset_name
        self.fewshot_cfg = self.config.fewshot_config
        self.features = list(self.FIELDS)
        self.multiple_input = self.multiple_target = 0
        self.prompt = self.fewshot_rnd = self._instances = self._training_docs = self._fewshot_docs = None
        self._metric_fn_list, self._metric_fn_kwargs, self._aggregation_list, self._higher_is_better = {}, {}, {}, {}
        self._filters = [build_filter_ensemble("none", [["take_first", None]])]
        self._asked: dict[bytes, Any] = {}
        self.dataset = rows.Splits(self._read)

    def generation_config(self) -> dict[str, Any]:
        """Settings of the generation for lm-eval's TaskConfig."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(task_name={self.config.task}, protocol={self.protocol})"  # lm-eval's own reads the rows

    # --- rows

    @property
    def _metadata(self) -> dict[str, Any]:
        return self.config.metadata or {}

    @cached_property
    def _origin(self) -> Any:
        named = self.config.dataset_kwargs or {}
        return rows.Dataset(
            self.DATASET_PATH, str(named["revision"]), self.FIELDS, named.get("files") or {}, named.get("sha256") or {},
            self._metadata.get("data") or os.environ.get("LEP_BENCH_DATA"), named.get("columns") or {},
        )  # fmt: skip

    @property
    def configs(self) -> tuple[str, ...]:
        """Names of the dataset's configs that the task reads."""
        return self.CONFIGS or (self.DATASET_NAME or "default",)

    def files(self) -> list[dict[str, Any]]:
        """What a copy must hold to run offline, one entry per config and split; nothing is read.

        `named`: files that hold it together, if all are there; else `patterns`: the first one that fits any."""
        splits, own = {"test": self.config.test_split, "shots": self.fewshot_cfg.split}, self._origin
        return [
            {
                "dataset": self.DATASET_PATH, "revision": own.revision, "config": config, "split": split, "role": role,
                "licence": str(self._metadata.get("licence", "unknown")), "named": own.files.get(split, []),
                "patterns": list(own.patterns(config, split)), "sha256": own.sha256.get(f"{config}/{split}", own.sha256.get(split)),
            }
            for role, split in splits.items() if split for config in self.configs
        ]  # fmt: skip

    def _read(self, split: str) -> list[Row]:
        found = self.merged(self._origin.read(split, self.configs))
        if split == self.config.test_split:
            self.check_rows(found[: self.FIRST_ROWS])
        else:
            for row in found:
                self.check_shot(row)
        return found

    def merged(self, found: dict[str, list[Row]]) -> list[Row]:
        """The rows of the configs as one list."""
        return [row for own in found.values() for row in own]

    @cached_property
    def _chosen(self) -> tuple[list[Row], list[str]]:
        found = self.dataset[self.config.test_split][: self.FIRST_ROWS]
        if self.protocol == "paper":
            return found, []
        # By characters, so that every model is asked the same rows, whatever its tokenizer makes of them.
        fits = [self.characters(self.conversations(row, [])) <= self.prompt_characters for row in found]
        if found and not any(fits):
            raise ValueError(f"{self.config.task}: every row exceeds prompt_characters {self.prompt_characters}: set more in the metadata")
        left_out = [f"row {n} ({self.row_name(row)})" for n, (row, ok) in enumerate(zip(found, fits, strict=True)) if not ok]
        return [row for row, ok in zip(found, fits, strict=True) if ok], left_out

    def test_docs(self) -> list[Row]:
        return self._chosen[0]

    @property
    def left_out(self) -> list[str]:
        """Protocol strict: the rows that exceed the budget of characters, the same for every model."""
        return self._chosen[1]

    def fewshot_docs(self) -> list[Row]:
        return self.dataset[self.fewshot_cfg.split]

    # --- prompts

    @cached_property
    def tokens(self) -> Any | None:
        """The evaluated model's tokenizer, where the metadata names one."""
        name = self._metadata.get("tokenizer") or self._metadata.get("pretrained")
        return tokens.load(str(name), self._metadata.get("revision")) if name else None

    def tokens_for(self, purpose: str) -> Any:
        """The tokenizer, or a ValueError that says what it is needed for."""
        if self.tokens is None:
            raise ValueError(f"{self.config.task}: {purpose} needs the model's tokenizer: name it in the metadata (tokenizer, or pretrained)")
        return self.tokens

    @cached_property
    def max_length(self) -> int | None:
        """Positions of the model, where they are known."""
        named = self._metadata.get("max_length")
        return int(named) if named else self.tokens.max_length if self.tokens else None

    @property
    def prompt_characters(self) -> int:
        """Protocol strict: the longest prompt, in characters."""
        return int(self._metadata.get("prompt_characters") or PROMPT_CHARACTERS)

    def variants(self, doc: Row) -> list[Any]:
        """The conversations that a row is asked in, each ending with the beginning of the answer."""
        return [prompts.filled(doc)]

    def shot(self, row: Row) -> Any:
        """A few-shot row as messages, the answer in the last."""
        return prompts.filled(row)

    def shot_rows(self, doc: Row) -> list[Row]:
        """The rows that shots are taken from, the first of them first."""
        return self.fewshot_docs()[self.FIRST_SHOT :]

    def headed(self, doc: Row, messages: Any, shots: int) -> Any:
        """The conversation with what stands before it."""
        return messages

    def conversations(self, doc: Row, shots: list[Row]) -> list[Any]:
        """One conversation per variant: the shots (nearest last), then the question."""
        ordered = shots if self.NATURAL_ORDER else shots[::-1]
        before = [message for row in ordered for message in self.shot(row)]
        return [self.headed(doc, before + variant, len(shots)) for variant in self.variants(doc)]

    def characters(self, conversations: list[Any]) -> int:
        """Length of the longest of the conversations, of their messages alone."""
        return max(prompts.characters(messages) for messages in conversations)

    def _format(self, chat: bool) -> Any | None:
        """The conversation format; None: the model's own chat template."""
        name = self.conversation or (prompts.TEMPLATE if chat else prompts.PLAIN)
        if name == prompts.TEMPLATE and not chat:
            raise ValueError(f"{self.config.task}: conversation {name} needs the model's chat template: --apply_chat_template")
        return prompts.FORMATS.get(name)

    def fewshot_context(
        self,
        doc: Row,
        num_fewshot: int = 0,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        chat_template: Callable[..., str] | None = None,
        **_: Any,
    ) -> list[str]:
        """The prompts of a row, one per variant, with as many shots as fit."""
        spoken = self._format(bool(apply_chat_template and chat_template))
        wanted = 0 if self.config.num_fewshot == 0 else num_fewshot
        shots = self.shot_rows(doc)[:wanted] if wanted else []
        if wanted > len(shots):
            raise ValueError(f"{self.config.task}: {wanted} shots were asked for, the split {self.fewshot_cfg.split} has {len(shots)} rows for them")
        system = system_instruction or (spoken.system if spoken else "")
        first = [{"role": "system", "content": system}] if system else []
        for used in range(wanted, -1, -1):  # they are added one by one until one does not fit: as many as fit remain
            asked = [first + messages for messages in self.conversations(doc, shots[:used])]
            texts = [spoken.render(m) if spoken else chat_template(m, add_generation_prompt=m[-1]["role"] != "assistant") for m in asked]
            if not used or self._fits(asked, texts):
                break
        kept = [self._within(doc, messages, text) for messages, text in zip(asked, texts, strict=True)]
        self._asked[_key(doc)] = prompts.Asked(tuple(map(tuple, asked)), used, wanted, kept != texts)
        return kept

    def asked(self, doc: Row) -> Any:
        """What `fewshot_context` last made of the row. Raises ValueError for a row that was not asked."""
        if _key(doc) not in self._asked:
            raise ValueError(f"{self.config.task}: row {self.row_name(doc)} has not been asked: call fewshot_context first")
        return self._asked[_key(doc)]

    def _fits(self, conversations: list[Any], texts: list[str]) -> bool:
        """Whether a prompt with shots is within the budget: tokens in protocol paper, characters in strict."""
        if self.protocol == "strict":
            return self.characters(conversations) <= self.prompt_characters
        budget = min(PROMPT_TOKENS, self.max_length - self.NEW_TOKENS) if self.max_length else PROMPT_TOKENS
        return all(self._shorter(text, messages, budget) for messages, text in zip(conversations, texts, strict=True))

    def _shorter(self, text: str, messages: Any, budget: int) -> bool:
        """Whether a prompt has fewer tokens than `budget`, BOS included."""
        if len(text.encode()) + 2 < budget:  # a token is at least a byte; two more for BOS and a space of the tokenizer's own
            return True
        tokenizer = self.tokens_for("measuring a prompt")
        # Rows share their shots: these are counted once. Parting a text changes the tokens around the cut only.
        parting = text.rfind(next((m["content"] for m in reversed(messages) if m["role"] == "user"), text))
        if parting > 0:
            estimate = tokenizer.count_often(text[:parting]) + tokenizer.count(text[parting:])
            if abs(estimate - budget) > NEAR:
                return estimate < budget
        return tokenizer.count_prompt(text) < budget

    def _within(self, doc: Row, messages: Any, text: str) -> str:
        """The prompt as the model can read it: protocol paper cuts it on the left, strict refuses it."""
        if not self.max_length:
            return text
        reserve = self.reserve(doc)
        room = self.max_length - reserve
        if room <= 1:
            raise ValueError(f"{self.config.task}: {reserve} new tokens leave no room for a prompt in the model's {self.max_length} positions")
        if self.tokens is None or self._shorter(text, messages, room + 1):
            return text
        if self.protocol == "strict":
            length = self.tokens.count_prompt(text)
            raise self.wrong(
                doc, f"its prompt of {length} tokens and {reserve} new ones do not fit the model's {self.max_length} positions: "
                "lower prompt_characters in the metadata, for all models alike",
            )  # fmt: skip
        return self.tokens.cut_left(text, room)

    def reserve(self, doc: Row) -> int:
        """Positions that the model needs beside the prompt."""
        raise NotImplementedError

    # --- lm-eval

    def construct_requests(self, doc: Row, ctx: list[str], **kwargs: Any) -> list[Instance]:
        chat = bool(kwargs.pop("apply_chat_template", False) and kwargs.pop("chat_template", None))
        kwargs.pop("chat_template", None)  # passed on by lm-eval, unknown to an Instance
        requests = self.requests(doc, ctx, chat)
        return [Instance(request_type=self.OUTPUT_TYPE, doc=doc, arguments=pair, idx=n, **kwargs) for n, pair in enumerate(requests)]

    def build_all_requests(self, **kwargs: Any) -> None:
        """As lm-eval's own; what the rules did to the prompts is said, once per task."""
        self._asked.clear()
        super().build_all_requests(**kwargs)
        asked = list(self._asked.values())
        counts = {
            f"of {len(asked)} rows asked with fewer shots than wanted, as more did not fit": sum(a.shots < a.asked_shots for a in asked),
            f"of {len(asked)} rows cut on the left to fit the model": sum(a.cut for a in asked),
            f"rows left out, longer than prompt_characters ({self.prompt_characters})": len(self.left_out),
        }
        for what, count in counts.items():
            if count:
                _LOG.warning(f"{self.config.task}: {count} {what}")

    def requests(self, doc: Row, texts: list[str], chat: bool) -> list[tuple[str, Any]]:
        """(prompt, option) or (prompt, settings) of everything that a row is asked, in order."""
        raise NotImplementedError

    def doc_to_text(self, doc: Row, doc_to_text: Any = None) -> str:
        return prompts.FORMATS[prompts.PLAIN].render(self.variants(doc)[0])

    def doc_to_target(self, doc: Row, doc_to_target: Any = None) -> Any:
        return doc["outputs"]

    def doc_to_prefix(self, doc: Row) -> None:
        return None

    def aggregation(self) -> dict[str, Callable[..., float]]:
        return dict(self.NAMES)

    def higher_is_better(self) -> dict[str, bool]:
        return dict.fromkeys(self.aggregation(), True)

    repeats_sampling = False
    character_limit: int | None = None


def _key(doc: Row) -> bytes:
    return hashlib.blake2b(json.dumps(doc, sort_keys=True, ensure_ascii=False, default=str).encode(), digest_size=16).digest()
