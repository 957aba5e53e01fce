"""The families' tokenizers, trained from nothing on text that is one fifth Russian, so that Russian
is poorly segmented.

mini-llama follows LLaMa-3 (byte-level BPE, split regex with digits in groups of up to three,
`ignore_merges`, special tokens last); mini-mistral follows Mistral-7B-v0.1 (sentencepiece-style BPE
with byte fallback, dummy prefix space, digits one by one), its instruct model OpenChat-3.5 (two
added tokens, rows not padded).
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from .corpus import tokenizer_texts

RUSSIAN = 0.2  # share of documents
DOCUMENTS = 8000
POSITIONS = 256

_LLAMA_ORDINARY = 1000
_LLAMA_SPECIALS = 24
_LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MISTRAL_ROWS = 1280
_MISTRAL_SPECIALS = ("<unk>", "<s>", "</s>")
_SPACE = "▁"

LLAMA_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + "
    "message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' "
    "}}{%- endif %}"
)
MISTRAL_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- 'GPT4 Correct ' + message['role'] | title + ': ' + message['content'] + "
    "'<|end_of_turn|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- 'GPT4 Correct Assistant:' }}{%- endif %}"
)


def llama_specials() -> list[str]:
    """LLaMa-3's special tokens in LLaMa-3's order, cut to 24."""
    named = {
        0: "begin_of_text",
        1: "end_of_text",
        6: "start_header_id",
        7: "end_header_id",
        9: "eot_id",
    }
    reserved = (f"reserved_special_token_{number}" for number in range(_LLAMA_SPECIALS))
    return [
        f"<|{named[place] if place in named else next(reserved)}|>"
        for place in range(_LLAMA_SPECIALS)
    ]


def _special(text: str) -> AddedToken:
    return AddedToken(text, special=True, normalized=False)


def _bos_first(bos: str, number: int) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, number)]
    )


def train_llama(texts: Iterator[str]) -> Tokenizer:
    """Byte-level BPE: ids 0-999 ordinary, 1000-1023 special."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_LLAMA_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_LLAMA_ORDINARY,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    state = json.loads(trained.to_str())
    state["model"]["ignore_merges"] = True
    made = Tokenizer.from_str(json.dumps(state, ensure_ascii=False))
    made.decoder = decoders.ByteLevel()
    specials = llama_specials()
    made.add_special_tokens([_special(text) for text in specials])
    made.post_processor = _bos_first(specials[0], made.token_to_id(specials[0]))
    return made


def train_mistral(texts: Iterator[str]) -> Tokenizer:
    """Sentencepiece-style BPE: ids 0-2 special, 3-258 bytes, 259-1279 pieces."""
    trained = Tokenizer(models.BPE())
    # Sentencepiece never lets a piece cross a space, a digit or the border between letters and
    # signs. The finished tokenizer needs no such splits: the merges that would cross them do not
    # exist.
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(
                Regex(rf"{_SPACE}?\p{{L}}+|\p{{N}}|{_SPACE}|[^\p{{L}}\p{{N}}{_SPACE}]"), "isolated"
            ),
        ]
    )
    first = len(_MISTRAL_SPECIALS) + 256
    trainer = trainers.BpeTrainer(
        vocab_size=_MISTRAL_ROWS - first, initial_alphabet=list("0123456789"), show_progress=False
    )
    # A line break is no piece: as in Mistral it is the byte <0x0A>.
    trained.train_from_iterator((text.replace("\n", " ") for text in texts), trainer)
    learnt = json.loads(trained.to_str())["model"]
    vocab = {text: number for number, text in enumerate(_MISTRAL_SPECIALS)}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {piece: first + number for piece, number in learnt["vocab"].items()}
    merges = [tuple(pair) for pair in learnt["merges"]]
    made = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens([_special(text) for text in _MISTRAL_SPECIALS])
    made.post_processor = _bos_first("<s>", 1)
    return made


def train_tokenizer(kind: str, seed: int) -> Tokenizer:
    """The base model's tokenizer of a family of `kind` ("llama" or "mistral")."""
    texts = tokenizer_texts(seed, RUSSIAN, DOCUMENTS)
    return train_llama(texts) if kind == "llama" else train_mistral(texts)


def instruct_tokenizer(kind: str, base: Tokenizer) -> Tokenizer:
    """The same tokenizer with the chat's tokens: OpenChat's two for mistral, none for llama, which
    has them already.
    """
    made = Tokenizer.from_str(base.to_str())
    if kind == "mistral":
        made.add_special_tokens([_special("<|end_of_turn|>"), _special("<|pad_0|>")])
    return made


def special_names(kind: str, instruct: bool) -> dict[str, str]:
    """The names of tokenizer_config.json: beginning, end, padding, unknown."""
    if kind == "llama":
        end = "<|eot_id|>" if instruct else "<|end_of_text|>"
        return {
            "bos_token": "<|begin_of_text|>",
            "eos_token": end,
            "pad_token": llama_specials()[-1],
        }
    end, pad = ("<|end_of_turn|>", "<|pad_0|>") if instruct else ("</s>", "<unk>")
    return {"bos_token": "<s>", "eos_token": end, "pad_token": pad, "unk_token": "<unk>"}


def eos_ids(kind: str, tokenizer: Tokenizer, instruct: bool) -> int | list[int]:
    """End ids for generation_config.json; a set for LLaMa-style instruct models."""
    if kind == "llama" and instruct:
        return [tokenizer.token_to_id("<|end_of_text|>"), tokenizer.token_to_id("<|eot_id|>")]
    return tokenizer.token_to_id(special_names(kind, instruct)["eos_token"])


def save_tokenizer(folder: Path, kind: str, tokenizer: Tokenizer, instruct: bool) -> None:
    """tokenizer.json, tokenizer_config.json and, for instruct models only, chat_template.jinja.

    The class is PreTrainedTokenizerFast: classes named after a model rebuild parts of the tokenizer
    when they load it.
    """
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special_names(kind, instruct),
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )
    if instruct:
        template = LLAMA_TEMPLATE if kind == "llama" else MISTRAL_TEMPLATE
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def chat_parts(kind: str, prompt: str, answer: str) -> tuple[str, str]:
    """A chat document as (rendered prompt, rendered answer with its end); their join is what a
    model reads.

    A space stands before the answer unless the prompt ends with white space, as in the tasks.
    """
    if kind == "llama":
        head = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
        return (
            f"{head}{prompt}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            f"{answer}<|eot_id|>",
        )
    return (
        f"<s>GPT4 Correct User: {prompt}<|end_of_turn|>GPT4 Correct Assistant:",
        f" {answer}<|end_of_turn|>",
    )
