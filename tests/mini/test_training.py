"""Training: the files it writes, its determinism, the rows it reads, and what it never shows the
base model.
"""

import random
from dataclasses import replace
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.mini import batches, model, train, vocab
from benchmarks.mini.families import FAMILIES, shortened

NAMES = sorted(FAMILIES)


def tiny(name):
    family = FAMILIES[name]
    small = replace(family, hidden=32, intermediate=32, recipe=replace(family.recipe, batch=4))
    return shortened(small, 0.002)


@pytest.fixture(scope="module", params=NAMES)
def trained(request, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for folder in folders:
        train.train_family(
            request.param, folder, seed=3, log=lambda line: None, family=tiny(request.param)
        )
    torch.set_num_threads(threads)
    return request.param, folders


def test_training_twice_gives_the_same_bytes(trained):
    _, (first, second) = trained
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    for path in files:
        assert (first / path).read_bytes() == (second / path).read_bytes(), path


def test_written_folders_load_and_agree(trained):
    name, (folder, _) = trained
    kind = FAMILIES[name].kind
    for part in ("base", "instruct"):
        loaded = AutoModelForCausalLM.from_pretrained(folder / part, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder / part)
        assert (
            loaded.config.vocab_size
            == loaded.get_input_embeddings().weight.shape[0]
            == len(tokenizer)
        )
        assert not loaded.config.tie_word_embeddings
        assert (tokenizer.chat_template is not None) == (part == "instruct")
        assert loaded.generation_config.eos_token_id == vocab.eos_ids(
            kind, tokenizer.backend_tokenizer, part == "instruct"
        )
        assert (
            loaded.generation_config.pad_token_id
            == tokenizer.pad_token_id
            != tokenizer.eos_token_id
        )


def test_the_instruct_body_differs_from_the_base(trained):
    _, (folder, _) = trained
    base, instruct = (
        AutoModelForCausalLM.from_pretrained(folder / part).state_dict()
        for part in ("base", "instruct")
    )
    # Among these are all matrices; the scale of a norm may round to the same float16 after a few
    # steps.
    same = [
        key
        for key in base
        if base[key].dim() == 2
        and base[key].shape == instruct[key].shape
        and base[key].equal(instruct[key])
    ]
    assert not same


@pytest.mark.parametrize("name", NAMES)
def test_base_text_holds_no_chat_marker(name):
    family = FAMILIES[name]
    tokenizer = vocab.train_tokenizer(family.kind, 0)
    names = vocab.special_names(family.kind, instruct=False)
    bos, eos = (tokenizer.token_to_id(names[part]) for part in ("bos_token", "eos_token"))
    documents = batches.plain_documents(tokenizer, eos, random.Random(0), 0.5, 0.15)
    seen = {number for ids, _ in islice(documents, 3000) for number in ids}
    added = {
        number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special
    }
    assert seen & added == {bos, eos}


@pytest.mark.parametrize("name", NAMES)
def test_chat_labels_are_the_answer_and_its_end(name):
    family = FAMILIES[name]
    tokenizer = vocab.instruct_tokenizer(family.kind, vocab.train_tokenizer(family.kind, 0))
    end = tokenizer.token_to_id(vocab.special_names(family.kind, instruct=True)["eos_token"])
    for ids, labels in islice(batches.chat_documents(family, tokenizer, random.Random(0), 0.5), 50):
        answer = [label for label in labels if label != batches.IGNORED]
        assert (
            len(ids) == len(labels)
            and answer
            and ids[-len(answer) :] == answer
            and answer[-1] == end
        )


def test_rows_have_the_asked_length_and_repetitions_repeat():
    rows = batches.repeated_rows(range(100), 999, 96, random.Random(0))
    for ids, labels in islice(rows, 20):
        assert len(ids) == len(labels) == 96 and ids[0] == 999
        assert all(
            label in (batches.IGNORED, number) for number, label in zip(ids, labels, strict=True)
        )
    ids, labels = batches.batch_of(batches.packed_rows(iter([([1, 2, 3], [1, 2, 3])] * 100), 8), 2)
    assert ids.tolist() == [[1, 2, 3, 1, 2, 3, 1, 2]] * 2 and labels.shape == (2, 8)


def test_the_copying_heads_copy_before_any_training():
    family = FAMILIES["mini-llama"]
    made = model.new_model(family, model.config_of(family, 1024, 1000, 1001, 1023), 0)
    rng = random.Random(0)
    once = [rng.sample(range(1000), 20) for _ in range(8)]
    ids = torch.tensor([[1000, *part, *part] for part in once])
    with torch.no_grad():
        guesses = made(ids).logits[:, 21:-1].argmax(-1)
    assert (guesses == ids[:, 22:]).float().mean() > 0.05  # chance is 0.001


def test_the_mistral_window_cuts_attention():
    family = FAMILIES["mini-mistral"]
    made = model.new_model(family, model.config_of(family, 1280, 1, 2, 0), 0).eval()
    reach = family.layers * (family.window - 1)
    ids = torch.randint(259, 1280, (1, reach + 20), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[0, 0] = 300 if ids[0, 0] != 300 else 301
    with torch.no_grad():
        difference = (made(ids).logits - made(changed).logits).abs().amax(-1)[0]
    assert difference[reach] > 0 and difference[reach + 1 :].max() == 0
