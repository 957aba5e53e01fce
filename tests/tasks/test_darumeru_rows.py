"""Where the Darumeru tasks find their rows, what they refuse, and that building them reads
nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import darumeru_folder
import pytest

from lep_bench.files import shipped_folder
from lep_bench.tasks import _read_task, scan_tasks

SAMPLE = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "darumeru-sample"
COMMIT = "aa98587d7c0b7e8e437dba126bb452daa1de386b"


def load(name: str, **metadata: Any) -> Any:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=str(shipped_folder("tasks")), include_defaults=False, metadata=metadata
    )
    return manager.load([f"darumeru_{name}"])["tasks"][f"darumeru_{name}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return darumeru_folder.build(tmp_path_factory.mktemp("rows"), list(load("mmlu_ru").CONFIGS))


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEP_BENCH_DATA", raising=False)


def test_all_17_tasks_their_tag_and_their_groups() -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(shipped_folder("tasks")), include_defaults=False)
    tasks = manager.load(["darumeru"])["tasks"]
    assert len(tasks) == 17 and set(tasks) == {
        name for name in scan_tasks().tasks if name.startswith("darumeru_")
    }
    groups = {"DaruMMLU": 3, "DaruMERA": 8, "DaruSum": 2, "DaruCopy EN": 2, "DaruCopy RU": 2}
    found = manager.load(list(groups))
    assert {name: len(children) for name, children in found["group_map"].items()} == groups
    assert set(found["tasks"]) == set(tasks)
    for task in tasks.values():
        assert (
            "score" in task.aggregation()
            and set(task.higher_is_better()) == set(task.aggregation())
            and task.OUTPUT_TYPE
        )
        assert all(task.higher_is_better().values()) and "protocol=paper" in repr(task)


def test_building_reads_nothing_and_says_what_it_will_read(
    tmp_path: Path, nothing_outside: None
) -> None:
    for name in ("rcb", "mmlu_en", "rucola", "sum_extractive", "copy_para_ru"):
        task = load(name, data=str(tmp_path / "nowhere"), tokenizer=str(tmp_path / "nothing"))
        assert not task.dataset and task.files()[0]["role"] == "test"
        with pytest.raises(FileNotFoundError, match="no such folder"):
            len(task.eval_docs)
    entry = load("rcb").files()[1]
    assert {
        key: entry[key] for key in ("dataset", "revision", "config", "split", "role", "licence")
    } == {
        "dataset": "RefalMachine/darumeru",
        "revision": COMMIT,
        "config": "rcb",
        "split": "prompt",
        "role": "shots",
        "licence": "MIT",
    }
    assert len(load("mmlu_ru").files()) == 57 * 2
    # never any shots
    assert [entry["split"] for entry in load("sum_extractive").files()] == ["test"]


def test_rows_of_every_dataset(folder: Path) -> None:
    for name, config in darumeru_folder.TASKS.items():
        task = load(name, data=str(folder))
        assert (
            task.eval_docs == [darumeru_folder.row(config, n) for n in range(2)]
            and len(task.dataset["prompt"]) == 6
        )
        assert task.eval_docs is task.eval_docs  # read once
    mmlu = load("mmlu_ru", data=str(folder))
    assert len(mmlu.eval_docs) == 114 and len(mmlu.dataset["dev"]) == 57 * 5
    assert (
        mmlu.eval_docs[0]["subject"] == "abstract_algebra"
        and mmlu.eval_docs[-1]["subject"] == "world_religions"
    )
    assert [
        row["sentence"].split(",")[0] for row in load("rucola", data=str(folder)).eval_docs
    ] == ["in_domain_dev"] * 2 + ["out_of_domain_dev"] * 2
    for name in ("sum_abstractive", "sum_extractive"):
        assert len(load(name, data=str(folder)).eval_docs) == 500  # of 501


def test_layouts_of_local_copies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = folder / "RefalMachine" / "darumeru"
    rcb = load("rcb", data=str(folder)).eval_docs
    assert load("rcb", data=str(own)).eval_docs == rcb  # the dataset's own folder
    monkeypatch.setenv("LEP_BENCH_DATA", str(own / "data"))  # CONFIG/SPLIT.jsonl
    assert load("rcb").eval_docs == rcb
    # RuCoLA from Parquet, and in one folder; MMLU in the conversion's older names and as JSON
    # Lines.
    parquet = tmp_path / "rucola" / "default" / "validation"
    darumeru_folder._parquet(parquet / "0000.parquet", [{"sentence": "Так.", "label": 1}])
    assert load("rucola", data=str(tmp_path / "rucola")).eval_docs == [
        {"sentence": "Так.", "label": 1}
    ]
    for n, subject in enumerate(load("mmlu_ru").CONFIGS):
        rows = [darumeru_folder.mmlu_row(subject, 3)]
        if n % 2:
            darumeru_folder._parquet(tmp_path / "mmlu" / subject / "mmlu_ru-test.parquet", rows)
        else:
            darumeru_folder._lines(tmp_path / "mmlu" / "data" / subject / "test.jsonl", rows)
    assert [
        row["subject"] for row in load("mmlu_en", data=str(tmp_path / "mmlu")).eval_docs
    ] == list(load("mmlu_ru").CONFIGS)
    shutil.rmtree(tmp_path / "mmlu" / "virology")
    with pytest.raises(
        FileNotFoundError, match="no rows of NLPCoreTeam/mmlu_ru, virology, split test"
    ):
        len(load("mmlu_en", data=str(tmp_path / "mmlu")).eval_docs)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the real rows are not here")
def test_the_real_rows(tokenizers: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEP_BENCH_DATA", str(SAMPLE))
    tokenizer = str(next(iter(tokenizers.values())))
    for name in ("rummlu", "multiq", "parus", "rcb", "rwsd", "use", "ruopenbookqa", "ruworldtree"):
        task = load(name, tokenizer=tokenizer, max_length=8192)
        assert len(task.eval_docs) == 12 and len(task.dataset["prompt"]) == 5
        for doc in task.eval_docs:
            for text in task.fewshot_context(doc, 5 if name != "multiq" else 0):
                assert text.endswith("\nОтвет:") and "{" not in text.replace(
                    "{", "", text.count("{{")
                )


BAD = {
    "the row has no outputs": lambda row: row.pop("outputs"),
    "messages must be a list": lambda row: row.update(messages="Ответ:"),
    "unknown role assistent": lambda row: row["messages"][1].update(role="assistent"),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_rows_are_named_by_file_and_line(folder: Path, tmp_path: Path, said: str) -> None:
    row = darumeru_folder.row("rcb", 0)
    BAD[said](row)
    darumeru_folder._lines(
        tmp_path / "data" / "rcb" / "test.jsonl", [darumeru_folder.row("rcb", 1), row]
    )
    with pytest.raises(ValueError, match=rf"test\.jsonl:2: {said}"):
        len(load("rcb", data=str(tmp_path)).eval_docs)


def test_damaged_empty_and_missing_files(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "data" / "rcb" / "test.jsonl"
    darumeru_folder._lines(file, [darumeru_folder.row("rcb", 0)])
    file.write_text(file.read_text(encoding="utf-8") + "\n{oops\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"test\.jsonl:3: not JSON"):
        len(load("rcb", data=str(tmp_path)).eval_docs)
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no rows"):
        len(load("rcb", data=str(tmp_path)).eval_docs)
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match="has no rows of RefalMachine/darumeru, rcb, split test"
    ):
        len(load("rcb", data=str(tmp_path)).eval_docs)
    parquet = tmp_path / "default" / "test" / "0000.parquet"
    darumeru_folder._parquet(parquet, [{"src_sents": ["a"], "summary_sents": None}])
    with pytest.raises(ValueError, match=r"0000\.parquet: row 1: the row has no summary_sents"):
        len(load("sum_abstractive", data=str(tmp_path)).eval_docs)
    parquet.write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match=r"0000\.parquet: cannot be read"):
        len(load("sum_abstractive", data=str(tmp_path)).eval_docs)
    # A line separator of Unicode inside a text ends no row.
    row = darumeru_folder.row("rcb", 0)
    row["inputs"]["premise"] = "раз\u2028два"
    darumeru_folder._lines(file, [row])
    assert load("rcb", data=str(tmp_path)).eval_docs == [row]


def test_a_slot_that_the_row_does_not_fill(tmp_path: Path) -> None:
    row = darumeru_folder.row("rcb", 7)
    del row["inputs"]["premise"]
    with pytest.raises(
        ValueError,
        match="'id': 7.*: its messages cannot be filled from its inputs hypothesis, unused: there "
        "is no premise",
    ):
        load("rcb").fewshot_context(row, 0)
    darumeru_folder._lines(tmp_path / "rcb" / "test.jsonl", [darumeru_folder.row("rcb", 0), row])
    with pytest.raises(ValueError, match=r"rcb/test\.jsonl:2: its messages cannot be filled"):
        len(load("rcb", data=str(tmp_path)).eval_docs)


QUESTION = {"role": "user", "content": "?"}
WRONG = [  # task, file, what is done to its second row, what is said
    ("rcb", "test", {"outputs": "4"}, "its answer '4' is none of 1, 2, 3"),
    ("rcb", "prompt", {"outputs": "Да"}, "its answer 'Да' is none of 1, 2, 3"),
    (
        "rcb",
        "prompt",
        {"messages": [QUESTION, {"role": "bot", "content": "Ответ:"}]},
        "a shot must end with its answer, .*'Ответ:'",
    ),
    ("rcb", "prompt", {"messages": [QUESTION]}, "a shot must end with its answer"),
    ("rwsd", "test", {"outputs": 1}, "its answer 1 is none of Да, Нет"),
    (
        "multiq",
        "test",
        {"outputs": []},
        "the row has no outputs|its outputs must be a list of accepted answers",
    ),
    ("multiq", "test", {"outputs": ["река"]}, "its outputs must be a list of accepted answers"),
    ("use", "test", {"meta": {"id": 1, "type": "text"}}, "its meta has no id_task, variant"),
    ("use", "prompt", {"outputs": ""}, "its answer is ''"),
    ("copy_sent_ru", "test", {"outputs": " ", "inputs": {"text": " "}}, "its answer is ' '"),
    (
        "parus",
        "test",
        {"inputs": {"premise": "?", "choice1": "!"}},
        "its inputs have no choice1 and choice2",
    ),
]


@pytest.mark.parametrize(("name", "split", "change", "said"), WRONG)
def test_rows_that_cannot_be_scored_are_named_before_anything_is_asked(
    tmp_path: Path, name: str, split: str, change: Any, said: str
) -> None:
    config = darumeru_folder.TASKS[name]
    first, second = (darumeru_folder.row(config, n, split == "prompt") for n in range(2))
    darumeru_folder._lines(tmp_path / config / f"{split}.jsonl", [first, {**second, **change}])
    with pytest.raises(ValueError, match=rf"{split}\.jsonl:2: ({said})") as error:
        len(load(name, data=str(tmp_path)).dataset[split])
    assert "\n" not in str(error.value)


def test_rows_of_the_other_datasets_are_checked_too(tmp_path: Path) -> None:
    for name, row, said in (
        ("mmlu_ru", {"answer": 4}, "row 1: its answer '4' is none of A, B, C, D"),
        ("mmlu_ru", {"choices_ru": ["a", "b", "c"]}, "row 1: choices_ru has 3 options, not 4"),
        (
            "sum_extractive",
            {"extractive_summary": [5]},
            r"row 1: its extractive_summary names sentences \[5\], but there are 5, numbered from 0",
        ),
        (
            "sum_abstractive",
            {"src_sents": "Текст."},
            "row 1: src_sents must be a list of sentences",
        ),
        ("rucola", {"label": 2}, "row 1: its answer '2' is none of 0, 1"),
    ):
        kind = {
            "mmlu_ru": darumeru_folder.mmlu_row("x", 0),
            "rucola": {"sentence": "Так.", "label": 1},
        }.get(name, darumeru_folder.treeway_row(0))
        for config in load(name).configs:
            split = "validation" if name == "rucola" else "test"
            darumeru_folder._parquet(tmp_path / config / split / "0000.parquet", [{**kind, **row}])
        with pytest.raises(ValueError, match=rf"0000\.parquet: {said}"):
            len(load(name, data=str(tmp_path)).eval_docs)


def test_a_row_that_stands_twice_is_refused_where_rows_have_ids(tmp_path: Path) -> None:
    rows = [darumeru_folder.row("rcb", n) for n in (0, 1, 0)]
    file = tmp_path / "rcb" / "test.jsonl"
    darumeru_folder._lines(file, rows)
    with pytest.raises(
        ValueError,
        match=r"darumeru_rcb: .*test\.jsonl:3: the same row as .*test\.jsonl:1: take one of them out",
    ):
        len(load("rcb", data=str(tmp_path)).eval_docs)
    # an id alone says little: data sets number their parts anew
    rows[2]["inputs"]["premise"] = "other"
    darumeru_folder._lines(file, rows)
    assert len(load("rcb", data=str(tmp_path)).eval_docs) == 3
    for subject in load("mmlu_en").CONFIGS:
        darumeru_folder._parquet(
            tmp_path / subject / "test.parquet", [darumeru_folder.mmlu_row(subject, 0)] * 2
        )
    # rows without ids may be the same
    assert len(load("mmlu_en", data=str(tmp_path)).eval_docs) == 114


def test_files_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    for name, first in (("rcb/test.jsonl", '{"messages": ['), ("rcb/test.json", "[{")):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(first.encode() + b"\n" + "лиса".encode("cp1251"))
        with pytest.raises(
            ValueError, match=rf"{file.name}:2: not UTF-8: byte 0xeb; write the file anew"
        ):
            len(load("rcb", data=str(tmp_path)).eval_docs)
        file.unlink()
    file = tmp_path / "in_domain_dev.csv"
    (tmp_path / "out_of_domain_dev.csv").write_text("id,sentence,acceptable\n")
    file.write_bytes(b"id,sentence,acceptable\n1,ok,1\n2," + "лиса".encode("cp1251") + b",1\n")
    with pytest.raises(ValueError, match=r"in_domain_dev\.csv:3: not UTF-8"):
        len(load("rucola", data=str(tmp_path)).eval_docs)


def test_a_file_that_does_not_match_its_hash_is_refused(folder: Path) -> None:
    file = folder / "RefalMachine" / "darumeru" / "data" / "rcb" / "test.jsonl"
    task = load("rcb", data=str(folder))
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    task.config.dataset_kwargs["sha256"] = {"test": right}
    assert len(task.eval_docs) == 2 and task.files()[0]["sha256"] == right
    task = load("rcb", data=str(folder))
    task.config.dataset_kwargs["sha256"] = {"rcb/test": "0" * 64}
    with pytest.raises(
        ValueError,
        match=rf"test\.jsonl: sha256 {right}, but the task names 0+: fetch RefalMachine/darumeru at {COMMIT}",
    ):
        len(task.eval_docs)


def test_from_the_hubs_cache_by_full_and_short_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        OSError,
        match=f"RefalMachine/darumeru at revision {COMMIT} cannot be fetched; set LEP_BENCH_DATA",
    ):
        len(load("rcb").eval_docs)
    row = darumeru_folder.row("rcb", 0)
    darumeru_folder._lines(
        tmp_path
        / "datasets--RefalMachine--darumeru"
        / "snapshots"
        / COMMIT
        / "data"
        / "rcb"
        / "test.jsonl",
        [row],
    )
    for revision in (COMMIT, COMMIT[:7]):
        task = load("rcb")
        task.config.dataset_kwargs["revision"] = revision
        assert task.eval_docs == [row] and task.files()[0]["revision"] == revision


def test_every_file_of_the_folder_counts_in_the_fingerprint(tmp_path: Path) -> None:
    copy = tmp_path / "tasks" / "darumeru"
    shutil.copytree(
        shipped_folder("tasks") / "darumeru", copy, ignore=shutil.ignore_patterns("__pycache__")
    )
    files = sorted(copy.glob("*.py"))
    assert {file.stem for file in files} >= {
        "utils",
        "base",
        "kinds",
        "rows",
        "prompts",
        "tokens",
        "metrics",
        "lemmas",
        "mmlu",
    }

    def fingerprint() -> str:
        return _read_task(copy / "darumeru_rcb.yaml").fingerprint

    seen = {fingerprint()}
    for file in [*files, copy / "_darumeru.yaml"]:
        file.write_text(file.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
        seen.add(fingerprint())
    assert len(seen) == len(files) + 2


def test_stored_values_are_aggregated_as_the_tasks_do() -> None:
    names = [
        name.removeprefix("darumeru_")
        for name in scan_tasks().tasks
        if name.startswith("darumeru_")
    ]
    for name in names:
        task = load(name)
        metrics = sys.modules[type(task).__module__].metrics
        stored = metrics.AGGREGATIONS.get(f"darumeru_{name}", {})
        assert {
            metric: f
            for metric, f in task.aggregation().items()
            if f.__module__ == metrics.__name__
        } == stored


def test_mmlu_subjects_agree_everywhere() -> None:
    task = load("mmlu_ru")
    utils = sys.modules[type(task).__module__]
    metrics, mmlu = utils.metrics, utils.mmlu
    assert (
        list(metrics.SUBJECTS) == list(mmlu.DATIVE) == list(task.CONFIGS)
        and len(task.CONFIGS) == 57
    )
    counts = [len(names.split()) for names in metrics.CATEGORIES.values()]
    assert counts == [18, 13, 12, 14]
    assert json.loads(json.dumps(mmlu.headline("us_foreign_policy", "en"))).endswith(
        "about us foreign policy.\n\n"
    )


def test_a_dataset_without_a_conversion_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short revision is looked up among the commits of main and, where there is one, of the
    Parquet conversion.
    """
    from huggingface_hub import constants

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from hub import Hub

    revision = scan_tasks().get("darumeru_rucola").revision
    assert revision is not None and len(revision) < 40
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    darumeru_folder.build(tmp_path / "data", [])
    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        hub.add(
            "dataset",
            "RussianNLP/rucola",
            tmp_path / "data" / "RussianNLP" / "rucola",
            commit=revision.ljust(40, "0"),
        )
        assert [row["label"] for row in load("rucola").eval_docs] == ["0", "1"] * 2
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the library's own attempts
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    for name in ("rucola", "rcb"):  # a short revision and a whole one
        with pytest.raises(OSError, match="cannot be fetched; set LEP_BENCH_DATA to a local copy"):
            len(load(name).eval_docs)
