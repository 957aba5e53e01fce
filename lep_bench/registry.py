"""Discovery of adapters: our folder, installed packages, the user's folders. Nothing registers itself."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lep_bench import paths
from lep_bench.errors import AdapterError, LepBenchError, unknown
from lep_bench.fingerprint import digest, file_digest
from lep_bench.plugin import KINDS, Adapter, Kind

GROUP = "lep_bench.adapters"


@dataclass(frozen=True)
class Entry:
    """An adapter and where it came from: ``shipped``, ``package NAME VERSION`` or the user's folder."""

    adapter: Adapter
    origin: str
    shipped: bool

    @property
    def source_digest(self) -> str:
        """What stands for the method's code in fingerprints: its file, or the installed package's version."""
        return digest(self.origin) if self.origin.startswith("package ") else file_digest(self.adapter.source)


@dataclass(frozen=True)
class Registry:
    """All adapters by (kind, name), and the third-party packages that failed to load."""

    entries: dict[tuple[Kind, str], Entry]
    broken: dict[str, str] = field(default_factory=dict)

    def get(self, kind: Kind, name: str) -> Entry:
        """The entry; raises UnknownName with near names, or AdapterError when a broken package may hold it."""
        if (kind, name) in self.entries:
            return self.entries[kind, name]
        if self.broken:
            package, why = next(iter(self.broken.items()))
            raise AdapterError(f"unknown {kind} adapter {name!r}, and {package} could not be loaded: {why}")
        raise unknown(f"{kind} adapter", name, self.names(kind), "(lep-bench adapters lists them all)")

    def names(self, kind: Kind) -> list[str]:
        """Names of one kind: shipped ones first, each part in alphabetical order."""
        chosen = [e for (k, _), e in self.entries.items() if k == kind]
        return [e.adapter.name for e in sorted(chosen, key=lambda e: (not e.shipped, e.adapter.name))]

    def added(self, kind: Kind) -> list[str]:
        """Names that are not shipped: the user's own and installed packages'."""
        return [name for name in self.names(kind) if not self.entries[kind, name].shipped]


def discover(folders: Sequence[Path] = ()) -> Registry:
    """Collect adapters from the shipped folder, the entry-point group `GROUP`, then `folders` (the user's).

    Raises AdapterError (with file:line) for a broken file of ours or the user's, and for a name that stands twice
    (naming both places). A broken installed package is remembered in `Registry.broken` and raised only when asked for.
    """
    entries: dict[tuple[Kind, str], Entry] = {}
    broken: dict[str, str] = {}
    shipped = paths.folder("adapters")
    for kind in KINDS:
        for file in sorted((shipped / kind).glob("*.py")):
            for adapter in load_file(file):
                _add(entries, Entry(adapter, "shipped", True))
    for point in importlib.metadata.entry_points(group=GROUP):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.module
        try:
            values = [a for a in vars(point.load()).values() if isinstance(a, Adapter)]
            if not values:
                raise AdapterError(f"module {point.module} holds no adapter")
        except Exception as error:  # somebody else's package must not stop ours
            broken[f"package {package}"] = f"{type(error).__name__}: {error}"
            continue
        for adapter in values:
            _add(entries, Entry(adapter, f"package {package}", False))
    for folder in folders:
        if not folder.is_dir():
            raise AdapterError(f"--adapters {folder}: there is no such folder")
        files = [p for p in sorted(folder.rglob("*.py")) if not p.name.startswith(("_", "test_"))]
        for file in files:
            for adapter in load_file(file):
                _add(entries, Entry(adapter, str(file), False))
    return Registry(entries, broken)


def load_file(file: Path) -> list[Adapter]:
    """The adapters that `file` defines. Raises AdapterError with file:line when it cannot be imported or has none."""
    try:
        module = paths.module(file, "adapter")
    except LepBenchError:
        raise
    except SyntaxError as error:
        raise AdapterError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = frames[-1].lineno if frames else 1
        raise AdapterError(f"{file}:{line}: {type(error).__name__}: {error}") from error
    found = [value for value in vars(module).values() if isinstance(value, Adapter)]
    if not found:
        raise AdapterError(f"{file}:1: no adapter in this file: decorate a function with @vocabulary, @propagation or @tuning")
    return found


def _add(entries: dict[tuple[Kind, str], Entry], entry: Entry) -> None:
    adapter = entry.adapter
    paths.safe(adapter.name, f"{adapter.kind} adapter name")
    if any(mark in adapter.name for mark in "+@="):
        raise AdapterError(f"{adapter.source}: the name {adapter.name!r} may not hold + @ or =: model names use them")
    old = entries.get((adapter.kind, adapter.name))
    if old is not None:
        raise AdapterError(f"two {adapter.kind} adapters are called {adapter.name!r}: {old.adapter.source} and {adapter.source}; rename one")
    entries[adapter.kind, adapter.name] = entry
