"""Findings of `check`, and the model that it inspects. Each part of the model is read once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tokenizers

from lep_bench import hub
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.records import artifact
from lep_bench.records.artifact import LEP, Lep
from lep_bench.surgery.tokenizers.assemble import TOKENIZER_CONFIG
from lep_bench.surgery.tokenizers.tokens import Tokens
from lep_bench.surgery.weights.checkpoint import Checkpoint
from lep_bench.surgery.weights.patch import CONFIG, GENERATION_CONFIG

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
# The stages that replace both matrices.
VOCABULARY_STAGES = ("init", "instruct-init", "propagation")
QUESTION, ANSWER = "Сколько будет 9 и 8?", "Семнадцать."


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and how to fix it."""

    level: Level
    what: str
    where: str
    how: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.what}; {self.how}"


@dataclass(frozen=True)
class Chat:
    """A question, an answer and a question in the chat template, as text and as ids that
    transformers gives.
    """

    text: str
    ids: list[int]


@dataclass(frozen=True)
class InspectedModel:
    """A model folder and its contents. `checkpoint` is None for a tokenizer without weights, `lep`
    for a model that lep-bench did not make.
    """

    folder: Path
    checkpoint: Checkpoint | None
    tokens: Tokens
    lep: Lep | None

    @classmethod
    def open(cls, folder: Path) -> InspectedModel:
        """Raises CheckpointError if the folder cannot be read as a checkpoint or tokenizer at
        all.
        """
        is_tokenizer = (
            (folder / "tokenizer.json").is_file()
            and not (folder / CONFIG).is_file()
            and not any(folder.glob("*.safetensors"))
        )
        lep = artifact.read_artifact(folder).lep if (folder / LEP).is_file() else None
        checkpoint = None if is_tokenizer else Checkpoint.open(folder)
        return cls(folder, checkpoint, Tokens.read(folder), lep)

    @property
    def is_ours(self) -> bool:
        """Whether lep-bench made its vocabulary and rows. An exported but unchanged model counts as
        somebody else's.
        """
        return self.lep is not None and (bool(self.lep.rows) or self.lep.stage in VOCABULARY_STAGES)

    @property
    def strict(self) -> Level:
        """The level for breaking a rule of lep-bench: an error in our models, a warning in
        others'.
        """
        return "error" if self.is_ours else "warning"

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._read(CONFIG)

    @cached_property
    def generation(self) -> dict[str, Any]:
        return self._read(GENERATION_CONFIG)

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        return self._read(TOKENIZER_CONFIG)

    @cached_property
    def id_of(self) -> dict[str, int]:
        """Id of every token by its stored spelling."""
        return {
            piece: number for number, piece in enumerate(self.tokens.pieces) if piece is not None
        }

    @cached_property
    def body(self) -> InspectedModel | None:
        """The model whose body it uses (for LEP the instruct model), if that is on this machine."""
        folder = _find_parent(self.lep, ("body",))
        return InspectedModel.open(folder) if folder and folder != self.folder.resolve() else None

    @cached_property
    def origin(self) -> Tokens | None:
        """The tokenizer that its vocabulary comes from, if that is on this machine."""
        folder = _find_parent(self.lep, ("donor", "vocabulary", "start"))
        return Tokens.read(folder) if folder and (folder / "tokenizer.json").is_file() else None

    @cached_property
    def raw(self) -> tokenizers.Tokenizer | str:
        """tokenizer.json in the tokenizers library, or (a string) the reason why it is refused."""
        try:
            return tokenizers.Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # the tokenizers library raises bare Exception
            return first_line(error)

    @cached_property
    def loaded(self) -> Any:
        """The tokenizer as transformers loads it, or (a string) the reason why it cannot."""
        import transformers

        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # `check` covers what transformers warns about
        try:
            return transformers.AutoTokenizer.from_pretrained(
                self.folder,
                local_files_only=True,
                trust_remote_code=False,
                # If unset, mistral-common may read a tekken.json instead.
                fix_mistral_regex=bool(self.tokenizer_config.get("fix_mistral_regex")),
            )
        except Exception as error:  # somebody else's package
            return f"{type(error).__name__}: {first_line(error)}"
        finally:
            transformers.logging.set_verbosity(verbosity)

    @cached_property
    def chat(self) -> Chat | str | None:
        """A rendered chat, None without a chat template, or (a string) the reason why the template
        fails.
        """
        if isinstance(self.loaded, str) or not getattr(self.loaded, "chat_template", None):
            return None
        turns = [("user", QUESTION), ("assistant", ANSWER), ("user", QUESTION)]
        arguments: dict[str, Any] = {
            "conversation": [{"role": role, "content": text} for role, text in turns],
            "add_generation_prompt": True,
        }
        try:
            text = self.loaded.apply_chat_template(tokenize=False, **arguments)
            return Chat(text, list(self.loaded.apply_chat_template(return_dict=False, **arguments)))
        except Exception as error:  # a template is somebody else's program
            return f"{type(error).__name__}: {first_line(error)}"

    @cached_property
    def ends(self) -> set[int]:
        """The ids that end a text: those in generation_config.json, else those in config.json."""
        value = next(
            (
                value
                for part in (self.generation, self.config)
                if (value := part.get("eos_token_id")) is not None
            ),
            None,
        )
        return set(list_ids(value))

    def meaning(self, number: int) -> str | bytes | None:
        """What identifies a token when ids change: the content of a special token, the bytes of an
        ordinary one. None if the id has no token.
        """
        piece = self.tokens.pieces[number] if 0 <= number < self.tokens.size else None
        if piece is None or piece in self.tokens.specials:
            return piece
        return self.tokens.bytes_of(number)

    def specials_in(self, numbers: Iterable[int]) -> list[str]:
        """The contents of the special tokens among these ids, in order."""
        contents = {number: content for content, number in self.tokens.specials.items()}
        return [contents[number] for number in numbers if number in contents]

    def rate_flaws(self, find: Callable[[Tokens], set[str]]) -> tuple[Level, set[str]]:
        """The level and the names of the flaws that `find` finds in the vocabulary.

        Flaws that lep-bench added are errors. Flaws of the tokenizer that the vocabulary comes from
        are warnings, and so are all flaws if that tokenizer is not on this machine.
        """
        flaws = find(self.tokens)
        if flaws and self.is_ours and self.origin is not None:
            added = flaws - find(self.origin)
            if added:
                return "error", added
        return "warning", flaws

    def _read(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        try:
            value = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{file}: a JSON object is expected")
        return value


def list_ids(value: Any) -> list[int]:
    """The ids in a config's field: one, several or none. A bool is no id, although Python counts it
    as an int.
    """
    values = value if isinstance(value, list) else [value]
    return [n for n in values if isinstance(n, int) and not isinstance(n, bool)]


def list_some(names: Iterable[Any], count: int = 3) -> str:
    """The first `count` names, sorted, for a message."""
    listed = sorted(names)
    return ", ".join(repr(name) for name in listed[:count]) + (
        ", ..." if len(listed) > count else ""
    )


def first_line(error: Exception) -> str:
    """An exception's text in one line of at most 200 characters."""
    return re.sub(r"\s+", " ", str(error)).strip()[:200]


def _find_parent(lep: Lep | None, roles: tuple[str, ...]) -> Path | None:
    """The folder of the first of these parents, if it is on this machine. Nothing is downloaded."""
    parents = {parent.role: parent for parent in lep.parents} if lep else {}
    parent = next((parents[role] for role in roles if role in parents), None)
    if parent is None or not parent.location:
        return None
    try:
        return hub.find_cached(parent.location, parent.revision)
    except LepBenchError:  # the folder is missing
        return None
