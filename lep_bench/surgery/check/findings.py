"""What `check` says, and the model it looks at: everything the checks read, each part read once."""

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
# the stages that make both matrices anew
VOCABULARY_STAGES = ("init", "instruct-init", "propagation")
QUESTION, ANSWER = "Сколько будет 9 и 8?", "Семнадцать."


@dataclass(frozen=True)
class Finding:
    """What is wrong, where, and how to mend it."""

    level: Level
    what: str
    where: str
    how: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.what}; {self.how}"


@dataclass(frozen=True)
class Chat:
    """A question, an answer and a question as the chat template writes them; `ids` as transformers
    encodes it.
    """

    text: str
    ids: list[int]


@dataclass(frozen=True)
class InspectedModel:
    """A folder and what it holds; `checkpoint` is None for a tokenizer alone, `lep` for what is not
    ours.
    """

    folder: Path
    checkpoint: Checkpoint | None
    tokens: Tokens
    lep: Lep | None

    @classmethod
    def open(cls, folder: Path) -> InspectedModel:
        """Raises CheckpointError when the folder cannot be read as checkpoint or tokenizer at
        all.
        """
        alone = (
            (folder / "tokenizer.json").is_file()
            and not (folder / CONFIG).is_file()
            and not any(folder.glob("*.safetensors"))
        )
        lep = artifact.read_artifact(folder).lep if (folder / LEP).is_file() else None
        return cls(folder, None if alone else Checkpoint.open(folder), Tokens.read(folder), lep)

    @property
    def made(self) -> bool:
        """Whether its vocabulary and rows are of our making; an unchanged model that we exported is
        judged like any other.
        """
        return self.lep is not None and (bool(self.lep.rows) or self.lep.stage in VOCABULARY_STAGES)

    @property
    def strict(self) -> Level:
        """How bad it is to break a rule that is ours: an error in our own models, a warning in
        others'.
        """
        return "error" if self.made else "warning"

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
    def known(self) -> dict[str, int]:
        """Every token's id by its stored spelling."""
        return {
            piece: number for number, piece in enumerate(self.tokens.pieces) if piece is not None
        }

    @cached_property
    def body(self) -> InspectedModel | None:
        """The model that it was made from (the instruct model for LEP), where that is on this
        machine.
        """
        folder = _at_hand(self.lep, ("body",))
        return InspectedModel.open(folder) if folder and folder != self.folder.resolve() else None

    @cached_property
    def origin(self) -> Tokens | None:
        """The tokenizer that its vocabulary came from, where that is on this machine."""
        folder = _at_hand(self.lep, ("donor", "vocabulary", "start"))
        return Tokens.read(folder) if folder and (folder / "tokenizer.json").is_file() else None

    @cached_property
    def raw(self) -> tokenizers.Tokenizer | str:
        """tokenizer.json as it stands, or why the tokenizers library refuses it."""
        try:
            return tokenizers.Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        except Exception as error:  # the tokenizers library raises bare Exception
            return first_line(error)

    @cached_property
    def loaded(self) -> Any:
        """The tokenizer as transformers loads it, or (a string) why it cannot."""
        import transformers

        before = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # what it warns about is looked at here
        try:
            # unset, mistral-common may take over where tekken.json lies about
            mend = bool(self.tokenizer_config.get("fix_mistral_regex"))
            return transformers.AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False, fix_mistral_regex=mend
            )
        except Exception as error:  # somebody else's package
            return f"{type(error).__name__}: {first_line(error)}"
        finally:
            transformers.logging.set_verbosity(before)

    @cached_property
    def chat(self) -> Chat | str | None:
        """None without a chat template; a string says why the template fails."""
        if isinstance(self.loaded, str) or not getattr(self.loaded, "chat_template", None):
            return None
        turns = [("user", QUESTION), ("assistant", ANSWER), ("user", QUESTION)]
        given: dict[str, Any] = {
            "conversation": [{"role": role, "content": text} for role, text in turns],
            "add_generation_prompt": True,
        }
        try:
            text = self.loaded.apply_chat_template(tokenize=False, **given)
            return Chat(text, list(self.loaded.apply_chat_template(return_dict=False, **given)))
        except Exception as error:  # a template is somebody's program
            return f"{type(error).__name__}: {first_line(error)}"

    @cached_property
    def ends(self) -> set[int]:
        """The ids that end a text: generation_config.json's, else config.json's."""
        found = next(
            (
                value
                for part in (self.generation, self.config)
                if (value := part.get("eos_token_id")) is not None
            ),
            None,
        )
        return set(list_ids(found))

    def meaning(self, number: int) -> str | bytes | None:
        """A token by content (special ones) or bytes: what stays the same when ids move."""
        piece = self.tokens.pieces[number] if 0 <= number < self.tokens.size else None
        return (
            piece
            if piece in self.tokens.specials
            else self.tokens.bytes_of(number)
            if piece is not None
            else None
        )

    def specials_in(self, numbers: Iterable[int]) -> list[str]:
        """The contents of the special tokens among some ids, in order."""
        contents = {number: content for content, number in self.tokens.specials.items()}
        return [contents[number] for number in numbers if number in contents]

    def flaw(self, find: Callable[[Tokens], set[str]]) -> tuple[Level, set[str]]:
        """The flaws of its vocabulary and how bad they are: an error only for those that we made.

        What the donor's (or the given vocabulary's) tokenizer brought along is a warning, and so is
        everything where that tokenizer is not at hand to compare with.
        """
        own = find(self.tokens)
        if own and self.made and self.origin is not None and (ours := own - find(self.origin)):
            return "error", ours
        return "warning", own

    def _read(self, name: str) -> dict[str, Any]:
        file = self.folder / name
        try:
            found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        if not isinstance(found, dict):
            raise CheckpointError(f"{file}: a JSON object is expected")
        return found


def list_ids(value: Any) -> list[int]:
    """The ids of a config's field: one, several, or none. A bool is no id, though Python takes it
    for one.
    """
    values = value if isinstance(value, list) else [value]
    return [n for n in values if isinstance(n, int) and not isinstance(n, bool)]


def list_some(names: Iterable[Any], count: int = 3) -> str:
    """The first few of many, for a message."""
    listed = sorted(names)
    return ", ".join(repr(name) for name in listed[:count]) + (
        ", ..." if len(listed) > count else ""
    )


def first_line(error: Exception) -> str:
    """An exception's text in one line of sensible length."""
    return re.sub(r"\s+", " ", str(error)).strip()[:200]


def _at_hand(lep: Lep | None, roles: tuple[str, ...]) -> Path | None:
    """The folder of the first of these parents, where it is on this machine; never fetched for a
    check.
    """
    known = {parent.role: parent for parent in lep.parents} if lep else {}
    parent = next((known[role] for role in roles if role in known), None)
    if parent is None or not parent.location:
        return None
    try:
        return hub.find_cached(parent.location, parent.revision)
    except LepBenchError:  # a folder that is gone
        return None
