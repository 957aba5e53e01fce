"""Which inputs change the fingerprint of a model that `adapt` makes, and which do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lep_bench import plugin
from lep_bench.records import artifact
from lep_bench.surgery import propagate

ROLES = ("base", "instruct", "donor")


@pytest.fixture
def adapted(trio: Callable, tmp_path: Path) -> Callable[..., str]:
    """Copy the three models, change them, adapt, and give the fingerprint."""

    def run(
        name: str,
        change: Callable[[Path], None] | None = None,
        method: str = "swap",
        **options: object,
    ) -> str:
        root = tmp_path / name
        for role, folder in zip(ROLES, trio("byte-level"), strict=True):
            shutil.copytree(folder, root / role)
        if change:
            change(root)
        adapter = (
            options.pop("adapter", None)
            or plugin.discover_adapters().get("propagation", method).adapter
        )
        out = propagate.adapt(*(root / role for role in ROLES), root / "out", adapter, **options)
        return artifact.read_lep(out).fingerprint

    return run


def trained(role: str) -> Callable[[Path], None]:
    """One number of the embedding becomes another one."""

    def change(root: Path) -> None:
        file = root / role / "model.safetensors"
        tensors = load_file(file)
        tensors["model.embed_tokens.weight"][70, 0] += 0.5
        save_file(tensors, file, metadata={"format": "pt"})

    return change


@pytest.mark.parametrize("role", ROLES)
def test_every_parents_weights_count(adapted: Callable[..., str], role: str) -> None:
    assert adapted("before") != adapted("after", trained(role))


def test_method_parameters_policy_and_source_count(
    adapted: Callable[..., str], tmp_path: Path
) -> None:
    known = plugin.discover_adapters().get
    ridge, swap = known("propagation", "ridge").adapter, known("propagation", "swap").adapter
    elsewhere = tmp_path / "swap.py"
    elsewhere.write_bytes(swap.source.read_bytes() + b"# changed\n")
    found = {
        "as it is": adapted("a"),
        "policy": adapted("b", policy="paper"),
        "source": adapted("c", adapter=replace(swap, source=elsewhere)),
        "another method": adapted("d", method="ridge"),
        "its parameter": adapted(
            "e", method="ridge", params=ridge.params.model_validate({"grid": (0.5,)})
        ),
    }
    assert len(set(found.values())) == len(found), found


def test_the_new_tokenizer_counts(adapted: Callable[..., str]) -> None:
    """Its bytes as they are written, with the instruct model's added tokens."""

    def change(root: Path) -> None:
        file = root / "donor" / "tokenizer.json"
        file.write_text(
            file.read_text(encoding="utf-8").replace(
                '"ignore_merges": false', '"ignore_merges": true'
            ),
            encoding="utf-8",
        )

    assert adapted("before") != adapted("after", change)


def test_the_stages_revision_counts(
    adapted: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = adapted("before")
    revision = artifact.REVISIONS["propagation"] + 1
    monkeypatch.setitem(artifact.REVISIONS, "propagation", revision)
    assert adapted("after") != before


def test_folders_and_other_files_do_not_count(adapted: Callable[..., str]) -> None:
    assert (
        adapted("here")
        == adapted("there")
        == adapted("with-readme", lambda root: (root / "donor" / "README.md").write_text("x"))
    )
