"""Pico models for tests, made in a second: whole checkpoints with the structure of real models and
random weights.

`family` makes a base and its instruct model, `donor` the base with another vocabulary. Their output
means nothing. But code that breaks on tokenizers, special tokens, tied heads or padded rows of real
models breaks on them too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from lep_bench.errors import LepBenchError

Kind = Literal["byte-level", "sentencepiece"]
HIDDEN = 16
TEXTS = [
    "the red fox runs over the green hill and the small dog sleeps near the river",
    "Рыжая лиса бежит по зелёному холму, а маленькая собака спит у реки",
    "Question: what colour is the hill? Answer: green. Вопрос: какого цвета холм? Ответ: зелёный.",
    "one two three four five six seven; один два три четыре пять шесть семь",
]
OTHER_TEXTS = [
    "Зелёный холм, рыжая лиса, маленькая собака, быстрая река, зелёная трава, рыжая собака",
    (
        "лиса бежит, собака спит, река течёт, холм стоит; какого цвета лиса? рыжая. какого цвета "
        "трава? зелёная."
    ),
]
_LLAMA_SPECIALS = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_0|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
_LLAMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] "
    "}}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_MISTRAL_ADDED = ["<|end_of_turn|>", "<|pad_0|>"]
_MISTRAL_CHAT = (
    "{{ bos_token }}{% for m in messages %}GPT4 Correct {{ m['role'].title() }}: {{ "
    "m['content'] }}<|end_of_turn|>{% endfor %}"
    "{% if add_generation_prompt %}GPT4 Correct Assistant:{% endif %}"
)


def family(
    folder: Path,
    tied: bool = False,
    padded: bool = False,
    kind: Kind = "byte-level",
    layers: int = 1,
    seed: int = 0,
) -> tuple[Path, Path]:
    """Write `folder/base` and `folder/instruct`, and return both paths.

    kind "byte-level": LLaMa-3's structure (reserved specials in both models, BOS from the
    post-processor, two EOS ids in the instruct model). kind "sentencepiece": Mistral's structure
    (byte fallback, dummy prefix space, two more tokens in the instruct model). tied: embedding and
    head are one matrix. padded: more rows than tokens, a multiple of 64. Weights are float32.
    """
    import torch

    base, instruct = Path(folder) / "base", Path(folder) / "instruct"
    tokenizer = _train_tokenizer(kind, TEXTS, 330 if kind == "byte-level" else 420)
    model = _make_model(kind, tokenizer.get_vocab_size(), tied, padded, layers, seed)
    _save(base, model, tokenizer, kind, chat=False)

    if kind == "sentencepiece":
        tokenizer.add_special_tokens(_MISTRAL_ADDED)
    rows = _count_rows(tokenizer.get_vocab_size(), padded)
    # The draws neither depend on earlier draws nor change later ones.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed + 1)
        if rows != model.config.vocab_size:
            model.resize_token_embeddings(rows, mean_resizing=False)
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    _save(instruct, model, tokenizer, kind, chat=True)
    return base, instruct


def donor(out: Path, base: Path, size: int = 300, seed: int = 7) -> Path:
    """Write the base's body with another vocabulary of about `size` tokens to `out`, and return
    `out`.

    The tokenizer is of the base's kind and has its special tokens, but is trained on other text.
    The rows of both matrices are random.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    kind: Kind = "byte-level" if model.config.model_type == "llama" else "sentencepiece"
    tokenizer = _train_tokenizer(kind, OTHER_TEXTS, size if kind == "byte-level" else size + 60)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model.resize_token_embeddings(tokenizer.get_vocab_size(), mean_resizing=False)
        for matrix in {
            id(m): m
            for m in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
        }.values():
            matrix.copy_(0.1 * torch.randn_like(matrix))
    _save(Path(out), model, tokenizer, kind, chat=False)
    return Path(out)


def _train_tokenizer(kind: Kind, texts: list[str], size: int) -> Any:
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    if kind == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(
            texts,
            trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False),
        )
        tokenizer.add_special_tokens(_LLAMA_SPECIALS)
        bos = "<|begin_of_text|>"
    elif kind == "sentencepiece":
        bos, specials = "<s>", ["<unk>", "<s>", "</s>"]
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        # Words are split for training only; the finished tokenizer has no pre-tokenizer, like
        # LLaMa-2's and Mistral's.
        tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
        tokenizer.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=size, special_tokens=pieces, show_progress=False)
        )
        tokenizer = _make_bytes_ordinary(tokenizer, specials)
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
    else:
        raise LepBenchError(f"no pico tokenizer of kind {kind!r}: byte-level or sentencepiece")
    number = tokenizer.token_to_id(bos)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, number)]
    )
    return tokenizer


def _make_bytes_ordinary(tokenizer: Any, specials: list[str]) -> Any:
    """Turn the byte tokens into ordinary tokens, as byte fallback needs. The trainer can only add
    them as special tokens.
    """
    from tokenizers import Tokenizer

    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] in specials]
    data["pre_tokenizer"] = None
    return Tokenizer.from_str(json.dumps(data))


def _count_rows(tokens: int, padded: bool) -> int:
    return -(-(tokens + 1) // 64) * 64 if padded else tokens


def _make_model(kind: Kind, tokens: int, tied: bool, padded: bool, layers: int, seed: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    shape = {
        "vocab_size": _count_rows(tokens, padded),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        "initializer_range": 0.1,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "byte-level":
            return LlamaForCausalLM(LlamaConfig(**shape)).float()
        return MistralForCausalLM(MistralConfig(**shape, sliding_window=32)).float()


def _save(folder: Path, model: Any, tokenizer: Any, kind: Kind, chat: bool) -> None:
    from transformers import PreTrainedTokenizerFast

    if kind == "byte-level":
        names = {
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>" if chat else "<|end_of_text|>",
        }
        stops, template = ["<|end_of_text|>", "<|eot_id|>"], _LLAMA_CHAT
    else:
        names = {
            "bos_token": "<s>",
            "eos_token": "<|end_of_turn|>" if chat else "</s>",
            "unk_token": "<unk>",
        }
        stops, template = ["</s>", "<|end_of_turn|>"], _MISTRAL_CHAT
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        **names,
    )
    if chat:
        fast.chat_template = template
    ends = [tokenizer.token_to_id(stop) for stop in (stops if chat else stops[:1])]
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id = (
            tokenizer.token_to_id(names["bos_token"]),
            ends if chat else ends[0],
        )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
