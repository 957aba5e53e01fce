"""The main job on a small family: from the command to the leaderboard, interrupted and resumed, and
with broken adapters.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lep_bench import files

pytestmark = pytest.mark.skipif(
    not (files.builtin_checkpoints() / "mini-llama" / "instruct").is_dir(),
    reason="no shipped checkpoints",
)

FAMILY = """
base: builtin:mini-llama/base
instruct: builtin:mini-llama/instruct
corpus: builtin:mini
vocabularies: {bpe: {params: {size: 700}}, original: {}}
pretraining: {characters: 60000, block: 48, batch: 8, learning_rate: 5.0e-3, warmup: 2}
propagation: {swap: {}, conversion: {}}
tuning: {self-calibration: {params: {answers: 12, copies: 8, batch: 10, max_length: 256}}}
"""
SUITE = """
title: Tiny
families: [tiny]
tasks: [mini_facts_ru, mini_copy_ru, mini_text_ru]
protocol: greedy
mean: {kind: centred, tasks: {mini_facts_ru: 0.25, mini_copy_ru: 0.0}}
"""
MODELS = [
    "base",
    "instruct",
    "instruct+self-calibration",
    "original/donor",
    "bpe/init",
    "bpe/instruct-init",
    "bpe/donor",
    "bpe/swap",
    "bpe/conversion",
    "bpe/conversion+self-calibration",
]


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    for kind, text in (("families", FAMILY), ("suites", SUITE)):
        (folder / kind).mkdir()
        (folder / kind / "tiny.yaml").write_text(text)
    return folder


def command(configs: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "lep_bench",
        "run",
        "--suite",
        "tiny",
        "--configs",
        str(configs),
        "--out",
        str(out),
        "--limit",
        "12",
        *more,
    ]


def run(configs: Path, out: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(configs, out, *more), capture_output=True, text=True, timeout=600, check=False
    )


def cells(out: Path) -> dict:
    """Everything of the results that may not depend on when and how often the run was
    interrupted.
    """
    found = {}
    for file in sorted((out / "tiny" / "results").rglob("*.json")):
        result = json.loads(file.read_text())
        # the seal covers the provenance, which has the time in it
        del result["provenance"], result["seal"]
        samples = (
            out
            / "tiny"
            / "samples"
            / file.relative_to(out / "tiny" / "results").with_suffix(".jsonl")
        )
        found[str(file.relative_to(out))] = (
            result,
            samples.read_text() if samples.is_file() else "",
        )
    return found


@pytest.fixture(scope="module")
def undisturbed(configs, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    done = run(configs, out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def test_every_model_gets_a_row(undisturbed):
    out, said = undisturbed
    found = cells(out)
    assert len(found) == 3 * len(MODELS)
    assert {result["model"]["name"] for result, _ in found.values()} == {
        f"tiny/{name}" for name in MODELS
    }
    assert all(result["status"] == "ok" and result["samples"] == 12 for result, _ in found.values())
    page = (out / "tiny" / "leaderboard" / "README.md").read_text()
    assert "conversion" in page
    assert "limit" in page, "limited results must be marked"


def test_the_page_has_lineage_curves_and_the_questions(cli, configs, undisturbed, tmp_path):
    done = cli(
        "leaderboard",
        "--suite",
        "tiny",
        "--configs",
        configs,
        "--out",
        undisturbed[0],
        "--html",
        tmp_path,
        "--samples",
        "5",
    )
    assert done.code == 0, done.err
    assert str(tmp_path / "index.html") in done.err
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert "Continued pre-training of the donors" in page and str(undisturbed[0]) not in page
    opened = {
        part["title"]: part["lines"]
        for part in next(v for k, v in data["models"].items() if k.endswith("tiny/bpe/conversion"))
    }
    assert "Fit of the head" in opened and ["donor", "tiny/bpe/donor"] in [
        line[:2] for line in opened["Lineage"]
    ]
    facts = data["tasks"][0]
    assert (
        len(facts["items"]) == 5
        and facts["of"] == 12
        and facts["asked"].startswith("tiny/instruct")
    )
    for _, gold, question in facts["items"]:
        assert (
            facts["strings"][question].startswith("user: Вопрос")
            and f"— {facts['strings'][gold]}" in facts["strings"][question]
        )


def test_again_nothing_is_done(configs, undisturbed):
    out, _ = undisturbed
    before = {
        p: p.stat().st_mtime_ns
        for folder in ("artifacts", "tiny/results")
        for p in (out / folder).rglob("*")
        if p.is_file()
    }
    done = run(configs, out)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_killed_and_resumed_equals_undisturbed(configs, undisturbed, tmp_path):
    process = subprocess.Popen(
        command(configs, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 300
    # kill -9 twice: once while something trains, once while something is scored
    while not list(tmp_path.glob("artifacts/tiny/bpe/init@*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert workers
    assert not psutil.wait_procs(workers, timeout=20)[1], "workers outlive their parent"
    process = subprocess.Popen(
        command(configs, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(list(tmp_path.glob("tiny/results/**/*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    half = cells(tmp_path)
    assert 0 < len(half) < 3 * len(MODELS)
    done = run(configs, tmp_path)
    assert done.returncode == 0, done.stderr
    assert cells(tmp_path) == cells(undisturbed[0])
    assert not list(tmp_path.rglob(".writing-*"))


def test_ctrl_c_says_how_to_go_on(configs, tmp_path):
    for attempt in range(5):  # on a busy machine so small a run may be done before the signal comes
        out = tmp_path / str(attempt)
        process = subprocess.Popen(
            command(configs, out),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # a shell's background jobs ignore it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        while not list(out.glob("artifacts/**/*")) and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
        if process.returncode:
            break
    assert process.returncode == 130
    assert "run the same command again" in error and "Traceback" not in error


BROKEN = '''
from lep_bench.plugin import Params, propagation

@propagation("raises")
def raises(problem, params: Params):
    """Always fails (test)."""
    raise RuntimeError("boom")

@propagation("nans")
def nans(problem, params: Params):
    """Gives NaN (test)."""
    return lambda rows, ids: rows * float("nan")

@propagation("mine")
def mine(problem, params: Params):
    """Works (test)."""
    return lambda rows, ids: rows * 1.0
'''


def test_a_failing_adapter_is_a_failed_row_and_the_run_goes_on(configs, undisturbed, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    out, _ = undisturbed
    before = cells(out)
    done = run(configs, out, "--adapters", str(tmp_path), "--models", "tiny/bpe/*")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "boom" in done.stdout and "nans" in done.stdout and "Traceback" not in done.stderr
    after = cells_or_failed(out)
    assert after["tiny/bpe/mine", "mini_facts_ru"] == "ok"
    assert (
        after["tiny/bpe/raises", "mini_facts_ru"]
        == after["tiny/bpe/nans", "mini_copy_ru"]
        == "failed"
    )
    now = cells(out)
    assert {cell: now[cell] for cell in before} == before
    assert "failed" in (out / "tiny" / "leaderboard" / "README.md").read_text()


def test_a_training_that_diverges_is_a_failed_row(tmp_path):
    for kind, text in (("families", FAMILY), ("suites", SUITE)):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "tiny.yaml").write_text(
            text.replace("learning_rate: 5.0e-3", "learning_rate: 1.0e+30")
        )
    done = run(
        tmp_path,
        tmp_path / "out",
        "--models",
        "tiny/base,tiny/original/donor",
        "--tasks",
        "mini_facts_ru",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "not finite" in done.stdout and "Traceback" not in done.stderr
    assert cells_or_failed(tmp_path / "out") == {
        ("tiny/base", "mini_facts_ru"): "ok",
        ("tiny/original/donor", "mini_facts_ru"): "failed",
    }


def cells_or_failed(out: Path) -> dict:
    results = (json.loads(file.read_text()) for file in (out / "tiny" / "results").rglob("*.json"))
    return {(result["model"]["name"], result["task"]): result["status"] for result in results}


def test_two_runs_in_one_folder_are_refused(configs, tmp_path):
    from lep_bench.records.store import Store

    with Store(tmp_path).lock():
        done = run(configs, tmp_path)
    assert done.returncode == 2
    assert "another run" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--models", "tiny/bpe/conversoin"], "did you mean tiny/bpe/conversion"),
        (["--tasks", "mini_fact_ru"], "did you mean mini_facts_ru"),
        (["--suite", "tinny"], "did you mean tiny"),
        (["--models", "./nowhere"], "no such folder"),
        (["--models", "somebody/some-model"], "cannot reach the Hugging Face Hub"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(cli, configs, tmp_path, more, says):
    done = cli(*command(configs, tmp_path, *more)[3:])
    assert done.code == 2, done.out + done.err
    assert says in done.err and "Traceback" not in done.err
    assert done.err.strip().count("\n") <= 1
