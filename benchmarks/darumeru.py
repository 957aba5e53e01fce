"""Darumeru without a large model: how long prompts, ROUGE and a whole run over the built-in models
take.

    python benchmarks/darumeru.py [--data DIR] [--model MODEL] [--out runs] [--only
    prompts,rouge,run]

prompts: every task built and every prompt proven for one model, without weights, as a worker does
it before scoring; the bar is 10 s, imports included. rouge: rows per second with pymorphy3, first
pass and again. run: the tasks whose rows DIR holds over every model that `all` means in the mini
suite, as protocol paper asks (five samplings), models made before; the bar is 60 s. The built-in
models have 256 positions: there prompts are cut, and the scores say nothing. For `prompts`
positions are set to 4096, so that nothing is cut. DIR holds the rows (a bundle, or a folder in the
Hub's layout); without it, made-up rows of the tests for all 17 tasks, and no run. Prints tables and
writes benchmarks/results/darumeru.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
POSITIONS = 4096
BARS = {"prompts": 10.0, "run": 60.0}
SUITE = """title: Sample
families: [mini-llama, mini-mistral]
tasks: [{tasks}]
protocol: paper
samplings: 5
base: {{format: plain, shots: 0}}
instruct: {{format: chat, shots: 0}}
dtype: float32
mean: {{kind: plain, tasks: {{{first}: 0.0}}}}
"""


def load(file: Path) -> ModuleType:
    """A Python file by its path."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made_up(folder: Path) -> Path:
    """The tests' rows for all 17 tasks."""
    from lep_bench import files

    subjects = load(files.shipped_folder("tasks") / "darumeru" / "metrics.py").SUBJECTS
    return load(HERE.parent / "tests" / "tasks" / "darumeru_folder.py").build(
        folder, sorted(subjects)
    )


def prompts(model: str, protocol: str) -> dict[str, Any]:
    """Per task: rows, prompts, tokens, seconds; tasks without rows are named and left out."""
    start = time.monotonic()
    from lep_bench import hub
    from lep_bench.config.schema import Conversation
    from lep_bench.errors import TaskError
    from lep_bench.evaluate.lmeval import compile_task
    from lep_bench.tasks import scan_tasks

    names = sorted(name for name in scan_tasks().tasks if name.startswith("darumeru_"))
    folder = hub.locate_tokenizer(model)
    chat = hub.has_chat_template(folder)
    conversation = Conversation(format="chat") if chat else Conversation(format="plain", shots=5)
    metadata = {
        "protocol": protocol,
        "max_length": POSITIONS,
        **({"conversation": "template"} if chat else {}),
    }
    print(
        f"{model}, protocol {protocol}, {conversation.format}, {conversation.shots} shots; "
        f"imports {time.monotonic() - start:.1f} s"
    )
    tasks: dict[str, Any] = {}
    for name in names:
        begin = time.monotonic()
        try:
            compiled = compile_task(name, folder, conversation, metadata=metadata)
        except TaskError as error:
            print(f"{name:28} left out: {error}")
            continue
        asked = [prompt for item in compiled.items for prompt in item.prompts]
        read = sum(len(compiled.ids[prompt.requests[0]][0]) for prompt in asked)
        tasks[name] = {
            "rows": len(compiled.items),
            "prompts": len(asked),
            "tokens": read,
            "s": round(time.monotonic() - begin, 2),
        }
        print(
            f"{name:28} {len(compiled.items):6,} rows {len(asked):6,} prompts {read:9,} "
            f"tokens {tasks[name]['s']:6.2f} s"
        )
    seconds = time.monotonic() - start
    print(
        f"{len(tasks)} of {len(names)} tasks: {seconds:.1f} s in all (bar {BARS['prompts']:.0f} s)"
    )
    return {"model": model, "protocol": protocol, "tasks": tasks, "s": round(seconds, 2)}


def having_rows() -> list[str]:
    """The tasks whose rows the folder holds."""
    from lep_bench.errors import TaskError
    from lep_bench.evaluate.lmeval import count_rows
    from lep_bench.tasks import scan_tasks

    found, known = [], scan_tasks()
    for name in sorted(known.tasks):
        if name.startswith("darumeru_"):
            try:
                count_rows(known.get(name), known.folders, {"protocol": "strict"})
                found.append(name)
            except TaskError as error:
                print(f"{name}: left out: {error}")
    return found


def rouge(data: Path) -> dict[str, float]:
    """Rows per second of the abstractive task's metric, over pairs of 60 words from whatever
    Russian text the rows hold.
    """
    from lep_bench import files

    lemmas = load(files.shipped_folder("tasks") / "darumeru" / "lemmas.py")
    words = [
        word
        for file in sorted(data.rglob("*.jsonl"))
        for word in file.read_text(encoding="utf-8").split()
        if "\\" not in word
    ]
    pairs = [
        (" ".join(words[i : i + 60]), " ".join(words[i + 30 : i + 90]))
        for i in range(0, min(len(words) - 90, 30_000), 60)
    ]
    lemmas.rouge("слово", "слово")  # the dictionaries are read at the first word
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        for one, other in pairs:
            lemmas.rouge(one, other)
        seconds.append(time.perf_counter() - begin)
    found = {
        "pairs": len(pairs),
        "first_rows_per_s": round(len(pairs) / seconds[0]),
        "again_rows_per_s": round(len(pairs) / seconds[1]),
    }
    print(
        f"ROUGE with lemmas, {found['pairs']} pairs of 60 words: {found['first_rows_per_s']} "
        f"rows per second, {found['again_rows_per_s']} again"
    )
    return found


def run(tasks: list[str], out: Path) -> dict[str, Any]:
    """The tasks over every model of the mini suite that `all` means; the models are made before the
    clock starts.
    """
    command = [
        str(Path(sys.executable).parent / "lep-bench"),
        "run",
        "--models",
        "all",
        "--out",
        str(out),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "suites").mkdir()
        (Path(folder) / "suites" / "sample.yaml").write_text(
            SUITE.format(tasks=", ".join(tasks), first=tasks[0]), encoding="utf-8"
        )
        begin, at = time.monotonic(), time.time()
        done = subprocess.run([*command, "--suite", "sample", "--configs", folder], check=False)
        seconds = time.monotonic() - begin
    cells = len(
        [file for file in (out / "sample" / "results").rglob("*.json") if file.stat().st_mtime > at]
    )
    print(
        f"lep-bench run, {len(tasks)} tasks, {cells} cells: {seconds:.1f} s (bar "
        f"{BARS['run']:.0f} s), exit {done.returncode}"
    )
    return {"tasks": len(tasks), "cells": cells, "s": round(seconds, 1), "exit": done.returncode}


def main() -> int:
    """Exit status 1 above a bar."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the folder with the rows")
    parser.add_argument(
        "--model",
        default="builtin:mini-llama/instruct",
        help="for prompts: folder, Hub id or builtin:FAMILY/instruct",
    )
    parser.add_argument(
        "--protocol", choices=("strict", "paper"), default="strict", help="for prompts"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs"),
        help="for run: where the built models are, or will be",
    )
    parser.add_argument("--only", default="prompts,rouge,run")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    results = HERE / "results" / "darumeru.json"
    figures: dict[str, Any] = (
        json.loads(results.read_text(encoding="utf-8")) if results.is_file() else {}
    )
    with tempfile.TemporaryDirectory() as scratch:
        data = given.data or made_up(Path(scratch))
        os.environ["LEP_BENCH_DATA"] = str(data.resolve())
        rows = {"rows": "made up" if given.data is None else "given"}
        if "prompts" in given.only:
            figures["prompts"] = {**rows, **prompts(given.model, given.protocol)}
        if "rouge" in given.only:
            figures["rouge"] = rouge(data)
        # 500 made-up articles over 57 models would take long and show nothing
        if "run" in given.only and given.data is not None:
            figures["run"] = {**rows, **run(having_rows(), given.out)}
    results.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return int(
        any(
            figures[part]["s"] > bar
            for part, bar in BARS.items()
            if part in given.only and part in figures
        )
    )


if __name__ == "__main__":
    sys.exit(main())
