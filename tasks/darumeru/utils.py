"""The Darumeru tasks for lm-eval. Plain lm-eval code: works with `lm_eval run --include_path` from any folder.

Each class says what is asked and how the answers are scored; what they share is in `base.py` and `kinds.py`.
"""

import hashlib
import importlib
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lm_eval.api.metrics import mean  # lm-eval's own: it knows the standard error of that one only


def _package() -> str:
    """The name under which this folder can be imported from. lm-eval loads this file by path, outside any package."""
    folder = Path(__file__).resolve().parent
    name = f"darumeru_{hashlib.blake2b(str(folder).encode(), digest_size=8).hexdigest()}"
    for known in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[known]  # lm-eval loads this file anew when it has changed: then its siblings may have, too
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(folder)]
    return name


_NAME = _package()
kinds, prompts, metrics, mmlu, lemmas = (importlib.import_module(f"{_NAME}.{name}") for name in ("kinds", "prompts", "metrics", "mmlu", "lemmas"))
Row = dict[str, Any]
Results = list[Any]


class Choice(kinds.OptionTask):
    """One of a few one-letter options; the gold option stands in `outputs`."""

    NAMES = {"acc": mean, "score": mean}

    def process_results(self, doc: Row, results: Results) -> dict[str, Any]:
        right = float(self.doc_to_prediction(doc, results) == self.gold(doc))
        return {"acc": right, "score": right}

    def gold(self, doc: Row) -> str:
        """The right option. Raises ValueError for a row whose answer is none of them."""
        if (answer := self.doc_to_target(doc)) not in self.OPTIONS:
            raise self.wrong(doc, f"its answer {answer!r} is none of {', '.join(self.OPTIONS)}")
        return answer

    def doc_to_prediction(self, doc: Row, results: Results) -> str:
        """The option that is chosen."""
        return metrics.choose([value for value, _ in results], self.OPTIONS)


class RuMmlu(Choice):
    """MERA's ruMMLU: plain accuracy over all rows."""

    OPTIONS = metrics.LETTERS


class Rwsd(Choice):
    """Winograd schemas: right when the gold answer begins with the chosen one."""

    OPTIONS = ("Да", "Нет")

    def gold(self, doc: Row) -> str:
        return next((option for option in self.OPTIONS if str(doc["outputs"]).startswith(option)), "") or super().gold(doc)

    def process_results(self, doc: Row, results: Results) -> dict[str, Any]:
        right = float(doc["outputs"].startswith(self.doc_to_prediction(doc, results)))
        return {"acc": right, "score": right}


class ChoiceF1(Choice):
    """Accuracy and macro F1; the score is their mean."""

    OPTIONS = metrics.LETTERS
    NAMES = {"acc": mean, "f1_macro": metrics.f1_macro, "score": metrics.half_f1}

    def process_results(self, doc: Row, results: Results) -> dict[str, Any]:
        pair = (self.gold(doc), self.doc_to_prediction(doc, results))
        return {"acc": float(pair[0] == pair[1]), "f1_macro": pair, "score": pair}


class Rcb(ChoiceF1):
    """Does the hypothesis follow (1), contradict (2) or neither (3)?"""

    OPTIONS = ("1", "2", "3")


class Parus(Choice):
    """Two alternatives, each row as is and with the alternatives exchanged: right only if both orders are."""

    OPTIONS = ("1", "2")

    def variants(self, doc: Row) -> list[Any]:
        inputs = doc["inputs"]
        if not {"choice1", "choice2"} <= set(inputs):
            raise self.wrong(doc, "its inputs have no choice1 and choice2")
        return [prompts.filled(doc), prompts.filled(doc, choice1=inputs["choice2"], choice2=inputs["choice1"])]

    def process_results(self, doc: Row, results: Results) -> dict[str, Any]:
        return metrics.parus([value for value, _ in results], self.gold(doc))

    def doc_to_prediction(self, doc: Row, results: Results) -> str:
        """The answers to both orders."""
        values = [value for value, _ in results]
        return f"{metrics.choose(values[:2], self.OPTIONS)}, exchanged {metrics.choose(values[2:], self.OPTIONS)}"


class Rucola(Choice):
    """Is a sentence acceptable? Accuracy and Matthews correlation; the score is their mean."""

    FIELDS = ("sentence", "label")
    OPTIONS = ("0", "1")
    FIRST_SHOT = 29
    NAMES = {"acc": mean, "mcc": metrics.mcc, "score": metrics.half_mcc}
    QUESTION = (
        "Твоя задача определить приемлемость текста для русского языка с точки зрения синтаксиса, морфологии и семантики. "
        "Ответом должно служить одно число: 0 или 1, где 0 - предложение не приемлемо с точки зрения русского языка, "
        "1 - приемлемо.\nТекст: "
    )

    def variants(self, doc: Row) -> list[Any]:
        return [prompts.exchange(self.QUESTION + doc["sentence"], "Ответ:")]

    def shot(self, row: Row) -> Any:
        return prompts.exchange(self.QUESTION + row["sentence"], "Ответ:", self.doc_to_target(row))

    def doc_to_target(self, doc: Row, doc_to_target: Any = None) -> str:
        return str(doc["label"]).strip()

    def process_results(self, doc: Row, results: Results) -> dict[str, Any]:
        pair = (self.gold(doc), self.doc_to_prediction(doc, results))
        return {"acc": float(pair[0] == pair[1]), "mcc": pair, "score": pair}


class _Mmlu(Choice):
    """The 57 subjects of MMLU, macro-averaged over subjects and then over four categories."""

    LANGUAGE = "ru"
    CONFIGS = tuple(metrics.SUBJECTS)
    OPTIONS = metrics.LETTERS
    NATURAL_ORDER = True
    NAMES = {"acc": metrics.by_category, "score": metrics.by_category}

    def __init__(self, config: Row, **rest: Any) -> None:
        self.FIELDS = (f"question_{self.LANGUAGE}", f"choices_{self.LANGUAGE}", "answer")
        super().__init__(config, **rest)

    def merged(self, rows: dict[str, list[Row]]) -> list[Row]:
        return [type(row)({**row, "subject": subject}, row.place) for subject, own in rows.items() for row in own]

    def shot_rows(self, doc: Row) -> list[Row]:
        subject = self._subject(doc)
        return [row for row in super().shot_rows(doc) if row["subject"] == subject]

    def _subject(self, doc: Row) -> str:
        if doc.get("subject") not in metrics.SUBJECTS:
            raise ValueError(f"{self.config.task}: the row's subject is {doc.get('subject')!r}: one of MMLU's 57 is needed")
        return doc["subject"]

    def variants(self, doc: Row) -> list[Any]:
        return [prompts.exchange(mmlu.question(doc, self.LANGUAGE), mmlu.LEADS[self.LANGUAGE])]

    def shot(self, row: Row) -> Any:
        return prompts.exchange(mmlu.question(row, self.LANGUAGE), mmlu.LEADS[self.LANGUAGE], mmlu.answer(row))

    def headed(self, doc: Row, messages: Any, shots: int) -> Any:
        """The headline stands before the first shot; protocol paper has none without shots (as the benchmark had none)."""
        if not shots and self.protocol == "paper":
            return messages
        first = {**messages[0], "content": mmlu.headline(self._subject(doc), self.LANGUAGE) + messages[0]["content"]}
        return [first, *messages[1:]]

    def doc_to_target(self, doc: Row, doc_to_target: Any = None) -> str:
        return mmlu.answer(doc)

    def process_results(self, doc: Row, results: Results) -> dict[str, Any]:
        subject = self._subject(doc) if doc.get("subject") else ""
        right = (subject, float(self.doc_to_prediction(doc, results) == self.gold(doc)))
        return {"acc": right, "score": right}


class MmluRu(_Mmlu):
    """MMLU in Russian."""


class MmluEn(_Mmlu):
    """MMLU in English, from the same rows."""

    LANGUAGE = "en"


class MultiQ(kinds.GenerationTask):
    """A question over two texts; any of the accepted segments is right."""

    CHARACTERS = 256
    NAMES = {"f1": mean, "em": mean, "score": mean}

    def doc_to_target(self, doc: Row, doc_to_target: Any = None) -> list[str]:
        """The accepted answers. Raises ValueError for a row without any."""
        found = doc["outputs"]
        if isinstance(found, str) and found:  # as shots may have it
            return [found]
        if not (isinstance(found, list) and found and all(isinstance(a, dict) and isinstance(a.get("segment"), str) for a in found)):
            raise self.wrong(doc, f"its outputs must be a list of accepted answers, {{segment: text}} each, not {str(found)[:60]}")
        return [answer["segment"] for answer in found]

    gold = doc_to_target  # the check is in it

    def score(self, doc: Row, text: str) -> dict[str, Any]:
        return metrics.squad(text, self.doc_to_target(doc))


class Use(kinds.GenerationTask):
    """Tasks of the Unified State Exam; the grade of each of its variants, over full marks."""

    CHARACTERS = 64
    NAMES = {"grade_norm": metrics.grade, "score": metrics.grade}

    def check_row(self, doc: Row) -> None:
        super().check_row(doc)
        missing = [name for name in ("type", "id_task", "variant") if doc["meta"].get(name) is None]
        if missing:
            raise self.wrong(doc, f"its meta has no {', '.join(missing)}: points cannot be given without")

    def score(self, doc: Row, text: str) -> dict[str, Any]:
        meta = doc["meta"]
        value = (metrics.exam_points(text, doc["outputs"], str(meta["type"]), str(meta["id_task"])), meta["variant"])
        return {"grade_norm": value, "score": value}


class Abstractive(kinds.GenerationTask):
    """A short summary of an article, against a summary written by hand."""

    FIELDS = ("src_sents", "summary_sents")
    FIRST_ROWS = 500
    NEW_TOKENS = 512
    CHARACTERS = 2000
    NAMES = {"rouge1": mean, "rouge2": mean, "score": mean}
    QUESTION = "Напиши краткую аннотацию на русском языке к следующему тексту.\nТекст: "

    def variants(self, doc: Row) -> list[Any]:
        return [prompts.exchange(self.QUESTION + " ".join(doc["src_sents"]), "TL;DR:")]

    def shot(self, row: Row) -> Any:
        return prompts.exchange(self.QUESTION + " ".join(row["src_sents"]), "TL;DR:", self.doc_to_target(row))

    def doc_to_target(self, doc: Row, doc_to_target: Any = None) -> str:
        return " ".join(doc["summary_sents"])

    def score(self, doc: Row, text: str) -> dict[str, Any]:
        return lemmas.rouge(text, self.doc_to_target(doc))


class Extractive(kinds.OptionTask):
    """Which sentences of an article are its summary? The most probable ones after the lead-in; never any shots.

    Sentences are compared over equal lengths: as many tokens (strict: characters) as the article's shortest has.
    """

    FIELDS = ("src_sents", "extractive_summary")
    FIRST_ROWS = 500
    NAMES = {"r_prec": mean, "score": mean}
    LEAD = "Наиболее важные предложения статьи:"

    def variants(self, doc: Row) -> list[Any]:
        return [prompts.exchange("Твоя задача определить наиболее важные предложения.\nТекст: " + " ".join(doc["src_sents"]), self.LEAD)]

    def options(self, doc: Row) -> list[str]:
        self.gold(doc)  # a row that cannot be scored is found before the model is asked
        sentences = doc["src_sents"]
        if self.protocol == "paper":
            return self.tokens_for("cutting sentences to equal lengths").cut_alike(self.LEAD, sentences)
        length = max(1, min(map(len, sentences)))
        return [" " + sentence[:length] for sentence in sentences]

    def doc_to_target(self, doc: Row, doc_to_target: Any = None) -> list[int]:
        """Numbers of the right sentences. Raises ValueError where there is none, or no such sentence."""
        given, count = doc["extractive_summary"], len(doc["src_sents"])
        if not given:
            raise self.wrong(doc, "its extractive_summary is empty: R-precision is not defined")
        if not all(str(number).isdecimal() and int(number) < count for number in given):
            raise self.wrong(doc, f"its extractive_summary names sentences {given}, but there are {count}, numbered from 0")
        return [int(number) for number in given]

    gold = doc_to_target

    def process_results(self, doc: Row, results: Results) -> dict[str, Any]:
        gold, count = self.gold(doc), len(doc["src_sents"])
        if len(results) != count:
            raise self.wrong(doc, f"{count} sentences, but {len(results)} results")
        share = metrics.r_precision([value for value, _ in results], gold)
        return {"r_prec": share, "score": share}

    def doc_to_prediction(self, doc: Row, results: Results) -> str:
        """Numbers of the sentences chosen, the most probable first."""
        values = [value for value, _ in results]
        return str(sorted(range(len(values)), key=lambda i: -values[i])[: len(doc["extractive_summary"])])


class _Copy(kinds.GenerationTask):
    """Repeat a text. Protocol paper counts the model's own tokens; strict compares characters and needs no tokenizer."""

    PRIMARY = "len"
    TOKENS_SCORED = True
    NAMES = {"len": mean, "lcs": mean, "symbols_per_token": mean, "score": mean}
    STOPS = ("\n\n",)  # strict, plain text: the text itself may have line breaks

    def aggregation(self) -> dict[str, Callable[..., float]]:
        return {name: mean for name in self.NAMES if self.protocol == "paper" or name != "symbols_per_token"}

    def doc_to_target(self, doc: Row, doc_to_target: Any = None) -> str:
        return doc["inputs"].get("text") or doc["outputs"]

    def characters_for(self, doc: Row) -> int:
        """A quarter more than the text, so that no output ends before the text does."""
        return min(self.CHARACTERS, math.ceil(1.25 * len(self.doc_to_target(doc))) + 16)

    def score(self, doc: Row, text: str) -> dict[str, Any]:
        gold = self.doc_to_target(doc)
        if self.protocol == "paper":
            tokens = self.tokens_for("counting the tokens of copies")
            found = metrics.copy_tokens(gold, text, self.NEW_TOKENS, tokens.count_copy, tokens.count)
            return {**found, "score": found[self.PRIMARY]}
        return self.strict_score(metrics.copy_characters(gold, text))

    def strict_score(self, found: dict[str, float]) -> dict[str, float]:
        return {**found, "score": found["lcs"]}


class CopySentence(_Copy):
    """The score is the ratio of lengths; strict: the longest common subsequence over the sentence's length."""

    NEW_TOKENS = 128
    CHARACTERS = 1000


class CopyParagraph(_Copy):
    """The score is the share of paragraphs that are copied (99% of the characters)."""

    PRIMARY = "lcs"
    NEW_TOKENS = 1024
    CHARACTERS = 6000
    STEP = 512

    def strict_score(self, found: dict[str, float]) -> dict[str, float]:
        copied = float(found["lcs"] >= metrics.COPIED)
        return {**found, "lcs": copied, "score": copied}
