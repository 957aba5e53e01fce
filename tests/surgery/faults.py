"""Ways to spoil a sound model, each with the finding that must name it.

`model` says which one is spoiled: ours of either kind ("bytes", "pieces", "tied"), a patch of ours
("patch"), or somebody else's ("foreign", "foreign-pieces", "sharded", "unigram").
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pico_models import EMBEDDING, HEAD, edit, edit_tensors
from safetensors.torch import load_file, save_file

from lep_bench.surgery.tokenizers.tokens import Tokens


class Fault(NamedTuple):
    name: str
    model: str
    level: str
    says: str
    spoil: Callable[[Path], Any]


FAULTS: list[Fault] = []
INDEX = "model.safetensors.index.json"
REAL = 306  # rows of "bytes" that tokens have; 320 with padding. "pieces" has 362 and 384


def fault(
    model: str, level: str, says: str
) -> Callable[[Callable[[Path], Any]], Callable[[Path], Any]]:
    def keep(spoil: Callable[[Path], Any]) -> Callable[[Path], Any]:
        FAULTS.append(Fault(spoil.__name__, model, level, says, spoil))
        return spoil

    return keep


def given(model: str, level: str, says: str, file: str, **fields: Any) -> None:
    """A fault that sets fields of a JSON file."""
    name = f"{file.split('.')[0]} {fields}"[:60]
    FAULTS.append(Fault(name, model, level, says, lambda folder: edit(folder / file, **fields)))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def write(folder: Path, **named: torch.Tensor) -> None:
    edit_tensors(
        folder,
        **{
            {"embedding": EMBEDDING, "head": HEAD}.get(name, name).replace(".", "__"): t
            for name, t in named.items()
        },
    )


def spec(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "tokenizer.json").read_text())


def rewrite(folder: Path, changed: dict[str, Any]) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(changed))


# Sizes and rows


given(
    "pieces",
    "error",
    "config.json says vocab_size 1, the embedding has 384 rows",
    "config.json",
    vocab_size=1,
)
given(
    "pieces",
    "error",
    "lep.json says 350 real rows, the tokenizer has 362",
    "lep.json",
    vocabulary_size=350,
)
given("pieces", "error", "does not record the real and the padded size", "lep.json", rows={})
given(
    "pieces",
    "error",
    "counts 370 rows with padding, the embedding has 384",
    "lep.json",
    rows={"kept": 350, "padding": 20},
)
given(
    "pieces",
    "error",
    "2 tensors that lep.json names as changed are missing",
    "lep.json",
    changed=["a", EMBEDDING, "b"],
)
given(
    "bytes",
    "error",
    "config.json says dtype bfloat16, the head is stored in float32",
    "config.json",
    dtype="bfloat16",
)
given(
    "foreign",
    "warning",
    "config.json says dtype float16, the embedding is stored in float32",
    "config.json",
    dtype="float16",
)
given(
    "bytes",
    "error",
    "ties head and embedding, yet there is a lm_head.weight of its own",
    "config.json",
    tie_word_embeddings=True,
)
given(
    "tied",
    "error",
    "config.json says the head is not tied, but there is no lm_head.weight",
    "config.json",
    tie_word_embeddings=False,
)


@fault(
    "tied",
    "error",
    "does not say tie_word_embeddings: transformers takes False, and there is no head",
)
def tied_flag_missing(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))


@fault("bytes", "error", "no multiple of 64")
def padding_missing(folder: Path) -> None:
    write(folder, embedding=tensors(folder)[EMBEDDING][:REAL])


@fault("bytes", "error", "rows from 306 on are not the mean row")
def padding_of_zeros(folder: Path) -> None:
    rows = tensors(folder)[EMBEDDING]
    rows[REAL:] = 0
    write(folder, embedding=rows)


@fault("pieces", "error", "the tokenizer's highest id is 361, the head has 361 rows")
def id_without_a_row(folder: Path) -> None:
    write(folder, head=tensors(folder)[HEAD][:361])


@fault("foreign", "error", "1 rows with NaN or infinity, the first at id 7")
def nan_row(folder: Path) -> None:
    rows = tensors(folder)[HEAD]
    rows[7, 3] = float("nan")
    write(folder, head=rows)


@fault("pieces", "warning", "1 rows are all zero, the first at id 300")
def zero_row(folder: Path) -> None:
    rows = tensors(folder)[HEAD]
    rows[300] = 0
    write(folder, head=rows)


@fault("foreign", "warning", "1 rows are much longer or shorter than the others")
def giant_row(folder: Path) -> None:
    rows = tensors(folder)[EMBEDDING]
    rows[99] *= 1000
    write(folder, embedding=rows)


@fault("foreign", "warning", "2 rows are the same as another token's, such as ids 20, 40")
def row_twice(folder: Path) -> None:
    rows = tensors(folder)[EMBEDDING]
    rows[40] = rows[20]
    write(folder, embedding=rows)


@fault(
    "foreign",
    "warning",
    "the chat template uses '<|end_header_id|>', whose rows are zero, tiny, or those of other "
    "tokens",
)
def untrained_chat_marker(folder: Path) -> None:
    rows, ids = tensors(folder)[EMBEDDING], Tokens.read(folder).specials
    rows[ids["<|end_header_id|>"]] = rows[ids["<|reserved_0|>"]]
    write(folder, embedding=rows)


@fault(
    "bytes",
    "error",
    "3 special rows of the head are not the instruct model's own, the first is "
    "'<|start_header_id|>'",
)
def base_rows_for_chat_markers(folder: Path) -> None:
    parents = {
        parent["role"]: Path(parent["location"])
        for parent in json.loads((folder / "lep.json").read_text())["parents"]
    }
    rows, own, theirs = (
        tensors(folder)[HEAD],
        Tokens.read(folder).specials,
        Tokens.read(parents["base"]).specials,
    )
    for content in ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"):
        rows[own[content]] = tensors(parents["base"])[HEAD][theirs[content]]
    write(folder, head=rows)


@fault("bytes", "error", "'lm_head.weight', 'model.embed_tokens.weight' are swapped")
def head_and_embedding_swapped(folder: Path) -> None:
    both = tensors(folder)
    write(folder, head=both[EMBEDDING], embedding=both[HEAD])


@fault("bytes", "error", "head and embedding hold the same numbers")
def head_overwritten(folder: Path) -> None:
    write(folder, head=tensors(folder)[EMBEDDING])


@fault(
    "bytes",
    "error",
    "1 tensors are not those that were written (other hashes than in lep.json): "
    "'model.embed_tokens.weight'",
)
def rows_shuffled(folder: Path) -> None:
    rows = tensors(folder)[EMBEDDING]
    # special tokens and padding in place
    write(folder, embedding=torch.cat([rows[:300].roll(1, 0), rows[300:]]))


@fault("patch", "error", "1 stale tensors, which lep.json does not name: 'model.norm.weight'")
def stale_tensor_in_a_patch(folder: Path) -> None:
    file = folder / "patch.safetensors"
    save_file({**load_file(file), "model.norm.weight": torch.ones(16)}, file)


# Shards


@fault(
    "sharded",
    "error",
    "1 stale tensors, which the index names in another shard: 'model.norm.weight'",
)
def stale_tensor_named_elsewhere(folder: Path) -> None:
    _into_another_shard(folder, "model.norm.weight")


@fault("sharded", "warning", "1 stale tensors, which the index does not name: 'old.weight'")
def stale_tensor_without_a_name(folder: Path) -> None:
    _into_another_shard(folder, "old.weight")


def _into_another_shard(folder: Path, name: str) -> None:
    named = json.loads((folder / INDEX).read_text())["weight_map"]
    file = folder / next(file for file in sorted(set(named.values())) if file != named.get(name))
    save_file({**load_file(file), name: torch.ones(16)}, file, metadata={"format": "pt"})


@fault(
    "sharded",
    "error",
    "the index names 1 tensors in shards that do not hold them: 'model.layers.7.weight'",
)
def tensor_missing_in_its_shard(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.layers.7.weight"] = index["weight_map"]["model.norm.weight"]
    (folder / INDEX).write_text(json.dumps(index))


given("sharded", "warning", "total_size is 5, the tensors have", INDEX, metadata={"total_size": 5})


@fault("sharded", "error", "both model.safetensors and shards")
def shards_beside_a_single_file(folder: Path) -> None:
    save_file({EMBEDDING: torch.zeros(2, 2)}, folder / "model.safetensors")


# The tokenizer


@fault("pieces", "error", "1 ids below the highest have no token, the first is 300")
def hole_in_the_ids(folder: Path) -> None:
    changed = spec(folder)
    _drop(
        changed, next(piece for piece, number in changed["model"]["vocab"].items() if number == 300)
    )
    rewrite(folder, changed)


@fault("bytes", "error", "1 ordinary tokens occur in no text's encoding")
def token_that_no_merge_reaches(folder: Path) -> None:
    changed = spec(folder)
    changed["model"]["merges"].pop()
    rewrite(folder, changed)


@fault("foreign", "warning", "1 ordinary tokens occur in no text's encoding")
def token_hidden_by_ignore_merges(folder: Path) -> None:
    changed = spec(folder)
    changed["model"]["merges"].pop()
    changed["model"]["ignore_merges"] = True
    rewrite(folder, changed)


@fault("bytes", "error", "1 merges use or make tokens that the vocabulary lacks")
def merge_of_a_token_that_is_gone(folder: Path) -> None:
    changed = spec(folder)
    last = "".join(changed["model"]["merges"][-1])
    changed["model"]["vocab"]["unlikely"] = changed["model"]["vocab"].pop(last)
    rewrite(folder, changed)


@fault("pieces", "error", "1 merges are listed twice")
def merge_twice(folder: Path) -> None:
    changed = spec(folder)
    changed["model"]["merges"].append(changed["model"]["merges"][0])
    rewrite(folder, changed)


@fault("bytes", "error", "1 ordinary tokens are not spelled in byte-level characters: '▁река'")
def sentencepiece_spelling_in_a_byte_level_vocabulary(folder: Path) -> None:
    changed = spec(folder)
    last = "".join(changed["model"]["merges"].pop())
    changed["model"]["vocab"]["▁река"] = changed["model"]["vocab"].pop(last)
    rewrite(folder, changed)


@fault("pieces", "error", "1 of 256 bytes have no token: '0xAB'")
def byte_token_missing(folder: Path) -> None:
    changed = spec(folder)
    changed["model"]["vocab"]["¤¤¤"] = changed["model"]["vocab"].pop("<0xAB>")
    rewrite(folder, changed)


@fault("pieces", "error", "1 added tokens share their id: 1")
def two_specials_of_one_id(folder: Path) -> None:
    changed = spec(folder)
    changed["added_tokens"].append({**changed["added_tokens"][1], "content": "<s2>"})
    rewrite(folder, changed)


@fault("pieces", "error", "the post-processor gives '<s>' the id 7, the vocabulary 1")
def post_processor_id(folder: Path) -> None:
    changed = spec(folder)
    changed["post_processor"]["special_tokens"]["<s>"]["ids"] = [7]
    rewrite(folder, changed)


@fault("pieces", "error", "nothing is set around a text, <s> in its body")
def post_processor_lost(folder: Path) -> None:
    rewrite(folder, {**spec(folder), "post_processor": None})


@fault("foreign-pieces", "error", "every text begins with '<s>' twice")
def bos_doubled_by_the_post_processor(folder: Path) -> None:
    changed = spec(folder)
    changed["post_processor"]["single"].insert(0, {"SpecialToken": {"id": "<s>", "type_id": 0}})
    rewrite(folder, changed)


@fault("foreign-pieces", "error", "every chat begins with '<s>' twice")
def bos_doubled_by_the_template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text("{{ bos_token }}" + file.read_text())


given(
    "pieces",
    "error",
    "pad_token '<pad>' of tokenizer_config.json is no token",
    "tokenizer_config.json",
    pad_token="<pad>",
)
given(
    "pieces",
    "error",
    "tokenizer_class is LlamaTokenizer",
    "tokenizer_config.json",
    tokenizer_class="LlamaTokenizer",
)
given(
    "unigram",
    "error",
    "(LlamaTokenizer) gives other ids than tokenizer.json",
    "tokenizer_config.json",
    tokenizer_class="LlamaTokenizer",
)
given(
    "unigram",
    "warning",
    "a Unigram tokenizer that says LlamaTokenizer",
    "tokenizer_config.json",
    tokenizer_class="LlamaTokenizer",
)
given(
    "foreign",
    "error",
    "1 tokens that tokenizer.json lacks or numbers",
    "tokenizer_config.json",
    extra_special_tokens=["<|more|>"],
)


@fault("pieces", "error", "a tokenizer.model stands beside the new tokenizer.json")
def old_tokenizer_model_left(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"the body's")


def _drop(changed: dict[str, Any], piece: str) -> None:
    del changed["model"]["vocab"][piece]
    changed["model"]["merges"] = [
        pair for pair in changed["model"]["merges"] if piece not in (*pair, "".join(pair))
    ]


# Configs and chat


given(
    "bytes",
    "error",
    "eos_token_id means '<|end_of_text|>', in the body '<|end_of_text|>', '<|eot",
    "generation_config.json",
    eos_token_id=301,
)
given(
    "foreign",
    "warning",
    "ends an answer with '<|eot_id|>' (335), which is not among the ends [331]",
    "generation_config.json",
    eos_token_id=331,
)
given(
    "pieces",
    "error",
    "eos_token_id 999 is no token (ids end at 361)",
    "generation_config.json",
    eos_token_id=[2, 999],
)
given("foreign", "error", "pad_token_id 4096 is no token", "config.json", pad_token_id=4096)
given(
    "foreign-pieces",
    "warning",
    "the padding token 420 is the only end",
    "generation_config.json",
    eos_token_id=420,
    pad_token_id=420,
)
given(
    "foreign",
    "error",
    "eos_token_id is True, a token's id is expected",
    "generation_config.json",
    eos_token_id=True,
)
given("pieces", "error", "use_cache is 52001, the body's True", "config.json", use_cache=52001)
given(
    "foreign",
    "error",
    "transformers refuses it: Validation error for field 'use_cache'",
    "config.json",
    use_cache=52001,
)
given(
    "bytes", "warning", "hidden_act is 'gelu', the body's 'silu'", "config.json", hidden_act="gelu"
)


@fault("foreign", "warning", "no end-of-sequence token")
def no_end(folder: Path) -> None:
    edit(folder / "config.json", eos_token_id=None)
    edit(folder / "generation_config.json", eos_token_id=None)


@fault("bytes", "error", "it is missing, the body")
def generation_config_lost(folder: Path) -> None:
    (folder / "generation_config.json").unlink()


@fault("pieces", "error", "no chat template, its body")
def chat_template_lost(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


@fault(
    "pieces",
    "error",
    "a chat is written with the special tokens <s>, in the body with <s> <|end_of_turn|>",
)
def chat_template_of_another_model(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    )


@fault(
    "foreign-pieces",
    "warning",
    "the chat template writes '<|im_end|>', '<|im_start|>', which no token stands for",
)
def chat_markers_that_are_no_tokens(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% "
        "endfor %}"
    )


@fault("foreign", "warning", "the chat template fails")
def chat_template_that_fails(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content.nothing.at_all }}")
