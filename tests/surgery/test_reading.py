"""A tokenizer is read as its tokenizer.json has it, whatever class its config names; what had to be
done is told.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from pico_models import Trio, copy, edit
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaTokenizer

from lep_bench.errors import CheckpointError
from lep_bench.evaluate.encode import Encoder
from lep_bench.records import artifact
from lep_bench.surgery import vocabulary
from lep_bench.surgery.tokenizers import loading
from lep_bench.testing.pico import TEXTS
from lep_bench.training.finetune import Example, encode_examples

TEXT = "рыжая лиса  бежит по холму\n\n<s>the red fox</s> 1234"


def ids(tokenizer, text: str = TEXT, special: bool = True) -> list[int]:
    return tokenizer(text, add_special_tokens=special)["input_ids"]


def own(folder: Path, text: str = TEXT, special: bool = True) -> list[int]:
    return (
        Tokenizer.from_file(str(folder / "tokenizer.json"))
        .encode(text, add_special_tokens=special)
        .ids
    )


@pytest.fixture
def mistaken(trio: Callable[..., Trio], tmp_path: Path) -> Path:
    """A Unigram instruct model that says LlamaTokenizer, as published ones do."""
    folder = copy(trio("sentencepiece").instruct, tmp_path / "mistaken")
    spec = json.loads(
        vocabulary.new_unigram(loading.read_tokenizer(folder), TEXTS * 20, 340).to_str()
    )
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    edit(folder / "config.json", model_type="llama", vocab_size=512)
    edit(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    return folder


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
def test_a_sound_tokenizer_is_left_alone(trio: Callable[..., Trio], kind: str) -> None:
    folder = trio(kind).instruct
    tokenizer, notes = loading.load_tokenizer(folder)
    assert notes == () and tokenizer.chat_template
    assert ids(tokenizer) == own(folder) and ids(tokenizer)[0] == tokenizer.bos_token_id
    assert ids(tokenizer, special=False) == own(folder, special=False)


def test_a_class_that_changes_the_ids_is_overridden_and_told(mistaken: Path) -> None:
    wrong = AutoTokenizer.from_pretrained(mistaken)
    assert isinstance(wrong, LlamaTokenizer) and ids(wrong) != own(mistaken), (
        "transformers reads it rightly: is `reading` still needed?"
    )
    tokenizer, notes = loading.load_tokenizer(mistaken)
    assert ids(tokenizer) == own(mistaken) and ids(tokenizer, special=False) == own(
        mistaken, special=False
    )
    assert (
        len(notes) == 1
        and "LlamaTokenizer changes the ids of" in notes[0]
        and "read as PreTrainedTokenizerFast" in notes[0]
    )
    same = ("chat_template", "eos_token", "unk_token", "model_max_length", "padding_side")
    assert [getattr(tokenizer, name) for name in same] == [getattr(wrong, name) for name in same]


def test_whoever_reads_it_passes_the_note_on(mistaken: Path) -> None:
    encoder = Encoder(mistaken)
    assert encoder.notes == loading.load_tokenizer(mistaken)[1] != ()
    assert encoder.encode_plain([TEXT]) == [tuple(own(mistaken, special=False))]
    whole = artifact.open_checkpoint(str(mistaken), "pico/instruct", "instruct", "0")
    assert encode_examples(whole, [Example("лиса", "холм")], 250)[1] == encoder.notes


def test_bpe_of_the_rebuilding_class_keeps_its_double_spaces(
    trio: Callable[..., Trio], tmp_path: Path
) -> None:
    folder = copy(trio("sentencepiece").base, tmp_path / "base")
    edit(folder / "config.json", model_type="llama")
    edit(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    tokenizer, notes = loading.load_tokenizer(folder)
    assert ids(tokenizer) == own(folder) and len(notes) == 1


def test_bos_that_only_the_class_sets_is_its_right(
    trio: Callable[..., Trio], tmp_path: Path
) -> None:
    folder = copy(trio("sentencepiece").base, tmp_path / "base")
    edit(folder / "tokenizer.json", post_processor=None)
    tokenizer, _ = loading.load_tokenizer(folder)
    probes = loading._make_probes(folder)
    tokenizer.add_bos_token = True
    assert ids(tokenizer) == [
        tokenizer.bos_token_id,
        *own(folder),
    ] and not loading._find_difference(tokenizer, probes)
    tokenizer.backend_tokenizer.normalizer = None
    assert "changes the ids" in loading._find_difference(tokenizer, probes)


def test_limits_in_tokenizer_json_do_not_count(trio: Callable[..., Trio], tmp_path: Path) -> None:
    folder = copy(trio("byte-level").base, tmp_path / "base")
    raw = loading.read_tokenizer(folder)
    raw.enable_truncation(5)
    raw.enable_padding(length=5)
    raw.save(str(folder / "tokenizer.json"))
    assert loading.load_tokenizer(folder)[1] == ()


def test_the_fix_for_other_models_is_neither_made_nor_warned_of(
    trio: Callable[..., Trio],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = copy(trio("byte-level").base, tmp_path / "base")
    # transformers looks at vocabularies of more than 100,000 tokens whose config.json names no
    # version.
    spec = json.loads((folder / "tokenizer.json").read_text())
    begin = len(spec["model"]["vocab"]) + len(spec["added_tokens"])
    spec["model"]["vocab"] |= {f"{number:x}ab": begin + number for number in range(100_000)} | {
        "12": begin + 100_000
    }
    spec["model"]["merges"].append(["1", "2"])
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    config = json.loads((folder / "config.json").read_text())
    config.pop("transformers_version")
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert "incorrect regex pattern" in caplog.text
    caplog.clear()
    tokenizer, notes = loading.load_tokenizer(folder)
    assert "incorrect regex pattern" not in caplog.text
    assert notes == () and ids(tokenizer, "ABcd 1234567") == own(folder, "ABcd 1234567")
    edit(folder / "tokenizer_config.json", fix_mistral_regex=True)
    tokenizer, notes = loading.load_tokenizer(folder)
    assert (
        ids(tokenizer, "ABcd 1234567") == own(folder, "ABcd 1234567")
        and "read as PreTrainedTokenizerFast" in notes[0]
    )


def test_what_no_class_mends_is_refused(trio: Callable[..., Trio], tmp_path: Path) -> None:
    folder = copy(trio("byte-level").base, tmp_path / "base")
    edit(folder / "tokenizer_config.json", split_special_tokens=True)
    with pytest.raises(
        CheckpointError, match="changes the ids of .* no other class gives the right ids"
    ) as error:
        loading.load_tokenizer(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda folder: (folder / "tokenizer.json").unlink(),
            r"has no tokenizer \(tokenizer.json\): copy the one",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{"),
            "tokenizer.json cannot be read",
        ),
        (
            lambda folder: (folder / "tokenizer_config.json").write_text("{"),
            "its tokenizer cannot be loaded",
        ),
    ],
)
def test_bad_folders_are_one_line(
    trio: Callable[..., Trio], tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    folder = copy(trio("byte-level").base, tmp_path / "base")
    spoil(folder)
    with pytest.raises(CheckpointError, match=says) as error:
        loading.load_tokenizer(folder)
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="no such folder"):
        loading.load_tokenizer(tmp_path / "nothing")


def test_sentencepiece_alone_is_converted_and_compared(tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    # what transformers converts a tokenizer.model with
    for needed in ("google.protobuf", "tiktoken"):
        pytest.importorskip(needed)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.vocab").unlink()
    config = tmp_path / "tokenizer_config.json"
    config.write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
            }
        )
    )
    tokenizer, notes = loading.load_tokenizer(tmp_path)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert ids(tokenizer, TEXTS[1], special=False) == model.encode(TEXTS[1])
    assert len(notes) == 1 and "no tokenizer.json: LlamaTokenizer converted" in notes[0]
    # Without the class the conversion loses the space before the first word.
    edit(config, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(
        CheckpointError,
        match="different ids for tokenizer.model: put the model's tokenizer.json",
    ):
        loading.load_tokenizer(tmp_path)
