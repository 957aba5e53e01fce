"""A bundle: a folder with everything that a suite needs on a machine without a network, and the
manifest that proves it.

DIR/ORG/NAME/...  files of a dataset, as in the Hub's repository    DIR/models/ORG/NAME/...  a
    checkpoint
DIR/dictionaries/...  what the lemmatiser reads                     DIR/wheels/*.whl         Python
    packages
DIR/bundle.json  which they are, where they come from, and their hashes. A folder without it (a
    mirror that somebody
made by hand) works the same way, but nothing about it is proven.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import ValidationError

from lep_bench import files
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.files import file_sha256
from lep_bench.yamlfile import Frozen

DATA = "LEP_BENCH_DATA"  # the environment variable that names the folder; tasks read it too
DICTIONARIES = "PYMORPHY2_DICT_PATH"  # pymorphy3 kept its forerunner's name
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
MANIFEST = "bundle.json"
SCHEMA_VERSION = 1
MODELS, WHEELS, LEMMAS = "models", "wheels", "dictionaries"
Kind = Literal["dataset", "model", "dictionaries", "wheels"]
COMMIT = re.compile(r"[0-9a-f]{5,40}")  # a commit's hash, whole or its beginning
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class BundleFile(Frozen):
    """One file. `path` is relative to the bundle's folder, with slashes."""

    path: str
    bytes: int
    sha256: str


class BundleEntry(Frozen):
    """One thing that was stored. `revision` is what was asked for (None: the newest), `commit` what
    it was on that day; without a commit the files are a copy of somebody's folder, and nothing says
    which revision they are."""

    kind: Kind
    id: str
    revision: str | None = None
    commit: str | None = None
    licence: str = "unknown"
    gated: bool = False
    files: tuple[BundleFile, ...]

    def is_at(self, revision: str | None) -> bool:
        """Whether this is proven to be that revision (None: any)."""
        return self.commit is not None and (
            revision in (None, self.revision)
            or bool(COMMIT.fullmatch(revision))
            and self.commit.startswith(revision)
        )

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(file.bytes for file in self.files)


class Bundle(Frozen):
    """`bundle.json`."""

    schema_version: int = SCHEMA_VERSION
    created: str
    lep_bench: str
    suites: tuple[str, ...]
    entries: tuple[BundleEntry, ...]

    def entry(self, kind: Kind, name: str) -> BundleEntry | None:
        """The entry of that kind and id."""
        return next(
            (entry for entry in self.entries if (entry.kind, entry.id) == (kind, name)), None
        )


def read_manifest(root: Path) -> Bundle | None:
    """The manifest of a folder; None where it has none. Raises LepBenchError when it is damaged or
    from a newer version.
    """
    file = root / MANIFEST
    try:
        stat = file.stat()
    except OSError:
        return None
    return _read_manifest(file, stat.st_mtime_ns, stat.st_size)


@cache
def _read_manifest(file: Path, mtime_ns: int, size: int) -> Bundle:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(data, dict) and data.get("schema_version", 0) > SCHEMA_VERSION:
            raise LepBenchError(
                f"{file} is of version {data['schema_version']}, this lep-bench reads up to "
                f"{SCHEMA_VERSION}: install a newer one"
            )
        found = Bundle.model_validate(data)
    except (OSError, ValueError, TypeError) as error:  # pydantic's ValidationError is a ValueError
        why = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
        raise LepBenchError(
            f"{file} is no manifest that can be read ({why}): make the bundle again"
        ) from error
    for entry in found.entries:
        for one in entry.files:
            join_relative(file.parent, one.path)
    return found


def data_folder() -> Path | None:
    """The folder that LEP_BENCH_DATA names."""
    return Path(os.environ[DATA]).expanduser() if os.environ.get(DATA) else None


def join_relative(root: Path, name: str) -> Path:
    """`root` joined with a relative path that came from elsewhere. Raises LepBenchError for one
    that would leave the folder.
    """
    pure = PurePosixPath(name)
    if (
        not name
        or pure.is_absolute()
        or ".." in pure.parts
        or "\\" in name
        or not name.isprintable()
        or str(pure) in (".", MANIFEST)
    ):
        raise LepBenchError(
            f"{name!r} is refused as the name of a file: it would not stand in {root}"
        )
    return root / pure


def entry_folder(root: Path, kind: Kind, name: str) -> Path:
    """The folder of an entry. Raises LepBenchError for an id that cannot be a folder here."""
    if kind in (LEMMAS, WHEELS):
        return root / kind
    if name.count("/") != 1 or (
        kind == "dataset" and name.split("/")[0] in (MODELS, WHEELS, LEMMAS)
    ):
        raise LepBenchError(f"{kind} {name!r}: a Hub id ORGANISATION/NAME is expected")
    return files.join_names(root / MODELS if kind == "model" else root, name)


def locate_model(location: str, revision: str | None) -> tuple[Path, bool] | None:
    """A Hub id's folder in the data folder, and whether it is proven to be that revision; None
    where it is not there.

    Raises CheckpointError when the bundle holds another revision.
    """
    root = data_folder()
    folder = entry_folder(root, "model", location) if root and location.count("/") == 1 else None
    if root is None or folder is None or not folder.is_dir():
        return None
    held = read_manifest(root)
    entry = held.entry("model", location) if held else None
    if entry is None or entry.commit is None:
        return folder, False
    if not entry.is_at(revision):
        raise CheckpointError(
            f"the bundle {root} holds {location} at {entry.commit}, revision {revision} is "
            "wanted: bundle the suite again"
        )
    return folder, True


def locate_dataset(name: str) -> Path | None:
    """The folder of a Hub dataset in the data folder; None where it is not there."""
    root = data_folder()
    folder = root / name if root and HUB_ID.fullmatch(name) else None
    return folder if folder and folder.is_dir() else None


def is_proven(name: str, revision: str | None) -> bool:
    """Whether the data folder's copy of a dataset is known to be that pinned revision: then its
    rows need no other fingerprint.
    """
    root = data_folder()
    held = read_manifest(root) if root else None
    entry = held.entry("dataset", name) if held else None
    return bool(entry and revision and entry.is_at(revision))


def find_faults(root: Path, entry: BundleEntry, *, hashes: bool = True) -> list[str]:
    """What is not as the manifest says, one line per file. The digests of large files are
    remembered (see fingerprint).
    """
    lines = []
    for file in entry.files:
        path = join_relative(root, file.path)
        try:
            found = path.stat().st_size
            if found != file.bytes:
                lines.append(f"{file.path} has {found:,} bytes, {file.bytes:,} were stored")
            elif hashes and file_sha256(path) != file.sha256:
                lines.append(f"{file.path} was changed: its sha256 is not {file.sha256[:16]}...")
        except FileNotFoundError:
            lines.append(f"{file.path} is missing")
        except OSError as error:
            lines.append(f"{file.path} cannot be read: {error.strerror}")
    return lines + _added(root, entry)


def _added(root: Path, entry: BundleEntry) -> list[str]:
    """Files among those of a proven revision that are not its own: a reader could take them
    instead.
    """
    if entry.commit is None or entry.kind not in ("dataset", "model"):
        return []
    folder, known = entry_folder(root, entry.kind, entry.id), {file.path for file in entry.files}
    found = sorted(
        path.relative_to(root).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    return [
        f"{name} was added, and is not of {entry.id} as it was stored: remove it"
        for name in found
        if name not in known and "/." not in name
    ]


def verify(root: Path, models: Iterable[str] = ()) -> Bundle | None:
    """The folder's manifest, after every size and the hashes of datasets, dictionaries and the
    named models were compared.

    None for a folder without one. Raises LepBenchError that names the first wrong file.
    """
    held, chosen = read_manifest(root), set(models)
    if held is not None:
        found = [
            (line, entry)
            for entry in held.entries
            for line in find_faults(
                root,
                entry,
                hashes=entry.kind in ("dataset", "dictionaries")
                or (entry.kind == "model" and entry.id in chosen),
            )
        ]
        if found:
            (line, entry), more = (
                found[0],
                f" (and {len(found) - 1} more)" if len(found) > 1 else "",
            )
            raise LepBenchError(
                f"the bundle {root} is not what was stored: {line}{more}; make it again: "
                f"{render_remedy(held, root, entry)}"
            )
    return held


def render_remedy(held: Bundle, root: Path, entry: BundleEntry) -> str:
    """The command that stores an entry again."""
    return render_command(
        held.suites, root, *{"model": ["--models"], "wheels": ["--wheels"]}.get(entry.kind, [])
    )


def use_data_folder(root: Path | None, offline: bool) -> None:
    """Let this process and all it starts read `root` and, if asked, no network. To be called before
    anything reads the environment.

    Raises LepBenchError when there is no such folder.
    """
    if root is not None:
        root = root.expanduser()
        if not root.is_dir():
            raise LepBenchError(
                f"--data {root}: there is no such folder; lep-bench bundle makes one"
            )
        os.environ[DATA] = str(root.absolute())
        dictionaries = root.absolute() / LEMMAS
        if dictionaries.is_dir():
            os.environ[DICTIONARIES] = str(dictionaries)
    if offline:
        os.environ.update(dict.fromkeys(OFFLINE, "1"))


def render_command(suites: Iterable[str], root: Path | str, *options: str) -> str:
    """The command that makes (or completes) a bundle."""
    return " ".join([f"lep-bench bundle --suite {','.join(suites) or 'NAME'} {root}", *options])
