"""The mini tasks through lm-eval: found, loaded from any folder, and scored 1.0 by an oracle and
0.0 by its opposite.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from benchmarks.mini import taskdata

ROOT = Path(__file__).resolve().parents[2]
TASKS = ROOT / "tasks" / "mini"
SCORED = ("mini_facts_ru", "mini_facts_en", "mini_copy_ru", "mini_copy_en")
ALL = (*SCORED, "mini_text_ru")


@pytest.fixture(scope="module")
def manager():
    return TaskManager(include_defaults=False, include_path=str(TASKS))


@pytest.fixture(scope="module")
def loaded(manager):
    return {name: manager.load([name])["tasks"][name] for name in ALL}


@pytest.fixture(scope="module")
def metrics():
    spec = importlib.util.spec_from_file_location("mini_metrics_for_tests", TASKS / "metrics.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Oracle(LM):
    """Knows every answer; `wrong` turns each into its opposite. `template` is a chat's (prefix,
    suffix).
    """

    def __init__(self, wrong=False, template=("", "")):
        super().__init__()
        self.wrong, self.template, self.seen = wrong, template, []

    def loglikelihood(self, requests):
        found = []
        for request in requests:
            context, rest = request.args
            self.seen.append((context, rest))
            right = rest.strip() == request.doc["choices"][request.doc["gold"]]
            found.append((-1.0 if right != self.wrong else -2.0, False))
        return found

    def loglikelihood_rolling(self, requests):
        return [-math.log(2) * 8 * len(request.args[0].encode()) for request in requests]

    def generate_until(self, requests):
        self.seen += [request.args for request in requests]
        return ["no" if self.wrong else f" {request.doc['answer']}" for request in requests]

    @property
    def tokenizer_name(self):
        return "oracle"

    def chat_template(self, chat_template=False):
        return "" if not chat_template else "template"

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        return self.template[0] + chat_history[-1]["content"] + self.template[1]


def run(task, model, limit=None, chat=False):
    name = task.config.task
    task.set_config("num_fewshot", 0)
    found = evaluate(
        lm=model,
        task_dict={name: task},
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=chat,
    )
    return found["results"][name], found["samples"][name]


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize("wrong", [False, True])
def test_oracle_and_flipped_oracle(loaded, name, wrong):
    results, samples = run(loaded[name], Oracle(wrong))
    assert results["score,none"] == (0.0 if wrong else 1.0)
    assert len(samples) == 300


def test_text_task_without_a_tokenizer(loaded):
    results, _ = run(loaded["mini_text_ru"], Oracle())
    assert results["bits_per_byte,none"] == pytest.approx(8.0)
    assert "symbols_per_token,none" not in results


def test_text_task_with_a_tokenizer(manager):
    folder = ROOT / "lep_bench" / "mini" / "checkpoints" / "mini-llama" / "base"
    known = TaskManager(
        include_defaults=False, include_path=str(TASKS), metadata={"tokenizer": str(folder)}
    )
    results, _ = run(known.load(["mini_text_ru"])["tasks"]["mini_text_ru"], Oracle(), limit=20)
    assert 1.5 < results["symbols_per_token,none"] < 2.6


def test_scores_are_recomputed_from_samples(loaded, metrics):
    _, samples = run(loaded["mini_facts_ru"], Oracle(), limit=5)
    for sample in samples:
        values = [float(value) for value, _ in (response[0] for response in sample["resps"])]
        assert metrics.score_choice(values, sample["doc"]["gold"])["score"] == sample["score"]
    _, samples = run(loaded["mini_copy_ru"], Oracle(True), limit=5)
    for sample in samples:
        assert (
            metrics.score_copy(sample["resps"][0][0], sample["doc"]["answer"])["score"]
            == sample["score"]
            == 0.0
        )


def test_a_tie_is_an_error(metrics):
    assert metrics.score_choice([-1.0, -1.0, -2.0, -3.0], 0)["acc"] == 0.0
    assert metrics.score_choice([-1.0, -1.5, -2.0, -3.0], 0)["acc"] == 1.0


def test_ratios_are_of_sums(metrics):
    assert metrics.ratio([(1.0, 1.0), (1.0, 3.0)]) == 0.5
    assert metrics.bits_per_byte([-math.log(2) * 6], [3]) == pytest.approx(2.0)
    assert metrics.symbols_per_token([10, 20], [5, 5]) == 3.0


@pytest.mark.parametrize(("suffix", "space"), [("<turn>Assistant:", " "), ("<assistant>\n\n", "")])
def test_the_space_before_an_option_follows_the_template(loaded, suffix, space):
    model = Oracle(template=("<user>", suffix))
    run(loaded["mini_facts_ru"], model, limit=2, chat=True)
    doc = loaded["mini_facts_ru"].eval_docs[0]
    assert model.seen[: len(doc["choices"])] == [
        (f"<user>{doc['query']}{suffix}", space + choice) for choice in doc["choices"]
    ]


def test_plain_prompts(loaded):
    model = Oracle()
    run(loaded["mini_facts_en"], model, limit=1)
    doc = loaded["mini_facts_en"].eval_docs[0]
    assert model.seen == [(doc["query"], f" {choice}") for choice in doc["choices"]]
    model = Oracle()
    run(loaded["mini_copy_en"], model, limit=1)
    prompt, settings = model.seen[0]
    assert prompt == loaded["mini_copy_en"].eval_docs[0]["query"] and prompt.endswith("\nAnswer:")
    assert (
        settings["until"] == ["\n"]
        and settings["do_sample"] is False
        and settings["max_gen_toks"] <= 64
    )


@pytest.mark.parametrize("name", ALL)
def test_every_row_has_a_group_and_every_task_a_version(loaded, name):
    task = loaded[name]
    assert len(task.eval_docs) == 300
    assert len(set(task.eval_docs["id"])) == 300 and all(task.eval_docs["group"])
    assert task.config.metadata["version"] == 1.0


@pytest.mark.parametrize("language", ["ru", "en"])
def test_items_are_short(loaded, language):
    for doc in loaded[f"mini_facts_{language}"].eval_docs:
        assert len(doc["query"].split("\n")[0]) <= 70 and len(set(doc["choices"])) == 4
    assert max(map(len, loaded[f"mini_copy_{language}"].eval_docs["answer"])) <= 40


def test_text_lengths(loaded):
    assert all(150 <= len(text) <= 250 for text in loaded["mini_text_ru"].eval_docs["text"])


def test_data_files_are_what_the_generator_writes(tmp_path):
    taskdata.write(tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == sorted(path.name for path in (TASKS / "data").glob("*.jsonl"))
    for name in written:
        assert (tmp_path / name).read_bytes() == (TASKS / "data" / name).read_bytes(), name


def test_tasks_load_from_another_folder_without_lep_bench(tmp_path):
    code = (
        "import json, sys; from lm_eval.tasks import TaskManager;"
        f"found = TaskManager(include_defaults=False, include_path={str(TASKS)!r}).load("
        f"{list(ALL)!r})['tasks'];"
        "print(json.dumps([len(found), 'lep_bench' in sys.modules]))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [5, False]
