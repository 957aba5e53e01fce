"""For authors of adapters: `check_adapter` runs one on small models of every kind and says what it
gets wrong.

    from lep_bench.testing import check_adapter

    def test_my_method():
        check_adapter(Path("my_method.py"), strength=0.5)

The models are made on the fly (`lep_bench.testing_pico`): byte-level and sentencepiece tokenizers,
tied and untied heads, padded and unpadded matrices. Nothing is downloaded; a check takes seconds.
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

DOCUMENTS = 400  # of the built-in corpus: what a vocabulary method gets to read


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
    """Run an adapter, or every adapter in a file, on small models of every kind; `params` are its
    parameters.

    propagation  rows of the right shape, finite, the same when repeated and however they are cut
        into blocks; the inputs
                 left as they were; and a whole propagation
    vocabulary   a tokenizer with the base's special tokens, ids without holes, text that comes
        back; the same when repeated
    tuning       a patch whose tensors are finite and fit its tokenizer, made from a propagated
        model

    Raises AdapterError that says on which model and what; returns nothing when all is well.
    """
    if not isinstance(adapter, Adapter):
        for found in plugin.load_adapters(Path(adapter)):
            check_adapter(found, **params)
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
            except Exception as error:  # running an adapter: whatever it raises is reported with the model it failed on
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
    models = [Checkpoint.open(path) for path in (base, instruct, donor)]
    old, new = Tokens.read(base), Tokens.read(donor)
    for matrix in models[1].matrix_names():
        first, second = (
            _rows(adapter, settings, Problem(matrix, decompose(old, new), old, *models), new.size)
            for _ in range(2)
        )
        _require(
            bool((first == second).all()),
            f"{matrix}: the same call gave other rows: seed every draw",
        )
    propagate.propagate(
        base, instruct, donor, folder / "made", adapter, settings, lep=_lep("propagation", instruct)
    )


def _rows(adapter: Adapter, settings: Params, problem: Any, count: int) -> Any:
    """The adapter's rows [count, d] for one matrix, after checking the contract of the function it
    gives back.
    """
    import numpy as np
    import torch

    where = problem.matrix
    function = adapter(problem, settings)
    _require(
        callable(function),
        f"{where}: gave back {type(function).__name__}: a function of (donor rows, ids) is "
        "expected",
    )
    ids = np.arange(count)
    given = problem.donor_at(ids)
    whole = function(given.clone(), ids)
    shape = tuple(given.shape)
    _require(
        isinstance(whole, torch.Tensor),
        f"{where}: gave back {type(whole).__name__} for a block: a float64 tensor {shape} is "
        "expected",
    )
    fits = whole.dtype == torch.float64 and tuple(whole.shape) == shape
    _require(fits, f"{where}: gave {whole.dtype} {tuple(whole.shape)}: float64 {shape} is expected")
    bad = int((~torch.isfinite(whole)).any(dim=1).sum())
    _require(bad == 0, f"{where}: {bad} of {count} rows hold NaN or infinity")
    cuts = [0, 1, count // 3, count]
    blocks = [function(given[a:b].clone(), ids[a:b]) for a, b in zip(cuts, cuts[1:])]
    same = torch.allclose(torch.cat(blocks), whole, rtol=1e-9, atol=1e-9)
    _require(
        same, f"{where}: rows depend on how they are cut into blocks: compute from row and id only"
    )
    return whole


def _vocabulary(adapter: Adapter, settings: Params, case: Case, folder: Path) -> None:
    from lep_bench.surgery import vocabulary

    if case.tied or case.padded:
        return  # matrices are no business of a tokenizer
    base, _ = pico_family(folder, case.tied, case.padded, case.kind)
    first, second = (
        vocabulary.build_tokenizer(base, folder / name, adapter, settings, _documents())
        / "tokenizer.json"
        for name in ("first", "second")
    )
    _require(
        first.read_bytes() == second.read_bytes(),
        "the same texts gave another tokenizer: sort what comes from sets, seed every draw",
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
        lep=_lep("propagation", instruct),
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
        lep=_lep("tuning", instruct),
        seed=0,
        progress=lambda *_: None,
    )
    made = adapter(model, settings)
    _require(
        isinstance(made, Artifact),
        f"gave back {type(made).__name__}: return what model.finetune(...) gives",
    )
    tensors = patch.load_tensors(made)
    bad = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    _require(not bad, f"{len(bad)} tensors hold NaN or infinity, the first is {bad[:1]}")
    _require(
        set(start.lep.changed) <= set(tensors),
        "the patch lost tensors of the model it started from",
    )


def _lep(stage: str, instruct: Path) -> Any:
    from lep_bench.records.artifact import Lep, Parent

    body = Parent(role="body", name="pico/instruct", location=str(instruct))
    return Lep(
        model="pico/checked", fingerprint="0" * 16, kind="patch", stage=stage, parents=(body,)
    )


_CHECKS = {"propagation": _propagation, "vocabulary": _vocabulary, "tuning": _tuning}
