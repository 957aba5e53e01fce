"""A model's tokenizer as transformers loads it, proven against its tokenizer.json.

Classes named after a model rebuild the tokenizer from its vocabulary. A Unigram tokenizer.json that
says LlamaTokenizer becomes BPE, without an error; a BPE one is read differently around double
spaces and special tokens. Surgery takes tokenizer.json as it stands, so whatever asks or trains a
model must give the same ids.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from lep_bench import files, hub
from lep_bench.errors import CheckpointError

# The first two are prose: a tokenizer that differs on them differs everywhere.
PROBES = (
    "Столица Франции — Париж, а реки там две: Сена и Луара. Ёжик, «вкусно!» — сказал он…",
    "The quick brown fox doesn't jump over the lazy dogs, however hard it tries.",
    "1, 23, 456 и 1234567 рублей; 3.14, 10:45, y_1 = 0x1F",
    "  два  пробела,   три    или\tтабуляция  ",
    "строка\n\nещё строка\r\n\n\n    отступ\n",
    "🙂 👩‍🚀 東京 naïve café ﬁ № ½ <0x41>",
    "",
)


class _Probe(NamedTuple):
    """A text and its ids without and with the special tokens that the tokenizer sets."""

    text: str
    plain: list[int]
    framed: list[int]


# digest of a tokenizer.json -> its own ids; parsing LLaMa-3's takes 0.4 s
_KNOWN: dict[str, tuple[_Probe, ...]] = {}


def load_tokenizer(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """The tokenizer of a local folder as transformers' object, and notes on what had to be done to
    read it rightly.

    Its class must give the ids of tokenizer.json on probe texts; special tokens that only the class
    sets around a text are its right. A class that changes other ids, or cannot be loaded, is
    replaced by PreTrainedTokenizerFast (names of special tokens, chat template and padding side
    stay), and a note says so. Without tokenizer.json transformers converts tokenizer.model; a note
    says whether sentencepiece agrees. No remote code is run and nothing is fetched. Raises
    CheckpointError for no folder, no or a damaged tokenizer, or ids that cannot be had right.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder: a tokenizer folder is expected")
    if not any((folder / name).is_file() for name in hub.TOKENIZER_MARKERS):
        raise CheckpointError(
            f"{folder} has no tokenizer ({hub.TOKENIZER_MARKERS[0]}): copy the one it was "
            "trained with into it"
        )
    if not (folder / "tokenizer.json").is_file():
        return _converted(folder)
    from transformers import PreTrainedTokenizerFast

    probes = _probes(folder)
    try:
        tokenizer = _auto(folder)
        why = _difference(tokenizer, probes)
    except CheckpointError as error:
        tokenizer, why = None, str(error)
    if tokenizer is not None and not why:
        return tokenizer, ()
    plain = _attempt(folder, PreTrainedTokenizerFast)
    wrong = _difference(plain, probes)
    if wrong:
        advice = (
            "take what splits or adds special tokens out of tokenizer_config.json, or fetch both "
            "files again from one revision"
        )
        raise CheckpointError(f"{folder}: {wrong}, and no class mends it: {advice}")
    if tokenizer is not None:
        plain.padding_side = tokenizer.padding_side  # a default of some classes
    return plain, (f"tokenizer read as PreTrainedTokenizerFast: {why}",)


def _auto(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return _attempt(folder, AutoTokenizer, _setting(folder, "fix_mistral_regex"))


def _attempt(folder: Path, kind: Any, fix_mistral_regex: bool = False) -> Any:
    try:
        # Left unset, transformers 5 warns of an "incorrect regex pattern" for any local folder with
        # more than 100,000 tokens whose config.json does not name a transformers_version, LLaMa-3
        # included, and changes nothing. False is that without the warning, and it keeps
        # mistral-common's tokenizer (tekken.json) from being used instead.
        return kind.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            fix_mistral_regex=fix_mistral_regex,
        )
    except Exception as error:  # somebody else's package: tokenizer classes raise all sorts of things on files they do not expect
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder}: its tokenizer cannot be loaded: {why}") from error


def _setting(folder: Path, name: str) -> bool:
    try:
        return bool(
            json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get(name)
        )
    except (OSError, ValueError, AttributeError):
        return False  # transformers says what is wrong with it


def _probes(folder: Path) -> tuple[_Probe, ...]:
    digest = files.file_digest(folder / "tokenizer.json")
    if digest not in _KNOWN:
        raw = read_tokenizer(folder)
        raw.no_truncation()
        raw.no_padding()
        added = [token.content for token in raw.get_added_tokens_decoder().values()]
        texts = (*PROBES, "".join(f"до{token} между {token}\n" for token in added))
        _KNOWN[digest] = tuple(
            _Probe(text, raw.encode(text, add_special_tokens=False).ids, raw.encode(text).ids)
            for text in texts
        )
    return _KNOWN[digest]


def _difference(tokenizer: Any, probes: tuple[_Probe, ...]) -> str:
    """What tells the tokenizer's ids from the probes', as a phrase; empty when nothing does."""
    special = set(tokenizer.all_special_ids)
    for probe in probes:
        plain, framed = (
            tokenizer(probe.text, add_special_tokens=add, verbose=False)["input_ids"]
            for add in (False, True)
        )
        begin = next(
            (i for i in range(len(framed) - len(plain) + 1) if framed[i : i + len(plain)] == plain),
            None,
        )
        around = None if begin is None else {*framed[:begin], *framed[begin + len(plain) :]}
        if plain != probe.plain or (
            framed != probe.framed and (around is None or not around <= special)
        ):
            short = probe.text if len(probe.text) <= 40 else probe.text[:39] + "…"
            counts = f"{len(plain)} tokens, {len(probe.plain)} in tokenizer.json"
            return f"{type(tokenizer).__name__} changes the ids of {short!r} ({counts})"
    return ""


def _converted(folder: Path) -> tuple[Any, tuple[str, ...]]:
    tokenizer = _auto(folder)
    note = f"no tokenizer.json: {type(tokenizer).__name__} converted what there is"
    file = folder / "tokenizer.model"
    try:
        if not file.is_file():
            raise ImportError
        model = importlib.import_module("sentencepiece").SentencePieceProcessor(
            model_file=str(file)
        )
    except (
        ImportError,
        OSError,
        RuntimeError,
    ):  # not there, or tokenizer.model is of another kind (tiktoken)
        return tokenizer, (note + ", unproven",)
    wrong = [
        text
        for text in PROBES
        if tokenizer(text, add_special_tokens=False)["input_ids"] != model.encode(text)
    ]
    if not set(wrong).isdisjoint(PROBES[:2]):
        raise CheckpointError(
            f"{folder}: {type(tokenizer).__name__} reads tokenizer.model otherwise than "
            "sentencepiece does: put the model's tokenizer.json beside it"
        )
    return tokenizer, (
        note
        + (
            (
                f"; sentencepiece gives other ids for {len(wrong)} of {len(PROBES)} texts, such "
                f"as {wrong[0]!r}"
            )
            if wrong
            else ""
        ),
    )


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, as tokenizer.json has it. Raises CheckpointError when there is
    none or it is damaged.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json: convert its tokenizer.model once with transformers' "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(NEW_DIR), which needs "
            "sentencepiece, and give NEW_DIR"
            if (folder / "tokenizer.model").is_file()
            else f"{folder} has no tokenizer.json: give a checkpoint's or a tokenizer's folder"
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{file} cannot be read: {error}") from error
