"""Model cards: true to the artifacts and the table, valid for the Hub, and nobody's text gets out
of its place.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from invented_run import ORDER, SUITE, Run
from markdown_it import MarkdownIt

from lep_bench import bundle, files
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.leaderboard import cards, release
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.page import END, START
from lep_bench.leaderboard.table import Table
from lep_bench.records import artifact
from lep_bench.records.artifact import Lep, Parent
from lep_bench.records.schema import TaskResult
from lep_bench.records.store import Store

MODEL = "mini-llama/extended/conversion+self-calibration"
BASE, INSTRUCT = "meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"
EVIL = "<script>alert(1)</script> | [x](javascript:y) `z`\n---\n# Owned"


@pytest.fixture(scope="module")
def table() -> Table:
    run = Run.whole(items=12)
    return build_table(run.results, run.samples, SUITE, ORDER)


@pytest.fixture(scope="module")
def result() -> TaskResult:
    run = Run.whole(items=12)
    return next(r for r in run.results if r.model.name == MODEL)


def stored(
    store: Store, name: str, fingerprint: str, stage: str, parents: list[Parent], **more: object
) -> Parent:
    """An artifact of which only lep.json is there; as a parent of the next one, with the path it
    had on another machine.
    """
    folder = store.artifact(name, fingerprint)
    lep = Lep(
        model=name,
        fingerprint=fingerprint,
        kind="patch",
        stage=stage,
        parents=tuple(parents),
        **more,
    )
    files.write_json(folder / artifact.LEP, lep.model_dump(mode="json"))
    role = "donor" if stage == "donor" else "start"
    return Parent(
        role=role, name=name, location=f"/home/somebody/{fingerprint}", digest=fingerprint
    )


@pytest.fixture
def store(tmp_path: Path, result: TaskResult) -> Store:
    """Donor, propagation and tuning behind MODEL, on two parents of the Hub."""
    made = Store(tmp_path / "runs")
    base = Parent(role="base", name="f/base", location=BASE, revision="0" * 40, digest="b" * 16)
    body = Parent(role="body", name="f/instruct", location=INSTRUCT, digest="c" * 16)
    instruct = body.model_copy(update={"role": "instruct"})
    donor = stored(
        made,
        "mini-llama/extended/donor",
        "d0",
        "donor",
        [base],
        training={"characters": 1000000, "last_loss": 1.25, "loss": [[1, 2.0]]},
    )
    fit = {"embedding": {"method": "normal equations", "rows": 1800, "r2": 0.99, "norms": {}}}
    start = stored(
        made,
        "mini-llama/extended/conversion",
        "p0",
        "propagation",
        [body, base, instruct, donor],
        adapter="conversion",
        fit=fit,
    )
    parents = [
        body,
        start,
        instruct,
        Parent(role="answers", name="f/instruct", location="/home/somebody/answers", digest="a0"),
    ]
    stored(
        made,
        MODEL,
        result.model.fingerprint,
        "tuning",
        parents,
        adapter="self-calibration",
        params={"answers": 700, "note": EVIL},
        notes=(EVIL,),
    )
    return made


def card(
    table: Table, result: TaskResult, store: Store, existing: str | None = None, **licences: str
) -> str:
    made = cards.trace_lineage(result, store, licences)
    assert made is not None
    return cards.render_card(
        table, result, made, {}, ["lep-bench run --suite mini --models X"], existing
    )


def test_the_way_is_found_wherever_the_folder_was_moved(store: Store, result: TaskResult) -> None:
    made = cards.trace_lineage(result, store, {})
    assert made is not None and [step.stage for step in made.steps] == [
        "donor",
        "propagation",
        "tuning",
    ]
    assert [(a.role, a.place, a.revision) for a in made.ancestors] == [
        ("base", BASE, "0" * 40),
        ("instruct", INSTRUCT, None),
    ]
    assert made.licences == ("",)
    assert (
        cards.trace_lineage(
            result.model_copy(
                update={"model": result.model.model_copy(update={"fingerprint": "other"})}
            ),
            store,
            {},
        )
        is None
    )


def test_a_damaged_lep_json_is_one_line(store: Store, result: TaskResult) -> None:
    (store.artifact(MODEL, result.model.fingerprint) / artifact.LEP).write_text(
        "{", encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match="no lep-bench artifact"):
        cards.trace_lineage(result, store, {})


def test_the_hub_reads_the_front_matter(table: Table, store: Store, result: TaskResult) -> None:
    text = card(table, result, store, **{BASE: "llama3", INSTRUCT: "llama3"})
    data = ModelCard(text).data
    assert (
        data.base_model == [BASE, INSTRUCT]
        and data.license == "llama3"
        and data.language == ["ru", "en"]
    )
    assert data.library_name == "transformers" and {
        "lep-bench",
        "conversion",
        "self-calibration",
    } <= set(data.tags)
    assert data.model_name == MODEL and len(data.eval_results) == len(table.columns)


@pytest.mark.parametrize(
    ("base", "instruct", "licence", "said"),
    [
        ("llama3", "llama3", "llama3", "`llama3`"),
        ("mit", "llama3", "other", "`mit`, `llama3`"),
        ("mit", "", "unknown", cards.UNKNOWN_LICENCE),
        ("", "", "unknown", cards.UNKNOWN_LICENCE),
    ],
)
def test_licences_are_the_parents(
    table: Table,
    store: Store,
    result: TaskResult,
    base: str,
    instruct: str,
    licence: str,
    said: str,
) -> None:
    text = card(table, result, store, **{BASE: base, INSTRUCT: instruct})
    assert cards.parse_front_matter(text)["license"] == licence and said in text
    assert (cards.parse_front_matter(text).get("license_name") is not None) == (licence == "other")


def test_a_licence_that_somebody_looked_up_stays(
    table: Table, store: Store, result: TaskResult
) -> None:
    first = card(table, result, store)
    mine = first.replace("license: unknown", "license: gemma\ndatasets:\n- org/mine")
    again = cards.parse_front_matter(card(table, result, store, mine))
    assert again["license"] == "gemma" and again["datasets"] == ["org/mine"]


def test_a_parents_own_card_and_the_bundle_say_its_licence(
    store: Store, result: TaskResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    folder = bundle.entry_folder(data, "model", BASE)
    folder.mkdir(parents=True)
    entry = bundle.BundleEntry(
        kind="model", id=INSTRUCT, commit="1" * 40, licence="llama3", files=()
    )
    manifest = bundle.Bundle(created="2026", lep_bench="1", suites=(), entries=(entry,))
    manifest.write(data)
    monkeypatch.setenv(bundle.DATA, str(data))
    made = cards.trace_lineage(result, store, {BASE: "from-the-yaml", INSTRUCT: "from-the-yaml"})
    assert made is not None and made.licences == ("from-the-yaml", "llama3")


def test_a_folders_path_is_nobodys_business(
    table: Table, store: Store, result: TaskResult, tmp_path: Path
) -> None:
    mine = tmp_path / "private" / "my-base"
    mine.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (mine / name).write_text("{}", encoding="utf-8")
    (mine / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (mine / "README.md").write_text(
        "---\nlicense: bigscience-bloom-rail-1.0\n---\n# Mine\n", encoding="utf-8"
    )
    parent = Parent(role="base", name=str(mine), location=str(mine), digest="e" * 16)
    stored(store, MODEL, result.model.fingerprint, "propagation", [parent], adapter="swap")
    text = card(table, result, store)
    assert (
        str(tmp_path) not in text
        and "`my-base` (a local folder)" in text
        and "base_model" not in cards.parse_front_matter(text)
    )
    assert cards.parse_front_matter(text)["license"] == "bigscience-bloom-rail-1.0"
    assert "/home/somebody" not in text


def test_the_scores_stand_beside_the_fair_control(
    table: Table, store: Store, result: TaskResult
) -> None:
    text = card(table, result, store)
    row = next(row for row in table.rows if row.model == MODEL)
    assert row.control == "mini-llama/instruct+self-calibration" and row.difference is not None
    assert (
        f"Against `{row.control}`, its fair control: " in text
        and f"{100 * row.difference.value:+.1f}".replace("-", "−") in text
    )
    assert (
        "95% interval" in text
        and "One training seed" in text
        and "lep-bench export" in text
        and "were not searched" in text
    )
    alone = replace(
        table,
        blocks=tuple(
            replace(b, sections=tuple(_without(s, row.control) for s in b.sections))
            for b in table.blocks
        ),
    )
    assert "no fair control" in card(alone, result, store)


def _without(section, name: str):
    rows = tuple(replace(r, difference=None) for r in section.rows if r.model != name)
    return replace(section, rows=rows)


def test_nobodys_text_leaves_its_place(table: Table, store: Store, result: TaskResult) -> None:
    text = card(
        replace(table, note=EVIL), result, store, **{BASE: "mit\nevil: yes", INSTRUCT: EVIL}
    )
    matter, body = cards.parse_front_matter(text), cards.FRONT_MATTER.sub("", text)
    assert "evil" not in matter and set(matter) <= {
        "base_model",
        "base_model_relation",
        "license",
        "license_name",
        "language",
        "library_name",
        "pipeline_tag",
        "tags",
        "model-index",
    }
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    kinds = [t for token in tokens for t in [token, *(token.children or [])]]
    assert [
        t.content
        for t in kinds
        if t.type in ("html_block", "html_inline")
        and START not in t.content
        and END not in t.content
    ] == []
    assert all(
        t.attrs["href"].startswith("https://arxiv.org/") for t in kinds if t.type == "link_open"
    )
    headings = [
        tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"
    ]
    assert not any("Owned" in heading for heading in headings)


def test_own_prose_stays_and_a_card_of_somebody_elses_is_refused(
    table: Table, store: Store, result: TaskResult, tmp_path: Path
) -> None:
    first = card(table, result, store)
    mine = first.replace(START, f"My words.\n\n{START}") + "\nAfter.\n"
    again = card(table, result, store, mine)
    assert again == mine and card(table, result, store, again) == again
    assert yaml.safe_load(again.split("---\n")[1]) == cards.parse_front_matter(first)
    place = tmp_path / "site" / "models" / MODEL
    place.mkdir(parents=True)
    (place / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n", encoding="utf-8")
    made = cards.trace_lineage(result, store, {})
    assert made is not None
    edition = release.Edition(table, [result], {MODEL: made}, [], {}, lambda name: ["c"], "")
    with pytest.raises(LepBenchError, match=r"README\.md: needs"):
        edition.files(tmp_path / "site")
    assert os.listdir(place) == ["README.md"]
