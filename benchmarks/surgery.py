"""Surgery at the size of LLaMa-3-8B's embeddings: time and memory of `lep-bench adapt`, its floor,
and the published way.

    python benchmarks/real.py && python benchmarks/surgery.py [--layers 2] [--published 128000]

The models have the real tokenizers, hidden size 4096, bf16 and a body of one or two layers in
several shards; their rows are random, the instruct model's a planted linear map of the base's.
Every part runs in a process of its own; memory is that process's VmHWM, mapped pages included.
floor: the bare float64 products (X'X, X'Y, X D) on random blocks, every byte of the matrices of
three models read once, every byte of the result written once. published: what the paper's code
does, as described in its text: one tokenizer call per token, dense float64 subtoken means,
torch.linalg.lstsq(driver="gelsy").
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "surgery.json"
WIDTH, SEED = 4096, 1


def peak() -> float:
    """GiB of VmHWM of this process."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 2**20


def make(work: Path, layers: int) -> None:
    """base/ and instruct/: E_inst = E_base (I + A B) with A, B of rank 64; bf16; an embedding
    shard, a layer shard each, a head shard.
    """
    import real
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    kv, inner = 1024, 14336
    sizes = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (kv, WIDTH),
        "self_attn.v_proj": (kv, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
    }
    sizes |= {
        "mlp.gate_proj": (inner, WIDTH),
        "mlp.up_proj": (inner, WIDTH),
        "mlp.down_proj": (WIDTH, inner),
    }
    matrices = {
        name: random(128256, WIDTH) for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    for matrix in matrices.values():
        matrix[128002:128256] = 0.0  # reserved and chat tokens are untrained in the base
    maps = {name: (random(WIDTH, 64) * 10, random(64, WIDTH)) for name in matrices}
    body = {
        f"model.layers.{n}.{part}.weight": random(*shape).to(torch.bfloat16)
        for n in range(layers)
        for part, shape in sizes.items()
    }
    norms = {
        f"model.layers.{n}.{name}.weight": torch.ones(WIDTH, dtype=torch.bfloat16)
        for n in range(layers)
        for name in ("input_layernorm", "post_attention_layernorm")
    }
    for role in ("base", "instruct"):
        folder = real.llama3(work / role, instruct=role == "instruct")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps(config | {"num_hidden_layers": layers}, indent=1)
        )
        shards: list[dict[str, torch.Tensor]] = [
            {},
            {"model.norm.weight": torch.ones(WIDTH, dtype=torch.bfloat16)},
        ]
        for shard, name in zip(shards, matrices, strict=True):
            value = matrices[name]
            if role == "instruct":
                a, b = maps[name]
                value = value + (value @ a) @ b
                value[128002:128256] = random(254, WIDTH)
            shard[name] = value.to(torch.bfloat16)
        middle = [
            {
                k: v * 1.01 if role == "instruct" else v
                for k, v in (body | norms).items()
                if f"layers.{n}." in k
            }
            for n in range(layers)
        ]
        files = [shards[0], *middle, shards[1]]
        weight_map = {}
        for number, tensors in enumerate(files, 1):
            name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
            save_file(tensors, str(folder / name), metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, name)
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": weight_map})
        )


def tokenizer(work: Path, name: str, method: str, size: int) -> None:
    """A new vocabulary for the base, trained on the Russian manuals."""
    import real

    from lep_bench import plugin
    from lep_bench.surgery import vocabulary
    from lep_bench.surgery.tokenizers import bpe

    bpe.LEAST = 1  # this text is small: at the usual 2 it fills about half of 128,000
    adapter = plugin.discover_adapters().get("vocabulary", method).adapter
    vocabulary.build_tokenizer(
        work / "base",
        work / f"{name}-vocabulary",
        adapter,
        adapter.params(size=size),
        iter(real.training()),
    )


def init(work: Path, name: str) -> None:
    """The base with the new vocabulary, every row the mean of its subtokens'."""
    from lep_bench.records.artifact import Lep, Parent
    from lep_bench.surgery import export, propagate

    lep = Lep(
        model=name,
        fingerprint="",
        kind="patch",
        stage="init",
        parents=(Parent(role="body", name="base", location=str(work / "base")),),
    )
    made = propagate.initialise(
        work / "base", work / "base", work / f"{name}-vocabulary", work / f"{name}-init", lep=lep
    )
    export.export_checkpoint(made, work / name)


def donor(work: Path, name: str) -> None:
    """The init model with noise on its rows, and without lep.json: a donor like anybody's."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    (work / name / "lep.json").unlink()
    for file in (work / name).glob("*.safetensors"):
        with safe_open(str(file), "pt") as tensors:
            values = {key: tensors.get_tensor(key) for key in tensors.keys()}
        for key in set(values) & {"model.embed_tokens.weight", "lm_head.weight"}:
            noise = (
                torch.randn(values[key].shape, generator=torch.Generator().manual_seed(SEED))
                * 0.005
            )
            values[key] = (values[key].float() + noise).to(torch.bfloat16)
            file.unlink()  # a new file: the others are links to the base's
            save_file(values, str(file), metadata={"format": "pt"})


def ours(work: Path, name: str, method: str) -> None:
    from lep_bench import adapt

    adapt(work / "base", work / "instruct", work / name, work / f"{name}-{method}", method=method)


def floor(work: Path, name: str, method: str) -> None:
    """The products and the bytes of `ours`, and nothing else."""
    import torch

    lep = json.loads((work / f"{name}-{method}" / "lep.json").read_text())
    rows = sum(lep["rows"].values())
    block = 2048
    x, y, d = (
        torch.randn(block, WIDTH, dtype=torch.float64),
        torch.randn(block, WIDTH, dtype=torch.float64),
        torch.eye(WIDTH, dtype=torch.float64),
    )
    start = time.perf_counter()
    for fit in lep["fit"].values():
        xx, xy = (
            torch.zeros(WIDTH, WIDTH, dtype=torch.float64),
            torch.zeros(WIDTH, WIDTH, dtype=torch.float64),
        )
        for done in range(0, fit["rows"], block):
            n = min(block, fit["rows"] - done)
            xx.addmm_(x[:n].T, x[:n])
            xy.addmm_(x[:n].T, y[:n])
        for done in range(0, rows, block):
            x[: min(block, rows - done)] @ d
    products = time.perf_counter() - start
    start = time.perf_counter()
    for role in ("base", "instruct", name):
        for file in sorted((work / role).glob("*.safetensors")):
            with open(file, "rb", buffering=0) as stream:
                while stream.read(1 << 24):
                    pass
    made = [
        file
        for file in (work / f"{name}-{method}").glob("*.safetensors")
        if file.stat().st_nlink == 1
    ]
    zeros = bytes(1 << 24)
    with open(work / "written", "wb", buffering=0) as stream:
        for file in made:
            for done in range(0, file.stat().st_size, len(zeros)):
                stream.write(zeros[: file.stat().st_size - done])
    (work / "written").unlink()
    print(json.dumps({"products": products, "bytes": time.perf_counter() - start}))


def embedding(folder: Path) -> Path:
    """The shard with the input embedding."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / index["weight_map"]["model.embed_tokens.weight"]


def published(work: Path, name: str, rows: int) -> None:
    """One matrix over the first `rows` new tokens: a tokenizer call per token, dense means, gelsy,
    and the projection.
    """
    import torch
    from safetensors import safe_open
    from transformers import AutoTokenizer

    old, new = (AutoTokenizer.from_pretrained(work / role) for role in ("base", name))
    start = time.perf_counter()
    means = {}
    for role in ("base", "instruct"):
        with safe_open(str(embedding(work / role)), "pt") as file:
            means[role] = file.get_tensor("model.embed_tokens.weight").double()
    found = [
        old(new.convert_ids_to_tokens(i).replace("▁", " "), add_special_tokens=False)["input_ids"]
        or [0]
        for i in range(rows)
    ]
    called = time.perf_counter() - start
    for role, matrix in list(means.items()):
        means[role] = torch.stack([matrix[ids].mean(0) for ids in found])
        del matrix
    d = torch.linalg.lstsq(means["base"], means["instruct"], driver="gelsy").solution
    del means
    with safe_open(str(embedding(work / name)), "pt") as file:
        file.get_tensor("model.embed_tokens.weight")[:rows].double() @ d
    print(json.dumps({"tokenizer calls": called}))


def exact(work: Path) -> None:
    """A planted map comes back; and block by block gives the rows that torch.linalg.lstsq on the
    whole gives, in ulps of each dtype.
    """
    import numpy as np
    import torch

    from lep_bench.surgery import leastsquares

    generator = torch.Generator().manual_seed(SEED)
    x, planted = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((20_000, 512), (512, 512))
    )
    planted /= 512**0.5

    def blocks(matrix: torch.Tensor) -> list[leastsquares.Block]:
        return [
            (np.arange(i, min(i + 2048, len(matrix))), matrix[i : i + 2048])
            for i in range(0, len(matrix), 2048)
        ]

    found, _ = leastsquares.fit(blocks(x), blocks(x @ planted))
    print(json.dumps({"planted map, largest error": float((found - planted).abs().max())}))
    noisy = x @ planted + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    whole = x @ torch.linalg.lstsq(x, noisy, driver="gelsy").solution
    d, _ = leastsquares.fit(blocks(x), blocks(noisy))
    pieces = torch.cat([block @ d for _, block in blocks(x)])
    for dtype, bits in (
        (torch.bfloat16, torch.int16),
        (torch.float16, torch.int16),
        (torch.float32, torch.int32),
    ):
        # Neighbouring floats of one sign are neighbouring integers.
        a, b = (value.to(dtype).view(bits).long() for value in (whole, pieces))
        print(
            json.dumps(
                {f"block by block, {dtype}, ulps": int((a - b).abs()[(a >= 0) == (b >= 0)].max())}
            )
        )


def ours_fit(work: Path, name: str, rows: int) -> None:
    """The same with lep-bench: decomposition, fit and projection over the first `rows` new tokens
    of one matrix.
    """
    import dataclasses

    import numpy as np
    import torch

    from lep_bench.surgery import decompose
    from lep_bench.surgery.leastsquares import Blocks
    from lep_bench.surgery.problem import Problem
    from lep_bench.surgery.tokenizers.tokens import Tokens
    from lep_bench.surgery.weights.checkpoint import Checkpoint

    start = time.perf_counter()
    old, new = Tokens.read(work / "base"), Tokens.read(work / name)
    taken = decompose.decompose(old, new)
    called = time.perf_counter() - start
    base, instruct, trained = (Checkpoint.open(work / role) for role in ("base", "instruct", name))
    problem = Problem("embedding", taken, old, base, instruct, trained)
    first = lambda blocks: dataclasses.replace(blocks, ids=blocks.ids[blocks.ids < rows])  # noqa: E731
    d = problem.fit(first(problem.mixed("base")), first(problem.mixed("instruct")))
    for _, block in Blocks(np.arange(rows), problem.donor_at):
        (block @ d).to(torch.bfloat16)
    print(json.dumps({"decomposition": called}))


def run(part: str, *arguments: object) -> dict[str, float]:
    """`part` in a process of its own: wall seconds, VmHWM, and what it printed."""
    script = (
        "import json, sys, time\nfrom pathlib import Path\nimport surgery\nstart = "
        "time.perf_counter()\n"
        "arguments = json.loads("
        f"{json.dumps(json.dumps([str(a) if isinstance(a, Path) else a for a in arguments]))}"
        ")\n"
        f"surgery.{part}(Path(arguments[0]), *arguments[1:])\n"
        "print(json.dumps({'wall': time.perf_counter() - start, 'peak_gib': surgery.peak()}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True)
    if done.returncode:
        return {
            "failed": done.returncode,
            "why": done.stderr.strip().splitlines()[-1]
            if done.stderr.strip()
            else "killed (memory)",
        }  # type: ignore[dict-item]
    result: dict[str, float] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            result |= json.loads(line)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=HERE.parent / ".real" / "surgery",
        help="needs 15 GiB; removed at the end",
    )
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument(
        "--published",
        default="128000",
        help="rows of the comparison with the published way, comma-separated; 0: none",
    )
    parser.add_argument(
        "--only",
        default="exact,bpe,extended,published",
        help="parts to run; the figures of the others stay",
    )
    parser.add_argument("--keep", action="store_true", help="leave the models for the next time")
    given = parser.parse_args()
    work = given.work
    work.mkdir(parents=True, exist_ok=True)
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    figures: dict[str, object] = known | {
        "width": WIDTH,
        "cores": os.cpu_count(),
        "layers": given.layers,
    }

    def keep(**parts: object) -> None:
        figures.update(parts)
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    # an interrupted benchmark goes on; --keep leaves the models for the next one
    if not (work / "base").exists():
        run("make", work, given.layers)
    if "exact" in given.only:
        keep(exact=run("exact", work))
        print(figures["exact"], flush=True)
    for name, method, size in (("bpe", "bpe", 128_000), ("extended", "extended", 46_560)):
        if name in given.only:
            keep(**{name: full(work, name, method, size)})
    for rows in (
        [int(part) for part in given.published.split(",") if int(part)]
        if "published" in given.only
        else []
    ):
        pair = {
            "ours": run("ours_fit", work, "bpe", rows),
            "published": run("published", work, "bpe", rows),
        }
        keep(**{f"one matrix, {rows} rows": pair})
        print(rows, pair, flush=True)
    if not given.keep:
        shutil.rmtree(work)


def full(work: Path, name: str, method: str, size: int) -> dict[str, object]:
    """Vocabulary, init, donor, `adapt` and its floor, one after the other."""
    if not (work / f"{name}-vocabulary").exists():
        print(f"{name} vocabulary: {run('tokenizer', work, name, method, size)}", flush=True)
    for made in (f"{name}-init", name, f"{name}-conversion"):
        shutil.rmtree(work / made, ignore_errors=True)
    first = run("init", work, name)
    print(f"{name} init: {first}, donor: {run('donor', work, name)}", flush=True)
    mine, bare = run("ours", work, name, "conversion"), run("floor", work, name, "conversion")
    lep = json.loads((work / f"{name}-conversion" / "lep.json").read_text())
    total = bare["products"] + bare["bytes"]
    print(
        f"{name}: adapt {mine['wall']:.1f} s, peak {mine['peak_gib']:.2f} GiB; floor "
        f"{total:.1f} s ({bare['products']:.1f} products); "
        f"factor {mine['wall'] / total:.2f}",
        flush=True,
    )
    return {
        "init": first,
        "ours": mine,
        "floor": bare,
        "factor": mine["wall"] / total,
        "rows": lep["rows"],
        "fit": lep["fit"],
    }


if __name__ == "__main__":
    main()
