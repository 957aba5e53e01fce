"""What a bundle needs, where it is found, and how it is proven: without the command around it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from lep_bench import bundle, bundling, files
from lep_bench.bundle import Bundle, BundleEntry, BundleFile
from lep_bench.bundling import DatasetPart, Need
from lep_bench.errors import CheckpointError, LepBenchError, TaskError
from lep_bench.evaluate.lmeval import count_rows
from lep_bench.files import builtin_checkpoints
from lep_bench.hub import checkpoint_digest, count_parameters, find_cached, find_here, locate
from lep_bench.tasks import scan_tasks

sys.path.insert(0, str(Path(__file__).resolve().parent))
from hub import Hub

BASE = builtin_checkpoints() / "mini-llama" / "base"
NONE = "0" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with Hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            served.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield served


def write(root: Path, *entries: BundleEntry) -> None:
    """A manifest by hand."""
    root.mkdir(parents=True, exist_ok=True)
    Bundle(created="2024-07-18T00:00:00Z", lep_bench="0", suites=("s",), entries=entries).write(
        root
    )


def test_every_task_says_which_files_it_needs(hub: Hub) -> None:
    known = scan_tasks()
    tasks = [task for name, task in known.tasks.items() if name.startswith("darumeru_")]
    wanted = {need.id: need for need in bundling.list_dataset_needs(tasks, known.folders, {})}
    rows = wanted["RefalMachine/darumeru"]
    assert {(p.config, p.split) for p in rows.parts} >= {
        ("parus", "test"),
        ("parus", "prompt"),
        ("cp_para_ru", "test"),
    } and rows.licence == "MIT"
    assert len(wanted["NLPCoreTeam/mmlu_ru"].parts) == 2 * 57
    assert wanted["pymorphy3_dicts_ru"].kind == "dictionaries"
    # A script makes these rows: they come from the Hub's Parquet conversion.
    subjects = {part.config for part in wanted["NLPCoreTeam/mmlu_ru"].parts}
    converted = {
        f"{subject}/{split}/0000.parquet": b"rows"
        for subject in subjects
        for split in ("test", "dev", "auxiliary_train")
    }
    hub.add("dataset", "NLPCoreTeam/mmlu_ru", {"mmlu_ru.py": b"import os"})
    commit = hub.add("dataset", "NLPCoreTeam/mmlu_ru", converted, branch="refs/convert/parquet")
    found = bundling.locate_on_hub(wanted["NLPCoreTeam/mmlu_ru"])
    assert found.commit == commit and {file.path for file in found.files} == {
        name for name in converted if "auxiliary" not in name
    }


def test_files_of_a_split_are_found_in_every_layout() -> None:
    names = [
        "a/test.jsonl",
        "b/test-00000-of-00002.parquet",
        "b/test-00001-of-00002.parquet",
        "c/test/0000.parquet",
        "c/testing/0000.parquet",
    ]
    patterns = ("{0}/test.jsonl", "{0}/test-*.parquet", "{0}/test/*.parquet")
    found = {
        config: DatasetPart(config, "test", tuple(p.format(config) for p in patterns)).choose_files(
            names
        )
        for config in "abcd"
    }
    assert found == {"a": names[:1], "b": names[1:3], "c": names[3:4], "d": []}
    both = DatasetPart(
        "default",
        "validation",
        ("x.csv", "data/x.csv", "y.csv", "validation.csv"),
        ("x.csv", "y.csv"),
    )
    assert both.choose_files(["data/x.csv", "y.csv", "validation.csv"]) == [
        "data/x.csv",
        "y.csv",
    ], "named files hold a split together"
    assert (
        both.choose_files(["x.csv", "validation.csv"]) == ["validation.csv"]
        and both.choose_files(["x.csv"]) == []
    )


def test_a_short_revision_is_looked_up_and_must_be_there(hub: Hub) -> None:
    commit = hub.add("dataset", "org/rows", {"test.jsonl": b"{}"})
    hub.add("dataset", "org/rows", {"test.jsonl": b"{} "})
    part = frozenset([DatasetPart("default", "test", ("test.jsonl",))])
    assert bundling.locate_on_hub(Need("dataset", "org/rows", commit[:7], part)).commit == commit
    with pytest.raises(CheckpointError, match="org/rows: 0 commits begin with abcdef1"):
        bundling.locate_on_hub(Need("dataset", "org/rows", "abcdef1", part))
    with pytest.raises(CheckpointError, match="org/other is neither"):
        bundling.locate_on_hub(Need("dataset", "org/other", None, part))


def test_models_come_without_pickles_and_second_copies(hub: Hub) -> None:
    files = {
        name: b"x"
        for name in (
            "model.safetensors.index.json",
            "model-00001-of-00001.safetensors",
            "consolidated.safetensors",
            "config.json",
        )
    }
    hub.add(
        "model",
        "org/one",
        {
            **files,
            "tokenizer.json": b"{}",
            "original/consolidated.00.pth": b"p",
            "training_args.bin": b"p",
            "x.py": b"",
        },
    )
    found = bundling.locate_on_hub(Need("model", "org/one"))
    assert {file.path for file in found.files} == {*files, "tokenizer.json"} - {
        "consolidated.safetensors"
    }
    hub.add("model", "org/two", {"pytorch_model.bin": b"p", "config.json": b"{}"})
    with pytest.raises(
        CheckpointError, match=r"org/two has only pickled weights \(pytorch_model.bin\)"
    ):
        bundling.locate_on_hub(Need("model", "org/two"))


def test_names_do_not_leave_the_folder(tmp_path: Path) -> None:
    for name in (
        "../x",
        "a/../../x",
        "/etc/passwd",
        "",
        ".",
        "a\\..\\x",
        "bundle.json",
        "a\x1b[31m",
        "a\nb",
    ):
        with pytest.raises(LepBenchError, match="is refused"):
            bundle.join_relative(tmp_path, name)
    for name in ("../x", "a/b/c", "models/x", "org/..", "x"):
        with pytest.raises(LepBenchError):
            bundle.entry_folder(tmp_path, "dataset", name)
    write(
        tmp_path,
        BundleEntry(
            kind="dataset", id="o/n", files=(BundleFile(path="../../x", bytes=1, sha256=NONE),)
        ),
    )
    with pytest.raises(LepBenchError, match="is refused"):
        bundle.read_manifest(tmp_path)


def test_a_damaged_manifest_is_one_line(tmp_path: Path) -> None:
    for number, text in enumerate(
        ("{", "[]", '{"entries": 3}', '{"schema_version": 9}', '{"schema_version": "a"}')
    ):
        (tmp_path / bundle.MANIFEST).write_text(text + " " * number)
        with pytest.raises(
            LepBenchError, match=r"bundle\.json is (no manifest|of version 9)"
        ) as error:
            bundle.read_manifest(tmp_path)
        assert "\n" not in str(error.value)


def test_two_revisions_of_one_dataset_are_refused() -> None:
    with pytest.raises(LepBenchError, match="org/x is needed at revision a and at b"):
        bundling.merge_needs([Need("dataset", "org/x", "a"), Need("dataset", "org/x", "b")])


def test_a_second_suite_completes_a_bundle_but_never_changes_a_revision(tmp_path: Path) -> None:
    def entry(commit: str, *names: str) -> BundleEntry:
        return BundleEntry(
            kind="dataset",
            id="org/x",
            revision="main",
            commit=commit,
            files=[BundleFile(path=n, bytes=1, sha256=NONE) for n in names],
        )

    bundling.write_manifest(tmp_path, ["one"], [entry("a" * 40, "b", "a")])
    held = bundling.write_manifest(tmp_path, ["two"], [entry("a" * 40, "c")])
    assert held == bundle.read_manifest(tmp_path) and held.suites == ("one", "two")
    assert [file.path for file in held.entries[0].files] == ["a", "b", "c"]
    assert [
        need.revision
        for need in bundling.keep_revisions(
            [Need("dataset", "org/x"), Need("dataset", "org/y")], tmp_path
        )
    ] == ["a" * 40, None]
    with pytest.raises(
        LepBenchError, match=f"holds org/x at {'a' * 40}, the suite pins {'b' * 40}"
    ):
        bundling.keep_revisions([Need("dataset", "org/x", "b" * 40)], tmp_path)


@pytest.mark.skipif(not BASE.is_dir(), reason="no shipped checkpoints")
def test_a_hub_id_is_found_in_the_data_folder_at_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "org" / "model"
    shutil.copytree(BASE, folder)
    assert find_here("org/model") is None
    monkeypatch.setenv(bundle.DATA, str(tmp_path))
    assert locate("org/model", "v1") == find_cached("org/model", "v1") == folder
    unproven = checkpoint_digest("org/model", "v1")
    assert unproven == checkpoint_digest(str(folder)), (
        "a copy that nothing proves stands for its own content"
    )
    assert count_parameters("org/model") == (folder / "model.safetensors").stat().st_size // 2
    weights = folder / "model.safetensors"
    file = BundleFile(
        path="model.safetensors",
        bytes=weights.stat().st_size,
        sha256=files.file_sha256(weights),
    )
    write(
        tmp_path,
        BundleEntry(kind="model", id="org/model", revision="v1", commit="a" * 40, files=(file,)),
    )
    assert (
        locate("org/model", "v1") == locate("org/model", "a" * 9) == locate("org/model") == folder
    )
    proven = checkpoint_digest("org/model", "v1")
    with pytest.raises(
        CheckpointError, match=f"holds org/model at {'a' * 40}, but revision v2 is needed"
    ):
        locate("org/model", "v2")
    assert find_cached("org/model", "v2") is None
    monkeypatch.delenv(bundle.DATA)
    assert checkpoint_digest("org/model", "v1") == proven != unproven, (
        "what is proven keeps the Hub's fingerprint"
    )


def test_proven_rows_keep_the_tasks_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks").mkdir()
    text = (
        "task: mine\nclass: !function utils.Mine\ndataset_path: org/rows\ndataset_name: "
        "part\ndataset_kwargs: {revision: v1}\n"
    )
    (tmp_path / "tasks" / "mine.yaml").write_text(text)
    rows = tmp_path / "data" / "org" / "rows" / "part" / "test" / "0000.parquet"
    rows.parent.mkdir(parents=True)
    rows.write_bytes(b"rows")

    def now() -> str:
        return scan_tasks([tmp_path / "tasks"]).get("mine").fingerprint

    plain = now()
    monkeypatch.setenv(bundle.DATA, str(tmp_path / "data"))
    local = now()
    rows.write_bytes(b"other")
    assert len({plain, local, now()}) == 3, "the rows of a copy count"
    entry = BundleEntry(kind="dataset", id="org/rows", revision="v1", commit="a" * 40, files=())
    write(tmp_path / "data", entry)
    assert now() == plain
    write(tmp_path / "data", entry.model_copy(update={"revision": "v2"}))
    assert now() not in (plain, local)


PLAIN = """
task: plain
dataset_path: org/plain
dataset_name: ru
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: [да, нет]
doc_to_target: 0
"""
CARD = """---
configs:
- config_name: first
  data_files: [{split: test, path: first/test-*.jsonl}]
- config_name: ru
  data_files: [{split: test, path: ru/test-*.jsonl}]
- config_name: other
  data_files: other/*.jsonl
---
"""


def test_an_ordinary_task_reads_its_dataset_from_the_bundle(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "plain.yaml").write_text(PLAIN)
    rows = "".join(json.dumps({"question": f"Вопрос {n}?"}) + "\n" for n in range(4)).encode()
    commit = hub.add(
        "dataset",
        "org/plain",
        {
            "README.md": CARD.encode(),
            "first/test-0.jsonl": rows,
            "ru/test-0.jsonl": rows,
            "other/test-0.jsonl": rows,
            ".gitattributes": b"x",
        },
    )
    known = scan_tasks([tmp_path / "tasks"])
    (need,) = bundling.list_dataset_needs([known.get("plain")], known.folders, {})
    found = bundling.locate_on_hub(need)
    assert [file.path for file in found.files] == [
        "README.md",
        "first/test-0.jsonl",
        "ru/test-0.jsonl",
    ] and found.commit == commit
    entries, missing = bundling.store([found], tmp_path / "bundle", print)
    bundling.write_manifest(tmp_path / "bundle", ["s"], entries)
    assert not missing
    asked = len(hub.asked)
    monkeypatch.setenv(bundle.DATA, str(tmp_path / "bundle"))
    assert count_rows(known.get("plain"), known.folders, {}) == 4 and len(hub.asked) == asked
    shutil.rmtree(tmp_path / "bundle" / "org" / "plain" / "ru")
    # the library keeps what it has read
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "another")
    with pytest.raises(TaskError, match="task plain .* cannot be loaded") as error:
        count_rows(known.get("plain"), known.folders, {})
    assert "\n" not in str(error.value)


def test_a_hash_that_a_task_pins_is_compared(hub: Hub, tmp_path: Path) -> None:
    hub.add("dataset", "org/rows", {"a/test.jsonl": b"{}"})
    right = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    for pinned, refused in ((right, False), (NONE, True)):
        found = bundling.locate_on_hub(
            Need(
                "dataset",
                "org/rows",
                None,
                frozenset([DatasetPart("a", "test", ("a/test.jsonl",), (), pinned)]),
            )
        )
        entries, missing = bundling.store([found], tmp_path / pinned[:4], print)
        assert (not entries, bool(missing)) == (refused, refused) and (
            "the task pins" in "".join(missing)
        ) == refused


def test_a_card_that_names_no_file_gives_everything() -> None:
    names = ["README.md", "first/test.jsonl", "other.jsonl", "ru/test.jsonl"]
    for written, left_out in (("ru/test*", ["other.jsonl"]), ("ru", [])):
        card = (
            f"---\nconfigs:\n- {{config_name: first, data_files: first/*}}\n- {{config_name: ru, "
            f"data_files: {written}}}\n---\n"
        )
        found = bundling.choose_files(
            Need("dataset", "o/n", configs=frozenset(["ru"])), names, card
        )
        assert found == [name for name in names if name not in left_out]


def test_only_files_that_a_manifest_names_are_proven(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "org" / "rows" / name).mkdir(parents=True)
        (tmp_path / "org" / "rows" / name / "test.jsonl").write_bytes(b"{}")
    file = BundleFile(
        path="a/test.jsonl",
        bytes=2,
        sha256=files.file_sha256(tmp_path / "org" / "rows" / "a" / "test.jsonl"),
    )
    write(tmp_path, BundleEntry(kind="dataset", id="org/rows", commit="a" * 40, files=(file,)))
    parts = [DatasetPart(name, "test", (f"{name}/test.jsonl",)) for name in "ab"]
    for chosen, commit in ((parts[:1], "a" * 40), (parts, None)):
        found = bundling.locate_in_folder(
            tmp_path, Need("dataset", "org/rows", None, frozenset(chosen))
        )
        assert found.commit == commit and len(found.files) == len(chosen)
    with pytest.raises(LepBenchError, match="org/rows/b/test.jsonl was added.*remove it"):
        bundle.verify(tmp_path)
    (tmp_path / "org" / "rows" / "b" / "test.jsonl").rename(
        tmp_path / "org" / "rows" / "b" / ".hidden"
    )
    assert bundle.verify(tmp_path) is not None


def test_a_class_of_ones_own_need_not_know_its_files(tmp_path: Path) -> None:
    """Without files() its YAML says what it reads; with one that says too little, the bundle is
    refused.
    """
    (tmp_path / "own.yaml").write_text(
        "task: own\nclass: !function own.Own\ndataset_path: org/rows\ndataset_name: ru\n"
    )
    code = "class Own:\n    task_name = 'own'\n    def __init__(self, config):\n        pass\n"
    (tmp_path / "own.py").write_text(code)
    known = scan_tasks([tmp_path])
    assert Need("dataset", "org/rows", configs=frozenset(["ru"])) in bundling.list_dataset_needs(
        [known.get("own")], known.folders, {}
    )
    (tmp_path / "own.py").write_text(
        code + "    def files(self):\n        return [{'config': 'a'}]\n"
    )
    with pytest.raises(
        TaskError, match=r"own\.yaml: files\(\) of the task's class gives no 'split'"
    ):
        bundling.list_dataset_needs([known.get("own")], known.folders, {})
