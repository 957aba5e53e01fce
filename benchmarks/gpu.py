"""What only a GPU shows: LEP conversion at 8B shape, hf scoring in bf16, vLLM scoring and the
exchange under CUDA graphs.

    python benchmarks/gpu.py [--only conversion,hf,vllm] [--small] [--scratch DIR]

conversion  lep_bench.adapt, both matrices 128k x 4096 in bf16, on the processor and on the GPU
hf          a random LLaMa of 8B parameters, bf16: 200 questions of four options, ours and lm-eval's
    HFLM
vllm        the same questions on vLLM with CUDA graphs: start, scoring, two exchanged variants
    (time, proof) against fresh engines

Needs 60 GB of disk in --scratch and network for nothing. Without a GPU it says "unmeasured: no GPU"
and writes that; --small runs the same code at toy size on the processor, to try the script. Writes
benchmarks/results/gpu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "gpu.json"
LARGE = {
    "vocabulary": 128_256,
    "new": 128_000,
    "hidden": 4096,
    "inner": 14_336,
    "layers": 32,
    "heads": 32,
    "kv": 8,
    "dtype": "bfloat16",
}
SMALL = {
    "vocabulary": 2_000,
    "new": 1_800,
    "hidden": 256,
    "inner": 512,
    "layers": 2,
    "heads": 4,
    "kv": 4,
    "dtype": "bfloat16",
}


def shape(size: dict[str, Any], layers: int | None = None) -> dict[str, Any]:
    return {
        "hidden_size": size["hidden"],
        "intermediate_size": size["inner"],
        "num_hidden_layers": layers or size["layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size["kv"],
        "initializer_range": 0.02,
    }


def texts(seed: int, words: int) -> list[str]:
    """Made-up words of two to four syllables, as many different ones as a large vocabulary has
    tokens.
    """
    draw = random.Random(seed)
    syllables = [a + b for a in "бвгдклмнпрст" for b in "аеиоуяыэ"]
    known = ["".join(draw.choices(syllables, k=draw.randint(2, 4))) for _ in range(words)]
    return [" ".join(draw.choices(known, k=200)) for _ in range(words // 25)]


def conversion(size: dict[str, Any], scratch: Path, device: str) -> dict[str, float]:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    import lep_bench

    def build(name: str, seed: int, wanted: int) -> int:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.ByteLevel(add_prefix_space=False),
            decoders.ByteLevel(),
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=wanted,
            initial_alphabet=alphabet,
            special_tokens=["<s>", "</s>"],
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts(seed, 2 * wanted), trainer)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>"
        ).save_pretrained(scratch / name)
        return tokenizer.get_vocab_size()

    rows = build("base", 1, size["vocabulary"])
    build("instruct", 1, size["vocabulary"])
    new = build("donor", 2, size["new"])
    body: dict[str, torch.Tensor] = {}
    for seed, (name, count) in enumerate({"base": rows, "instruct": rows, "donor": new}.items()):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=count,
            bos_token_id=0,
            eos_token_id=1,
            tie_word_embeddings=False,
            **shape(size, layers=1),
        )
        made = LlamaForCausalLM(config).to(torch.bfloat16)
        if name == "base":
            body = {
                key: value
                for key, value in made.state_dict().items()
                if "layers" in key or key == "model.norm.weight"
            }
        if name == "donor":  # the base with other embeddings
            made.load_state_dict(body, strict=False)
        made.save_pretrained(scratch / name)
    found: dict[str, float] = {"old rows": rows, "new rows": new}
    for place in dict.fromkeys(("cpu", device)):
        begin = time.perf_counter()
        lep_bench.adapt(
            *(scratch / name for name in ("base", "instruct", "donor")),
            scratch / f"out-{place}",
            method="conversion",
            device=place,
        )
        found[f"{place} s"] = round(time.perf_counter() - begin, 2)
    return found


def timed(engine: Any, what: str) -> dict[str, float]:
    """Seconds and tokens of the questions of engines_rows, by lm-eval's call."""
    import torch
    from engines_rows import requests
    from lm_eval.api.instance import Instance

    asked = [
        Instance("loglikelihood", {}, arguments, n) for n, arguments in enumerate(requests(what))
    ]
    engine.loglikelihood(asked[:32])
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    engine.loglikelihood(asked)
    seconds = time.perf_counter() - begin
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")
    return {
        "s": round(seconds, 3),
        "questions per s": round(len(asked) / 4 / seconds, 1),
        **({"peak GiB": round(peak, 2)} if peak == peak else {}),
    }


def hf(size: dict[str, Any], scratch: Path, device: str) -> dict[str, Any]:
    from engines_rows import model
    from lm_eval.models.huggingface import HFLM

    from lep_bench.engines.hf import HfEngine
    from lep_bench.evaluate.engine_lm import EngineLM
    from lep_bench.records import artifact

    folder = model(scratch / "hf", size["vocabulary"], size["dtype"], **shape(size))
    found: dict[str, Any] = {}
    ours = EngineLM(
        HfEngine(folder, size["dtype"], device),
        artifact.open_checkpoint(str(folder), "hf", "local", "hf"),
    )
    for what in ("single", "mixed"):
        found[f"ours {what}"] = timed(ours, what)
    ours.engine.close()
    del ours
    for what in ("single", "mixed"):
        for batch in (8, 64):
            theirs = HFLM(
                pretrained=str(folder), dtype=size["dtype"], device=device, batch_size=batch
            )
            try:
                found[f"lm_eval {what}, batch {batch}"] = timed(theirs, what)
            except RuntimeError as error:
                found[f"lm_eval {what}, batch {batch}"] = {"failed": str(error).splitlines()[0]}
            del theirs
    return found


def vllm(size: dict[str, Any], scratch: Path, device: str) -> dict[str, Any]:
    import torch
    from engines_rows import model
    from transformers import AutoModelForCausalLM

    from lep_bench.engines.vllm.engine import VllmEngine
    from lep_bench.evaluate.engine_lm import EngineLM
    from lep_bench.records import artifact
    from lep_bench.records.artifact import Lep, Parent
    from lep_bench.surgery.weights.patch import load_tensors, write_patch

    folder = (
        scratch / "hf"
        if (scratch / "hf").exists()
        else model(scratch / "hf", size["vocabulary"], size["dtype"], **shape(size))
    )
    body = artifact.open_checkpoint(str(folder), "body", "local", "body")
    variants = []
    for n in range(2):
        generator = torch.Generator().manual_seed(n)
        lep = Lep(
            model=f"v{n}",
            fingerprint=str(n),
            kind="patch",
            stage="donor",
            vocabulary_size=size["vocabulary"],
            parents=(Parent(role="body", name="body", location=str(folder)),),
        )
        tensors = {
            name: (0.02 * torch.randn(size["vocabulary"], size["hidden"], generator=generator)).to(
                getattr(torch, size["dtype"])
            )
            for name in ("model.embed_tokens.weight", "lm_head.weight")
        }
        variants.append(
            write_patch(
                scratch / f"v{n}", tensors, lep=lep, tokenizer_from=folder, config_from=folder
            )
        )
    found: dict[str, Any] = {}
    begin = time.perf_counter()
    engine = VllmEngine(folder, size["dtype"], device)
    lm = EngineLM(engine, body)
    found["start s"] = round(time.perf_counter() - begin, 2)
    for what in ("single", "mixed"):
        found[f"ours {what}"] = timed(lm, what)
    draw = random.Random(3)
    contexts = [[draw.randrange(size["vocabulary"]) for _ in range(100)] for _ in range(32)]
    answers, took = [], []
    for variant in (*variants, *variants):
        begin = time.perf_counter()
        engine.exchange(variant)
        took.append(round(time.perf_counter() - begin, 3))
        answers.append(engine.option_logprobs(contexts, [[5, 6, 7, 8]] * 32))
    found |= {
        "exchange s": took,
        "remarks": engine.remarks(),
        "the same when it comes back": answers[:2] == answers[2:],
    }
    engine.close()
    for variant, exchanged in zip(variants, answers, strict=False):
        whole = AutoModelForCausalLM.from_pretrained(folder, dtype=size["dtype"])
        whole.load_state_dict(load_tensors(variant), strict=False)
        whole.save_pretrained(scratch / "whole")
        del whole
        for file in folder.glob("tokenizer*"):
            shutil.copyfile(file, scratch / "whole" / file.name)
        fresh = VllmEngine(scratch / "whole", size["dtype"], device)
        got = fresh.option_logprobs(contexts, [[5, 6, 7, 8]] * 32)
        found[f"{variant.name}: largest difference from a fresh engine"] = max(
            abs(a[0] - b[0])
            for x, y in zip(got, exchanged, strict=True)
            for a, b in zip(x, y, strict=True)
        )
        fresh.close()
    return found


def main() -> None:
    parts = {"conversion": conversion, "hf": hf, "vllm": vllm}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(parts))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--part", choices=parts, help=argparse.SUPPRESS)
    given = parser.parse_args()
    import torch

    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    if given.part:
        found = parts[given.part](SMALL if given.small else LARGE, given.scratch, device)
        (given.scratch / f"{given.part}.json").write_text(json.dumps(found), encoding="utf-8")
        return
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else "",
        "torch": torch.__version__,
        "small": given.small,
    }
    with tempfile.TemporaryDirectory(prefix="lep-bench-gpu-", dir=given.scratch) as scratch:
        for name in given.only.split(","):
            if not cuda and not given.small:
                record[name] = "unmeasured: no GPU"
                continue
            # A process of its own: what one part leaves in the GPU's memory is not the next one's.
            command = [
                sys.executable,
                str(Path(__file__)),
                "--part",
                name,
                "--scratch",
                scratch,
                *(["--small"] if given.small else []),
            ]
            done = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": str(HERE)}, capture_output=True, text=True
            )
            file = Path(scratch) / f"{name}.json"
            record[name] = (
                json.loads(file.read_text(encoding="utf-8"))
                if done.returncode == 0
                else {"failed": done.stderr.strip()[-800:]}
            )
    print(json.dumps(record, indent=1, ensure_ascii=False))
    if not given.small:
        RESULTS.write_text(
            json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
