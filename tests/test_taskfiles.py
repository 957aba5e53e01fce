"""Tasks are found, versioned and fingerprinted from their files alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lep_bench import files, tasks
from lep_bench.errors import TaskError, UnknownNameError

YAML = (
    "task: {name}\nclass: !function utils.Task\ndataset_kwargs: {{file: {name}.jsonl}}\nmetadata: "
    "{{version: 2.1}}\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(YAML.format(name=name))
        (tmp_path / "data" / f"{name}.jsonl").write_text("{}\n")
    (tmp_path / "utils.py").write_text("raise RuntimeError('never run')\n")
    (tmp_path / "data" / "both.txt").write_text("x")
    return tmp_path


def prints(folder: Path) -> dict[str, str]:
    return {task.name: task.fingerprint for task in tasks.select_tasks(["one", "two"], [folder])}


def test_every_shipped_task_is_found_without_lm_eval() -> None:
    heavy = "{'lm_eval', 'torch', 'transformers', 'datasets'}"
    code = (
        "import sys; from lep_bench import tasks; print(*tasks.scan_tasks().tasks); "
        f"assert not {heavy} & set(sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {
        "mini_facts_ru",
        "mini_facts_en",
        "mini_copy_ru",
        "mini_copy_en",
        "mini_text_ru",
        "darumeru_parus",
    } <= set(found)
    parus = tasks.scan_tasks().get("darumeru_parus")
    assert (
        parus.dataset
        == ("RefalMachine/darumeru", "parus", "aa98587d7c0b7e8e437dba126bb452daa1de386b")
        and parus.primary == "score"
    )
    assert parus.path.is_relative_to(files.shipped_folder("tasks"))


def test_fingerprints_follow_the_files_a_task_uses(folder: Path) -> None:
    before = prints(folder)
    assert before["one"] != before["two"]
    (folder / "data" / "two.jsonl").write_text('{"changed": 1}\n')  # named by the other YAML only
    after = prints(folder)
    assert after["one"] == before["one"] and after["two"] != before["two"]
    (folder / "README.md").write_text("words")
    assert prints(folder) == after
    for change in (folder / "utils.py", folder / "data" / "both.txt", folder / "metrics.py"):
        change.write_text("other")
        now = prints(folder)
        assert now["one"] != after["one"] and now["two"] != after["two"]
        after = now
    assert tasks.select_tasks(["one"], [folder])[0].version == "2.1"


def test_includes_and_local_data_count(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "_base.yaml").write_text(
        "dataset_path: some/set\ndataset_name: part\nmetadata: {version: 3}\n"
    )
    (folder / "three.yaml").write_text(
        "include: _base.yaml\ntask: three\nclass: !function utils.Task\n"
    )
    task = tasks.scan_tasks([folder]).get("three")
    assert (task.version, task.dataset) == ("3", ("some/set", "part"))
    before = task.fingerprint
    (folder / "_base.yaml").write_text(
        "dataset_path: some/set\ndataset_name: part\nmetadata: {version: 3}\n# more\n"
    )
    changed = tasks.scan_tasks([folder]).get("three").fingerprint
    assert changed != before
    local = folder / "hub" / "data" / "part"
    monkeypatch.setenv("LEP_BENCH_DATA", str(folder / "hub"))
    assert tasks.scan_tasks([folder]).get("three").fingerprint == changed
    local.mkdir(parents=True)
    (local / "test.jsonl").write_text("{}")
    assert tasks.scan_tasks([folder]).get("three").fingerprint != changed


def test_rows_of_other_datasets_do_not_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a class of the task's own takes the data folder itself for its dataset's."""
    (folder / "four.yaml").write_text(
        "task: four\ndataset_path: json\ndataset_kwargs: {data_files: rows.jsonl}\n"
    )
    before = tasks.scan_tasks([folder]).get("four").fingerprint
    (folder.parent / "mirror").mkdir()
    (folder.parent / "mirror" / "test.jsonl").write_text("{}")
    monkeypatch.setenv("LEP_BENCH_DATA", str(folder.parent / "mirror"))
    assert tasks.scan_tasks([folder]).get("four").fingerprint == before


def test_what_is_wrong_is_named(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean mini_facts_ru"):
        tasks.select_tasks(["mini_fact_ru"])
    with pytest.raises(TaskError, match="no such folder"):
        tasks.scan_tasks([folder / "none"])
    (folder / "again.yaml").write_text("task: mini_copy_ru\n")
    with pytest.raises(
        TaskError,
        match=r"two tasks are called 'mini_copy_ru': .*again\.yaml and .*mini_copy_ru\.yaml",
    ):
        tasks.scan_tasks([folder])
    (folder / "again.yaml").write_text("task: x\n  broken: [\n")
    with pytest.raises(TaskError, match=r"again\.yaml:2: not valid YAML"):
        tasks.scan_tasks([folder])
    for text in ("task: a\x00b\n", "task: x\nmetadata: {version: 2024-13-45}\n"):
        (folder / "again.yaml").write_text(text)
        with pytest.raises(TaskError, match=r"again\.yaml: not valid YAML"):
            tasks.scan_tasks([folder])
    (folder / "again.yaml").write_text("task: ../escape\n")
    with pytest.raises(Exception, match="is not usable"):
        tasks.scan_tasks([folder])
