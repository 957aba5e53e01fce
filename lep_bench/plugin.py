"""What an adapter file imports: ``from lep_bench.plugin import vocabulary, propagation, tuning,
Params``.

A decorator returns an `Adapter` value and registers nothing; `discover_adapters` collects the
values. The three kinds, what each takes and returns (lep_bench.surgery and lep_bench.training
describe the objects):

vocabulary   (base: tokenizers.Tokenizer, texts: Iterator[str], params) -> tokenizers.Tokenizer
propagation  once per matrix, (problem: Problem, params) -> function(donor_rows [n, d] float64
    tensor, ids [n]) -> [n, d]
tuning       (model: Tunable, params) -> what `model.finetune(...)` returns
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from lep_bench.errors import AdapterError, LepBenchError, unknown_name
from lep_bench.files import check_name, digest, file_digest, load_module, shipped_folder
from lep_bench.yamlfile import Frozen

Kind = Literal["vocabulary", "propagation", "tuning"]
KINDS: tuple[Kind, ...] = ("vocabulary", "propagation", "tuning")
# What a function of each kind takes.
PARAMETERS: dict[Kind, tuple[str, ...]] = {
    "vocabulary": ("base", "texts", "params"),
    "propagation": ("problem", "params"),
    "tuning": ("model", "params"),
}
GROUP = "lep_bench.adapters"  # of entry points


class Params(Frozen):
    """Base class of an adapter's parameters: frozen, unknown keys refused. Every field needs a
    default.
    """


@dataclass(frozen=True)
class Adapter:
    """One method: `function` is what the author wrote, `params` its parameter class, `doc` its
    docstring.
    """

    kind: Kind
    name: str
    function: Callable[..., Any]
    params: type[Params]
    doc: str
    source: Path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def summary(self) -> str:
        """The docstring's first line."""
        return self.doc.strip().splitlines()[0]


def _make_decorator(kind: Kind, name: str) -> Callable[[Callable[..., Any]], Adapter]:
    if not isinstance(name, str):
        raise AdapterError(f'@{kind} needs a name: write @{kind}("my-method")')

    def wrap(function: Callable[..., Any]) -> Adapter:
        source = Path(inspect.getsourcefile(function) or "?")
        where = f"{source}:{function.__code__.co_firstlineno}"
        if not (function.__doc__ or "").strip():
            raise AdapterError(
                f"{where}: {kind} adapter {name!r} has no docstring: describe the method in one "
                "and cite its source"
            )
        parameters = list(inspect.signature(function).parameters)
        if len(parameters) != len(PARAMETERS[kind]):
            wanted = f"({', '.join(PARAMETERS[kind])})"
            raise AdapterError(f"{where}: {kind} adapter {name!r} must take exactly {wanted}")
        hint = get_type_hints(function).get(parameters[-1], Params)
        if not (isinstance(hint, type) and issubclass(hint, Params)):
            raise AdapterError(
                f"{where}: the last parameter of {name!r} must be annotated with a subclass "
                "of Params"
            )
        return Adapter(kind, name, function, hint, inspect.cleandoc(function.__doc__ or ""), source)

    return wrap


def vocabulary(name: str) -> Callable[[Callable[..., Any]], Adapter]:
    """Mark a function as a vocabulary method. Raises AdapterError (file:line) for a wrong
    signature.
    """
    return _make_decorator("vocabulary", name)


def propagation(name: str) -> Callable[[Callable[..., Any]], Adapter]:
    """Mark a function as a propagation method. Raises AdapterError (file:line) for a wrong
    signature.
    """
    return _make_decorator("propagation", name)


def tuning(name: str) -> Callable[[Callable[..., Any]], Adapter]:
    """Mark a function as a tuning method. Raises AdapterError (file:line) for a wrong signature."""
    return _make_decorator("tuning", name)


@dataclass(frozen=True)
class RegisteredAdapter:
    """An adapter and its origin: ``shipped``, ``package NAME VERSION`` or the user's file."""

    adapter: Adapter
    origin: str
    shipped: bool

    @property
    def source_digest(self) -> str:
        """Hash of the method's code for fingerprints: of its file, or of its package's version."""
        return (
            digest(self.origin)
            if self.origin.startswith("package ")
            else file_digest(self.adapter.source)
        )


@dataclass(frozen=True)
class Registry:
    """All adapters by (kind, name), and the third-party packages that failed to load."""

    entries: dict[tuple[Kind, str], RegisteredAdapter]
    broken: dict[str, str] = field(default_factory=dict)

    def get(self, kind: Kind, name: str) -> RegisteredAdapter:
        """The entry; raises UnknownNameError with near names, or AdapterError when a broken package
        may hold it.
        """
        if (kind, name) in self.entries:
            return self.entries[kind, name]
        if self.broken:
            package, why = next(iter(self.broken.items()))
            raise AdapterError(
                f"unknown {kind} adapter {name!r}, and {package} could not be loaded: {why}"
            )
        raise unknown_name(
            f"{kind} adapter", name, self.names(kind), "(see lep-bench list adapters)"
        )

    def names(self, kind: Kind) -> list[str]:
        """Names of one kind: the shipped ones, then the others, each in alphabetical order."""
        entries = [entry for (k, _), entry in self.entries.items() if k == kind]
        entries.sort(key=lambda entry: (not entry.shipped, entry.adapter.name))
        return [entry.adapter.name for entry in entries]

    def own_names(self, kind: Kind) -> list[str]:
        """Names that are not shipped: the user's own and those of installed packages."""
        return [name for name in self.names(kind) if not self.entries[kind, name].shipped]


def discover_adapters(folders: Sequence[Path] = ()) -> Registry:
    """Collect adapters from the shipped folder, the entry-point group `GROUP`, then `folders` (the
    user's).

    Raises AdapterError (file:line) for a broken file of ours or the user's, and for two adapters of
    one name (naming both places). A broken installed package is kept in `Registry.broken` and
    raised only when somebody asks for a name that may be its.
    """
    entries: dict[tuple[Kind, str], RegisteredAdapter] = {}
    broken: dict[str, str] = {}
    shipped = shipped_folder("adapters")
    for kind in KINDS:
        for file in sorted((shipped / kind).glob("*.py")):
            for adapter in load_adapters(file):
                _register(entries, RegisteredAdapter(adapter, "shipped", True))
    for point in importlib.metadata.entry_points(group=GROUP):
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.module
        try:
            values = [a for a in vars(point.load()).values() if isinstance(a, Adapter)]
            if not values:
                raise AdapterError(f"module {point.module} holds no adapter")
        except Exception as error:  # somebody else's package: it must not stop ours
            broken[f"package {package}"] = f"{type(error).__name__}: {error}"
            continue
        for adapter in values:
            _register(entries, RegisteredAdapter(adapter, f"package {package}", False))
    for folder in folders:
        if not folder.is_dir():
            raise AdapterError(f"--adapters {folder}: there is no such folder")
        files = [p for p in sorted(folder.rglob("*.py")) if not p.name.startswith(("_", "test_"))]
        for file in files:
            for adapter in load_adapters(file):
                _register(entries, RegisteredAdapter(adapter, str(file), False))
    return Registry(entries, broken)


def load_adapters(file: Path) -> list[Adapter]:
    """The adapters that `file` defines. Raises AdapterError with file:line when it cannot be
    imported or has none.
    """
    try:
        module = load_module(file, "adapter")
    except LepBenchError:
        raise
    except SyntaxError as error:
        raise AdapterError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:  # the author's code runs here
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = frames[-1].lineno if frames else 1
        raise AdapterError(f"{file}:{line}: {type(error).__name__}: {error}") from error
    adapters = [value for value in vars(module).values() if isinstance(value, Adapter)]
    if not adapters:
        raise AdapterError(
            f"{file}:1: no adapter in this file: decorate a function with @vocabulary, "
            "@propagation or @tuning"
        )
    return adapters


def _register(entries: dict[tuple[Kind, str], RegisteredAdapter], entry: RegisteredAdapter) -> None:
    adapter = entry.adapter
    check_name(adapter.name, f"{adapter.kind} adapter name")
    if any(mark in adapter.name for mark in "+@="):
        raise AdapterError(
            f"{adapter.source}: the name {adapter.name!r} may not contain + @ or =: model names "
            "use them"
        )
    first = entries.get((adapter.kind, adapter.name))
    if first is not None:
        raise AdapterError(
            f"two {adapter.kind} adapters are called {adapter.name!r}: {first.adapter.source} "
            f"and {adapter.source}; rename one"
        )
    entries[adapter.kind, adapter.name] = entry
