"""Where models and texts come from: `builtin:...`, a local folder or file, or a Hugging Face Hub id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lep_bench import paths
from lep_bench.errors import CheckpointError, LepBenchError, unknown
from lep_bench.fingerprint import digest, file_digest, files_digest

BUILTIN = "builtin:"
MINI_MODULES = ("corpus", "world", "stories", "relations", "tables")  # what the built-in texts follow from


def local(location: str) -> Path | None:
    """The folder of a built-in or local checkpoint; None when `location` can only be a Hub id.

    Raises CheckpointError when a built-in one is missing or a path does not exist.
    """
    if location.startswith(BUILTIN):
        folder = paths.inside(paths.checkpoints(), location[len(BUILTIN) :])
        if not folder.is_dir():
            known = [f"{BUILTIN}{p.parent.name}/{p.name}" for p in paths.checkpoints().glob("*/*") if p.is_dir()]
            raise unknown("built-in checkpoint", location, known, "(lep-bench mini train makes them)")
        return folder
    path = Path(location).expanduser()
    if path.is_dir():
        return path.resolve()
    if location.startswith(("/", "./", "../", "~")) or location.count("/") != 1:
        raise CheckpointError(f"{location}: no such folder; give a checkpoint folder, a Hub id (ORGANISATION/NAME) or builtin:FAMILY/base")
    return None


def locate(location: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint, downloaded from the Hub when it is an id (safetensors and JSON only, never pickles).

    Raises CheckpointError in one line for a missing folder, an unknown or gated repository, or no network.
    """
    folder = local(location)
    if folder is None:
        folder = _download(location, revision)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is no checkpoint: it has no config.json")
    return folder


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except GatedRepoError as error:
        raise CheckpointError(f"{repo} is gated: accept its licence on its Hub page, then run `hf auth login`, or give a local folder") from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} has no revision {revision!r} on the Hub") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"{repo} is neither a local folder nor a repository on the Hub: check its name") from error
    except (OSError, ValueError, RuntimeError) as error:  # no network: the exact class depends on the HTTP library
        raise CheckpointError(
            f"cannot reach the Hugging Face Hub for {repo} and it is not in the local cache: connect, or give a local folder"
        ) from error


def checkpoint_digest(location: str, revision: str | None = None) -> str:
    """What stands for a checkpoint in fingerprints: the content of its files, or Hub id and revision."""
    folder = local(location)
    if folder is None:
        return digest({"hub": location, "revision": revision})
    files = [p for p in folder.iterdir() if p.suffix in (".safetensors", ".json", ".jinja", ".model") and p.name != "lep.json"]
    if not any(p.name == "config.json" for p in files):
        raise CheckpointError(f"{folder} is no checkpoint: it has no config.json")
    return files_digest(files, folder)


def has_chat_template(folder: Path) -> bool:
    """Whether the checkpoint's tokenizer carries a chat template."""
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        return bool(json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, json.JSONDecodeError):
        return False


def parameters(location: str) -> int:
    """Rough parameter count for estimates: bytes of the weights / 2; 8e9 for a checkpoint that is not here yet."""
    folder = local(location)
    return sum(p.stat().st_size for p in folder.glob("*.safetensors")) // 2 if folder else 8_000_000_000


def corpus_digest(corpus: str | tuple[str, ...] | None) -> str:
    """What stands for a corpus in fingerprints: its files' content, or the code that generates the built-in one."""
    if corpus is None:
        return "none"
    if corpus == BUILTIN + "mini":
        mini = paths.PACKAGE / "mini"
        return files_digest([mini / f"{name}.py" for name in MINI_MODULES], mini)
    return digest([file_digest(file) for file in _files(corpus)])


def _files(corpus: str | tuple[str, ...] | None) -> list[Path]:
    names = [corpus] if isinstance(corpus, str) else list(corpus or ())
    files = [Path(name).expanduser() for name in names]
    for file in files:
        if not file.is_file():
            raise LepBenchError(f"corpus: {file}: no such file; give text (one document a line) or JSONL files with a 'text' field")
    if not files:
        raise LepBenchError("corpus: the family names none: add `corpus: [FILE, ...]` to its YAML, or a donor for every vocabulary")
    return files


def read_corpus(corpus: str | tuple[str, ...] | None) -> Iterator[str]:
    """The documents of text files (one a line) and JSONL files (field `text`), in order. Raises LepBenchError (file:line)."""
    for file in _files(corpus):
        with open(file, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if file.suffix == ".jsonl" and line.strip():
                    try:
                        yield json.loads(line)["text"]
                    except (json.JSONDecodeError, KeyError, TypeError) as error:
                        raise LepBenchError(f"{file}:{number}: a JSON object with a field 'text' is expected") from error
                elif line.strip():
                    yield line.rstrip("\n")
