"""Scores through compiled tasks against lm-eval's own `evaluate` with its own Hugging Face
backend.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lep_bench.config.schema import Conversation
from lep_bench.engines.hf import HfEngine
from lep_bench.errors import CheckpointError, TaskError, UnknownNameError
from lep_bench.evaluate.encode import Encoder
from lep_bench.evaluate.engine_lm import EngineLM
from lep_bench.evaluate.lmeval import compile_task, compile_tasks, tokenizer_digest
from lep_bench.evaluate.score import Answer, _cut_text, score_task
from lep_bench.records.artifact import Artifact, Lep
from lep_bench.stats import aggregate_stderr
from lep_bench.testing import pico
from tests.engines.agreement import certain

TASKS = {
    "pico_choice": """
task: pico_choice
output_type: multiple_choice
doc_to_text: "Question: {{question}} Answer:"
doc_to_choice: "{{options}}"
doc_to_target: gold
fewshot_split: test
fewshot_config: {sampler: first_n}
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: mcc, aggregation: matthews_corrcoef, higher_is_better: true}
metadata: {version: 1.5, primary: acc}
""",
    "pico_likely": """
task: pico_likely
output_type: loglikelihood
doc_to_text: question
doc_to_target: " {{options[gold]}} {{question}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "pico_text": """
task: pico_text
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
num_fewshot: 0
metric_list:
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
    "pico_write": """
task: pico_write
output_type: generate_until
doc_to_text: "{{question}} "
doc_to_target: question
generation_kwargs: {until: ["e", "и"], max_gen_toks: 12, do_sample: false}
filter_list:
  - {name: whole, filter: [{function: take_first}]}
  - {name: letters, filter: [{function: regex, regex_pattern: "([a-z]+)"}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
""",
}
WORDS = "red green fox dog hill river рыжая лиса холм собака река one two".split()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    generator = np.random.default_rng(0)
    rows = []
    for n in range(23):
        question = " ".join(generator.choice(WORDS, generator.integers(2, 9)))
        options = [
            " ".join(generator.choice(WORDS, generator.integers(1, 4))) + f" {i}" for i in range(4)
        ]
        text = " ".join(generator.choice(WORDS, 30 if n % 5 else 150))
        rows.append(
            {
                "question": question,
                "options": options,
                "gold": int(generator.integers(4)),
                "text": text,
                "group": f"g{n // 3}",
            }
        )
    (folder / "rows.jsonl").write_text(
        "\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8"
    )
    (folder / "utils.py").write_text(
        "import datasets, json, pathlib\n"
        "def rows(**_):\n"
        "    lines = "
        "pathlib.Path(__file__).with_name('rows.jsonl').read_text(encoding='utf-8').splitlines()\n"
        "    return {'test': datasets.Dataset.from_list([json.loads(line) for line in lines])}\n"
    )
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(
            text + "custom_dataset: !function utils.rows\ntest_split: test\n", encoding="utf-8"
        )
    return folder


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pico.family(tmp_path_factory.mktemp("pico"), kind=request.param, layers=2)[1]


def artifact(folder: Path) -> Artifact:
    return Artifact(
        folder, folder, Lep(model="pico", fingerprint="0", kind="checkpoint", stage="instruct")
    )


def loaded(folder: Path) -> HfEngine:
    engine = HfEngine(folder)
    engine.exchange(artifact(folder))
    return engine


def reference(
    lm: Any, names: list[str], folder: Path, shots: int, chat: bool
) -> dict[str, dict[str, Any]]:
    """lm-eval's own way, from the same files."""
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    loaded_tasks = TaskManager(include_path=str(folder), include_defaults=False).load(names)
    for task in loaded_tasks["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(1234)
    return evaluate(
        lm=lm,
        task_dict=loaded_tasks,
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=True,
    )


def hflm(folder: Path, **rest: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=3, **rest)


@pytest.mark.parametrize(
    "conversation",
    [Conversation(format="plain", shots=2), Conversation(format="chat", shots=1)],
    ids=lambda c: c.format,
)
def test_scores_equal_lm_evals_own(tasks: Path, model: Path, conversation: Conversation) -> None:
    names = ["pico_choice", "pico_likely", "pico_write"]
    expected = reference(
        hflm(model), names, tasks, conversation.shots, conversation.format == "chat"
    )
    through = reference(
        EngineLM(loaded(model), artifact(model)),
        names,
        tasks,
        conversation.shots,
        conversation.format == "chat",
    )
    engine = loaded(model)
    for compiled in compile_tasks(names, model, conversation, task_folders=[tasks]):
        scored = score_task(engine, artifact(model), compiled)
        assert compiled.shots == conversation.shots == scored.samples[0].shots
        filters = ["whole", "letters"] if compiled.name == "pico_write" else ["none"]
        for n, name in enumerate(filters):
            metrics = [
                key.split(",")[0]
                for key in expected["results"][compiled.name]
                if key.endswith(f",{name}") and "stderr" not in key
            ]
            assert metrics
            for metric in metrics:
                ours = scored.scores[metric if n == 0 else f"{metric},{name}"].value
                for theirs in (expected, through):
                    assert ours == pytest.approx(
                        theirs["results"][compiled.name][f"{metric},{name}"], rel=1e-5
                    ), (compiled.name, metric)
        contexts = (
            [compiled.ids[item.requests[0]][0] for item in compiled.items]
            if compiled.name == "pico_write"
            else []
        )
        equal = certain(engine, contexts, 12)
        assert sum(equal) >= len(equal) / 2
        for n, (sample, theirs) in enumerate(
            zip(scored.samples, expected["samples"][compiled.name], strict=False)
        ):
            assert sample.doc_id == theirs["doc_id"]
            if compiled.name == "pico_write":
                assert not equal[n] or sample.values["text"] == theirs["resps"][0][0]
                assert sample.values["stopped"] or sample.values["tokens"] == [12], (
                    "at most 12 new tokens"
                )
            else:
                wanted = [answer[0] for [answer] in theirs["resps"]]
                assert sample.values["logprobs"] == pytest.approx(wanted, abs=2e-4, rel=1e-5)


def test_rolling_texts_have_one_bos_and_windows_of_the_models_length(
    tasks: Path, model: Path
) -> None:
    engine = loaded(model)
    engine.max_length = 64  # several windows for the longest texts
    compiled = compile_task("pico_text", model, Conversation(format="plain"), task_folders=[tasks])
    assert max(len(text) for _, text in compiled.ids) > 128
    scored = score_task(engine, artifact(model), compiled)
    # With the tokenizer's own BOS lm-eval's backend would set two and score the second:
    # add_bos_token=False is the same question.
    expected = reference(
        hflm(model, max_length=64, add_bos_token=False), ["pico_text"], tasks, 0, False
    )
    assert scored.scores["bits_per_byte"].value == pytest.approx(
        expected["results"]["pico_text"]["bits_per_byte,none"], rel=1e-5
    )
    assert scored.primary == "bits_per_byte" and not scored.higher_is_better
    assert scored.samples[0].values["tokens"] == [len(compiled.ids[0][1])]
    lm = EngineLM(loaded(model), artifact(model))
    lm.engine.max_length = 64
    through = reference(lm, ["pico_text"], tasks, 0, False)
    assert through["results"]["pico_text"]["bits_per_byte,none"] == pytest.approx(
        scored.scores["bits_per_byte"].value, rel=1e-5
    )


def test_one_compilation_serves_many_models_and_samples_tell_everything(
    tasks: Path, tmp_path: Path
) -> None:
    _, model = pico.family(tmp_path)
    compiled = compile_task(
        "pico_choice", model, Conversation(format="chat"), task_folders=[tasks], limit=7
    )
    engine = loaded(model)
    first, second = (
        score_task(engine, artifact(model), compiled),
        score_task(engine, artifact(model), compiled),
    )
    assert first == second
    assert (
        len(first.samples) == 7
        and first.requests == 28
        and first.tokens_in > 0
        and first.characters > 0
    )
    for sample, item in zip(first.samples, compiled.items, strict=True):
        assert (
            sample.gold == item.doc["options"][item.doc["gold"]]
            and sample.values["gold_index"] == item.doc["gold"]
        )
        best = int(np.argmax(sample.values["logprobs"]))
        assert sample.prediction == item.doc["options"][best] and sample.values["acc"] == (
            best == item.doc["gold"]
        )
        assert sample.group == item.doc["group"]
        json.loads(sample.model_dump_json())
    assert len({sample.prompt_ids for sample in first.samples}) == 7
    shorter = compile_task(
        "pico_choice", model, Conversation(format="plain"), task_folders=[tasks], limit=7
    )
    assert shorter.items[0].prompt_ids != compiled.items[0].prompt_ids


def test_bos_stands_exactly_once(tmp_path: Path, tasks: Path) -> None:
    base, instruct = pico.family(tmp_path)
    encoder = Encoder(instruct)
    chat = encoder.render([{"role": "user", "content": "fox"}])
    # the template writes BOS, the tokenizer would add another
    assert chat.startswith(encoder.tokenizer.bos_token)
    for ids in (*encoder.encode([chat, "fox"]), encoder.encode_pairs([(chat, " dog")])[0][0]):
        assert list(ids).count(encoder.bos) == 1 and ids[0] == encoder.bos
    assert "2 BOS tokens" in encoder.find_bos_fault((encoder.bos, encoder.bos, 5))
    assert (
        "does not begin with BOS" in encoder.find_bos_fault((5, 6))
        and encoder.find_bos_fault((encoder.bos, 5)) is None
    )
    assert encoder.encode_pairs([("", "fox")])[0][0] == (encoder.bos,)
    context, continuation = encoder.encode_pairs([("fox \n", "dog")])[0]
    assert encoder.decode(context) == "fox" and encoder.decode(continuation) == " \ndog"
    with pytest.raises(TaskError, match="no chat template"):
        compile_task("pico_choice", base, Conversation(format="chat"), task_folders=[tasks])
    double = instruct / "chat_template.jinja"
    if double.is_file():
        double.write_text("{{ bos_token }}" + double.read_text(encoding="utf-8"), encoding="utf-8")
        with pytest.raises(TaskError, match="task pico_choice, row 0: the prompt has 2 BOS tokens"):
            compile_task("pico_choice", instruct, Conversation(format="chat"), task_folders=[tasks])


@pytest.mark.parametrize(
    ("text", "tokens", "limit", "characters", "expected"),
    [
        ("a b", 3, 8, None, Answer("a b", 3, True)),  # the end token came first
        ("a b", 8, 8, None, Answer("a b", 8, False)),
        ("a. b", 8, 8, None, Answer("a", 8, True)),  # a stop string in the last token
        ("abcdef", 3, 8, 5, Answer("abcdef", 3, False)),  # the task's own limit of characters
        ("abcd. f", 3, 8, 5, Answer("abcd", 3, True)),
        ("a b", 3, None, None, Answer("a b", 3, None)),  # a server's tokens are not ours to count
    ],
)
def test_which_texts_ended_by_themselves(
    text: str, tokens: int, limit: int | None, characters: int | None, expected: Answer
) -> None:
    assert _cut_text(text, ["."], tokens, limit, characters) == expected


def test_bad_input_is_named(tmp_path: Path, tasks: Path) -> None:
    _, model = pico.family(tmp_path)
    plain = Conversation(format="plain")
    with pytest.raises(UnknownNameError, match="did you mean pico_choice"):
        compile_task("pico_choise", model, plain, task_folders=[tasks])
    with pytest.raises(CheckpointError, match="no such folder"):
        compile_task("pico_choice", tmp_path / "none", plain, task_folders=[tasks])
    compiled = compile_task("pico_write", model, plain, task_folders=[tasks])
    engine = loaded(model)
    engine.max_length = 15
    with pytest.raises(
        TaskError,
        match=r"task pico_write, row \d+: \d+ tokens with 12 new tokens do not fit the model's 15",
    ):
        score_task(engine, artifact(model), compiled)


def test_a_tokenizers_digest_follows_its_files(tmp_path: Path) -> None:
    base, instruct = pico.family(tmp_path)
    assert tokenizer_digest(base) != tokenizer_digest(instruct)
    before = tokenizer_digest(instruct)
    (instruct / "config.json").write_text("{}")
    assert tokenizer_digest(instruct) == before


def test_standard_errors() -> None:
    from lm_eval.api.metrics import mean, mean_stderr

    generator = np.random.default_rng(1)
    values = generator.random(50).tolist()
    alone = [str(n) for n in range(50)]
    groups = [str(n // 5) for n in range(50)]
    assert aggregate_stderr(values, alone, mean) == pytest.approx(mean_stderr(values))
    # Ten copies of five values are five items: clustering says so, the plain formula does not.
    repeated = [value for value in values[:5] for _ in range(10)]
    assert aggregate_stderr(repeated, [str(n // 10) for n in range(50)], mean) == pytest.approx(
        mean_stderr(values[:5])
    )
    sums = [
        sum(v - np.mean(values) for v, g in zip(values, groups, strict=True) if g == name)
        for name in dict.fromkeys(groups)
    ]
    assert aggregate_stderr(values, groups, mean) == pytest.approx(
        math.sqrt(10 / 9 * sum(s * s for s in sums)) / 50
    )
    assert (
        aggregate_stderr([1.0], ["a"], mean) is None
        and aggregate_stderr([1.0, 0.0], ["a", "a"], mean) is None
    )

    pairs = [(float(a), float(b)) for a, b in generator.random((50, 2)) + 0.5]

    def ratio(items: list[tuple[float, float]]) -> float:
        return math.exp(sum(a for a, _ in items) / sum(b for _, b in items))

    left = np.array(
        [
            ratio([p for p, g in zip(pairs, groups, strict=True) if g != name])
            for name in dict.fromkeys(groups)
        ]
    )
    assert aggregate_stderr(pairs, groups, ratio) == pytest.approx(
        math.sqrt(9 / 10 * np.square(left - left.mean()).sum())
    )
    # No plain mean and no ratio of sums: the same jackknife, by blocks of groups.
    assert aggregate_stderr(values, groups, lambda v: float(np.median(v))) > 0
    assert aggregate_stderr(values, alone, lambda v: 1.0 if len(v) == 50 else 1 / 0) is None
