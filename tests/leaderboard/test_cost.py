"""What scores cost, what may not be compared, and the noise floor: on the page, in the terminal,
for machines, and again from the file.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from invented_run import ORDER, SUITE, TASKS, Made, Run, cell, models
from rich.console import Console

from lep_bench.leaderboard import forms, publish, terminal
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.page import render_page
from lep_bench.leaderboard.table import Table
from lep_bench.leaderboard.text import describe_noise
from lep_bench.records.schema import Machine, Noise
from lep_bench.records.store import Store

NAMES = ("mini-llama/base", "mini-llama/instruct", "mini-llama/bpe/swap")
WORK = {
    "engine_version": "5.19.0",
    "device_kind": "cpu",
    "engine_seconds": 2.0,
    "tokens_in": 1000,
    "tokens_out": 10,
    "characters": 3000,
    "peak_memory": 3 << 29,
    "hardware": {"threads": 1, "workers": 2},
}
MACHINE = Machine(engine="hf", version="5.19.0", device="cpu", dtype="float32")
NOISE = Noise(
    machine=MACHINE,
    model="mini-llama/instruct",
    task="mini_facts_ru",
    items=300,
    flipped=2,
    largest=0.031,
)


def with_work(made: Made, **more: object) -> Made:
    result, samples = made
    return result.model_copy(
        update={"provenance": result.provenance.model_copy(update={**WORK, **more})}
    ), samples


def run_of(changed: dict[tuple[str, str], dict[str, object]] | None = None) -> Run:
    run, changed = Run(), changed or {}
    for model in (m for m in models() if m.name in NAMES):
        for task in TASKS:
            run.add(
                with_work(
                    cell(model, task, items=12),
                    **changed.get((model.name, task), changed.get((model.name, ""), {})),
                )
            )
    return run


def table_of(run: Run) -> Table:
    return build_table(run.results, run.samples, SUITE, ORDER)


def row(table: Table, name: str):
    return next(r for r in table.rows if r.model == name)


def shown(table: Table, width: int = 140) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    terminal.show_table(table, console)
    return console.export_text()


def test_tasks_add_up_and_memory_is_the_most() -> None:
    table = table_of(
        run_of(
            {
                ("mini-llama/instruct", TASKS[1]): {
                    "engine_seconds": 0.5,
                    "tokens_in": 7,
                    "peak_memory": 1 << 31,
                }
            }
        )
    )
    spent = row(table, "mini-llama/instruct").cost
    assert (spent.tasks, spent.of, spent.tokens_in, spent.tokens_out, spent.characters) == (
        5,
        5,
        4007,
        50,
        15000,
    )
    assert (spent.seconds, spent.memory) == (8.5, 1 << 31)
    out = render_page(table)
    section = out.split("### Cost")[1].split("### Reproduce")[0]
    (line,) = [line for line in section.splitlines() if line.startswith("| `mini-llama/instruct`")]
    assert line.split(" | ")[3:] == ["1.00", "4,007", "50", "8.5", "1,760", "2.00 GiB |"]
    (swap,) = [line for line in section.splitlines() if line.startswith("| `mini-llama/bpe/swap`")]
    assert swap.split(" | ")[2:4] == ["3.40", "0.57"], "1.95 symbols per token of instruct to 3.40"
    assert (
        "Measured with engine hf 5.19.0 on cpu in float32, 1 thread, 2 processes at a time."
        in section
        and "N of M" not in section
    )
    heads = next(line for line in section.splitlines() if line.startswith("| model"))
    assert {line.count("|") for line in section.splitlines() if line.startswith("|")} == {
        heads.count("|")
    }
    assert (
        "cost of" in shown(table)
        and "1,760" in shown(table)
        and all(len(line) <= 90 for line in shown(table, 90).splitlines())
    )
    (found,) = [
        r
        for r in csv.DictReader(io.StringIO(forms.render_csv(table)))
        if r["model"] == "mini-llama/instruct"
    ]
    assert (
        found["seconds"],
        found["tokens_in"],
        found["peak_memory_bytes"],
        found["tasks_counted"],
    ) == ("8.5", "4007", str(1 << 31), "5")
    assert '"seconds": 8.5' in forms.render_json(table)


def test_training_seeds_are_averaged() -> None:
    run = run_of()
    model = next(m for m in models() if m.name == "mini-llama/bpe/swap")
    for task in TASKS:
        run.add(
            with_work(
                cell(model.model_copy(update={"seed": 1}), task, items=12),
                engine_seconds=4.0,
                tokens_out=30,
            )
        )
    spent = row(table_of(run), model.name).cost
    assert (spent.seconds, spent.tokens_in, spent.tokens_out) == (15.0, 5000, 100)


def test_cells_from_the_store_or_failed_are_left_out_and_it_is_said() -> None:
    run = run_of(
        {
            ("mini-llama/instruct", TASKS[0]): {"from_store": 3},
            ("mini-llama/base", ""): {"from_store": 1},
        }
    )
    failed = run.results[-1].model_copy(update={"status": "failed", "error": "boom", "scores": {}})
    run.results[-1] = failed
    table = table_of(run)
    assert (
        row(table, "mini-llama/instruct").cost.tasks,
        row(table, "mini-llama/instruct").cost.seconds,
    ) == (4, 8.0)
    out = render_page(table)
    assert (
        "| `mini-llama/instruct` 4 of 5 tasks |" in out
        and "N of M tasks: the other tasks failed" in out
    )
    assert "| `mini-llama/bpe/swap` (1) 4 of 5 tasks |" in out
    (line,) = [
        line for line in out.splitlines() if line.startswith("| `mini-llama/base` 0 of 5 tasks |")
    ]
    assert line.endswith("| — | — | — | — | — |") and "4 of 5 tasks" in shown(table)


def test_results_of_earlier_versions_show_dashes() -> None:
    earlier = {
        "engine_version": "",
        "device_kind": "",
        "engine_seconds": 0.0,
        "peak_memory": 0,
        "hardware": {},
    }
    table = table_of(run_of({(name, ""): earlier for name in NAMES}))
    (line,) = [
        line
        for line in render_page(table).splitlines()
        if line.startswith("| `mini-llama/instruct` |")
    ]
    assert line.endswith("| 5,000 | 50 | — | — | — |")
    assert row(table, "mini-llama/bpe/swap").difference is not None, "both are as unknown"


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"engine_version": "5.16.1"}, "engine hf 5.16.1 on cpu"),
        ({"device_kind": "NVIDIA H200"}, "on NVIDIA H200"),
        ({"engine_version": ""}, "not recorded"),
    ],
)
def test_other_machines_are_not_compared(other: dict[str, object], says: str) -> None:
    same = table_of(run_of({(name, TASKS[0]): other for name in NAMES}))
    assert row(same, "mini-llama/bpe/swap").difference is not None, (
        "task by task both sides are alike"
    )
    table = table_of(run_of({("mini-llama/instruct", TASKS[0]): other}))
    refused = row(table, "mini-llama/bpe/swap")
    assert refused.difference is None and says in refused.refused and "against" in refused.refused
    (line,) = [
        line
        for line in render_page(table).splitlines()
        if line.startswith("- Not compared with their controls")
    ]
    assert "`mini-llama/bpe/swap`" in line and says in line
    assert "Not compared with their controls: 1 row: " in " ".join(shown(table).split())
    text_only = table_of(run_of({("mini-llama/instruct", "mini_text_ru"): other}))
    assert row(text_only, "mini-llama/bpe/swap").difference is not None, "no task of the mean"


def test_page_and_noise_come_again_from_the_committed_file(tmp_path: Path) -> None:
    run, foreign = (
        run_of(),
        NOISE.model_copy(update={"machine": MACHINE.model_copy(update={"device": "NVIDIA H200"})}),
    )
    made = publish.write_leaderboard(
        tmp_path, SUITE, run.results, run.samples, ORDER, noise=[foreign, NOISE]
    )
    assert publish.check_leaderboard(tmp_path) == [] and made.noise == (NOISE,)
    text = (tmp_path / "README.md").read_text()
    wanted = (
        "engine hf 5.19.0 on cpu in float32: {} answered 300 items of {} twice, in different batches: "
        "2 answers flipped, log-probabilities "
    )
    wanted += "differed by at most 0.03."
    assert wanted.format("`mini-llama/instruct`", "`mini_facts_ru`") in text
    assert wanted.format("mini-llama/instruct", "mini_facts_ru") in " ".join(shown(made).split())
    assert render_page(table_of(run)).split("### Cost")[1].split("- peak")[0] in text
    held = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[-1])["cell"][
        "provenance"
    ]
    assert (
        not held["created"]
        and "packages" not in held
        and held["hardware"] == {"threads": 1, "workers": 2}
    )


def test_long_tables_point_to_the_page() -> None:
    out = shown(table_of(Run.whole(items=12)))
    assert "cost of" not in out and "table.csv" in out


def test_the_store_keeps_one_measurement_per_machine(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.noise("mini") == []
    other = NOISE.model_copy(update={"machine": MACHINE.model_copy(update={"dtype": "bfloat16"})})
    for one in (NOISE, other, NOISE.model_copy(update={"flipped": 0})):
        store.add_noise("mini", one)
    assert [(n.machine.dtype, n.flipped) for n in store.noise("mini")] == [
        ("bfloat16", 2),
        ("float32", 0),
    ]
    (tmp_path / "mini" / "noise.json").write_text("[{")
    with pytest.raises(Exception, match=r"noise\.json: cannot be read"):
        store.noise("mini")
    store.add_noise("mini", NOISE)
    assert store.noise("mini") == [NOISE]


def test_one_flip_is_no_plural() -> None:
    assert "1 answer flipped" in describe_noise(
        NOISE.model_copy(update={"flipped": 1}), "m", "a", "b"
    )
    assert "no answer flipped" in describe_noise(
        NOISE.model_copy(update={"flipped": 0}), "m", "a", "b"
    )


def test_a_narrow_terminal_says_where_the_costs_are() -> None:
    table = table_of(run_of())
    assert "cost of" in shown(table, 140) and "seconds, tokens and memory" not in shown(table, 140)
    narrow = " ".join(shown(table, 60).split())
    assert (
        "cost of" not in narrow
        and "README.md and table.csv, per model: seconds, tokens and memory" in narrow
    )
