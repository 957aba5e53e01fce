"""What is refused before anything is asked: settings that nobody reads, rows that cannot be asked or scored."""

import difflib
from typing import Any

from . import prompts
from .rows import Row, where

PROTOCOLS = ("paper", "strict")
SETTINGS = ("protocol", "conversation", "tokenizer", "pretrained", "data", "max_length", "prompt_characters")


def settings(name: str, protocol: str, conversation: str | None, metadata: dict[str, Any]) -> None:
    """The settings in the metadata of the task `name`. Raises ValueError for one that is misspelt or of no known value."""
    # lm-eval puts the model's arguments here, too: only what is nearly one of ours is a slip of the pen.
    for key in metadata.keys() - set(SETTINGS):
        near = difflib.get_close_matches(key, SETTINGS, n=1, cutoff=0.88)
        if near:
            raise ValueError(f"{name}: the metadata has {key!r}: did you mean {near[0]}?")
    if protocol not in PROTOCOLS:
        raise ValueError(f"{name}: there is no protocol {protocol!r}: {' and '.join(PROTOCOLS)} are known")
    known = (prompts.TEMPLATE, prompts.PLAIN) if protocol == "strict" else (prompts.TEMPLATE, *prompts.FORMATS)
    if conversation is not None and conversation not in known:
        raise ValueError(f"{name}: conversation {conversation!r} under protocol {protocol}: {', '.join(known)} are known")
    for key in ("max_length", "prompt_characters"):
        value = metadata.get(key)
        if value is not None and not (str(value).isdecimal() and int(value) > 0):
            raise ValueError(f"{name}: {key} is {value!r} in the metadata: a whole number above 0 is needed")


class Checked:
    """The rows of a task, looked at one by one. What a task needs of its rows beyond an answer, it says itself."""

    config: Any
    fewshot_cfg: Any

    def check_rows(self, found: list[Row]) -> None:
        """All test rows. Raises ValueError, by file and line, for one that cannot be asked or scored, or that stands twice."""
        seen: dict[str, Row] = {}
        for doc in found:
            self.check_row(doc)
            number = (doc.get("meta") or doc).get("id")
            # Rows without an id may be the same by chance; an id says that they are not.
            if number is not None and seen.setdefault(str(number), doc) is not doc and seen[str(number)] == doc:
                raise self.wrong(doc, f"the same row as {where(seen[str(number)])}: take one of them out")

    def check_row(self, doc: Row) -> None:
        """One test row: its prompts and its right answer."""
        self.variants(doc)
        self.gold(doc)

    def check_shot(self, row: Row) -> None:
        """One few-shot row: its answer, and that its last message says one."""
        self.gold(row)
        last = self.shot(row)[-1]
        if last["role"] != "assistant" or last["content"].rstrip().endswith(":"):
            raise self.wrong(row, "a shot must end with its answer, this one ends with " + repr(last["content"][-40:]))

    def gold(self, doc: Row) -> Any:
        """The right answer. Raises ValueError for a row without one."""
        answer = self.doc_to_target(doc)
        if not isinstance(answer, str) or not answer.strip():
            raise self.wrong(doc, f"its answer is {answer!r}: a text is needed")
        return answer

    def wrong(self, doc: Row, why: str) -> ValueError:
        """What is wrong with a row, by file and line where they are known."""
        return ValueError(f"{self.config.task}: {getattr(doc, 'place', '') or f'row {self.row_name(doc)}'}: {why}")

    def row_name(self, doc: Row) -> str:
        """How a message calls a row: its id, its subject, the beginning of its text."""
        meta = doc.get("meta") or {}
        named = [f"{key} {value}" for key, value in (("id", meta.get("id", doc.get("id"))), ("subject", doc.get("subject"))) if value is not None]
        return ", ".join(named) or repr(next((m["content"] for m in self.variants(doc)[0]), ""))[:80]
