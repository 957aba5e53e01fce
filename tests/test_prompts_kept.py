"""A worker keeps compiled prompts for the next model, if it would be asked the very same."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lep_bench.config.schema import Conversation
from lep_bench.evaluate import lmeval
from lep_bench.pipeline import worker
from lep_bench.records.schema import Scoring


@dataclass
class Asker:
    """A worker in which `compile_task` is replaced: it counts how often prompts are compiled."""

    folder: Path
    compiled: list[str] = field(default_factory=list)
    state: Any = None

    def ask(
        self, files: dict[str, str], conversation: Conversation, scoring: Scoring, task: str
    ) -> None:
        """Have the prompts of a task compiled for a model with these tokenizer files."""
        folder = self.folder / str(len(list(self.folder.iterdir())))
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        node = SimpleNamespace(conversation=conversation, scoring=scoring)
        cell = SimpleNamespace(task=SimpleNamespace(name=task))
        worker._compile_cell(cell, SimpleNamespace(folder=folder), node, self.state)


FILES = {"tokenizer.json": "{}", "config.json": '{"max_position_embeddings": 128, "vocab_size": 5}'}
PLAIN = Conversation(format="plain", shots=2)
USUAL: dict[str, Any] = {"files": FILES, "conversation": PLAIN, "scoring": Scoring(), "task": "one"}
OTHERS: dict[str, dict[str, Any]] = {
    "tokenizer": {"files": {**FILES, "tokenizer.json": "[]"}},
    "settings of the tokenizer": {"files": {**FILES, "tokenizer_config.json": "{}"}},
    "chat template": {"files": {**FILES, "chat_template.jinja": "x"}},
    "positions": {"files": {**FILES, "config.json": '{"max_position_embeddings": 64}'}},
    "shots": {"conversation": Conversation(format="plain", shots=1)},
    "format": {"conversation": Conversation(format="chat", shots=2)},
    "listed conversation": {"scoring": Scoring(conversation="llama3")},
    "limit": {"scoring": Scoring(limit=5)},
    "task": {"task": "two"},
}
SAME: dict[str, dict[str, Any]] = {
    "another folder": {},
    "weights": {"files": {**FILES, "model.safetensors": "x"}},
    "size of the vocabulary": {
        "files": {**FILES, "config.json": '{"max_position_embeddings": 128}'}
    },
}


@pytest.fixture
def asker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asker:
    made = Asker(tmp_path)
    made.state = worker.State(SimpleNamespace(tasks=()), None)  # type: ignore[arg-type]
    monkeypatch.setattr(lmeval, "compile_task", lambda name, *_, **__: made.compiled.append(name))
    return made


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_asked_otherwise_is_compiled_anew(asker: Asker, name: str) -> None:
    asker.ask(**USUAL)
    asker.ask(**{**USUAL, **OTHERS[name]})
    assert len(asker.compiled) == 2


@pytest.mark.parametrize("name", SAME)
def test_what_is_asked_alike_is_compiled_once(asker: Asker, name: str) -> None:
    asker.ask(**USUAL)
    asker.ask(**{**USUAL, **SAME[name]})
    assert len(asker.compiled) == 1


def test_the_prompts_that_were_used_last_are_kept(asker: Asker) -> None:
    kinds = [{**USUAL, "scoring": Scoring(limit=n)} for n in range(1, worker.PROMPTS_KEPT + 2)]
    for kind in [*kinds[:-1], kinds[0], kinds[-1], kinds[0]]:
        asker.ask(**kind)
    assert len(asker.compiled) == len(kinds), "the first was used again, so the second had to go"
    asker.ask(**kinds[1])
    assert len(asker.compiled) == len(kinds) + 1
