"""The noise floor and the records of a run: measured on real models, written once per machine,
shown at the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lep_bench.config.schema import Conversation
from lep_bench.engines.hf import HfEngine
from lep_bench.evaluate import lmeval, score
from lep_bench.files import builtin_checkpoints
from lep_bench.records import artifact

BODY = builtin_checkpoints() / "mini-llama" / "instruct"
pytestmark = pytest.mark.skipif(not BODY.is_dir(), reason="no shipped checkpoints")


@pytest.fixture(scope="module")
def model() -> artifact.Artifact:
    return artifact.open_checkpoint(str(BODY), "mini-llama/instruct", "instruct", "0")


def scored(engine: HfEngine, model: artifact.Artifact, task: str):
    compiled = lmeval.compile_task(task, BODY, Conversation(format="chat"), limit=40)
    return compiled, score.score_task(engine, model, compiled)


def test_float32_flips_nothing_and_few_bits_differ_much(model: artifact.Artifact) -> None:
    for dtype, most in (("float32", 1e-3), ("bfloat16", 5.0)):
        engine = HfEngine(BODY, dtype=dtype)
        engine.exchange(model)
        compiled, found = scored(engine, model, "mini_facts_ru")
        noise = score.measure_noise(engine, "m", compiled, found.samples)
        assert (noise.items, noise.task, noise.machine.dtype, noise.machine.device) == (
            40,
            "mini_facts_ru",
            dtype,
            "cpu",
        )
        assert 0 <= noise.largest < most and (dtype != "float32" or noise.flipped == 0)
        assert noise.largest > 1e-4 or dtype == "float32", (
            "bfloat16 in other batches rounds elsewhere"
        )
        assert found.peak_memory > 1 << 26 and found.seconds > 0 and found.machine == noise.machine


def test_a_flip_is_found(model: artifact.Artifact) -> None:
    """Against answers of another model: options change places, log-probabilities differ."""
    engine = HfEngine(BODY)
    engine.exchange(model)
    compiled, found = scored(engine, model, "mini_facts_ru")
    wrong = [
        s.model_copy(update={"values": {**s.values, "logprobs": s.values["logprobs"][::-1]}})
        for s in found.samples[:3]
    ]
    noise = score.measure_noise(engine, "m", compiled, [*wrong, *found.samples[3:]])
    assert noise.flipped == 3 and noise.largest > 1


def test_other_kinds_of_tasks_have_none(model: artifact.Artifact) -> None:
    engine = HfEngine(BODY)
    engine.exchange(model)
    for task in ("mini_copy_ru", "mini_text_ru"):
        compiled, found = scored(engine, model, task)
        assert score.measure_noise(engine, "m", compiled, found.samples) is None


def test_a_run_records_and_a_second_suite_asks_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    suite = (
        "title: Other\nfamilies: [mini-llama]\ntasks: [mini_facts_ru, mini_copy_ru]\nprotocol: "
        "greedy\n"
    )
    suite += "mean: {kind: centred, tasks: {mini_facts_ru: 0.25, mini_copy_ru: 0.0}}\n"
    for name in ("first", "second"):
        (tmp_path / "suites" / f"{name}.yaml").write_text(suite)
    said, cells = {}, {}
    for name in ("first", "second"):
        command = [
            sys.executable,
            "-m",
            "lep_bench",
            "run",
            "--suite",
            name,
            "--configs",
            str(tmp_path),
            "--out",
            str(tmp_path / "out"),
        ]
        command += ["--models", "mini-llama/instruct", "--limit", "12"]
        # costs are wide
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "COLUMNS": "140"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said[name] = " ".join(done.stdout.split())
        files = sorted((tmp_path / "out" / name / "results").rglob("*.json"))
        cells[name] = {(cell := json.loads(file.read_text()))["task"]: cell for file in files}
        (noise,) = json.loads((tmp_path / "out" / name / "noise.json").read_text())
        assert (noise["model"], noise["task"], noise["items"], noise["flipped"]) == (
            "mini-llama/instruct",
            "mini_facts_ru",
            12,
            0,
        )
        assert (
            "Noise floor, engine hf" in said[name]
            and "12 items of mini_facts_ru twice" in said[name]
        )
    for task, first in cells["first"].items():
        second = cells["second"][task]
        assert second["scores"] == first["scores"]
        where, again = first["provenance"], second["provenance"]
        assert (
            where["engine_version"]
            and where["device_kind"] == "cpu"
            and where["tokens_in"] > 0
            and where["peak_memory"] > 1 << 26
        )
        assert 0 < where["engine_seconds"] <= where["seconds"] + 0.001 and where["from_store"] == 0
        assert (
            again["requests"],
            again["tokens_in"],
            again["tokens_out"],
            again["from_store"],
        ) == (0, 0, 0, where["requests"])
    assert (
        "answers from the store" in said["second"] and "answers from the store" not in said["first"]
    )
    assert "0 of 2 tasks" in said["second"]
