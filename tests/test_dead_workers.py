"""A worker process that dies in the middle of a run, by a real kill -9: once for a node it is
replaced, twice the model fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lep_bench import files

pytestmark = pytest.mark.skipif(
    not (files.builtin_checkpoints() / "mini-llama" / "instruct").is_dir(),
    reason="no shipped checkpoints",
)

SUITE = """
title: Deadly
families: [mini-llama]
tasks: [mini_facts_ru, deadly, mini_copy_ru]
protocol: greedy
mean: {kind: plain, tasks: {mini_facts_ru: 0.25}}
"""
TASK = """
task: deadly
custom_dataset: !function utils.rows
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}}"
doc_to_choice: ["a", "b"]
doc_to_target: 0
process_results: !function utils.process
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
UTILS = """
import os
import signal
from pathlib import Path

import datasets

LOG, FATE = Path(os.environ["DEADLY_LOG"]), os.environ["DEADLY_FATE"]


def rows(**_):
    return {"test": datasets.Dataset.from_list([{"question": "fox"}, {"question": "hill"}])}


def process(doc, results):
    if FATE == "fine" or FATE == "once" and LOG.exists():
        return {"acc": 1.0}
    written = sorted(f"{file.name} {file.stat().st_mtime_ns}" for file in LOG.parent.glob("out/deadly/results/**/*.json"))
    with LOG.open("a") as log:
        print(os.getpid(), *written, sep=",", file=log)
    if FATE == "cuda":  # what torch says when the GPU has gone wrong; every later call in that process fails too
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    os.kill(os.getpid(), signal.SIGKILL)
"""
ADAPTER = '''
import os
import signal

from lep_bench.plugin import Params, vocabulary


@vocabulary("dies")
def dies(base, texts, params: Params):
    """Takes its process along (test)."""
    os.kill(os.getpid(), signal.SIGKILL)
'''
FAMILY = """
base: builtin:mini-llama/base
instruct: builtin:mini-llama/instruct
corpus: builtin:mini
vocabularies: {dies: {}}
pretraining: {characters: 60000, block: 48, batch: 8}
"""


def run(folder: Path, fate: str, *more: str) -> subprocess.CompletedProcess[str]:
    for name, text in (
        ("configs/suites/deadly.yaml", SUITE),
        ("tasks/deadly/deadly.yaml", TASK),
        ("tasks/deadly/utils.py", UTILS),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    command = [
        sys.executable,
        "-m",
        "lep_bench",
        "run",
        "--suite",
        "deadly",
        "--configs",
        str(folder / "configs"),
        "--tasks-dir",
        str(folder / "tasks"),
    ]
    command += [
        "--out",
        str(folder / "out"),
        "--limit",
        "8",
        "--workers",
        "1",
        "--engine",
        "hf",
        "--hardware",
        "cpu",
        *more,
    ]
    environment = {**os.environ, "DEADLY_FATE": fate, "DEADLY_LOG": str(folder / "log")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment
    )


def results(folder: Path) -> dict[tuple[str, str], dict]:
    found = [
        json.loads(file.read_text()) for file in (folder / "out/deadly/results").rglob("*.json")
    ]
    return {(result["model"]["name"], result["task"]): result for result in found}


def samples(folder: Path) -> dict[str, str]:
    return {
        file.name: file.read_text() for file in (folder / "out/deadly/samples").rglob("*.jsonl")
    }


def deaths(folder: Path) -> list[list[str]]:
    """Per death what was written by then; no process that died is still there."""
    lines = [line.split(",") for line in (folder / "log").read_text().splitlines()]
    assert not any(psutil.pid_exists(int(pid)) for pid, *_ in lines)
    return [written for _, *written in lines]


def test_a_worker_that_dies_once_is_replaced_and_nothing_is_lost_or_done_twice(tmp_path):
    (tmp_path / "calm").mkdir()
    calm = run(tmp_path / "calm", "fine", "--models", "mini-llama/instruct")
    done = run(tmp_path, "once", "--models", "mini-llama/instruct")
    assert (calm.returncode, done.returncode) == (0, 0), calm.stderr + done.stderr
    assert (
        "died (exit code -9" in done.stdout
        and "once more" in done.stdout
        and "once more" not in calm.stdout
    )
    ((written,),) = deaths(tmp_path)
    name, stamp = written.split()
    assert name.startswith("mini_facts_ru@")
    (kept,) = (tmp_path / "out").rglob(name)
    assert kept.stat().st_mtime_ns == int(stamp), (
        "what was written before the death was scored again"
    )
    assert samples(tmp_path) == samples(tmp_path / "calm")
    assert {cell: result["scores"] for cell, result in results(tmp_path).items()} == {
        cell: result["scores"] for cell, result in results(tmp_path / "calm").items()
    }
    assert not list((tmp_path / "out").rglob(".writing-*"))


@pytest.mark.parametrize(
    ("fate", "why"), [("always", "exit code -9"), ("cuda", "CUDA error: an illegal memory access")]
)
def test_a_model_whose_worker_dies_twice_fails_and_the_others_go_on(tmp_path, fate, why):
    models = ("--models", "mini-llama/base,mini-llama/instruct")
    done = run(tmp_path, fate, *models)
    assert done.returncode == 1, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "died twice" in said and why in said and "Traceback" not in done.stderr
    first, again, *others = deaths(tmp_path)
    assert first == again and len(others) == 2, (
        "each model is tried twice, and its finished cell once"
    )
    found = results(tmp_path)
    for model in ("mini-llama/base", "mini-llama/instruct"):
        assert [
            found[model, task]["status"] for task in ("mini_facts_ru", "deadly", "mini_copy_ru")
        ] == ["ok", "failed", "failed"]
        assert why in found[model, "deadly"]["error"]
    if fate == "always":
        assert run(tmp_path, "fine", *models).returncode == 0, (
            "the same command tries the failed cells again"
        )
        assert {result["status"] for result in results(tmp_path).values()} == {"ok"}


def test_a_stage_that_dies_twice_fails_all_that_needs_it(tmp_path):
    (tmp_path / "configs/families").mkdir(parents=True)
    (tmp_path / "configs/families/tiny.yaml").write_text(FAMILY)
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters/dies.py").write_text(ADAPTER)
    models = "tiny/dies/init,tiny/dies/swap,mini-llama/base"
    done = run(
        tmp_path,
        "fine",
        "--models",
        models,
        "--adapters",
        str(tmp_path / "adapters"),
        "--tasks",
        "deadly",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = results(tmp_path)
    assert found["mini-llama/base", "deadly"]["status"] == "ok"
    for model in ("tiny/dies/init", "tiny/dies/swap"):
        assert "died twice (exit code -9" in found[model, "deadly"]["error"]
    assert not list((tmp_path / "out/artifacts").rglob("*@*/*"))
