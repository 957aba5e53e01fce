"""`lep-bench contamination`: the mini suite's rows in texts, table, JSON, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lep_bench import files
from lep_bench.config.schema import Conversation

ROWS = {
    name: files.shipped_folder("tasks") / "mini" / "data" / f"{name}.jsonl"
    for name in ("text_ru", "facts_en", "copy_en")
}


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in ROWS[name].read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Three rows of two tasks, and something else."""
    fact = rows("facts_en")[3]
    chat = [
        {"role": "user", "content": fact["query"]},
        {"role": "assistant", "content": f"One of {' or '.join(fact['choices'])}."},
    ]
    lines = [
        {"text": "Ничего особенного."},
        {"text": rows("text_ru")[5]["text"].upper()},
        {"messages": chat},
        {"text": rows("text_ru")[7]["text"]},
    ]
    file = tmp_path / "train.jsonl"
    file.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    return file


def test_planted_rows_of_the_mini_suite(cli, text: Path, tmp_path: Path) -> None:
    answer = cli(
        "contamination",
        "--suite",
        "mini",
        "--text",
        text,
        "--out",
        tmp_path / "runs",
        "--json",
        tmp_path / "hits.json",
    )
    assert answer.code == 0, answer.err
    written = json.loads(
        (tmp_path / "runs" / "mini" / "contamination.json").read_text(encoding="utf-8")
    )
    assert written == json.loads((tmp_path / "hits.json").read_text(encoding="utf-8"))
    assert [(one["name"], one["documents"]) for one in written["texts"]] == [(str(text), 4)]
    exact = {task: [hit["doc_id"] for hit in one["hits"]] for task, one in written["tasks"].items()}
    assert exact == {
        "mini_copy_en": [],
        "mini_copy_ru": [],
        "mini_facts_en": [3],
        "mini_facts_ru": [],
        "mini_text_ru": [5, 7],
    }
    lines = {line.split()[0]: line.split() for line in answer.out.splitlines()[:6]}
    assert lines["TASK"][:4] == ["TASK", "ROWS", "EXACT", "TOO"]
    assert lines["mini_facts_en"][1:3] == ["300", "1"] and lines["mini_text_ru"][1:3] == [
        "300",
        "2",
    ]
    assert f"mini_text_ru row 7: exact, 100%: {text}:4" in answer.out

    from lep_bench.evaluate.lmeval import compile_task

    compiled = compile_task(
        "mini_text_ru",
        files.builtin_checkpoints() / "mini-llama" / "base",
        Conversation(format="plain"),
    )
    samples = {item.doc_hash: item.doc_id for item in compiled.items}
    assert [samples[found] for found in written["tasks"]["mini_text_ru"]["flagged"]] == [5, 7], (
        "the hashes that samples have"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--suite", "mini"], "no text to search"),
        (["--suite", "mini", "--text", "no-such.txt"], "no-such.txt: no such file"),
        (["--suite", "mimi", "--text", "train.jsonl"], "unknown suite 'mimi'"),
        (["--suite", "../mini", "--text", "train.jsonl"], "unknown suite"),
        (["--suite", "mini", "--family", "mini-lama"], "unknown family 'mini-lama'"),
        (
            ["--suite", "mini", "--text", "train.jsonl", "--data", "nowhere"],
            "--data nowhere: there is no such folder",
        ),
        (["--suite", "mini", "--text", "train.jsonl", "--json", "."], "--json . is a folder"),
        (
            ["--suite", "mini", "--text", "train.jsonl", "--out", "train.jsonl"],
            "train.jsonl is a file",
        ),
        (
            ["--suite", "bare", "--configs", "configs", "--family", "bare"],
            "bare: it names no corpus",
        ),
    ],
)
def test_bad_input_is_one_line(
    cli,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, content in (
        (
            "families",
            (
                "base: builtin:mini-llama/base\ninstruct: "
                "builtin:mini-llama/instruct\nvocabularies: {original: {}}\n"
            ),
        ),
        (
            "suites",
            (
                "title: Bare\nfamilies: [bare]\ntasks: [mini_text_ru]\nprotocol: greedy\nmean: "
                "{kind: plain, tasks: {}}\n"
            ),
        ),
    ):
        (tmp_path / "configs" / kind).mkdir(parents=True)
        (tmp_path / "configs" / kind / "bare.yaml").write_text(content, encoding="utf-8")
    answer = cli("contamination", *arguments)
    assert answer.code == 2 and says in answer.err and len(answer.err.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("contamination.json"))


def test_several_files_and_another_length(cli, text: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("\n".join(rows("text_ru")[9]["text"].split()[3:11]), encoding="utf-8")
    arguments = (
        "contamination",
        "--suite",
        "mini",
        "--text",
        text,
        other,
        "--out",
        tmp_path / "runs",
    )
    for n, expected in ((13, []), (8, [(str(other), 1)])):
        answer = cli(*arguments, "--n", n)
        assert answer.code == 0, answer.err
        written = json.loads(
            (tmp_path / "runs" / "mini" / "contamination.json").read_text(encoding="utf-8")
        )
        assert (written["ngram"], [Path(one["name"]).name for one in written["texts"]]) == (
            n,
            ["train.jsonl", "other.txt"],
        )
        assert [
            (hit["text"], hit["document"])
            for hit in written["tasks"]["mini_text_ru"]["hits"]
            if hit["doc_id"] == 9
        ] == expected


def test_rows_that_cannot_be_read_are_one_line(
    cli, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEP_BENCH_DATA", "")
    (tmp_path / "suites").mkdir()
    content = (
        "title: P\ntasks: [darumeru_parus]\nprotocol: strict\nmean: {kind: plain, tasks: {}}\n"
    )
    (tmp_path / "suites" / "p.yaml").write_text(content, encoding="utf-8")
    (tmp_path / "data").mkdir()
    answer = cli(
        "contamination",
        "--suite",
        "p",
        "--configs",
        tmp_path,
        "--text",
        text,
        "--data",
        tmp_path / "data",
        "--out",
        tmp_path / "runs",
    )
    assert (
        answer.code == 2
        and "darumeru_parus" in answer.err
        and len(answer.err.strip().splitlines()) == 1
    )


def test_a_task_without_rows_is_left_out_and_named(
    cli, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEP_BENCH_DATA", "")
    (tmp_path / "suites").mkdir()
    content = (
        "title: P\ntasks: [darumeru_parus, mini_text_ru, mini_facts_ru]\nprotocol: strict\nmean: "
        "{kind: plain, tasks: {}}\n"
    )
    (tmp_path / "suites" / "p.yaml").write_text(content, encoding="utf-8")
    (tmp_path / "data").mkdir()
    command = (
        "contamination",
        "--suite",
        "p",
        "--configs",
        tmp_path,
        "--text",
        text,
        "--data",
        tmp_path / "data",
        "--out",
        tmp_path / "runs",
    )
    answer = cli(*command)
    assert (
        answer.code == 1
        and "left out: darumeru_parus: " in answer.err
        and answer.err.splitlines()[-1].endswith("cannot be read: darumeru_parus")
    )
    written = tmp_path / "runs" / "p" / "contamination.json"
    assert list(json.loads(written.read_text(encoding="utf-8"))["tasks"]) == [
        "mini_facts_ru",
        "mini_text_ru",
    ]
    assert cli(*command, "--tasks", "mini_text_ru").code == 0
    assert list(json.loads(written.read_text(encoding="utf-8"))["tasks"]) == ["mini_text_ru"]
    answer = cli(*command, "--tasks", "mini_text_en")
    assert (
        answer.code == 2
        and "unknown task of suite p 'mini_text_en': did you mean mini_text_ru" in answer.err
    )


def test_more_hits_than_are_shown_are_counted(cli, tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    file.write_text(
        "".join(
            json.dumps({"text": row["text"]}, ensure_ascii=False) + "\n"
            for row in rows("text_ru")[:5]
        ),
        encoding="utf-8",
    )
    answer = cli(
        "contamination",
        "--suite",
        "mini",
        "--tasks",
        "mini_text_ru",
        "--text",
        file,
        "--out",
        tmp_path / "runs",
    )
    assert (
        answer.code == 0
        and answer.out.count("mini_text_ru row ") == 3
        and "mini_text_ru: and 2 more (the JSON lists all)" in answer.out
    )


CARD = (
    "---\nconfigs:\n- config_name: rus_Cyrl\n  data_files: [{split: test, path: "
    "data/rus_Cyrl.jsonl}]\n---\n"
)


def test_tasks_of_lm_eval(cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite may name lm-eval's own tasks; their rows come from the data folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "arrow")
    monkeypatch.setenv("LEP_BENCH_DATA", "")
    passage = (
        "Семь кораблей вышли из гавани ранним утром, и никто на берегу не знал, куда они плывут и "
        "когда вернутся."
    )
    one = {
        "flores_passage": passage,
        "question": "Сколько?",
        "correct_answer_num": "1",
        **{f"mc_answer{n}": f"Их {n}" for n in range(1, 5)},
    }
    (folder := tmp_path / "data" / "facebook" / "belebele" / "data").mkdir(parents=True)
    (folder.parent / "README.md").write_text(CARD)
    (folder / "rus_Cyrl.jsonl").write_text(json.dumps(one) + "\n")
    (tmp_path / "suites").mkdir()
    content = (
        "title: R\ntasks: [belebele_rus_Cyrl]\nlm_eval: [belebele]\nprotocol: strict\nmean: "
        "{kind: plain, tasks: {}}\n"
    )
    (tmp_path / "suites" / "r.yaml").write_text(content, encoding="utf-8")
    (tmp_path / "text.txt").write_text(passage, encoding="utf-8")
    options = ("--configs", tmp_path, "--data", tmp_path / "data", "--out", tmp_path / "runs")
    answer = cli("contamination", "--suite", "r", "--text", tmp_path / "text.txt", *options)
    assert answer.code == 0 and "belebele_rus_Cyrl row 0: exact" in answer.out, answer.err
