"""Whose answers a store keeps: every input that could give other answers names another owner."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lep_bench.engines import cache
from lep_bench.engines.base import EngineInfo
from lep_bench.engines.cache import describe_owner
from lep_bench.records import artifact
from lep_bench.records.artifact import Artifact, Lep

INFO = EngineInfo("hf", "5.0", "cpu", "float32")


def weights(*values: float) -> bytes:
    data = struct.pack(f"<{len(values)}f", *values)
    entry = {"dtype": "F32", "shape": [len(values)], "data_offsets": [0, len(data)]}
    header = json.dumps({"w": entry}).encode()
    return len(header).to_bytes(8, "little") + header + data


@pytest.fixture
def patch(tmp_path: Path) -> Artifact:
    """A patch over a body, of invented bytes."""
    body, folder = tmp_path / "body", tmp_path / "patch"
    for place in (body, folder):
        place.mkdir()
        (place / "config.json").write_text("{}")
        (place / "tokenizer.json").write_text("{}")
    (body / "model.safetensors").write_bytes(weights(1.0))
    (folder / "patch.safetensors").write_bytes(weights(2.0))
    lep = Lep(model="m", fingerprint="0", kind="patch", stage="base", vocabulary_size=8)
    return Artifact(folder, body, lep)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "vllm"},
        {"version": "5.1"},
        {"device": "elsewhere"},
        {"dtype": "bfloat16"},
    ],
)
def test_every_field_of_the_engine_counts(patch: Artifact, change: dict[str, str]) -> None:
    assert describe_owner(replace(INFO, **change), patch) != describe_owner(INFO, patch)


def test_gpus_count_by_their_kind(patch: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cache, "name_device", lambda device: {"cuda:0": "A", "cuda:1": "A"}.get(device, "B")
    )
    first, second, third = (
        describe_owner(replace(INFO, device=f"cuda:{n}"), patch) for n in range(3)
    )
    assert first == second != third


@pytest.mark.parametrize(
    ("where", "name", "counts"),
    [
        ("body", "config.json", True),
        ("patch", "config.json", True),
        ("body", "model.safetensors", True),
        ("patch", "patch.safetensors", True),
        ("patch", "tokenizer.json", True),
        ("patch", "chat_template.jinja", True),
        ("patch", "tokenizer_config.json", True),
        ("patch", "merges.txt", True),
        ("patch", "tokenizer.model", True),
        ("body", "tokenizer.json", False),
        ("patch", "lep.json", False),
        ("patch", "README.md", False),
    ],
)
def test_files_that_count(patch: Artifact, where: str, name: str, counts: bool) -> None:
    before = describe_owner(INFO, patch)
    file = {"body": patch.body, "patch": patch.folder}[where] / name
    file.write_bytes(weights(3.0, 4.0) if name.endswith("safetensors") else b'{"other": 1}')
    assert (describe_owner(INFO, patch) != before) == counts


def torch_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "0.0")


def scoring_of_another_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(artifact.REVISIONS, "score", 99)


@pytest.mark.parametrize("change", [torch_of_another_version, scoring_of_another_revision])
def test_our_own_code_and_torchs_count(
    patch: Artifact, change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = describe_owner(INFO, patch)
    change(monkeypatch)
    assert describe_owner(INFO, patch) != before


def test_the_real_size_of_the_vocabulary_counts(patch: Artifact) -> None:
    fewer = Artifact(patch.folder, patch.body, patch.lep.model_copy(update={"vocabulary_size": 7}))
    assert describe_owner(INFO, fewer) != describe_owner(INFO, patch)


def test_names_do_not_count(patch: Artifact) -> None:
    other = patch.lep.model_copy(update={"model": "n", "fingerprint": "1", "seed": 3})
    assert describe_owner(INFO, Artifact(patch.folder, patch.body, other)) == describe_owner(
        INFO, patch
    )
