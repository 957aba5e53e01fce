"""Read a bundle and prove it: a folder with all that a suite needs on a machine without a network.

    DIR/datasets--ORG--NAME/snapshots/COMMIT/...  DIR/models--ORG--NAME/...   a Hub cache
    DIR/ORG/NAME                                  a link to a dataset's snapshot, which tasks read
    DIR/dictionaries/...  DIR/wheels/*.whl        what the lemmatiser reads, Python packages
    DIR/bundle.json                               the sealed manifest: repositories, commits, files

DIR is a cache as huggingface_hub makes it: every tool reads it with HF_HUB_CACHE=DIR. A mirror,
which is a folder of DIR/ORG/NAME/... and DIR/models/ORG/NAME/... that somebody filled by hand, is
read the same way, but nothing proves its revisions. A bundle of version 0.1.0 is a mirror with a
manifest.
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

from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.files import digest, file_sha256, join_names, write_json
from lep_bench.yamlfile import Frozen

DATA = "LEP_BENCH_DATA"  # the environment variable that names the folder; tasks read it too
DICTIONARY_PATH = "PYMORPHY2_DICT_PATH"  # pymorphy3 kept its forerunner's name
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
MANIFEST = "bundle.json"
SCHEMA_VERSION = 2  # 1: paths begin with the entry's folder, there is no seal
MODELS, WHEELS, DICTIONARIES = "models", "wheels", "dictionaries"
Kind = Literal["dataset", "model", "dictionaries", "wheels"]
COMMIT = re.compile(r"[0-9a-f]{5,40}")  # a commit's hash, whole or its beginning
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class BundleFile(Frozen):
    """One file. `path` is relative to its repository (or to `dictionaries/`, `wheels/`)."""

    path: str
    bytes: int
    sha256: str


class BundleEntry(Frozen):
    """One repository, or the dictionaries, or the wheels.

    `revision` is what was asked for (None: the newest), `commit` what it was on that day. Without a
    commit the files are a copy of somebody's folder, and nothing says which revision they are.
    """

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
        """The size of all files together."""
        return sum(file.bytes for file in self.files)


class Bundle(Frozen):
    """The manifest, without its seal."""

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

    def write(self, root: Path) -> None:
        """Write `bundle.json`, whole or not at all, with the digest of all else as its seal."""
        content = self.model_dump(mode="json")
        write_json(root / MANIFEST, content | {"seal": digest(content)})


def read_manifest(root: Path) -> Bundle | None:
    """The manifest of a folder; None where it has none. Raises LepBenchError when it is damaged,
    was changed by hand, or is from a newer version.
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
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content.get("schema_version", 0)
        if version > SCHEMA_VERSION:
            raise LepBenchError(
                f"{file} is of version {version}, this lep-bench reads up to {SCHEMA_VERSION}: "
                "install a newer one"
            )
        seal = content.pop("seal", None)
        if version > 1 and seal != digest(content):
            raise ValueError("its seal does not fit: it was changed after it was written")
        bundle = Bundle.model_validate(content)
        if version == 1:
            bundle = _drop_folders(bundle)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # pydantic's ValidationError is a ValueError
        why = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
        raise LepBenchError(
            f"{file} is no manifest that can be read ({why}): make the bundle again with "
            f"{render_command((), file.parent)}"
        ) from error
    for entry in bundle.entries:
        for one in entry.files:
            join_relative(file.parent, one.path)
    return bundle


def _drop_folders(bundle: Bundle) -> Bundle:
    """A manifest of version 1 with the paths of version 2."""
    entries = []
    for entry in bundle.entries:
        folder = entry_folder(Path(), entry.kind, entry.id)
        files = [
            file.model_copy(
                update={"path": PurePosixPath(file.path).relative_to(folder).as_posix()}
            )
            for file in entry.files
        ]
        entries.append(entry.model_copy(update={"files": tuple(files)}))
    return bundle.model_copy(update={"entries": tuple(entries)})


def data_folder() -> Path | None:
    """The folder that LEP_BENCH_DATA names."""
    return Path(os.environ[DATA]).expanduser() if os.environ.get(DATA) else None


def join_relative(root: Path, name: str) -> Path:
    """`root` joined with a relative path that came from elsewhere. Raises LepBenchError for one
    that would leave the folder.
    """
    path = PurePosixPath(name)
    if (
        not name
        or path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or not name.isprintable()
        or str(path) in (".", MANIFEST)
    ):
        raise LepBenchError(f"{name!r} is refused as the name of a file: it could leave {root}")
    return root / path


def snapshot_folder(root: Path, kind: Kind, name: str, commit: str) -> Path:
    """Where huggingface_hub keeps a repository's commit in the cache `root`."""
    return root / f"{kind}s--{name.replace('/', '--')}" / "snapshots" / commit


def entry_folder(root: Path, kind: Kind, name: str, commit: str | None = None) -> Path:
    """The folder that a run reads an entry from: of models the commit's snapshot where there is
    one, of datasets the link (or the mirror's folder) that tasks know.

    Raises LepBenchError for an id that cannot be a folder here.
    """
    if kind in (DICTIONARIES, WHEELS):
        return root / kind
    if name.count("/") != 1 or (
        kind == "dataset" and name.split("/")[0] in (MODELS, WHEELS, DICTIONARIES)
    ):
        raise LepBenchError(f"{kind} {name!r}: a Hub id ORGANISATION/NAME is expected")
    folder = join_names(root / MODELS if kind == "model" else root, name)
    if kind == "model" and commit and not folder.is_dir():
        return snapshot_folder(root, kind, name, commit)
    return folder


def locate_model(location: str, revision: str | None) -> tuple[Path, bool] | None:
    """A Hub id's folder in the data folder, and whether it is proven to be that revision; None
    where it is not there.

    Raises CheckpointError when the bundle holds another revision.
    """
    root = data_folder()
    if root is None or location.count("/") != 1:
        return None
    bundle = read_manifest(root)
    entry = bundle.entry("model", location) if bundle else None
    commit = entry.commit if entry else None
    folder = entry_folder(root, "model", location, commit)
    if not folder.is_dir():
        return None
    if entry is None or commit is None:
        return folder, False
    if not entry.is_at(revision):
        raise CheckpointError(
            f"the bundle {root} holds {location} at {commit}, but revision {revision} is needed: "
            "bundle the suite again"
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
    bundle = read_manifest(root) if root else None
    entry = bundle.entry("dataset", name) if bundle else None
    return bool(entry and revision and entry.is_at(revision))


def find_faults(root: Path, entry: BundleEntry, *, hashes: bool = True) -> list[str]:
    """What is not as the manifest says, one line per file. Hashes of large files are remembered
    while the file stays the same.
    """
    folder = entry_folder(root, entry.kind, entry.id, entry.commit)
    place = folder.relative_to(root)
    lines = []
    for file in entry.files:
        path = folder / file.path
        try:
            size = path.stat().st_size
            if size != file.bytes:
                lines.append(f"{place}/{file.path} has {size:,} bytes, {file.bytes:,} were stored")
            elif hashes and file_sha256(path) != file.sha256:
                lines.append(
                    f"{place}/{file.path} was changed: its sha256 is not {file.sha256[:16]}..."
                )
        except FileNotFoundError:
            lines.append(f"{place}/{file.path} is missing")
        except OSError as error:
            lines.append(f"{place}/{file.path} cannot be read: {error.strerror}")
    if entry.commit is None or entry.kind not in ("dataset", "model"):
        return lines
    # A reader could take a file that was added to a proven revision instead of the revision's own.
    known = {file.path for file in entry.files}
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return lines + [
        f"{place}/{name} was added, and is not of {entry.id} as it was stored: remove it"
        for name in names
        if name not in known and "/." not in f"/{name}"
    ]


def verify(root: Path, models: Iterable[str] = ()) -> Bundle | None:
    """Compare every size, and the hashes of datasets, dictionaries and the named models. Returns
    the folder's manifest, None where it has none.

    Raises LepBenchError that names the first fault.
    """
    bundle, chosen = read_manifest(root), set(models)
    faults = [
        (line, entry)
        for entry in (bundle.entries if bundle else ())
        for line in find_faults(
            root,
            entry,
            hashes=entry.kind in ("dataset", DICTIONARIES) or entry.id in chosen,
        )
    ]
    if bundle and faults:
        line, entry = faults[0]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise LepBenchError(
            f"the bundle {root} is not what was stored: {line}{more}; make it again: "
            f"{render_remedy(bundle, root, entry)}"
        )
    return bundle


def render_remedy(bundle: Bundle, root: Path, entry: BundleEntry) -> str:
    """The command that stores an entry again. Bundles of version 0.1.0 are made anew elsewhere."""
    options = {"model": ["--models"], "wheels": ["--wheels"]}.get(entry.kind, [])
    place = root if bundle.schema_version == SCHEMA_VERSION else "NEW-DIR"
    return render_command(bundle.suites, place, *options)


def render_command(suites: Iterable[str], root: Path | str, *options: str) -> str:
    """The command that makes (or completes) a bundle."""
    return " ".join([f"lep-bench bundle --suite {','.join(suites) or 'NAME'} {root}", *options])


def use_data_folder(root: Path | None, offline: bool) -> None:
    """Let this process and all that it starts read `root` and, if asked, no network. Call it before
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
        dictionaries = root.absolute() / DICTIONARIES
        if dictionaries.is_dir():
            os.environ[DICTIONARY_PATH] = str(dictionaries)
    if offline:
        os.environ.update(dict.fromkeys(OFFLINE, "1"))
