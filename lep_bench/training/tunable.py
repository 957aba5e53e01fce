"""What a tuning adapter is given: the model to tune, what it may be tuned on, and the tuning itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lep_bench.artifact import Artifact, Lep
from lep_bench.errors import LepBenchError
from lep_bench.surgery import reading
from lep_bench.training import finetune as tuning
from lep_bench.training import texts
from lep_bench.training.finetune import Example, Recipe


@dataclass
class Tunable:
    """`start` is the model to tune, `out` where the result goes, `answers_file` a JSONL of {"prompt", "answer"} (and
    "finished", false for an answer that was cut) by the ORIGINAL instruct model, `corpus` the family's. `notes` collects
    what was left out, for lep.json."""

    start: Artifact
    out: Path
    lep: Lep
    answers_file: Path | None = None
    corpus: str | tuple[str, ...] | None = None
    seed: int = 0
    progress: Callable[[int, int, float], None] = lambda done, steps, loss: None
    notes: list[str] = field(default_factory=list)

    def answers(self, n: int, max_tokens: int) -> list[Example]:
        """The first `n` prompts with the original instruct model's answers, sensible ones only.

        Left out: answers that are empty, that are longer than `max_tokens` of this model's tokens, or that were cut
        before their end; their counts go into `notes`. Raises LepBenchError without a file, or when nothing is left.
        """
        rows = self._rows()[:n]
        if len(rows) < n:
            raise LepBenchError(f"{self.answers_file}: {len(rows)} answers, {n} asked for")
        tokenizer, _ = reading.load(self.start.folder)  # `finetune` reports what had to be done to it
        lengths = [len(ids) for ids in tokenizer([str(row["answer"]) for row in rows], add_special_tokens=False)["input_ids"]] if rows else []
        left, kept = {"empty": 0, "not finished": 0, f"over {max_tokens} tokens": 0}, []
        for row, length in zip(rows, lengths, strict=True):
            why = "empty" if not row["answer"].strip() else "not finished" if not row.get("finished", True) else None
            why = why or (f"over {max_tokens} tokens" if length > max_tokens else None)
            if why:
                left[why] += 1
            else:
                kept.append(Example(row["prompt"], row["answer"]))
        if rows and not kept:
            raise LepBenchError(f"{self.answers_file}: none of {len(rows)} answers is usable: {_counts(left)}")
        self.notes.append(f"{len(kept)} of {n} answers of the original instruct model" + (f"; left out: {_counts(left)}" if len(kept) < n else ""))
        return kept

    def copies(self, n: int) -> list[Example]:
        """`n` copy exercises from the family's corpus."""
        self.notes.append(f"{n} texts to repeat")
        return [Example(prompt, answer) for prompt, answer in texts.copy_prompts(self.corpus, n)] if n else []

    def examples(self, file: str | Path) -> list[Example]:
        """All rows {"prompt", "answer"} of a JSONL file of yours."""
        return [Example(row["prompt"], row["answer"]) for row in read_jsonl(Path(file).expanduser())]

    def finetune(self, examples: Sequence[Example], recipe: Recipe) -> Artifact:
        """Tune `start` on `examples` (see `lep_bench.training.finetune.finetune`); what an adapter gives back."""
        lep = self.lep.model_copy(update={"notes": (*self.lep.notes, *self.notes)})
        return tuning.finetune(self.start, self.out, examples, recipe, lep=lep, seed=self.seed, progress=self.progress)

    def _rows(self) -> list[dict[str, str]]:
        if self.answers_file is None:
            raise LepBenchError(f"{self.lep.model}: no answers of the original instruct model: the tuning's params need `answers` above 0")
        return read_jsonl(self.answers_file)


def read_jsonl(file: Path) -> list[dict[str, str]]:
    """Rows with "prompt" and "answer". Raises LepBenchError (file:line) for anything else."""
    try:
        with open(file, encoding="utf-8") as opened:
            lines = list(opened)  # not splitlines(): an answer may hold U+2028, which ends no line of the file
    except (OSError, UnicodeDecodeError) as error:
        raise LepBenchError(f"{file} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row["prompt"], str) or not isinstance(row["answer"], str):
                raise TypeError
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise LepBenchError(f'{file}:{number}: {{"prompt": text, "answer": text}} is expected') from error
        rows.append(row)
    return rows


def _counts(left: dict[str, int]) -> str:
    parts: Iterable[str] = (f"{count} {why}" for why, count in left.items() if count)
    return ", ".join(parts)
