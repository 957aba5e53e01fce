"""`lep-bench bundle --check`, bundles as Hub caches, and bundles of version 0.1.0."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from bundled import BASE, DARUMERU, DATA, MODEL, STORED
from hub import Hub
from huggingface_hub import constants, file_download, scan_cache_dir, snapshot_download

from lep_bench import bundle
from lep_bench.files import file_sha256

pytestmark = pytest.mark.skipif(not BASE.is_dir(), reason="no shipped checkpoints")


def test_a_bundle_is_a_hub_cache(
    make: Callable, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make("--models").code == 0
    root = tmp_path / "bundle"
    repositories = {(one.repo_type, one.repo_id): one for one in scan_cache_dir(root).repos}
    assert {key: one.nb_files for key, one in repositories.items()} == {
        ("dataset", "RefalMachine/darumeru"): len(STORED),
        ("model", "org/pico"): len(MODEL),
    }
    assert not list(root.glob(".locks*"))
    hub.asked.clear()
    for kind, name, commit in (
        ("dataset", "RefalMachine/darumeru", DARUMERU),
        ("model", "org/pico", hub.commit),
    ):
        folder = bundle.snapshot_folder(root, kind, name, commit)
        found = snapshot_download(
            name, repo_type=kind, revision=commit, cache_dir=root, local_files_only=True
        )
        assert Path(found) == folder and not hub.asked
    link = root / "RefalMachine" / "darumeru"
    assert not Path(os.readlink(link)).is_absolute(), "a bundle is carried elsewhere"
    root.rename(tmp_path / "elsewhere")
    assert bundle.verify(tmp_path / "elsewhere", ["org/pico"]) is not None


def test_a_check_names_every_fault_without_a_network(
    make: Callable, cli: Callable, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make("--models").code == 0
    root = tmp_path / "bundle"
    hub.asked.clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    done = cli("bundle", "--check", root)
    assert (done.code, done.err) == (0, "") and "18 files as stored" in done.out, done.out
    weights = next(root.glob("models--org--pico/snapshots/*/model.safetensors"))
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    (root / "RefalMachine" / "darumeru" / "data" / "parus" / "test.jsonl").unlink()
    (root / "dictionaries" / "words.dawg").write_bytes(b"")
    done = cli("bundle", "--check", root)
    assert done.code == 1 and done.out.count("error") == 3
    for words in ("model.safetensors was changed", "test.jsonl is missing", "words.dawg has 0"):
        assert words in " ".join(done.out.split())
    assert f"lep-bench bundle --suite tiny {root} --models" in done.out
    assert not hub.asked
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    assert make("--models").code == 0, "the same command mends it"
    assert cli("bundle", "--check", root).code == 0


def test_a_check_with_a_suite_asks_for_all_that_it_reads(
    make: Callable, cli: Callable, configs: Path, tmp_path: Path
) -> None:
    assert make().code == 0
    check = ("bundle", "--check", tmp_path / "bundle", "--suite", "tiny", "--configs", configs)
    done = cli(*check)
    assert done.code == 0 and "all but the suite's models is there" in done.out, done.out
    done = cli(*check, "--models")
    assert done.code == 1 and "org/pico at" in done.out and "--models" in done.out


def test_what_cannot_be_checked_is_one_line(cli: Callable, tmp_path: Path) -> None:
    for arguments, words in (
        (("--check", tmp_path), "has no bundle.json"),
        (("--check", tmp_path / "nothing"), "has no bundle.json"),
        ((tmp_path,), "--suite NAME"),
    ):
        done = cli("bundle", *arguments)
        assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err


def test_a_manifest_that_was_changed_by_hand_is_refused(
    make: Callable, cli: Callable, tmp_path: Path
) -> None:
    assert make().code == 0
    file = tmp_path / "bundle" / "bundle.json"
    content = json.loads(file.read_text())
    assert content["schema_version"] == 2 and set(content["entries"][0]) == {
        "kind", "id", "revision", "commit", "licence", "gated", "files",
    }  # fmt: skip
    content["entries"][0]["commit"] = "a" * 40
    file.write_text(json.dumps(content))
    done = cli("bundle", "--check", tmp_path / "bundle")
    assert done.code == 2 and "its seal does not fit" in done.err and "lep-bench bundle" in done.err


def test_a_disk_without_links_gets_copies_of_the_rows(
    make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda cache_dir=None: False)
    for _ in range(2):
        assert make("--models").code == 0
    root = tmp_path / "bundle"
    assert not [path for path in root.rglob("*") if path.is_symlink()]
    assert bundle.verify(root, ["org/pico"]) is not None
    (root / "RefalMachine" / "darumeru" / STORED[0]).write_bytes(b"other rows")
    assert bundle.find_faults(root, bundle.read_manifest(root).entries[0])


def test_a_folder_in_the_way_is_not_touched(make: Callable, tmp_path: Path) -> None:
    own = tmp_path / "bundle" / "RefalMachine" / "darumeru"
    own.mkdir(parents=True)
    (own / "mine.txt").write_text("mine")
    done = make()
    assert done.code == 2 and "is a folder that no bundle made" in done.err
    assert [path.name for path in own.iterdir()] == ["mine.txt"]


@pytest.fixture
def old(hub: Hub, tmp_path: Path) -> Path:
    """A bundle as lep-bench 0.1.0 wrote it."""
    root, entries = tmp_path / "old", []
    for kind, name, commit, folder, files in (
        ("dataset", "RefalMachine/darumeru", DARUMERU, "RefalMachine/darumeru", DATA),
        ("model", "org/pico", hub.commit, "models/org/pico", MODEL),
    ):
        listed = []
        for path in sorted(STORED if kind == "dataset" else files):
            file = root / folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(files[path])
            listed.append(
                {
                    "path": f"{folder}/{path}",
                    "bytes": len(files[path]),
                    "sha256": file_sha256(file),
                }
            )
        entries.append({"kind": kind, "id": name, "revision": commit, "commit": commit} | {
            "licence": "mit", "gated": False, "files": listed,
        })  # fmt: skip
    content = {"schema_version": 1, "created": "2024-08-01T00:00:00Z", "lep_bench": "0.1.0"}
    content |= {"suites": ["tiny"], "entries": entries}
    (root / "bundle.json").write_text(json.dumps(content))
    return root


def test_a_bundle_of_an_older_version_is_read_but_not_completed(
    make: Callable, cli: Callable, hub: Hub, configs: Path, old: Path, tmp_path: Path
) -> None:
    assert cli("bundle", "--check", old).code == 0
    run = ("run", "--suite", "tiny", "--configs", configs, "--data", old, "--offline")
    done = cli(*run, "--dry-run", "--out", tmp_path / "out")
    assert done.code == 0 and not hub.downloads(), done.err
    assert bundle.locate_model("org/pico", hub.commit) == (old / "models" / "org" / "pico", True)
    assert bundle.is_proven("RefalMachine/darumeru", DARUMERU)
    (old / "RefalMachine" / "darumeru" / STORED[0]).write_bytes(b"{}")
    done = cli("bundle", "--check", old)
    assert done.code == 1 and "lep-bench bundle --suite tiny NEW-DIR" in done.out
    done = make(folder=old)
    assert done.code == 2 and "lep-bench bundle --suite tiny NEW-DIR" in done.err
    shutil.rmtree(old / "RefalMachine")
    assert cli("bundle", "--check", old).code == 1
