"""The invented run with names, answers and reasons that would like to be HTML, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from invented_run import ORDER, SUITE, TASKS, Run, cell

from lep_bench.leaderboard import site
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.plots import Curve
from lep_bench.leaderboard.table import Table
from lep_bench.records.artifact import Lep, Parent
from lep_bench.records.schema import ModelRecord, TaskResult

EVIL = "</script><img src=x onerror=alert(1)><b>&amp;'\""
CURVES = (Curve("mini-llama/bpe/donor", 0, ((1000, 2.0), (2000, 1.0))),)
SWAP = "mini-llama/bpe/swap"


def run(items: int = 30) -> Run:
    """Every answer of `SWAP` and of the evil model is evil too; so is a failure's reason."""
    made = Run.whole(items=items)
    for task in TASKS:
        made.add(
            cell(
                ModelRecord(
                    name=f"local/{EVIL}",
                    stage="local",
                    fingerprint="e",
                    lineage=("/home/me/secret/model",),
                ),
                task,
                items=items,
            )
        )
    for result in made.results:
        if result.model.name in (SWAP, f"local/{EVIL}"):
            own = made.samples(result)
            own[:] = [
                s.model_copy(update={"prediction": f"{EVIL} {s.doc_id}", "gold": EVIL}) for s in own
            ]
        if result.model.name == "mini-llama/unigram/swap" and result.error:
            made.results[made.results.index(result)] = result.model_copy(
                update={"error": f"TaskError: {EVIL}"}
            )
    return made


def asked(result: TaskResult, rows: Sequence[int]) -> Mapping[tuple[int, str], str]:
    """Questions for one task only: for the others the page has none."""
    if result.task != TASKS[0]:
        return {}
    import zlib

    return {
        (i, f"{zlib.crc32(f'{result.task}{i}'.encode()):08x}"): f"user: {EVIL} {i}?\n— one\n— two"
        for i in rows
    }


def artifact(fingerprint: str) -> Lep:
    """What lep.json says of `SWAP`."""
    return Lep(
        model=SWAP,
        fingerprint=fingerprint,
        kind="patch",
        stage="propagation",
        adapter="swap",
        vocabulary_size=1774,
        rows={"new": 785},
        parents=(
            Parent(
                role="donor",
                name="mini-llama/bpe/donor",
                location="/home/me/secret",
                revision="r1",
                digest="d1",
            ),
        ),
        fit={
            "head": {
                "method": "normal equations",
                "r2": 0.9946961234,
                "norms": {"new": {"donor": 1.96663}},
            }
        },
        notes=(EVIL,),
    )


def write(folder: Path, made: Run | None = None, most: int = 20) -> Table:
    """Write the page; the table that it shows."""
    made = made or run()
    table = build_table(made.results, made.samples, SUITE, ORDER)
    print_ = next((r.model.fingerprint for r in made.results if r.model.name == SWAP), "")
    site.write_site(
        folder,
        table,
        made.results,
        made.samples,
        artifacts=[artifact(print_)],
        curves=CURVES,
        most=most,
        questions=asked,
    )
    return table
