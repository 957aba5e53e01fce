"""Load a model's tokenizer with transformers, and prove that it gives the ids of tokenizer.json.

Classes named after a model rebuild the tokenizer from its vocabulary. With class LlamaTokenizer, a
Unigram tokenizer.json becomes BPE without an error, and a BPE one gives other ids at double spaces
and special tokens. Surgery uses tokenizer.json itself, so scoring and training must use the same
ids.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from lep_bench import files, hub
from lep_bench.errors import CheckpointError

# The first two are prose. A tokenizer that differs on them differs everywhere.
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
    """A text, and its ids without (`plain`) and with (`framed`) the special tokens that the
    tokenizer adds.
    """

    text: str
    plain: list[int]
    framed: list[int]


# Digest of a tokenizer.json -> its probes. Parsing LLaMa-3's takes 0.4 s.
_PROBES_OF: dict[str, tuple[_Probe, ...]] = {}


def load_tokenizer(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """The transformers tokenizer of a local folder, and notes on how it was loaded.

    The tokenizer must give the ids of tokenizer.json on probe texts. Its class may add special
    tokens before and after a text. A class that changes other ids or cannot be loaded is replaced
    by PreTrainedTokenizerFast, which keeps the names of special tokens, the chat template and the
    padding side; a note says so. Without tokenizer.json, transformers converts tokenizer.model, and
    a note says whether sentencepiece agrees. No remote code runs and nothing is downloaded. Raises
    CheckpointError if the folder or its tokenizer is missing or damaged, or if no class gives the
    right ids.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder (a tokenizer folder is expected)")
    if not any((folder / name).is_file() for name in hub.TOKENIZER_MARKERS):
        raise CheckpointError(
            f"{folder} has no tokenizer ({hub.TOKENIZER_MARKERS[0]}): copy the one that the model "
            "was trained with into it"
        )
    if not (folder / "tokenizer.json").is_file():
        return _load_converted(folder)
    from transformers import PreTrainedTokenizerFast

    probes = _make_probes(folder)
    try:
        tokenizer = _load_auto(folder)
        difference = _find_difference(tokenizer, probes)
    except CheckpointError as error:
        tokenizer, difference = None, str(error)
    if tokenizer is not None and not difference:
        return tokenizer, ()
    fast = _load_class(folder, PreTrainedTokenizerFast)
    fast_difference = _find_difference(fast, probes)
    if fast_difference:
        raise CheckpointError(
            f"{folder}: {fast_difference}, and no other class gives the right ids: remove the "
            "settings that split or add special tokens from tokenizer_config.json, or fetch both "
            "files again from one revision"
        )
    if tokenizer is not None:
        fast.padding_side = tokenizer.padding_side  # some classes have their own default
    return fast, (f"tokenizer read as PreTrainedTokenizerFast: {difference}",)


def _load_auto(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return _load_class(folder, AutoTokenizer, _read_setting(folder, "fix_mistral_regex"))


def _load_class(folder: Path, tokenizer_class: Any, fix_mistral_regex: bool = False) -> Any:
    try:
        # If unset, transformers 5 changes nothing, but warns of an "incorrect regex pattern" for
        # every local folder with more than 100,000 tokens whose config.json names no
        # transformers_version, LLaMa-3 included. False avoids the warning, and keeps mistral-common
        # from reading tekken.json instead.
        return tokenizer_class.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            fix_mistral_regex=fix_mistral_regex,
        )
    except Exception as error:  # somebody else's package: it may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{folder}: its tokenizer cannot be loaded: {reason}") from error


def _read_setting(folder: Path, name: str) -> bool:
    try:
        return bool(
            json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get(name)
        )
    except (OSError, ValueError, AttributeError):
        return False  # transformers reports what is wrong with the file


def _make_probes(folder: Path) -> tuple[_Probe, ...]:
    digest = files.file_digest(folder / "tokenizer.json")
    if digest not in _PROBES_OF:
        reference = read_tokenizer(folder)
        reference.no_truncation()
        reference.no_padding()
        added = [token.content for token in reference.get_added_tokens_decoder().values()]
        texts = (*PROBES, "".join(f"до{token} между {token}\n" for token in added))
        _PROBES_OF[digest] = tuple(
            _Probe(
                text,
                reference.encode(text, add_special_tokens=False).ids,
                reference.encode(text).ids,
            )
            for text in texts
        )
    return _PROBES_OF[digest]


def _find_difference(tokenizer: Any, probes: tuple[_Probe, ...]) -> str:
    """How the tokenizer's ids differ from the probes', as a phrase. Empty if they do not."""
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
        frame = None if begin is None else {*framed[:begin], *framed[begin + len(plain) :]}
        if plain != probe.plain or (
            framed != probe.framed and (frame is None or not frame <= special)
        ):
            short = probe.text if len(probe.text) <= 40 else probe.text[:39] + "…"
            counts = f"{len(plain)} tokens, {len(probe.plain)} in tokenizer.json"
            return f"{type(tokenizer).__name__} changes the ids of {short!r} ({counts})"
    return ""


def _load_converted(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """`load_tokenizer` without tokenizer.json."""
    tokenizer = _load_auto(folder)
    note = f"no tokenizer.json: {type(tokenizer).__name__} converted the other tokenizer files"
    file = folder / "tokenizer.model"
    try:
        if not file.is_file():
            raise ImportError
        model = importlib.import_module("sentencepiece").SentencePieceProcessor(
            model_file=str(file)
        )
    # sentencepiece or tokenizer.model is missing, or tokenizer.model is of another kind (tiktoken).
    except (ImportError, OSError, RuntimeError):
        return tokenizer, (note + ", unproven",)
    differing = [
        text
        for text in PROBES
        if tokenizer(text, add_special_tokens=False)["input_ids"] != model.encode(text)
    ]
    if not set(differing).isdisjoint(PROBES[:2]):
        raise CheckpointError(
            f"{folder}: {type(tokenizer).__name__} and sentencepiece give different ids for "
            "tokenizer.model: put the model's tokenizer.json beside it"
        )
    if differing:
        note += (
            f"; sentencepiece gives other ids for {len(differing)} of {len(PROBES)} texts, such as "
            f"{differing[0]!r}"
        )
    return tokenizer, (note,)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in `folder`/tokenizer.json. Raises CheckpointError if the file is missing or
    damaged.
    """
    file = folder / "tokenizer.json"
    if not file.is_file() and (folder / "tokenizer.model").is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json: convert its tokenizer.model once with transformers' "
            "AutoTokenizer.from_pretrained(DIR).save_pretrained(NEW_DIR), which needs "
            "sentencepiece, and give NEW_DIR"
        )
    if not file.is_file():
        raise CheckpointError(
            f"{folder} has no tokenizer.json: give a checkpoint's or a tokenizer's folder"
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise CheckpointError(f"{file} cannot be read: {error}") from error
