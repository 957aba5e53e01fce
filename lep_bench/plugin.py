"""What an adapter file imports: ``from lep_bench.plugin import vocabulary, propagation, tuning, Params``.

A decorator returns an `Adapter` value and registers nothing; `registry.discover` collects the values. What the three
kinds are given and give back (the objects are described where they live, in lep_bench.surgery and lep_bench.training):

vocabulary   (base: tokenizers.Tokenizer, texts: Iterator[str], params) -> tokenizers.Tokenizer
propagation  once per matrix, (problem: Problem, params) -> function(donor_rows [n, d] float64 tensor, ids [n]) -> [n, d]
tuning       (model: Tunable, params) -> what `model.finetune(...)` gives back
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from lep_bench.errors import AdapterError
from lep_bench.yamlfile import Frozen

Kind = Literal["vocabulary", "propagation", "tuning"]
KINDS: tuple[Kind, ...] = ("vocabulary", "propagation", "tuning")


class Params(Frozen):
    """Base class of an adapter's parameters: frozen, unknown keys refused. Every field needs a default."""


@dataclass(frozen=True)
class Adapter:
    """One method: `function` is what the author wrote, `params` its parameter class, `doc` its docstring."""

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


def _decorator(kind: Kind, name: str) -> Callable[[Callable[..., Any]], Adapter]:
    if not isinstance(name, str):
        raise AdapterError(f'@{kind} needs a name: write @{kind}("my-method")')

    def wrap(function: Callable[..., Any]) -> Adapter:
        source = Path(inspect.getsourcefile(function) or "?")
        where = f"{source}:{function.__code__.co_firstlineno}"
        if not (function.__doc__ or "").strip():
            raise AdapterError(f"{where}: {kind} adapter {name!r} has no docstring: say in it what the method does and cite its source")
        if len(inspect.signature(function).parameters) != (3 if kind == "vocabulary" else 2):
            wanted = "(base, texts, params)" if kind == "vocabulary" else "(problem, params)" if kind == "propagation" else "(model, params)"
            raise AdapterError(f"{where}: {kind} adapter {name!r} must take exactly {wanted}")
        last = list(inspect.signature(function).parameters)[-1]
        hint = get_type_hints(function).get(last, Params)
        if not (isinstance(hint, type) and issubclass(hint, Params)):
            raise AdapterError(f"{where}: the last parameter of {name!r} must be annotated with a subclass of Params")
        return Adapter(kind, name, function, hint, inspect.cleandoc(function.__doc__ or ""), source)

    return wrap


def vocabulary(name: str) -> Callable[[Callable[..., Any]], Adapter]:
    """Mark a function as a vocabulary method. Raises AdapterError (file:line) for a wrong signature."""
    return _decorator("vocabulary", name)


def propagation(name: str) -> Callable[[Callable[..., Any]], Adapter]:
    """Mark a function as a propagation method. Raises AdapterError (file:line) for a wrong signature."""
    return _decorator("propagation", name)


def tuning(name: str) -> Callable[[Callable[..., Any]], Adapter]:
    """Mark a function as a tuning method. Raises AdapterError (file:line) for a wrong signature."""
    return _decorator("tuning", name)
