"""`lep-bench run` and lm-eval with its own Hugging Face backend give the same scores of the
Darumeru tasks: strict, float32.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lep_bench import files
from tests.engines.agreement import ROUNDING

TESTS = Path(__file__).resolve().parent
# real rows, where they are at hand
SAMPLE = TESTS.parents[1] / "shared" / "data" / "darumeru-sample"
CONFIGS = ("rcb", "rwsd", "rummlu", "use", "parus", "ruopenbookqa", "ruworldtree")
TASKS = [f"darumeru_{name}" for name in (*CONFIGS, "multiq", "copy_sent_ru")]
ROWS = 4
SUITE = """title: Sample
protocol: strict
tasks: [{tasks}]
metadata: {{max_length: 4096, prompt_characters: 3000}}
base: {{format: plain, shots: 2}}
instruct: {{format: chat}}
dtype: bfloat16
mean: {{kind: plain, tasks: {{darumeru_rcb: 0.333}}}}
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    spec = importlib.util.spec_from_file_location(
        "darumeru_folder", TESTS / "tasks" / "darumeru_folder.py"
    )
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    folder = made.build(tmp_path / "data", [])
    for config in CONFIGS if SAMPLE.is_dir() else ():
        shutil.copytree(
            SAMPLE / config,
            folder / "RefalMachine" / "darumeru" / "data" / config,
            dirs_exist_ok=True,
        )
    monkeypatch.setenv("LEP_BENCH_DATA", str(folder))
    return folder


def lm_eval(model: Path, chat: bool) -> dict[str, Any]:
    """As `lm_eval run` does, without the ten seconds that its own 14,000 tasks take."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    metadata = {
        "pretrained": str(model),
        "max_length": 4096,
        "protocol": "strict",
        "prompt_characters": 3000,
    }
    return simple_evaluate(
        "hf",
        {"pretrained": str(model), "dtype": "float32", "max_length": 4096},
        TASKS,
        device="cpu",
        batch_size=8,
        bootstrap_iters=0,
        limit=ROWS,
        num_fewshot=None if chat else 2,
        apply_chat_template=chat,
        task_manager=TaskManager(
            include_path=str(files.shipped_folder("tasks")),
            include_defaults=False,
            metadata=metadata,
        ),
    )


def tied(samples: Path, task: str) -> bool:
    """Whether two options of a row lie so close that the batch may decide between them (lm-eval
    makes other batches).
    """
    (file,) = samples.glob(f"{task}@*.jsonl")
    answers = [
        json.loads(line)["values"].get("logprobs", [])
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    ranked = [sorted(values) for values in answers if len(values) > 1]
    return any(values[-1] - values[-2] < 2 * ROUNDING for values in ranked)


@pytest.mark.skipif(
    not (files.builtin_checkpoints() / "mini-llama" / "instruct").is_dir(),
    reason="no shipped checkpoints",
)
def test_strict_scores_equal_lm_evals(
    cli: Callable[..., Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs, out = tmp_path / "configs", tmp_path / "out"
    (configs / "suites").mkdir(parents=True)
    (configs / "suites" / "sample.yaml").write_text(SUITE.format(tasks=", ".join(TASKS)))
    exported = tmp_path / "exported"
    assert cli("export", "mini-llama/instruct", exported).code == 0
    given = ("--suite", "sample", "--configs", configs, "--out", out)
    ran = cli(
        "run",
        *given,
        "--models",
        f"{exported},builtin:mini-llama/base",
        "--dtype",
        "float32",
        "--limit",
        ROWS,
        "--data",
        data,
        "--workers",
        1,
    )
    assert ran.code == 0, ran.out + ran.err
    results = [
        json.loads(file.read_text()) for file in (out / "sample" / "results").rglob("*.json")
    ]
    models = {
        "local/exported": exported,
        "local/builtin-mini-llama--base": files.builtin_checkpoints() / "mini-llama" / "base",
    }
    assert len(results) == 2 * len(TASKS) and {r["scoring"]["dtype"] for r in results} == {
        "float32"
    }
    assert {r["model"]["name"] for r in results} == set(models)
    for name, folder in models.items():
        theirs = lm_eval(folder, name == "local/exported")
        certain = [
            r
            for r in results
            if r["model"]["name"] == name and not tied(out / "sample" / "samples" / name, r["task"])
        ]
        assert len(certain) >= len(TASKS) - 2
        for result in certain:
            for metric, score in result["scores"].items():
                assert score["value"] == theirs["results"][result["task"]][f"{metric},none"], (
                    name,
                    result["task"],
                    metric,
                )
    # The page is made of what was scored: another number format than the suite's, a built-in
    # checkpoint, rows of a folder.
    page = out / "sample" / "leaderboard" / "README.md"
    page.unlink()
    board = cli("leaderboard", *given, "--data", data)
    said = page.read_text(encoding="utf-8")
    assert (
        board.code == 0
        and "in float32" in said
        and "exported" in said
        and "builtin-mini-llama--base" in said
    ), said + board.err
    monkeypatch.delenv("LEP_BENCH_DATA")
    other = cli("leaderboard", *given)
    assert (
        other.code == 2
        and "18 results of suite sample, all of other tasks, rows or settings than now: give --data"
        in other.err
    )
