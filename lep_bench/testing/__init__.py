"""For authors of adapters: `check_adapter` runs an adapter on small models of every kind and
reports what it gets wrong.

    from lep_bench.testing import check_adapter

    def test_my_method():
        check_adapter(Path("my_method.py"), strength=0.5)

`lep_bench.testing.pico` makes the models: byte-level and sentencepiece tokenizers, tied and untied
heads, padded and unpadded matrices. Nothing is downloaded, and a check takes seconds.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lep_bench import plugin
from lep_bench.errors import AdapterError, LepBenchError
from lep_bench.plugin import Adapter, Params
from lep_bench.testing.pico import Kind
from lep_bench.testing.pico import donor as pico_donor
from lep_bench.testing.pico import family as pico_family

__all__ = ["check_adapter", "pico_donor", "pico_family"]

DOCUMENTS = 400  # documents of the built-in corpus that a vocabulary method reads


@dataclass(frozen=True)
class Case:
    """One kind of small model."""

    kind: Kind
    tied: bool
    padded: bool

    def __str__(self) -> str:
        return (
            f"{self.kind} tokenizer, {'tied' if self.tied else 'untied'} head, "
            f"{'padded' if self.padded else 'unpadded'} matrices"
        )


CASES = [
    Case(kind, tied, padded)
    for kind in ("byte-level", "sentencepiece")
    for tied in (False, True)
    for padded in (False, True)
]


def check_adapter(adapter: Adapter | Path | str, **params: Any) -> None:
    """Run an adapter, or every adapter in a file, with `params` on small models of every kind.

    propagation: rows must be finite and of the right shape, the same in every run and in blocks of
    any size. A whole propagation must work.
    vocabulary: the tokenizer must keep the base's special tokens, have ids without holes, decode
    text to itself, and be the same in every run.
    tuning: the patch, made from a propagated model, must hold finite tensors.

    Raises AdapterError that names the model and the fault.
    """
    if not isinstance(adapter, Adapter):
        for loaded in plugin.load_adapters(Path(adapter)):
            check_adapter(loaded, **params)
        return
    try:
        settings = adapter.params.model_validate(params)
    except ValidationError as error:
        first = error.errors()[0]
        raise AdapterError(
            f"{adapter.kind} adapter {adapter.name!r}: parameter "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from error
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="lep-bench-check-") as folder:
            try:
                _CHECKS[adapter.kind](adapter, settings, case, Path(folder))
            except Exception as error:  # somebody else's code: it may raise anything
                what = (
                    str(error)
                    if isinstance(error, LepBenchError)
                    else f"{type(error).__name__}: {error}"
                )
                raise AdapterError(
                    f"{adapter.kind} adapter {adapter.name!r} on a small model ({case}): {what}"
                ) from error


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise AdapterError(text)


def _propagation(adapter: Adapter, settings: Params, case: Case, folder: Path) -> None:
    from lep_bench.surgery import propagate
    from lep_bench.surgery.decompose import decompose
    from lep_bench.surgery.problem import Problem
    from lep_bench.surgery.tokenizers.tokens import Tokens
    from lep_bench.surgery.weights.checkpoint import Checkpoint

    base, instruct = pico_family(folder, case.tied, case.padded, case.kind)
    donor = pico_donor(folder / "donor", base)
    old, new = Tokens.read(base), Tokens.read(donor)
    for matrix in Checkpoint.open(instruct).matrix_names():
        first, second = (
            _adapt_rows(
                adapter,
                settings,
                Problem(
                    matrix,
                    decompose(old, new),
                    old,
                    Checkpoint.open(base),
                    Checkpoint.open(instruct),
                    Checkpoint.open(donor),
                ),
                new.size,
            )
            for _ in range(2)
        )
        _require(
            bool((first == second).all()),
            f"{matrix}: the same call gave different rows: seed every random draw",
        )
    propagate.propagate(
        base,
        instruct,
        donor,
        folder / "propagated",
        adapter,
        settings,
        lep=_make_lep("propagation", instruct),
    )


def _adapt_rows(adapter: Adapter, settings: Params, problem: Any, count: int) -> Any:
    """The adapter's rows [count, d] for one matrix, checked for shape, dtype, finite values and
    independence of blocks.
    """
    import numpy as np
    import torch

    where = problem.matrix
    function = adapter(problem, settings)
    _require(
        callable(function),
        f"{where}: returned {type(function).__name__}: a function of (donor rows, ids) is expected",
    )
    ids = np.arange(count)
    donor_rows = problem.donor_at(ids)
    rows = function(donor_rows.clone(), ids)
    shape = tuple(donor_rows.shape)
    _require(
        isinstance(rows, torch.Tensor),
        f"{where}: returned {type(rows).__name__} for a block: a float64 tensor {shape} is "
        "expected",
    )
    fits = rows.dtype == torch.float64 and tuple(rows.shape) == shape
    _require(
        fits, f"{where}: returned {rows.dtype} {tuple(rows.shape)}: float64 {shape} is expected"
    )
    bad = int((~torch.isfinite(rows)).any(dim=1).sum())
    _require(bad == 0, f"{where}: {bad} of {count} rows hold NaN or infinity")
    cuts = [0, 1, count // 3, count]
    blocks = [function(donor_rows[a:b].clone(), ids[a:b]) for a, b in zip(cuts, cuts[1:])]
    _require(
        torch.allclose(torch.cat(blocks), rows, rtol=1e-9, atol=1e-9),
        f"{where}: rows depend on how they are cut into blocks: compute each from its donor "
        "row and "
        "id only",
    )
    return rows


def _vocabulary(adapter: Adapter, settings: Params, case: Case, folder: Path) -> None:
    from lep_bench.surgery import vocabulary

    if case.tied or case.padded:
        return  # a tokenizer does not depend on matrices
    base, _ = pico_family(folder, case.tied, case.padded, case.kind)
    first, second = (
        vocabulary.build_tokenizer(base, folder / name, adapter, settings, _documents())
        / "tokenizer.json"
        for name in ("first", "second")
    )
    _require(
        first.read_bytes() == second.read_bytes(),
        "the same texts gave a different tokenizer: sort sets, and seed every random draw",
    )


def _documents() -> Iterator[str]:
    from lep_bench.mini.corpus import vocabulary_texts

    return islice(vocabulary_texts(), DOCUMENTS)


def _tuning(adapter: Adapter, settings: Params, case: Case, folder: Path) -> None:
    import torch

    from lep_bench.records.artifact import Artifact
    from lep_bench.surgery import propagate
    from lep_bench.surgery.weights import patch
    from lep_bench.training.finetune import Tunable

    base, instruct = pico_family(folder, case.tied, case.padded, case.kind)
    donor = pico_donor(folder / "donor", base)
    unchanged = Adapter(
        "propagation",
        "unchanged",
        lambda problem, params: lambda rows, ids: rows,
        Params,
        "The donor's rows.",
        Path(__file__),
    )
    start = propagate.propagate(
        base,
        instruct,
        donor,
        folder / "start",
        unchanged,
        Params(),
        lep=_make_lep("propagation", instruct),
    )
    answers = folder / "answers.jsonl"
    rows = [
        {"prompt": text[:40], "answer": text[:20], "finished": True}
        for text in islice(_documents(), 64)
    ]
    answers.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    model = Tunable(
        start=start,
        out=folder / "tuned",
        answers_file=answers,
        corpus="builtin:mini",
        lep=_make_lep("tuning", instruct),
        seed=0,
        progress=lambda *_: None,
    )
    tuned = adapter(model, settings)
    _require(
        isinstance(tuned, Artifact),
        f"returned {type(tuned).__name__}: return the result of model.finetune(...)",
    )
    tensors = patch.load_tensors(tuned)
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    _require(not bad, f"{len(bad)} tensors hold NaN or infinity, the first is {bad[:1]}")
    _require(
        set(start.lep.changed) <= set(tensors),
        "the patch lacks tensors of the model that it was tuned from",
    )


def _make_lep(stage: str, instruct: Path) -> Any:
    from lep_bench.records.artifact import Lep, Parent

    body = Parent(role="body", name="pico/instruct", location=str(instruct))
    return Lep(
        model="pico/checked", fingerprint="0" * 16, kind="patch", stage=stage, parents=(body,)
    )


_CHECKS = {"propagation": _propagation, "vocabulary": _vocabulary, "tuning": _tuning}
