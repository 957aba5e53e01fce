"""Pictures: what they show is what the table says, they know when they are stale, and names never
escape their folder.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from invented_run import ORDER, SUITE, Run

from lep_bench import files
from lep_bench.errors import CheckpointError, LepBenchError
from lep_bench.leaderboard import cards, plots
from lep_bench.leaderboard.assemble import build_table
from lep_bench.leaderboard.plots import Curve
from lep_bench.leaderboard.table import Block, Contrast, Difference, Section, Table
from lep_bench.records.artifact import Lep, Parent
from lep_bench.records.store import Store

CURVES = (
    Curve("mini-llama/bpe/donor", 0, tuple((1000 * i, 3.0 / i) for i in range(1, 40))),
    Curve("mini-llama/original/donor", 0, ((1000, 1.0), (2000, 0.9))),
)


@pytest.fixture(scope="module")
def table() -> Table:
    run = Run.whole(items=12)
    return build_table(run.results, run.samples, SUITE, ORDER)


def small(table: Table) -> Table:
    """One block, one family, one finding of each kind: quick to draw."""
    block, section = table.blocks[0], table.blocks[0].sections[0]
    rows = section.rows[:6]
    verdicts = {"higher": 0.2, "lower": -0.2, "equal": 0.001, "undecided": 0.02}
    found = tuple(
        Contrast(
            "Which?",
            rows[i].model,
            Difference(
                rows[0].model,
                "A",
                value,
                0.003,
                1,
                value - 0.006,
                value + 0.006,
                0.01,
                0.02,
                name,
                "sign flips",
            ),
        )
        for i, (name, value) in enumerate(verdicts.items(), 1)
    )
    return replace(
        table, blocks=(replace(block, sections=(replace(section, rows=rows),), findings=found),)
    )


def test_every_kind_is_planned_and_shows_the_tables_values(table: Table) -> None:
    pictures = {p.name: p for p in plots.plan_pictures(table, CURVES)}
    assert {
        "quality",
        "curves",
        "scores-mini-llama-chat",
        "scores-mini-llama-plain",
        "scores-mini-mistral-chat",
    } <= set(pictures)
    rows = {row.label: row for row in table.blocks[0].sections[0].rows}
    drawn = {(m.vocabulary, m.name): m for m in pictures["quality"].panels[0].marks}
    row, mark = rows["extended/swap"], drawn["extended", "swap"]
    assert (mark.at, mark.value) == (row.cells[0].value, 100 * row.mean.value)
    assert mark.high - mark.low == pytest.approx(2 * 1.96 * 100 * row.mean.stderr, rel=1e-4)
    assert ("bpe", "overlap") not in drawn, "it failed: nothing to draw"
    facts = next(p for p in pictures["scores-mini-llama-chat"].panels if p.title == "facts ru")
    assert {100 * r.cells[1].value for r in rows.values() if r.cells[1].value is not None} == {
        m.value for m in facts.marks
    }
    assert all(p.alt and p.caption for p in pictures.values())


def test_the_front_is_what_nobody_beats(table: Table) -> None:
    for panel in plots.plan_pictures(table)[0].panels:
        for m in panel.marks:
            beaten = any(
                o.at >= m.at and o.value >= m.value and (o.at, o.value) != (m.at, m.value)
                for o in panel.marks
            )
            assert bool(m.sure) is not beaten, m


def test_findings_are_drawn_by_question_and_family(table: Table) -> None:
    picture = next(p for p in plots.plan_pictures(small(table)) if p.kind == "differences")
    (panel,) = picture.panels
    assert [m.sure for m in panel.marks] == ["higher", "lower", "equal", "undecided"]
    assert (
        panel.marks[0].value == pytest.approx(20)
        and panel.marks[0].low == pytest.approx(19.4)
        and picture.band == 1.0
    )
    assert "1 higher, 1 lower, 1 equal, 1 undecided" in picture.alt


def test_drawn_pictures_are_whole_deterministic_and_fresh(table: Table, tmp_path: Path) -> None:
    table = small(table)
    pictures = plots.draw_pictures(table, tmp_path, CURVES)
    assert {p.kind for p in pictures} == {"quality", "scores", "differences", "curves"}
    assert plots.find_stale(table, tmp_path, CURVES) == []
    for picture in pictures:
        svg = tmp_path / "pictures" / f"{picture.name}.svg"
        assert (
            ElementTree.parse(svg).getroot().tag.endswith("svg")
            and b"<dc:date" not in svg.read_bytes()
        )
        assert plots.render_picture(picture, "svg") == svg.read_bytes()
        assert svg.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert not_blank(svg.with_suffix(".png"))


def not_blank(png: Path) -> bool:
    from matplotlib.image import imread

    pixels = imread(png)
    return pixels.shape[0] > 200 and 0.01 < float((pixels[..., :3].mean(axis=2) < 0.9).mean()) < 0.5


def test_other_data_is_stale_and_only_that_is_drawn_again(table: Table, tmp_path: Path) -> None:
    table = small(table)
    plots.draw_pictures(table, tmp_path, CURVES)
    folder = tmp_path / "pictures"
    kept = (folder / "curves.svg").stat().st_mtime_ns
    block, section = table.blocks[0], table.blocks[0].sections[0]
    first = replace(section.rows[0], mean=replace(section.rows[0].mean, value=0.123))
    changed = replace(
        table,
        blocks=(replace(block, sections=(replace(section, rows=(first, *section.rows[1:])),)),),
    )
    (line,) = plots.find_stale(changed, tmp_path, CURVES)
    assert line.startswith(str(folder / "quality.svg")) and "other data" in line
    plots.draw_pictures(changed, tmp_path, CURVES)
    assert (
        plots.find_stale(changed, tmp_path, CURVES) == []
        and (folder / "curves.svg").stat().st_mtime_ns == kept
    )
    (folder / "quality.png").unlink()
    assert ["PNG is missing" in found for found in plots.find_stale(changed, tmp_path, CURVES)] == [
        True
    ]


def test_pictures_of_an_earlier_table_go_those_of_others_stay(table: Table, tmp_path: Path) -> None:
    table = small(table)
    plots.draw_pictures(table, tmp_path, CURVES)
    own = tmp_path / "pictures" / "mine.svg"
    own.write_text("<svg/>", encoding="utf-8")
    assert [
        str(tmp_path / "pictures" / "curves") in line for line in plots.find_stale(table, tmp_path)
    ] == [True, True]
    plots.draw_pictures(table, tmp_path)
    assert (
        plots.find_stale(table, tmp_path) == []
        and own.is_file()
        and not (tmp_path / "pictures" / "curves.png").exists()
    )


@pytest.mark.parametrize("family", ["../../up", "a/b", "..", "", "семья", 'x"><script>'])
def test_names_stay_in_their_folder_and_apart(table: Table, family: str) -> None:
    block = table.blocks[0]
    sections = tuple(
        Section(name, f"{name}/", block.sections[0].rows)
        for name in (family, "up", "a-b", "family")
    )
    names = [
        p.name
        for p in plots.plan_pictures(replace(table, blocks=(Block(block.condition, sections),)))
    ]
    assert len(set(names)) == len(names)
    assert all(
        Path(name).name == name and not name.startswith(".") and name.isascii() for name in names
    )


def test_names_are_no_formulas(table: Table) -> None:
    block, name = small(table).blocks[0], r"$\frac{1}{$ <b>&"
    row = replace(block.sections[0].rows[2], label=f"{name}/{name}", model=f"{name}/{name}/{name}")
    other = replace(
        block, sections=(Section(name, f"{name}/", (block.sections[0].rows[0], row)),), findings=()
    )
    pictures = plots.plan_pictures(
        replace(table, blocks=(other,)), [replace(CURVES[0], model=f"{name}/{name}/donor")]
    )
    assert {p.kind for p in pictures} == {"quality", "scores", "curves"}
    for picture in pictures:
        ElementTree.fromstring(plots.render_picture(picture, "svg"))


def test_no_rows_no_pictures(table: Table, tmp_path: Path) -> None:
    assert (
        plots.draw_pictures(replace(table, blocks=()), tmp_path) == ()
        and not (tmp_path / "pictures").exists()
    )


def lep(
    name: str, stage: str, print_: str, parents: tuple[Parent, ...] = (), **training: object
) -> Lep:
    return Lep(
        model=name,
        fingerprint=print_,
        kind="patch",
        stage=stage,
        parents=parents,
        training=training,
    )


def test_curves_are_bits_per_character_and_read_as_written(tmp_path: Path) -> None:
    donor = lep(
        "f/bpe/donor",
        "donor",
        "1",
        loss=[[5, 2.0], [10, 1.0]],
        steps=10,
        characters=4000,
        tokens=1000,
    )
    (curve,) = plots.make_curves([donor, lep("f/bpe/swap", "propagation", "2")])
    assert curve.points == (
        (2000, pytest.approx(2.0 * 0.25 / math.log(2), abs=1e-4)),
        (4000, pytest.approx(0.25 / math.log(2), abs=1e-4)),
    )
    plots.write_curves(tmp_path, [curve, *CURVES])
    assert plots.read_curves(tmp_path) == (curve, *CURVES)
    before = (tmp_path / plots.CURVES_FILE).read_bytes()
    plots.write_curves(tmp_path, [])
    assert (tmp_path / plots.CURVES_FILE).read_bytes() == before and plots.read_curves(
        tmp_path / "none"
    ) == ()


@pytest.mark.parametrize("line", ["f/donor,0,1000", "f/donor,0,many,1.0", "f/donor,0,1000,nan"])
def test_damaged_curves_are_refused_with_their_line(tmp_path: Path, line: str) -> None:
    (tmp_path / plots.CURVES_FILE).write_text(
        f"{','.join(plots.CURVES_HEADER)}\nf/donor,0,10,1.5\n{line}\n", encoding="utf-8"
    )
    with pytest.raises(LepBenchError, match=r"curves\.csv:3: .*publish again"):
        plots.read_curves(tmp_path)


def test_artifacts_of_scored_models_and_their_ancestors_are_found(tmp_path: Path) -> None:
    run, store = Run.whole(items=3), Store(tmp_path)
    result = next(r for r in run.results if r.model.name == "mini-llama/bpe/swap")
    donor = lep("mini-llama/bpe/donor", "donor", "d1")
    made = lep(
        result.model.name,
        "propagation",
        result.model.fingerprint,
        (Parent(role="donor", name=donor.model, location="x", digest="d1"),),
    )
    for one in (donor, made):
        files.write_json(
            store.artifact(one.model, one.fingerprint) / "lep.json", one.model_dump(mode="json")
        )
    assert cards.read_artifacts(store, [result, *run.results]) == [made, donor]
    (store.artifact(donor.model, "d1") / "lep.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="no lep-bench artifact"):
        cards.read_artifacts(store, [result])
