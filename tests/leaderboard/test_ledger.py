"""Measured beside quoted: every status at its bounds, what gets no verdict, and the page."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from invented_ledger import FOLDER, HERE, ROWS, SUITE, figure, record, rows, whole, write
from scipy.stats import norm

from lep_bench import plugin
from lep_bench.config.load import Configs
from lep_bench.config.models import list_models
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import ledger, paper, publish
from lep_bench.records.store import Store

ROW, MODEL = "table 1, OpenChat-3.5, original", "mistral-7b/instruct"
SWAP = "table 3, OpenChat-3.5, bpe, swap"
SUM = ("darumeru_sum_abstractive", "darumeru_sum_extractive")
QUOTED, DELTA = 0.322, SUITE.mean.delta  # DaruSum of ROW
# By hand: items at ±0.02 around the mean, 500 in each of two tasks, the same error again for the
# quoted figure, half a printed digit.
SE = math.sqrt(2 * 0.02**2 / 499) / 2
HALF = norm.ppf(0.975) * SE * math.sqrt(2) + 0.0005


def sums(
    out: Path,
    shift: float,
    model: str = MODEL,
    lineage: tuple[str, ...] | None = None,
    **more: object,
) -> Path:
    for task in SUM:
        write(Store(out), record(model, lineage), task, QUOTED + shift, **more)
    return out


@pytest.mark.parametrize(
    ("low", "high", "status"),
    [
        (-0.01, 0.01, "reproduced"),
        (-0.0100001, 0.0, "inconclusive"),
        (0.0, 0.0100001, "inconclusive"),
        (0.01, 0.03, "inconclusive"),
        (0.0100001, 0.03, "differs"),
        (-0.03, -0.01, "inconclusive"),
        (-0.03, -0.0100001, "differs"),
        (-0.03, 0.03, "inconclusive"),
    ],
)
def test_bounds(low: float, high: float, status: str) -> None:
    assert ledger.verdict(low, high, 0.01) == status


@pytest.mark.parametrize(
    ("shift", "status"),
    [
        (0.0, "reproduced"),
        (DELTA - HALF - 1e-5, "reproduced"),
        (DELTA - HALF + 1e-5, "inconclusive"),
        (DELTA + HALF - 1e-5, "inconclusive"),
        (DELTA + HALF + 1e-5, "differs"),
        (HALF - DELTA + 1e-5, "reproduced"),
        (HALF - DELTA - 1e-5, "inconclusive"),
        (-HALF - DELTA + 1e-5, "inconclusive"),
        (-HALF - DELTA - 1e-5, "differs"),
    ],
)
def test_where_a_measured_figure_changes_its_status(
    tmp_path: Path, shift: float, status: str
) -> None:
    found = figure(sums(tmp_path, shift), ROW, "darusum")
    assert found.status == status
    assert (
        found.measured == pytest.approx(QUOTED + shift)
        and found.error == pytest.approx(SE)
        and found.quoted_error == pytest.approx(SE)
    )
    assert (found.low, found.high) == (
        pytest.approx(shift - HALF, abs=1e-8),
        pytest.approx(shift + HALF, abs=1e-8),
    )


def test_the_quoted_error_is_of_the_papers_number_of_rows(tmp_path: Path) -> None:
    found = figure(sums(tmp_path, 0.0, items=126), ROW, "darusum")
    assert ROWS[SUM[0]] == 500 and found.error == pytest.approx(math.sqrt(2 * 0.02**2 / 125) / 2)
    assert found.quoted_error == pytest.approx(found.error * math.sqrt(126 / 500))


def test_the_paper_drew_its_answers_once(tmp_path: Path) -> None:
    found = figure(sums(tmp_path, 0.0, spread=0.008), ROW, "darusum")
    assert found.error == pytest.approx(SE) and found.quoted_error == pytest.approx(
        math.hypot(SE, math.sqrt(2) * 0.008 / 2)
    )
    assert found.status == "inconclusive"


def test_where_all_items_agree_the_quoted_figure_still_has_an_error(tmp_path: Path) -> None:
    for task in ("darumeru_copy_sent_ru", "darumeru_copy_para_ru"):
        write(Store(tmp_path), record(MODEL), task, 1.0, sd=0.0)
    found = figure(tmp_path, ROW, "darucopy_ru")  # quoted 0.917
    assert (
        found.error == 0
        and found.quoted_error == pytest.approx(math.sqrt(0.917 * 0.083 / 100 / 2))
        and found.status == "differs"
    )
    for task in ("darumeru_copy_sent_en", "darumeru_copy_para_en"):
        write(Store(tmp_path), record("llama3-8b/instruct"), task, 1.0, sd=0.0)
    # quoted 1.000
    perfect = figure(tmp_path, "table 1, LLaMa-3-8B-Instruct, original", "darucopy_en")
    assert (
        perfect.quoted_error == pytest.approx(math.sqrt(0.0005 * 0.9995 / 100 / 2))
        and perfect.status == "reproduced"
    )


def test_several_training_seeds_widen_the_interval(tmp_path: Path) -> None:
    for seed, shift in enumerate((-0.006, 0.0, 0.006)):
        for task in SUM:
            write(Store(tmp_path), record("mistral-7b/bpe/swap", seed=seed), task, 0.277 + shift)
    found = figure(tmp_path, SWAP, "darusum")
    assert found.measured == pytest.approx(0.277) and found.error == pytest.approx(
        math.hypot(SE, 0.006 / math.sqrt(3))
    )


def test_symbols_per_token_within_a_share_of_the_quoted_figure(tmp_path: Path) -> None:
    for model, symbols in (
        ("mistral-7b/base", 2.45),
        ("mistral-7b/bpe/donor", 3.10),
        ("mistral-7b/unigram/donor", 3.80),
    ):
        write(
            Store(tmp_path),
            record(model),
            "darumeru_copy_sent_ru",
            0.9,
            symbols=(symbols, 0.0001 if symbols < 3.5 else 0.02),
        )
    found = {
        name: next(f for f in entry.figures if f.name == "symbols_per_token")
        for name, entry in rows(tmp_path).items()
        if "table 2" in name
    }
    assert found["table 2, Mistral-7B-v0.1, original"].status == "reproduced"  # 2.44 ± 0.0244
    assert found["table 2, Mistral-7B-v0.1, bpe, cpt"].status == "differs"  # 3.76
    # 3.78 ± 0.0378, errors of 0.028
    assert found["table 2, Mistral-7B-v0.1, unigram, cpt"].status == "inconclusive"


def test_a_public_but_different_donor_is_never_reproduced(tmp_path: Path) -> None:
    base, instruct, donor = HERE["mistral-7b/bpe/swap"].made_of
    for task in SUM:
        write(
            Store(tmp_path),
            record("mistral-7b/bpe/swap", (base, instruct, "someone/else_bpe@abc")),
            task,
            0.277,
        )
    entry = rows(tmp_path)[SWAP]
    found = next(f for f in entry.figures if f.name == "darusum")
    assert (found.status, found.measured, found.low) == ("other donor", pytest.approx(0.277), None)
    assert found.why == f"made of {base}, {instruct}, someone/else_bpe, without {donor}"
    assert entry.checkpoint == "someone/else_bpe@abc"
    # The paper's own, of whatever revision, takes its place, also where it was scored on fewer
    # tasks.
    write(
        Store(tmp_path),
        record("mistral-7b/bpe/swap", (base, instruct, f"{donor}@0123abc")),
        SUM[0],
        0.277,
    )
    write(
        Store(tmp_path),
        record("mistral-7b/bpe/swap", (base, instruct, f"{donor}@0123abc")),
        SUM[1],
        0.277,
    )
    entry = rows(tmp_path)[SWAP]
    assert (
        next(f for f in entry.figures if f.name == "darusum").status == "reproduced"
        and entry.checkpoint == f"{donor}@0123abc"
    )


@pytest.mark.parametrize(
    ("row", "model", "lineage", "quoted"),
    [
        # The paper's checkpoint is not known; the family's own donor, and what the authors
        # published, may be another.
        (
            "table 3, LLaMa-3-8B-Instruct, bpe, swap",
            "llama3-8b/bpe/swap",
            ("meta-llama/Meta-Llama-3-8B", "x/y", "RefalMachine/z"),
            0.317,
        ),
        (
            (
                "table 1, LLaMa-3-8B-Instruct, extended, conversion, saiga d7 + copy task "
                "(printed as: calibration (best))"
            ),
            "baselines/ruadapt-llama3-8b-extended",
            ("RefalMachine/ruadapt_llama3_8b_instruct_extended_lep_ft",),
            0.339,
        ),
        # Another base than the paper's, the right donor.
        (
            SWAP,
            "mistral-7b/bpe/swap",
            ("mistralai/Mistral-7B-v0.3", *HERE["mistral-7b/bpe/swap"].made_of[1:]),
            0.277,
        ),
        (SWAP, "mistral-7b/bpe/swap", (), 0.277),
    ],
)
def test_no_verdict_without_the_papers_checkpoints(
    tmp_path: Path, row: str, model: str, lineage: tuple[str, ...], quoted: float
) -> None:
    for task in SUM:
        write(Store(tmp_path), record(model, lineage), task, quoted)
    found = figure(tmp_path, row, "darusum")
    assert found.status == "other donor" and found.measured == pytest.approx(quoted) and found.why


def test_a_donor_that_turned_up_gets_a_verdict(tmp_path: Path) -> None:
    assert rows(tmp_path)["table 3, OpenChat-3.5, extended, swap"].status == "cannot be built"
    for task in SUM:
        write(Store(tmp_path), record("mistral-7b/extended/swap"), task, 0.298)
    assert (
        figure(tmp_path, "table 3, OpenChat-3.5, extended, swap", "darusum").status == "reproduced"
    )


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"protocol": "strict"}, "protocol strict instead of paper"),
        ({"shots": 5}, "shots 5 instead of 0"),
        ({"format": "plain"}, "format plain instead of chat"),
        ({"conversation": "template"}, "conversation template instead of openchat_3.5_1210"),
        ({"limit": 20}, "limit 20 instead of none"),
        ({"dtype": "float32"}, "dtype float32 instead of bfloat16"),
        ({"metadata": {"hint": 1}}, "metadata {'hint': 1} instead of none"),
    ],
)
def test_what_was_asked_otherwise_is_refused(tmp_path: Path, asked: dict, why: str) -> None:
    found = figure(sums(tmp_path, 0.0, **asked), ROW, "darusum")
    assert (found.status, found.why, found.measured) == ("refused", f"asked otherwise: {why}", None)
    # And never hides what was asked as the paper asked, however old that is.
    assert figure(sums(tmp_path, 0.0, created="2024"), ROW, "darusum").status == "reproduced"


def test_how_often_answers_are_drawn_is_free(tmp_path: Path) -> None:
    assert figure(sums(tmp_path, 0.0, samplings=1), ROW, "darusum").status == "reproduced"


def test_edited_and_outdated_results_are_refused(tmp_path: Path) -> None:
    sums(tmp_path / "a", 0.0)
    file = next((tmp_path / "a").rglob(f"{SUM[0]}@*.json"))
    held = json.loads(file.read_text(encoding="utf-8"))
    held["scores"]["score"]["value"] = QUOTED + 0.001
    file.write_text(json.dumps(held), encoding="utf-8")
    found = figure(tmp_path / "a", ROW, "darusum")
    assert (found.status, found.why) == ("refused", f"{SUM[0]}: result or samples were edited")
    sums(tmp_path / "b", 0.0)
    write(
        Store(tmp_path / "b"),
        record("llama3-8b/instruct"),
        SUM[1],
        0.3,
        version="v2",
        created="2026",
    )
    found = figure(tmp_path / "b", ROW, "darusum")
    assert (found.status, found.why) == ("refused", f"{SUM[1]} was asked in an earlier version")


def test_a_mean_needs_all_its_tasks(tmp_path: Path) -> None:
    write(Store(tmp_path), record(MODEL), SUM[0], QUOTED)
    failed = write(Store(tmp_path), record(MODEL), SUM[1], QUOTED)
    failed = failed.model_copy(update={"status": "failed", "error": "it broke", "scores": {}})
    Store(tmp_path).write(failed, [])
    found = figure(tmp_path, ROW, "darusum")
    assert (found.status, found.why) == (
        "not run",
        f"DaruSum: 1 of 2 tasks scored; {SUM[1]}: it broke",
    )
    assert figure(tmp_path, ROW, "darummlu").why == "DaruMMLU: 0 of 3 tasks scored"


def test_a_whole_row(tmp_path: Path) -> None:
    whole(Store(tmp_path), record(MODEL))
    entry = rows(tmp_path)[ROW]
    assert all(f.error and f.quoted_error and f.low is not None for f in entry.figures), (
        entry.figures
    )
    found = {f.name: f for f in entry.figures}
    assert entry.row.recomputed() == pytest.approx(0.607, abs=0.001)
    groups = sum(n * found[name].measured for name, n in paper.GROUPS.items()) / 17
    assert found["micro_avg"].measured == pytest.approx(groups)
    assert (
        found["darusum"].status == "differs" and "differs" in entry.status and ", " in entry.status
    )
    # Tables 1 and 4 print the same model.
    assert [f.measured for f in rows(tmp_path)["table 4, OpenChat-3.5, original"].figures] == [
        f.measured for f in entry.figures
    ]
    assert entry.doubts == (
        (
            "the paper says OpenChat-3.5 and no release; 0106 is the one in logs of its authors' "
            "benchmark"
        ),
    )


def test_every_quoted_row_has_a_counterpart_that_exists() -> None:
    quoted, here = paper.quoted(FOLDER), paper.counterparts(FOLDER)
    assert {row.key for row in quoted} == set(here)
    models = {model.name for model in list_models(SUITE, Configs.of(), plugin.discover_adapters())}
    assert {c.model for c in here.values() if c.model} <= models
    for name, c in HERE.items():  # the families' own donors are the paper's, or it says why not
        family, _, rest = name.partition("/")
        vocabulary = rest.split("/")[0]
        given = (
            Configs.of().family(family).vocabularies.get(vocabulary)
            if family != "baselines"
            else None
        )
        assert given is None or c.made_of[-1:] == (given.donor,) or "donor not public" in c.why, (
            name
        )
    assert set(ROWS) < set(SUITE.tasks)


def test_broken_data_files(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "paper")
    file = tmp_path / "paper" / paper.MODELS
    whole_text = file.read_text(encoding="utf-8")
    file.write_text(
        whole_text.replace("OpenChat-3.5,bpe,swap", "OpenChat-4,bpe,swap"), encoding="utf-8"
    )
    with pytest.raises(
        LepBenchError,
        match=r"models\.csv: no line for the quoted row table 3, OpenChat-3\.5, bpe, swap",
    ):
        ledger.committed(tmp_path / "paper")
    file.write_text(whole_text.replace("openchat/openchat-3.5-0106,\n", ",\n", 1), encoding="utf-8")
    with pytest.raises(LepBenchError, match=r"models\.csv:2: a row without a model here"):
        ledger.committed(tmp_path / "paper")


def test_the_page_shows_committed_results_and_is_checked(tmp_path: Path) -> None:
    folder, out = tmp_path / "paper", tmp_path / "runs"
    shutil.copytree(FOLDER, folder)
    sums(out, 0.0)
    sums(out, 0.0, model="llama3-8b/instruct", limit=20)
    store = Store(out)
    publish.write_leaderboard(folder, SUITE, store.read_all("paper"), store.skim)
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert (
        "| 1 | `mistral-7b/instruct` | DaruSum | 0.322 | 0.322 ±0.001 | 0.000 ±0.002 | reproduced |"
        in page
    )
    assert "asked otherwise: limit 20 instead of none" in page and page.count("\n| quoted |") == 58
    assert publish.check_leaderboard(folder) == []
    (folder / "README.md").write_text(
        page.replace("±0.001 | 0.000 ", "±0.001 | 0.001 "), encoding="utf-8"
    )
    assert len(publish.check_leaderboard(folder)) == 1
