"""The shipped suites over Darumeru and over lm-eval's own Russian tasks, and how a suite names
lm-eval's tasks.
"""

import shutil

import pytest

from lep_bench import plugin
from lep_bench.config import load, models
from lep_bench.errors import LepBenchError
from lep_bench.pipeline import plan
from lep_bench.tasks import lm_eval_folders, scan_tasks, select_tasks

MEANS = {"DaruMMLU": 3, "DaruMERA": 8, "DaruSum": 2, "DaruCopy EN": 2, "DaruCopy RU": 2}


@pytest.fixture(scope="module")
def known():
    return load.Configs.of()


@pytest.mark.parametrize("name", ["paper", "darumeru"])
def test_seventeen_tasks_in_five_groups(known, name):
    suite = known.suite(name)
    assert (
        len(suite.tasks) == len(set(suite.tasks)) == 17
        and tuple(suite.mean.tasks) == suite.tasks
        and suite.mean.kind == "plain"
    )
    assert {label: len(tasks) for label, tasks in suite.groups.items()} == MEANS
    assert sorted(task for tasks in suite.groups.values() for task in tasks) == sorted(suite.tasks)
    ((_, left_out),) = suite.without.items()
    assert set(left_out) == {task for task in suite.tasks if "_copy_" in task}
    assert (suite.base.shots, suite.base.format, suite.instruct.shots, suite.instruct.format) == (
        5,
        "plain",
        0,
        "chat",
    )


def test_protocols(known):
    suites = {name: known.suite(name) for name in known.names("suites")}
    assert {name: suite.protocol for name, suite in suites.items()} == {
        "paper": "paper",
        "darumeru": "strict",
        "russian": "strict",
        "qwen2.5": "strict",
        "mini": "greedy",
    }
    assert {name for name, suite in suites.items() if suite.samplings > 1} == {"paper"} and suites[
        "paper"
    ].samplings == 5
    # Micro-Avg is the paper's mean and nobody else's.
    labels = {
        name: [suite.mean.name or "", *suite.without, *suite.groups]
        for name, suite in suites.items()
    }
    assert [
        name for name, found in labels.items() if any("Micro-Avg" in label for label in found)
    ] == ["paper"]


def test_conversations_of_the_papers_models(known):
    suite, methods = known.suite("paper"), plugin.discover_adapters()
    asked = {}
    for model in models.select_models(["all"], suite, known, methods):
        family = known.family(model.family) if model.family else None
        scoring = plan.choose_scoring(suite, model, family)[1]
        asked[model.name] = (scoring.conversation, scoring.shots)
    assert (
        asked["llama3-8b/instruct"]
        == asked["llama3-8b/extended/conversion"]
        == ("llama3_no_system", 0)
    )
    assert asked["mistral-7b/instruct"] == ("openchat_3.5_1210", 0)
    assert asked["llama3-8b/base"] == asked["mistral-7b/bpe/donor"] == ("non_instruct_simple", 5)
    assert asked["baselines/qwen2-7b-instruct"] == ("template", 0)
    unknown = [
        name for name in suite.baselines if known.baseline(name).conversation in (None, "template")
    ]
    assert all("conversation" in known.baseline(name).notes for name in unknown)


def test_russian_has_tasks_of_lm_eval_and_ours(known):
    suite = known.suite("russian")
    folders = lm_eval_folders(suite.lm_eval)
    found = {file.name: file for file in select_tasks(suite.tasks, folders)}
    borrowed = [
        name
        for name, file in found.items()
        if any(file.path.is_relative_to(folder) for folder in folders)
    ]
    assert borrowed == list(suite.groups["lm-eval"]) and len(borrowed) == 9
    assert not [name for name in found if name not in borrowed and not name.startswith("darumeru_")]
    assert all(
        any(file.path.is_relative_to(folder) for file in found.values()) for folder in folders
    )
    assert (
        found["arc_ru"].dataset[:2] == ("alexandrainst/m_arc", "ru")
        and found["truthfulqa_ru_mc2"].version == "2.0"
    )


def test_fingerprints_of_lm_evals_tasks_follow_includes_and_code(tmp_path):
    (folder,) = lm_eval_folders(["okapi/arc_multilingual"])

    def changed(name: str, text: str) -> str:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(folder, tmp_path / "copy")
        if name:
            file = tmp_path / "copy" / name
            file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")
        return scan_tasks([tmp_path / "copy"]).get("arc_ru").fingerprint

    own = scan_tasks([folder]).get("arc_ru").fingerprint
    assert changed("", "") == own
    assert own not in (
        changed("_arc_yaml", "repeats: 2\n"),
        changed("utils.py", "\n# other\n"),
        changed("arc_ru.yaml", "repeats: 2\n"),
    )
    assert changed("arc_de.yaml", "repeats: 2\n") == own


@pytest.mark.parametrize(("name", "says"), [("xnlli", "no such task folder"), ("../api", "..")])
def test_a_folder_that_lm_eval_does_not_have(name, says):
    with pytest.raises(LepBenchError, match=says):
        lm_eval_folders([name])
    assert lm_eval_folders([]) == ()
