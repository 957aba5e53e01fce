"""Where models come from: `builtin:...`, a local folder, or a Hugging Face Hub id (of a bundle,
else the cache, else the Hub).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lep_bench import bundle
from lep_bench.errors import CheckpointError, unknown_name
from lep_bench.files import builtin_checkpoints, digest, files_digest, join_names

BUILTIN = "builtin:"
API = "api:"
INDEX = "model.safetensors.index.json"
LORA = "adapter_config.json"  # peft's; no adapter of lep-bench
HEADER_LIMIT = 100_000_000  # bytes; the safetensors library refuses longer headers too
PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "consolidated*.pth")
# A folder with one of these files has a tokenizer.
TOKENIZER_MARKERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
# What a patch and an export carry of a fast tokenizer. tokenizer.model is left out on purpose:
# beside a new tokenizer.json it would describe another vocabulary.
FAST_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
# What decides the ids and the chat template of any tokenizer: equal files make equal prompts.
TOKENIZER_FILES = (
    *FAST_TOKENIZER_FILES,
    "tokenizer.model",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
# What is downloaded of a tokenizer, and of a model: repositories name their files differently.
TOKENIZER_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt")
MODEL_PATTERNS = ("*.safetensors", *TOKENIZER_PATTERNS)
# The branch where the Hub keeps a Parquet copy: the only way to rows that a script makes.
PARQUET_BRANCH = "refs/convert/parquet"


def parse_served_name(location: str) -> str | None:
    """The name that a server knows the model `api:NAME` by; None for a checkpoint."""
    return location.removeprefix(API) if location.startswith(API) else None


def find_local(location: str) -> Path | None:
    """The folder of a built-in or local checkpoint; None when `location` can only be a Hub id.

    Raises CheckpointError when a built-in one is missing or a path does not exist.
    """
    if location.startswith(BUILTIN):
        folder = join_names(builtin_checkpoints(), location[len(BUILTIN) :])
        if not folder.is_dir():
            known = [
                f"{BUILTIN}{p.parent.name}/{p.name}"
                for p in builtin_checkpoints().glob("*/*")
                if p.is_dir()
            ]
            raise unknown_name("built-in checkpoint", location, known)
        return folder
    if parse_served_name(location) is not None:
        raise CheckpointError(
            f"{location} is a model behind a server: there is no folder of it, it can only "
            "be scored (lep-bench run --url)"
        )
    path = Path(location).expanduser()
    if location and path.is_dir():
        return path.resolve()
    if location.startswith(("/", "./", "../", "~")) or location.count("/") != 1:
        raise CheckpointError(
            f"{location or '(empty)'}: no such folder; give a checkpoint folder, a Hub id "
            "(ORGANISATION/NAME) or builtin:FAMILY/base"
        )
    return None


def format_reference(location: str, revision: str | None = None) -> str:
    """A checkpoint as a plan writes it: `checkpoint:LOCATION[@REVISION]`."""
    return f"checkpoint:{location}" + (f"@{revision}" if revision else "")


def parse_reference(written: str) -> tuple[str, str | None]:
    """Location and revision of a `reference`. Only a Hub id has a revision: a folder's name may
    hold an @.
    """
    text = written.removeprefix("checkpoint:")
    location, _, revision = (
        (text, "", "") if text.startswith(("/", "~", ".", API)) else text.partition("@")
    )
    return location, revision or None


def find_here(location: str, revision: str | None = None) -> Path | None:
    """`find_local`, and the folder of a Hub id that the data folder (LEP_BENCH_DATA) holds. Raises
    CheckpointError for another revision of it.
    """
    folder = find_local(location)
    held = bundle.locate_model(location, revision) if folder is None else None
    return held[0] if held else folder


def find_cached(location: str, revision: str | None = None) -> Path | None:
    """The folder of a checkpoint that is here whole, found without the network; None when it would
    have to be fetched.
    """
    folder = find_local(location)
    if folder is not None:
        return folder
    from huggingface_hub import try_to_load_from_cache

    try:
        folder = find_here(location, revision)
        if folder is None:
            config = try_to_load_from_cache(location, "config.json", revision=revision)
            if not isinstance(config, str):
                return None
            folder = Path(config).parent
        check_complete(folder)
    except (ValueError, CheckpointError):  # no possible id, or a download that broke off
        return None
    return folder


def locate(location: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint: a Hub id's in the bundle, else downloaded (safetensors and JSON
    only, never pickles).

    Raises CheckpointError in one line for a missing folder, an unknown or gated repository, or no
    network.
    """
    folder = find_here(location, revision)
    if folder is None:
        folder = _download(location, revision)
    if not any((folder / name).is_file() for name in ("config.json", LORA)):
        raise CheckpointError(f"{folder} is no checkpoint: it has no config.json")
    return folder


class HubUnreachableError(CheckpointError):
    """There is no way to the Hub now: asking for the next checkpoint is in vain too."""

    @classmethod
    def of(cls, repo: str) -> HubUnreachableError:
        return cls(
            f"{repo}: no such folder here, not in the local cache, and cannot reach the "
            "Hugging Face Hub for it: connect, or give a local folder"
        )


def locate_tokenizer(location: str, revision: str | None = None) -> Path:
    """The folder of a tokenizer, with or without a model; of a Hub id the weights are not fetched.
    Raises as `locate` does.
    """
    return find_here(location, revision) or _download(location, revision, TOKENIZER_PATTERNS)


def _download(repo: str, revision: str | None, patterns: Sequence[str] = MODEL_PATTERNS) -> Path:
    from huggingface_hub import snapshot_download

    with explain_hub_errors(repo, revision):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))


@contextlib.contextmanager
def explain_hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line. Raises CheckpointError, and
    HubUnreachableError when there is no way to the Hub.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is gated: accept its licence on its Hub page, then run `hf auth login`, "
            "or give a local folder"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} has no revision {revision!r} on the Hub") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repo} is neither a local folder nor a repository on the Hub: check its name"
        ) from error
    except Exception as error:
        # Downloads that break off raise any of these three.
        if not isinstance(error, OSError | ValueError | RuntimeError) and not is_network_error(
            error
        ):
            raise
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            raise CheckpointError(
                f"{repo}: the Hub refuses access: run `hf auth login`, or ask for access on "
                "its Hub page"
            ) from error
        raise HubUnreachableError.of(repo) from error


def is_network_error(error: BaseException) -> bool:
    """Whether a library says that it could not ask the Hub, or was told not to.

    The HTTP library's own classes come through huggingface_hub, datasets and lm-eval.
    """
    return type(error).__module__.startswith("httpx") or type(error).__name__ in (
        "ConnectionError",
        "LocalEntryNotFoundError",
        "OfflineModeIsEnabled",
    )


def go_offline_if_unreachable(dataset: str, own_class: bool) -> None:
    """Switch this process and all that it starts to offline work when rows would be asked of the
    Hub and it does not answer.

    Without this the `datasets` library tries six times, for half a minute, for every dataset.
    `own_class`: the task reads its rows itself, from the data folder where one is named.
    """
    if not bundle.HUB_ID.fullmatch(dataset):
        return
    from huggingface_hub import constants

    local = bundle.locate_dataset(dataset) or (own_class and bundle.data_folder())
    if constants.HF_HUB_OFFLINE or local or _answers(constants.ENDPOINT):
        return
    import datasets

    print(
        f"{constants.ENDPOINT} cannot be reached: only rows that are here already are read",
        file=sys.stderr,
    )
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    os.environ.update(dict.fromkeys(bundle.OFFLINE, "1"))


@cache
def _answers(endpoint: str) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=5)  # whatever it answers
    except Exception as error:
        if not is_network_error(error):
            raise
        return False
    return True


def resolve_commit(repo: str, kind: str, revision: str | None) -> str | None:
    """The whole hash of a shortened one, among the commits of main and of the Parquet conversion.
    Any other revision is given back as it is: the Hub knows whole hashes, branches and tags itself.

    `kind` is "model" or "dataset". Raises CheckpointError when no commit, or more than one, begins
    so; errors of the Hub pass through (see `explain_hub_errors`).
    """
    if revision is None or len(revision) >= 40 or not bundle.COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    found = set()
    for branch in (None, PARQUET_BRANCH) if kind == "dataset" else (None,):
        with contextlib.suppress(RevisionNotFoundError):  # a dataset need not have a conversion
            commits = HfApi().list_repo_commits(repo, repo_type=kind, revision=branch)
            found |= {c.commit_id for c in commits if c.commit_id.startswith(revision)}
    if len(found) != 1:
        raise CheckpointError(
            f"{repo}: {len(found)} commits begin with {revision}: the pinned revision is not there"
        )
    return found.pop()


def checkpoint_digest(location: str, revision: str | None = None, weights: bool = True) -> str:
    """What stands for a checkpoint in fingerprints: the content of its files, or Hub id and
    revision (from wherever they are read; a copy in the data folder that no manifest proves stands
    for itself), or the name it is served by. `weights`: whether they must be there."""
    name = parse_served_name(location)
    if name is not None:
        return digest({"served": name})
    folder = find_local(location)
    held = bundle.locate_model(location, revision) if folder is None else None
    if held is not None and not held[1]:
        folder = held[0]
    if folder is None:
        return digest({"hub": location, "revision": revision})
    if weights:
        check_complete(folder)
    files = [
        p
        for p in folder.iterdir()
        if p.suffix in (".safetensors", ".json", ".jinja", ".model") and p.name != "lep.json"
    ]
    return files_digest(files, folder)


def check_complete(folder: Path) -> None:
    """Raise CheckpointError in one line unless config, weights and a tokenizer are there and whole;
    only headers are read.
    """
    if (folder / LORA).is_file() and not (folder / "config.json").is_file():
        return  # a donor kept as LoRA: read and checked with its base
    read_config(folder)
    # an artifact of ours: what it patches is looked at when it is read
    patch = folder / "patch.safetensors"
    for file in [patch] if patch.is_file() else list_weight_files(folder):
        read_header(file)
    if not any((folder / name).is_file() for name in TOKENIZER_MARKERS):
        raise CheckpointError(
            f"{folder} has no tokenizer ({TOKENIZER_MARKERS[0]}): copy the one it was "
            "trained with into it"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json. Raises CheckpointError when it is not there or no JSON object."""
    file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no checkpoint: it has no config.json") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: a JSON object is expected")
    return content


def list_weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint. Raises CheckpointError when there are none, one is
    missing, or they are pickles.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index} cannot be read: {error!r}; fetch it again") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            what = f"{len(missing)} of {len(names)} shards are missing ({missing[0]}, ...)"
            raise CheckpointError(f"{folder}: {what}: the download is not complete, fetch it again")
        return [folder / name for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"{folder} holds pickled weights ({pickled[0]}), which can run code when they "
            "are read: convert them once in an isolated "
            "environment with transformers' from_pretrained(...).save_pretrained(DIR, "
            "safe_serialization=True) and give DIR"
        )
    raise CheckpointError(f"{folder} is no checkpoint: no model.safetensors and no {INDEX}")


def read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """Of a safetensors file, where its tensors' bytes begin and the entries of its header (dtype,
    shape, data_offsets) by name.

    Raises CheckpointError when it is missing, damaged or cut short.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size >= 8 and length > HEADER_LIMIT:
                raise ValueError(f"a header of {length:,} bytes")
            if size < 8 or length > size - 8:
                raise CheckpointError(
                    describe_truncation(file, 8 + (length if size >= 8 else 0), size)
                )
            entries = json.loads(stream.read(length))
        entries.pop("__metadata__", None)
        end = max(
            (8 + length + entry["data_offsets"][1] for entry in entries.values()),
            default=8 + length,
        )
    except FileNotFoundError:
        raise CheckpointError(
            f"{file} is missing: the download is not complete, fetch it again"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{file} is no safetensors file ({error}): fetch it again") from error
    if size < end:
        raise CheckpointError(describe_truncation(file, end, size))
    return 8 + length, entries


def describe_truncation(file: Path, expected: int, size: int) -> str:
    """What to say about a file that ends too early."""
    return (
        f"{file} is cut short: {size:,} bytes of {expected:,}; the download or copy broke off, "
        "fetch it again"
    )


def has_chat_template(folder: Path) -> bool:
    """Whether the checkpoint's tokenizer carries a chat template."""
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        return bool(
            json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get(
                "chat_template"
            )
        )
    except (OSError, json.JSONDecodeError):
        return False


def count_parameters(location: str) -> int:
    """Rough parameter count for estimates: bytes of the weights / 2; 8e9 for a checkpoint that is
    not here yet.
    """
    folder = find_here(location)
    return (
        sum(p.stat().st_size for p in folder.glob("*.safetensors")) // 2
        if folder
        else 8_000_000_000
    )
