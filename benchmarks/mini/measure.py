"""Score a checkpoint on the fact and copy tasks without lm-eval, in seconds: for choosing recipes
and for the log.

    python -m benchmarks.mini.measure FOLDER [--chat] [--data tasks/mini/data]

The requests are those of the tasks (same prompts, same split between context and continuation,
float32, greedy).
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from lep_bench.surgery.tokenizers import loading

_BATCH = 100
_NEW_TOKENS = 48


def _prompt(tokenizer: PreTrainedTokenizerBase, query: str, chat: bool) -> str:
    if not chat:
        return tokenizer.bos_token + query
    messages = [{"role": "user", "content": query}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def _log_likelihoods(
    model: PreTrainedModel, pairs: list[tuple[list[int], list[int]]], pad: int
) -> list[float]:
    """The summed log-probability of each continuation after its context, in nats."""
    found: list[float] = []
    for start in range(0, len(pairs), _BATCH):
        part = pairs[start : start + _BATCH]
        longest = max(len(context) + len(rest) for context, rest in part)
        ids = torch.full((len(part), longest), pad)
        for row, (context, rest) in enumerate(part):
            ids[row, : len(context) + len(rest)] = torch.tensor(context + rest)
        # Padding stands on the right, where a causal model cannot see it: no mask is needed.
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.log_softmax(-1)
        for row, (context, rest) in enumerate(part):
            places = torch.arange(len(context) - 1, len(context) + len(rest) - 1)
            found.append(logits[row, places, torch.tensor(rest)].sum().item())
    return found


def fact_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict], chat: bool
) -> float:
    pairs = []
    for row in rows:
        prompt = _prompt(tokenizer, row["query"], chat)
        space = "" if prompt[-1].isspace() else " "
        context = _ids(tokenizer, prompt.rstrip())
        for choice in row["choices"]:
            pairs.append((context, _ids(tokenizer, prompt + space + choice)[len(context) :]))
    scores = torch.tensor(_log_likelihoods(model, pairs, tokenizer.pad_token_id)).view(
        len(rows), -1
    )
    return (scores.argmax(-1) == torch.tensor([row["gold"] for row in rows])).float().mean().item()


def copy_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict], chat: bool
) -> float:
    tokenizer.padding_side, right = "left", 0
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        prompts = [_prompt(tokenizer, row["query"], chat) for row in part]
        given = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
        given.pop("token_type_ids", None)
        made = model.generate(
            **given,
            max_new_tokens=_NEW_TOKENS,
            do_sample=False,
            stop_strings=["\n"],
            tokenizer=tokenizer,
        )
        for row, ids in zip(part, made[:, given["input_ids"].shape[1] :], strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True).split("\n")[0]
            right += text.strip() == row["answer"]
    return right / len(rows)


def measure(folder: Path, chat: bool, data: Path) -> dict[str, float]:
    """{"facts_en": ..., "facts_ru": ..., "copy_en": ..., "copy_ru": ...}, each a share from 0 to
    1.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, notes = loading.load_tokenizer(folder)
    for note in notes:
        print(f"{folder}: {note}")
    found = {}
    for kind, score in (("facts", fact_accuracy), ("copy", copy_accuracy)):
        for language in ("en", "ru"):
            lines = (data / f"{kind}_{language}.jsonl").read_text(encoding="utf-8").splitlines()
            found[f"{kind}_{language}"] = score(
                model, tokenizer, [json.loads(line) for line in lines], chat
            )
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--chat", action="store_true", help="ask through the chat template")
    parser.add_argument("--data", type=Path, default=Path("tasks/mini/data"))
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for folder in chosen.folders:
        scores = measure(folder, chosen.chat, chosen.data)
        print(
            folder,
            " ".join(f"{name} {100 * value:.1f}" for name, value in scores.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
