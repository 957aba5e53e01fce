"""What benchmarks/engines.py asks, and one engine's answers to it, timed in a process of its own.

    python benchmarks/engines_rows.py WHO FOLDER WHAT RESULT.json

WHO: ours-hf, ours-vllm, theirs-hf, theirs-vllm (lm-eval's own model classes). WHAT: single, mixed,
generate. Every engine is given the same lm-eval requests (strings) by the same call,
`loglikelihood` or `generate_until`; what is timed is that call: tokenizing, asking, answering. One
thread.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

THREADS = os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

DOCS, CHOICES, CONTEXT, POSITIONS = 200, 4, 160, 256
BATCHES = (8, 32)  # lm-eval's hf is timed with each; its better one counts
WORDS = 500  # the texts' own vocabulary: all models have at least as many words


def requests(what: str) -> list[tuple[Any, ...]]:
    """Arguments of lm-eval requests, the same in every process: (context, continuation), or
    (context, settings).
    """
    draw = random.Random(what)

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(WORDS)}" for _ in range(count))

    made: list[tuple[Any, ...]] = []
    if what == "generate":
        return [
            (words(CONTEXT // 2), {"until": ["w1 w2 w3"], "max_gen_toks": 16, "do_sample": False})
            for _ in range(DOCS // 2)
        ]
    for n in range(DOCS * (2 if what == "mixed" else 1)):
        context = words(CONTEXT)
        longer = n >= DOCS
        made += [
            (context, " " + words(draw.randint(2, 6) if longer else 1)) for _ in range(CHOICES)
        ]
    return made


def model(folder: Path, vocabulary: int, dtype: str = "float32", **shape: Any) -> Path:
    """A random LLaMa (4 layers, hidden 256 unless `shape` says otherwise) over a vocabulary of
    words `w0 w1 ...`.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<s>", "</s>", "<unk>", *(f"w{n}" for n in range(vocabulary - 3))]
    tokenizer = Tokenizer(
        models.WordLevel({name: n for n, name in enumerate(names)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    usual = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "initializer_range": 0.06,
    }
    given = {**usual, **shape, "vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1}
    config = LlamaConfig(max_position_embeddings=POSITIONS, tie_word_embeddings=False, **given)
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def loaded(who: str, folder: Path, batch: int) -> Any:
    """The lm-eval model object of `who` on a checkpoint folder, in float32 on the CPU."""
    import lm_eval.models  # noqa: F401

    if who == "theirs-hf":
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=batch)
    if who == "theirs-vllm":
        shim_version()
        from lm_eval.models.vllm_causallms import VLLM

        return VLLM(
            pretrained=str(folder),
            dtype="float32",
            batch_size="auto",
            max_model_len=POSITIONS,
            enforce_eager=True,
            seed=0,
        )
    from lep_bench.evaluate.engine_lm import EngineLM
    from lep_bench.records import artifact

    one = artifact.open_checkpoint(str(folder), folder.name, "local", folder.name)
    if who == "ours-vllm":
        from lep_bench.engines.vllm.engine import VllmEngine

        return EngineLM(VllmEngine(folder), one)
    from lep_bench.engines.hf import HfEngine

    return EngineLM(HfEngine(folder), one)


def shim_version() -> None:
    """lm-eval asks for the version of `vllm`, which the CPU build's package does not answer to;
    vLLM wants to read +cpu there.
    """
    original = importlib.metadata.version

    def version(name: str) -> str:
        return original("vllm-cpu").split("+")[0] + "+cpu" if name == "vllm" else original(name)

    try:
        original("vllm")
    except importlib.metadata.PackageNotFoundError:
        importlib.metadata.version = version


def main() -> None:
    who, folder, what, result = sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    import torch
    from lm_eval.api.instance import Instance

    torch.set_num_threads(int(THREADS))
    kind = "generate_until" if what == "generate" else "loglikelihood"
    asked = [Instance(kind, {}, arguments, n) for n, arguments in enumerate(requests(what))]
    record: dict[str, Any] = {"cpu_s": float("inf")}
    for batch in BATCHES if who == "theirs-hf" else BATCHES[:1]:
        begin = time.perf_counter()
        lm = loaded(who, folder, batch)
        load = time.perf_counter() - begin
        getattr(lm, kind)(asked[:8])  # what happens once only: compiling, first allocations
        cpu, begin = time.process_time(), time.perf_counter()
        answers = getattr(lm, kind)(asked)
        cpu = time.process_time() - cpu
        if cpu < record["cpu_s"]:
            record = {
                "load_s": load,
                "cpu_s": cpu,
                "wall_s": time.perf_counter() - begin,
                "batch": batch,
                "answers": answers,
            }
    result.write_text(json.dumps(record), encoding="utf-8")


if __name__ == "__main__":
    main()
