"""Scores in other people's forms, and an upload that goes wrong in every way that a server can
think of.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
import yaml
from every_eval_ever import Record
from huggingface_hub import EvalResult, constants, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from invented_run import ORDER, SUITE, Run, cell, models
from uploads import Serve, serve, use

from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import cards, release
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.table import Table
from lep_bench.tasks import TaskFile, select_tasks

__all__ = ["serve"]  # a fixture
MODEL = "mini-llama/extended/conversion"
COMMIT = "aa98587d7c0b7e8e437dba126bb452daa1de386b"


@pytest.fixture(scope="module")
def run() -> Run:
    return Run.whole(items=12)


@pytest.fixture(scope="module")
def table(run: Run) -> Table:
    return build_table(run.results, run.samples, SUITE, ORDER)


@pytest.fixture(scope="module")
def tasks() -> dict[str, TaskFile]:
    """One task's rows are on the Hub, the others' are not."""
    found = {task.name: task for task in select_tasks(SUITE.tasks)}
    facts = found["mini_facts_ru"]
    found["mini_facts_ru"] = TaskFile(
        facts.name, facts.path, "2", None, ("org/facts", "ru", COMMIT), (), "ru", COMMIT
    )
    return found


def test_model_index_survives_the_hubs_own_reader(table: Table, tasks: dict[str, TaskFile]) -> None:
    block, row = cards.list_rows(table, MODEL)[0]
    results = cards.make_eval_results(table, block, row, tasks)
    assert len(results) == len(table.columns)
    name, back = model_index_to_eval_results(
        yaml.safe_load(yaml.safe_dump(eval_results_to_model_index(MODEL, results)))
    )
    assert name == MODEL and sorted(map(str, back)) == sorted(map(str, results))
    facts = next(r for r in results if r.dataset_type == "org/facts")
    place = next(i for i, c in enumerate(table.columns) if c.key == "mini_facts_ru")
    assert (
        isinstance(facts, EvalResult)
        and facts.dataset_revision == COMMIT
        and facts.dataset_config == "ru"
    )
    assert (
        facts.metric_value == pytest.approx(100 * row.cells[place].value, abs=0.006)
        and "percent" in facts.metric_name
    )


def test_only_data_sets_of_the_hub_get_an_entry(table: Table, tasks: dict[str, TaskFile]) -> None:
    found = cards.render_eval_results(table, *cards.list_rows(table, MODEL)[0], tasks, "2026-01-02")
    assert list(found) == ["mini_facts_ru.yaml"]
    (entry,) = parse_eval_result_entries(yaml.safe_load(found["mini_facts_ru.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision, entry.date) == (
        "org/facts",
        "mini_facts_ru",
        COMMIT,
        "2026-01-02",
    )
    assert (
        1 < entry.value <= 100
        and "percent, standard error" in entry.notes
        and "0-shot" in entry.notes
    )


def test_darumerus_rows_are_a_data_set_of_the_hub() -> None:
    (task,) = select_tasks(["darumeru_rcb"])
    assert (
        cards.find_dataset(task) == "RefalMachine/darumeru"
        and task.revision == COMMIT
        and cards.find_dataset(None) is None
    )


def test_records_have_the_shape_of_every_eval_ever(
    run: Run, table: Table, tasks: dict[str, TaskFile]
) -> None:
    paths = set()
    for name in dict.fromkeys(row.model for row in table.rows):
        own = [r for r in run.results if r.model.name == name]
        for block, row in cards.list_rows(table, name):
            made = cards.render_record(table, block, row, tasks, own, "lep-bench run", "Our Lab")
            if made is None:
                continue
            path, text = made
            record = Record.model_validate_json(text)
            paths.add(path)
            assert path.startswith("mini/Our-Lab/") and path.endswith(".json") and ".." not in path
            assert (
                record.evaluation_id == f"mini/{record.model_info.id}/{record.retrieved_timestamp}"
            )
            for evaluation in record.evaluation_results:
                low, high = evaluation.metric_config.min_score, evaluation.metric_config.max_score
                assert low <= evaluation.score_details.score <= high
                assert evaluation.metric_config.lower_is_better == (
                    evaluation.evaluation_name == "mini_text_ru"
                )
    assert len(paths) > 50


def test_the_same_results_give_the_same_record(
    run: Run, table: Table, tasks: dict[str, TaskFile]
) -> None:
    own = [r for r in run.results if r.model.name == MODEL]
    block, row = cards.list_rows(table, MODEL)[0]
    first = cards.render_record(table, block, row, tasks, own, "c", "")
    assert (
        first == cards.render_record(table, block, row, tasks, own[::-1], "c", "")
        and first is not None
    )
    newer = own[0].model_copy(
        update={
            "provenance": own[0].provenance.model_copy(update={"created": "2027-01-01T00:00:00Z"})
        }
    )
    later = cards.render_record(table, block, row, tasks, [*own, newer], "c", "")
    assert later is not None and later[0] == first[0] and later[1] != first[1]
    assert "2027-01-01T00:00:00+00:00" in later[1]


def test_a_model_of_the_hub_goes_by_its_id(run: Run, tasks: dict[str, TaskFile]) -> None:
    record = models()[1].model_copy(
        update={
            "name": "baselines/other",
            "family": None,
            "stage": "baseline",
            "lineage": ("org/other-7b",),
        }
    )
    made = [cell(record, task, items=12) for task in SUITE.tasks]
    one = build_table(
        [result for result, _ in made],
        lambda result: dict((id(r), s) for r, s in made)[id(result)],
        SUITE,
    )
    ((block, row),) = cards.list_rows(one, record.name)
    found = cards.render_record(
        one, block, row, tasks, [result for result, _ in made], "c", "Our Lab"
    )
    assert found is not None and found[0].startswith("mini/org/other-7b/")
    whole = Record.model_validate_json(found[1])
    assert (whole.model_info.id, whole.source_metadata.evaluator_relationship) == (
        "org/other-7b",
        "third_party",
    )
    assert uuid.UUID(Path(found[0]).stem).version == 4


def test_limited_and_failed_scores_are_cited_nowhere(
    run: Run, table: Table, tasks: dict[str, TaskFile]
) -> None:
    limited = [row for row in table.rows if row.limit is not None]
    assert limited
    for row in limited:
        for block, own in cards.list_rows(table, row.model):
            said = cards.make_eval_results(table, block, own, tasks)
            assert len(said) == sum(c.value is not None and c.limit is None for c in own.cells)
    (failed,) = [row for row in table.rows if row.failed]
    assert cards.list_rows(table, failed.model) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "site" / "models" / ".eval_results").mkdir(parents=True)
    for path in ("README.md", "models/.eval_results/a.yaml", "secret.txt"):
        (tmp_path / "site" / path).write_text(path, encoding="utf-8")
    return tmp_path / "site"


FILES = ["README.md", "models/.eval_results/a.yaml"]


def test_an_upload_is_one_commit_of_what_was_written(serve: Serve, folder: Path) -> None:
    url, seen = serve()
    assert (
        release.upload_files(folder, FILES, "org/x", "dataset", "hf_key", False)
        == f"{url}/datasets/org/x"
    )
    created, *_, commit = [(path, body) for path, _, body in seen]
    assert created[0] == "/api/repos/create" and json.loads(created[1])["visibility"] == "private"
    assert commit[0] == "/api/datasets/org/x/commit/main"
    sent = [
        json.loads(line)["value"]["path"] for line in commit[1].splitlines() if b'"file"' in line
    ]
    assert sent == FILES and {key for _, key, _ in seen} == {"Bearer hf_key"}


def test_a_public_repository_only_when_asked(serve: Serve, folder: Path) -> None:
    _, seen = serve()
    release.upload_files(folder, FILES, "org/x", "model", "hf_key", True)
    assert json.loads(seen[0][2])["visibility"] == "public"


@pytest.mark.parametrize(
    ("status", "where", "said"),
    [
        (401, "/", "refuses the token"),
        (403, "/commit/", "refuses the token"),
        (500, "/create", "answered 500"),
        (507, "/commit/", "answered 507"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    serve: Serve, folder: Path, status: int, where: str, said: str
) -> None:
    serve(lambda path: (status, {}) if where in path else None)
    with pytest.raises(LepBenchError, match=said) as error:
        release.upload_files(folder, FILES, "org/x", "dataset", "hf_key", False)
    assert (
        "\n" not in str(error.value)
        and str(folder) in str(error.value)
        and "hf_key" not in str(error.value)
    )
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "models", "secret.txt"]


def test_a_redirect_elsewhere_does_not_get_the_token(serve: Serve, folder: Path) -> None:
    answers: dict[str, str] = {}
    serve(lambda path: (307, {"Location": answers["other"] + path}))
    other, seen = serve()
    answers["other"] = other.replace("127.0.0.1", "localhost")
    with pytest.raises(LepBenchError) as error:
        release.upload_files(folder, FILES, "org/x", "dataset", "hf_key", False)
    assert "\n" not in str(error.value)
    assert seen and all(key is None for _, key, _ in seen)


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    use(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(LepBenchError, match="cannot reach the Hugging Face Hub") as error:
        release.upload_files(folder, FILES, "org/x", "dataset", "hf_key", False)
    assert "\n" not in str(error.value) and "run the same command again" in str(error.value)


def test_no_token_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LepBenchError, match="no Hub token: run `hf auth login`"):
        release.read_token()
    monkeypatch.setenv("HF_TOKEN", "hf_given")
    assert release.read_token() == "hf_given"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LepBenchError, match="HF_HUB_OFFLINE"):
        release.read_token()
