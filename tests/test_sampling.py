"""Cells whose answers are sampled: scores per seed, their mean and spread, and samples that
everything can be recomputed from.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from lep_bench.config.schema import Conversation
from lep_bench.engines.base import Sampling
from lep_bench.engines.hf import HfEngine
from lep_bench.errors import TaskError
from lep_bench.evaluate import prompts
from lep_bench.evaluate.lmeval import compile_task
from lep_bench.evaluate.prompts import CompiledTask
from lep_bench.evaluate.score import score_task
from lep_bench.records.artifact import Artifact, Lep
from lep_bench.testing import pico
from tests.engines.agreement import draws_agree

ROWS = 12
YAML = """
task: {name}
output_type: generate_until
doc_to_text: "{{{{question}}}} "
doc_to_target: question
generation_kwargs: {{until: ["."], max_gen_toks: 6, {sampling}}}
custom_dataset: !function utils.rows
test_split: test
process_results: !function utils.process
metric_list:
  - {{metric: length, aggregation: mean, higher_is_better: true}}
  - {{metric: exam, aggregation: !function utils.exam, higher_is_better: true}}
  - {{metric: score, aggregation: !function utils.score, higher_is_better: true}}
"""
UTILS = """
import datasets

def rows(**_):
    return {"test": datasets.Dataset.from_list([{"question": "fox hill " * (n % 3 + 1) + str(n), "variant": n % 4} for n in range(12)])}

def process(doc, results):
    (text,) = results
    return {"length": len(text), "exam": (doc["variant"], text.count("e") + len(text)), "score": ("e", "e" if "e" in text else "none")}

def exam(items):
    points = {}
    for variant, own in items:
        points[variant] = points.get(variant, 0) + own
    return sum(points.values()) / len(points) / 34

def score(items):
    return sum(gold == predicted for gold, predicted in items) / len(items)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tasks")
    (made / "utils.py").write_text(UTILS)
    for name, sampling in {
        "wild": "do_sample: true, temperature: 2.0, top_p: 0.95, top_k: 40",
        "tame": "do_sample: false",
    }.items():
        (made / f"{name}.yaml").write_text(YAML.format(name=name, sampling=sampling))
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico.family(tmp_path_factory.mktemp("pico"))[1]


def asked(
    name: str, folder: Path, model: Path, samplings: int, limit: int | None = None
) -> tuple[CompiledTask, object]:
    artifact = Artifact(
        model, model, Lep(model="pico", fingerprint="0", kind="checkpoint", stage="instruct")
    )
    engine = HfEngine(model)
    engine.exchange(artifact)
    compiled = compile_task(
        name, model, Conversation(format="plain"), task_folders=[folder], limit=limit
    )
    return compiled, score_task(engine, artifact, compiled, samplings)


def exam(items: list[tuple[int, float]]) -> float:
    points: dict[int, float] = defaultdict(float)
    for variant, own in items:
        points[variant] += own
    return sum(points.values()) / len(points) / 34


def test_scores_are_means_over_seeds_and_follow_from_the_samples(folder: Path, model: Path) -> None:
    _, scored = asked("wild", folder, model, 5)
    samples = [json.loads(sample.model_dump_json())["values"] for sample in scored.samples]
    assert len(samples) == ROWS and all(len(values["samplings"]) == 5 for values in samples)
    texts = [[one["text"] for one in values["samplings"]] for values in samples]
    assert sum(len(set(own)) > 1 for own in texts) > ROWS // 2  # the seeds do differ
    lengths = [statistics.fmean(len(own[seed]) for own in texts) for seed in range(5)]
    exams = [
        exam([(n % 4, text.count("e") + len(text)) for n, text in enumerate(own)])
        for own in zip(*texts, strict=True)
    ]
    right = [statistics.fmean("e" in text for text in own) for own in zip(*texts, strict=True)]
    for name, each in {"length": lengths, "exam": exams, "score": right}.items():
        found = scored.scores[name]
        assert found.samplings == 5
        assert found.value == pytest.approx(
            statistics.fmean(each)
        ) and found.spread == pytest.approx(statistics.stdev(each))
        assert found.stderr is not None
    for n, (values, own) in enumerate(zip(samples, texts, strict=True)):
        assert values["text"] == own[0]
        assert values["length"] == pytest.approx(statistics.fmean(map(len, own)))
        assert values["exam"] == [
            n % 4,
            pytest.approx(statistics.fmean(text.count("e") + len(text) for text in own)),
        ]
        assert [one["score"] for one in values["samplings"]] == [
            ["e", "e" if "e" in text else "none"] for text in own
        ]


def test_an_answer_does_not_depend_on_what_else_is_asked(folder: Path, model: Path) -> None:
    _, whole = asked("wild", folder, model, 3)
    _, part = asked("wild", folder, model, 3, limit=4)
    _, once = asked("wild", folder, model, 1, limit=2)
    texts = [
        [one["text"] for sample in scored.samples[:4] for one in sample.values["samplings"]]
        for scored in (whole, part)
    ]
    draws_agree(*texts)
    assert len(texts[0]) == 12
    draws_agree(
        [s.values["text"] for s in once.samples], [s.values["text"] for s in whole.samples[:2]]
    )
    assert once.scores["length"].spread is None and once.scores["length"].samplings == 1


def test_greedy_answers_are_asked_for_once(folder: Path, model: Path) -> None:
    compiled, scored = asked("tame", folder, model, 5)
    assert scored.requests == len(compiled.requests) == ROWS
    assert {(s.spread, s.samplings) for s in scored.scores.values()} == {(None, 1)}
    assert "samplings" not in scored.samples[0].values
    assert scored.samples[0].values["score"][0] == "e" and scored.samples[0].values["exam"][0] == 0


def test_generation_arguments_are_read_strictly() -> None:
    def read(**arguments: object) -> prompts.Generation:
        return prompts.read_generation(SimpleNamespace(task_name="t", args=("", arguments)))

    assert read(until="\n", max_gen_toks=9, do_sample=False, temperature=0.0) == prompts.Generation(
        9, ("\n",), None
    )
    assert read(until=["a", ""], temperature=0.7).sampling == Sampling(0.7)
    assert read(
        do_sample=True, temperature=0.1, top_p=0.9, top_k=40, num_beams=1
    ).sampling == Sampling(0.1, 40, 0.9)
    assert read() == prompts.Generation(prompts.NEW_TOKENS, (), None)
    with pytest.raises(
        TaskError,
        match="task t asks for generation with repetition_penalty=1.2: that is not offered",
    ):
        read(repetition_penalty=1.2)
    with pytest.raises(TaskError, match="task t asks for sampling that cannot be"):
        read(do_sample=True, temperature=0.0)
