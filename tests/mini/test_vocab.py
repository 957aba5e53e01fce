"""The tokenizers: layout of ids, losslessness, and the agreement of training format and chat
template by ids.
"""

import json
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks.mini import corpus, vocab
from benchmarks.mini.families import FAMILIES

KINDS = ("llama", "mistral")
TEXTS = (
    "Кот спит дома. The cat sleeps.",
    "12 ёжиков, 345!\n\nДа?",
    "  two  spaces ",
    "日本 emoji 🙂",
    "",
)


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: vocab.train_tokenizer(kind, 0) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_training_twice_gives_the_same_tokenizer(tokenizers, kind):
    assert vocab.train_tokenizer(kind, 0).to_str() == tokenizers[kind].to_str()


def test_llama_layout(tokenizers):
    made = tokenizers["llama"]
    assert made.get_vocab_size() == 1024
    assert [made.id_to_token(1000 + place) for place in (0, 1, 6, 7, 9)] == [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ]
    state = json.loads(made.to_str())
    assert state["model"]["ignore_merges"] is True
    assert state["post_processor"]["type"] == "TemplateProcessing"
    assert len(vocab.llama_specials()) == len(set(vocab.llama_specials())) == 24


def test_mistral_layout(tokenizers):
    made = tokenizers["mistral"]
    assert made.get_vocab_size() == 1280
    assert [made.id_to_token(number) for number in (0, 1, 2, 3, 258)] == [
        "<unk>",
        "<s>",
        "</s>",
        "<0x00>",
        "<0xFF>",
    ]
    assert json.loads(made.to_str())["model"]["byte_fallback"] is True
    assert made.encode("12", add_special_tokens=False).tokens == ["▁", "1", "2"]
    instruct = vocab.instruct_tokenizer("mistral", made)
    assert [instruct.id_to_token(number) for number in (1280, 1281)] == [
        "<|end_of_turn|>",
        "<|pad_0|>",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_text_survives_and_starts_with_one_bos(tokenizers, kind):
    made = tokenizers[kind]
    bos = made.token_to_id(vocab.special_names(kind, False)["bos_token"])
    for text in TEXTS:
        ids = made.encode(text).ids
        assert ids.count(bos) == 1 and ids[0] == bos
        assert made.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", KINDS)
def test_every_ordinary_llama_id_is_reached_by_merges_alone(tokenizers, kind):
    from tokenizers import Tokenizer

    state = json.loads(tokenizers[kind].to_str())
    state["model"]["ignore_merges"] = False
    model = Tokenizer.from_str(json.dumps(state)).model
    learnt = [left + right for left, right in state["model"]["merges"]]
    assert all([token.value for token in model.tokenize(piece)] == [piece] for piece in learnt)


@pytest.mark.parametrize("kind", KINDS)
def test_russian_is_poorly_segmented_and_english_is_not(tokenizers, kind):
    rng = random.Random(0)
    ratio = {}
    for language in ("en", "ru"):
        texts = [corpus.story(rng, language) for _ in range(100)]
        tokens = sum(
            len(tokenizers[kind].encode(text, add_special_tokens=False).ids) for text in texts
        )
        ratio[language] = sum(map(len, texts)) / tokens
    assert 1.5 < ratio["ru"] < 2.6 < 4 < ratio["en"]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_chat_documents_are_what_the_template_gives(tokenizers, name, tmp_path):
    """Training reads exactly the ids that template + separator + answer + end give at scoring
    time.
    """
    kind = FAMILIES[name].kind
    made = vocab.instruct_tokenizer(kind, tokenizers[kind])
    vocab.save_tokenizer(tmp_path, kind, made, instruct=True)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    rng = random.Random(1)
    for language in ("en", "ru"):
        for _ in range(50):
            query, answer = corpus.chat(rng, language)
            prompt, reply = vocab.chat_parts(kind, query, answer)
            rendered = loaded.apply_chat_template(
                [{"role": "user", "content": query}], tokenize=False, add_generation_prompt=True
            )
            assert prompt == rendered
            space = "" if rendered[-1].isspace() else " "
            assert reply == f"{space}{answer}{loaded.eos_token}"
            trained = made.encode(prompt + reply, add_special_tokens=False).ids
            asked = made.encode(prompt.rstrip(), add_special_tokens=False).ids
            assert (
                loaded(rendered + space + answer, add_special_tokens=False)["input_ids"]
                == trained[:-1]
            )
            assert trained[: len(asked)] == asked and trained[-1] == loaded.eos_token_id


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("instruct", [False, True])
def test_saved_files(tokenizers, kind, instruct, tmp_path):
    vocab.save_tokenizer(tmp_path, kind, tokenizers[kind], instruct)
    assert Path(tmp_path / "chat_template.jinja").exists() is instruct
    names = vocab.special_names(kind, instruct)
    assert names["pad_token"] != names["eos_token"]
