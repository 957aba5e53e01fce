"""The output folder: what is written is sealed, what is read for a table is as it was written or
says what to do.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from lep_bench.errors import LepBenchError
from lep_bench.records.schema import EditedError, Sample, TaskResult, is_sealed
from lep_bench.records.store import Store

sys.path.insert(0, str(Path(__file__).parent / "leaderboard"))
from invented_run import cell, models


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def written(store: Store) -> tuple[TaskResult, list[Sample]]:
    result, samples = cell(models()[1], "mini_facts_ru", items=6)
    long = {"text": "Да.\u2028Нет.\x85", "stopped": True, "tokens": [3], "logprobs": [-1.5]}
    samples = [
        s.model_copy(update={"values": {**s.values, **long}, "prediction": "Ответ\u2029\n"})
        for s in samples
    ]
    store.write(result, samples)
    (read,) = store.read_all("mini")
    return read, samples


def file(store: Store, kind: str) -> Path:
    (found,) = (store.root / "mini" / kind).rglob("mini_facts_ru@*")
    return found


def changed(store: Store, **fields: Any) -> TaskResult:
    data = json.loads(file(store, "results").read_text(encoding="utf-8"))
    file(store, "results").write_text(json.dumps({**data, **fields}), encoding="utf-8")
    (read,) = store.read_all("mini")
    return read


def test_what_is_written_is_read_and_sealed(store: Store) -> None:
    result, samples = written(store)
    assert is_sealed(result) and result.seal and result.samples_digest
    assert (
        result.model_copy(update={"seal": None, "samples_digest": None})
        == cell(models()[1], "mini_facts_ru", items=6)[0]
    )
    assert store.read_samples(result) == samples
    for skimmed, sample in zip(store.skim(result), samples, strict=True):
        assert (skimmed.doc_id, skimmed.doc_hash, skimmed.group, skimmed.gold) == (
            sample.doc_id,
            sample.doc_hash,
            sample.group,
            sample.gold,
        )
        assert skimmed.values == {name: sample.values[name] for name in ("acc", "text", "stopped")}
    for skimmed, sample in zip(
        store.skim(result.model_copy(update={"health": (1,)})), samples, strict=True
    ):
        assert (skimmed.doc_id, skimmed.group, skimmed.values) == (
            sample.doc_id,
            sample.group,
            {"acc": sample.values["acc"]},
        )


def test_a_failed_cell_is_sealed_and_has_no_samples(store: Store) -> None:
    failed = cell(models()[1], "mini_facts_ru")[0].model_copy(
        update={"status": "failed", "scores": {}, "samples": 0}
    )
    store.write(failed, [])
    (read,) = store.read_all("mini")
    assert (
        is_sealed(read)
        and read.seal
        and read.samples_digest is None
        and store.read_samples(read) == store.skim(read) == []
    )


@pytest.mark.parametrize(
    "field",
    ["samples", "task_version", "scores", "model", "provenance", "samples_digest", "primary"],
)
def test_every_field_is_under_the_seal(store: Store, field: str) -> None:
    result, _ = written(store)
    other: Any = {
        "samples": 5,
        "task_version": "2",
        "samples_digest": "0" * 16,
        "primary": "other",
    }.get(field)
    if other is None:
        other = result.model_dump(mode="json")[field]
        inner = {
            "scores": ("acc", {"value": 0.99}),
            "model": ("name", "mini-llama/other"),
            "provenance": ("created", "2031"),
        }[field]
        other[inner[0]] = inner[1]
    assert not is_sealed(changed(store, **{field: other}))


def test_a_result_of_an_earlier_version_has_no_seal_and_passes(store: Store) -> None:
    written(store)
    old = changed(store, seal=None, samples_digest=None)
    assert is_sealed(old) and len(store.skim(old)) == 6
    data = json.loads(file(store, "results").read_text(encoding="utf-8"))
    without = {
        name: value
        for name, value in data.items()
        if name not in ("seal", "samples_digest", "health")
    }
    assert TaskResult.model_validate(without) == old


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_what_is_no_number_is_no_result(store: Store, number: str) -> None:
    result, _ = written(store)
    text = file(store, "results").read_text(encoding="utf-8")
    file(store, "results").write_text(
        re.sub(r'"value": [0-9.]+', f'"value": {number}', text, count=1), encoding="utf-8"
    )
    with pytest.raises(LepBenchError, match=f"not a result: {number} is no JSON number; delete it"):
        store.read_all(result.suite)


@pytest.mark.parametrize("read", ["skim", "read_samples"])
def test_samples_that_are_not_there_or_not_those(store: Store, read: str) -> None:
    """One line each: which file, what is wrong, what to do; and no path of this machine, since
    pages are published.
    """
    result, _ = written(store)
    held = file(store, "samples").read_bytes()
    lines = held.splitlines(keepends=True)
    cases = {
        "5 samples, the result is of 6": (b"".join(lines[:5]), LepBenchError),
        "cannot be read": (held[:-20], LepBenchError),
        "cannot be read (": (held.replace("Да".encode(), b"\xff\xfe"), LepBenchError),
        "changed since the run wrote it": (
            held.replace(b'"acc":1.0', b'"acc":0.0', 1),
            EditedError,
        ),
        "the samples are missing": (None, LepBenchError),
    }
    for what, (data, kind) in cases.items():
        file(store, "samples").unlink() if data is None else file(store, "samples").write_bytes(
            data
        )
        with pytest.raises(kind) as error:
            getattr(store, read)(result)
        line = str(error.value)
        assert (
            what in line
            and line.startswith("mini/samples/mini-llama/instruct/mini_facts_ru@")
            and "\n" not in line
        )
        assert (
            "delete mini/results/mini-llama/instruct/mini_facts_ru@" in line
            and line.endswith("and run again")
            and str(store.root) not in line
        )
