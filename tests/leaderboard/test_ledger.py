"""leaderboards/paper/ledger.py: every status at its bounds, what gets no verdict, and the page."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import norm

from lep_bench import files, plugin
from lep_bench.config.load import Configs
from lep_bench.config.models import list_models
from lep_bench.errors import LepBenchError
from lep_bench.pipeline.plan import choose_scoring
from lep_bench.records.schema import ModelRecord, Provenance, Sample, Score, Scoring, TaskResult
from lep_bench.records.store import Store

FOLDER = files.shipped_folder("leaderboards") / "paper"
ledger = files.load_module(FOLDER / "ledger.py", "ledger")
SUITE = Configs.of().suite("paper")
QUOTED = ledger.read_quoted()
MODELS = QUOTED[QUOTED.lep_bench != ""].drop_duplicates("lep_bench").set_index("lep_bench")
ITEMS = ledger.read_items()

ROW, MODEL = "OpenChat-3.5, original", "mistral-7b/instruct"
SWAP, SWAPPED = "OpenChat-3.5, bpe, swap", "mistral-7b/bpe/swap"
SUM = ("darumeru_sum_abstractive", "darumeru_sum_extractive")
PRINTED, DELTA = 0.322, 0.01  # DaruSum of ROW
# By hand: errors of 0.001 in each of two tasks of 500 items, the same again for the quoted figure,
# half a printed digit.
SE = math.sqrt(2 * 0.001**2) / 2
HALF = norm.ppf(0.975) * SE * math.sqrt(2) + 0.0005


def cell(model: str, task: str, score: float, **changes: Any) -> dict[str, Any]:
    """A row of `lep_bench.results`, asked as the paper asked, of the paper's own checkpoints."""
    conversation = MODELS.conversation[model]
    plain = conversation == ledger.PLAIN
    row = {
        "model": model,
        "lineage": tuple(MODELS.made_of[model].split()),
        "seed": 0,
        "engine": "hf",
        "task": task,
        "metric": "score",
        "score": score,
        "stderr": 0.001,
        "spread": None,
        "samples": ITEMS.get(task, 100),
        "protocol": "paper",
        "shots": 5 if plain else 0,
        "format": "plain" if plain else "chat",
        "conversation": conversation,
        "dtype": "bfloat16",
        "limit": None,
        "status": "ok",
        "reason": "",
        "stale": False,
    }
    return row | changes


def sums(shift: float = 0.0, model: str = MODEL, printed: float = PRINTED, **changes: Any) -> list:
    return [cell(model, task, printed + shift, **changes) for task in SUM]


def compare(cells: list[dict[str, Any]]) -> pd.DataFrame:
    return ledger.compare(pd.DataFrame(cells, columns=ledger.COLUMNS))


def find(cells: list[dict[str, Any]], row: str = ROW, figure: str = "darusum") -> Any:
    figures = compare(cells)
    return next(figures[(figures.row == row) & (figures.figure == figure)].itertuples())


def test_the_scripts_constants_are_the_suites() -> None:
    groups = {ledger.TITLES[name]: list(tasks) for name, tasks in ledger.GROUPS.items()}
    assert groups == {name: list(tasks) for name, tasks in SUITE.groups.items()}
    assert set(ledger.ALL_TASKS) == set(SUITE.mean.tasks) and len(ledger.ALL_TASKS) == 17
    assert (SUITE.mean.delta, SUITE.mean.kind) == (ledger.DELTA, "plain")


def test_every_counterpart_is_a_model_of_the_suite_asked_as_the_suite_asks() -> None:
    specs = {one.name: one for one in list_models(SUITE, Configs.of(), plugin.discover_adapters())}
    for name, row in MODELS.iterrows():
        spec, known = specs[name], Configs.of()
        family = known.family(spec.family) if spec.family else None
        scoring = choose_scoring(SUITE, spec, family)[1]
        expected = cell(name, SUM[0], 0.5)
        for field in ("protocol", "shots", "format", "conversation", "dtype", "limit"):
            assert getattr(scoring, field) == expected[field], (name, field)
        if family is None:
            baseline = known.baseline(name.removeprefix("baselines/"))
            doubts = [baseline.unverified, baseline.notes]
        else:
            instruct = not name.endswith(("base", "donor"))
            doubts = [family.unverified.get("instruct")] if instruct else []
            given = family.vocabularies.get(name.split("/")[1])
            assert (
                given is None
                or row.made_of.split()[-1:] == [given.donor]
                or "donor not public" in row.why
            ), name
        assert row.doubts == " | ".join(filter(None, doubts)), name


def test_micro_averages_are_plain_means_of_17_tasks() -> None:
    means = ledger.recompute_micro_avg(QUOTED)
    assert len(QUOTED) == 58 and means.notna().all()
    assert ((means - QUOTED.micro_avg).abs() <= ledger.ROUNDING).all()


def test_an_exception_would_be_listed() -> None:
    wrong = QUOTED.assign(micro_avg=QUOTED.micro_avg.where(QUOTED.index != 0, 0.7))
    says = ledger.render_check(wrong)
    assert says.endswith("table 1, OpenChat-3.5, original: printed 0.700, formula 0.607.")


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
    assert ledger.judge(low, high, 0.01) == status


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
def test_where_a_measured_figure_changes_its_status(shift: float, status: str) -> None:
    found = find(sums(shift))
    assert found.status == status
    assert (found.measured, found.error, found.quoted_error) == (
        pytest.approx(PRINTED + shift),
        pytest.approx(SE),
        pytest.approx(SE),
    )
    assert (found.low, found.high) == (
        pytest.approx(shift - HALF, abs=1e-8),
        pytest.approx(shift + HALF, abs=1e-8),
    )


def test_the_quoted_error_is_of_the_papers_number_of_rows() -> None:
    found = find(sums(samples=126))
    assert ITEMS[SUM[0]] == 500
    assert found.quoted_error == pytest.approx(found.error * math.sqrt(126 / 500))


def test_the_paper_drew_its_answers_once() -> None:
    found = find(sums(spread=0.008))
    assert found.error == pytest.approx(SE) and found.status == "inconclusive"
    assert found.quoted_error == pytest.approx(math.hypot(SE, math.sqrt(2) * 0.008 / 2))


def test_where_all_items_agree_the_quoted_figure_still_has_an_error() -> None:
    tasks = ledger.GROUPS["darucopy_ru"]
    found = find([cell(MODEL, task, 1.0, stderr=0.0) for task in tasks], figure="darucopy_ru")
    assert found.error == 0 and found.status == "differs"  # quoted 0.917
    assert found.quoted_error == pytest.approx(math.sqrt(0.917 * 0.083 / 100 / 2))


def test_several_training_seeds_widen_the_interval() -> None:
    cells = [
        one
        for seed, shift in enumerate((-0.006, 0.0, 0.006))
        for one in sums(shift, SWAPPED, 0.277, seed=seed)
    ]
    found = find(cells, SWAP)
    assert found.measured == pytest.approx(0.277)
    assert found.error == pytest.approx(math.hypot(SE, 0.006 / math.sqrt(3)))


@pytest.mark.parametrize(
    ("model", "row", "symbols", "stderr", "status"),
    [
        ("mistral-7b/base", "Mistral-7B-v0.1, original", 2.45, 0.0001, "reproduced"),
        ("mistral-7b/bpe/donor", "Mistral-7B-v0.1, bpe, cpt", 3.10, 0.0001, "differs"),
        # 3.78 ± 0.0378, errors of 0.028
        ("mistral-7b/unigram/donor", "Mistral-7B-v0.1, unigram, cpt", 3.8, 0.02, "inconclusive"),
    ],
)
def test_symbols_per_token_within_a_share_of_the_quoted_figure(
    model: str, row: str, symbols: float, stderr: float, status: str
) -> None:
    metric = ledger.SYMBOLS
    cells = [cell(model, "darumeru_copy_sent_ru", symbols, stderr=stderr, metric=metric)]
    assert find(cells, row, metric).status == status


def test_another_donor_is_never_reproduced_and_never_hides_the_papers() -> None:
    base, instruct, donor = MODELS.made_of[SWAPPED].split()
    other = sums(0.0, SWAPPED, 0.277, lineage=(base, instruct, "someone/else_bpe@abc"))
    found = find(other, SWAP)
    assert (found.status, found.measured) == ("other donor", pytest.approx(0.277))
    assert math.isnan(found.low) and found.checkpoint == "someone/else_bpe@abc"
    assert found.why == f"made of {base}, {instruct}, someone/else_bpe, without {donor}"
    own = sums(0.0, SWAPPED, 0.277, lineage=(base, instruct, f"{donor}@0123abc"))
    found = find([*own, *other], SWAP)
    assert (found.status, found.checkpoint) == ("reproduced", f"{donor}@0123abc")


@pytest.mark.parametrize(
    ("row", "model", "lineage"),
    [
        ("LLaMa-3-8B-Instruct, bpe, swap", "llama3-8b/bpe/swap", ("a/b", "x/y", "z/z")),
        (SWAP, SWAPPED, ("mistralai/Mistral-7B-v0.3", *MODELS.made_of[SWAPPED].split()[1:])),
        (SWAP, SWAPPED, ()),
    ],
)
def test_no_verdict_without_the_papers_checkpoints(row: str, model: str, lineage: tuple) -> None:
    found = find(sums(0.0, model, 0.277, lineage=lineage), row)
    assert found.status == "other donor" and found.measured == pytest.approx(0.277) and found.why


def test_a_donor_that_turned_up_gets_a_verdict() -> None:
    row, model = "OpenChat-3.5, extended, swap", "mistral-7b/extended/swap"
    assert find([], row).status == "cannot be built"
    assert find(sums(0.0, model, 0.298), row).status == "reproduced"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"protocol": "strict"}, "protocol strict instead of paper"),
        ({"shots": 5}, "shots 5 instead of 0"),
        ({"format": "plain"}, "format plain instead of chat"),
        ({"conversation": "template"}, "conversation template instead of openchat_3.5_1210"),
        ({"limit": 20}, "limit 20 instead of none"),
        ({"dtype": "float32"}, "dtype float32 instead of bfloat16"),
    ],
)
def test_rows_that_differ_in_protocol_are_refused(changes: dict[str, Any], why: str) -> None:
    found = find(sums(**changes))
    assert (found.status, found.why) == ("refused", f"asked otherwise: {why}")
    assert math.isnan(found.measured)
    # And they never hide what was asked as the paper asked.
    assert find([*sums(), *sums(0.1, **changes)]).status == "reproduced"


def test_outdated_results_are_refused() -> None:
    found = find([cell(MODEL, SUM[0], PRINTED), cell(MODEL, SUM[1], PRINTED, stale=True)])
    assert (found.status, found.why) == ("refused", f"{SUM[1]} was asked in an earlier version")


def test_a_mean_needs_all_its_tasks() -> None:
    failed = cell(MODEL, SUM[1], math.nan, status="failed", reason="it broke")
    cells = [cell(MODEL, SUM[0], PRINTED), failed]
    found = find(cells)
    assert found.status == "not run"
    assert found.why == f"DaruSum: 1 of 2 tasks scored; {SUM[1]}: it broke"
    assert find(cells, figure="darummlu").why == "DaruMMLU: 0 of 3 tasks scored"


def test_a_whole_row() -> None:
    figures = compare([cell(MODEL, task, 0.5) for task in ledger.ALL_TASKS])
    own = figures[(figures.row == ROW) & (figures.table == "1")].set_index("figure")
    assert own.measured.tolist() == pytest.approx([0.5] * 6) and own.low.notna().all()
    again = figures[(figures.row == ROW) & (figures.table == "4")]  # prints the same model
    assert again.measured.tolist() == own.measured.tolist()


def test_unmarked_rows_are_refused(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "paper")
    file = tmp_path / "paper" / "quoted.csv"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("quoted,", "measured,", 1), encoding="utf-8")
    with pytest.raises(LepBenchError, match=r"quoted\.csv:2: status must be"):
        ledger.read_quoted(tmp_path / "paper")


def test_broken_models_are_refused(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "paper")
    file = tmp_path / "paper" / "models.csv"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("OpenChat-3.5,bpe,swap", "OpenChat-4,bpe,swap"), encoding="utf-8")
    with pytest.raises(LepBenchError, match=r"models\.csv: no line for .* table 3, OpenChat-3\.5"):
        ledger.read_quoted(tmp_path / "paper")
    file.write_text(text.replace("openchat/openchat-3.5-0106,", ",", 1), encoding="utf-8")
    with pytest.raises(LepBenchError, match=r"models\.csv:2: a row without a model here"):
        ledger.read_quoted(tmp_path / "paper")


def test_the_committed_page_is_what_its_data_renders_to() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert page == ledger.render_page()
    figures = [line for line in page.splitlines() if line.startswith("| ") and " 0." in line]
    assert len(figures) == 58 and all(line.startswith("| quoted |") for line in figures)


def test_the_page_shows_published_results(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "paper")
    cells = pd.DataFrame([*sums(), *sums(0.0, "llama3-8b/instruct", limit=20)])
    cells.to_csv(tmp_path / "paper" / "measured.csv", index=False)
    page = ledger.render_page(tmp_path / "paper")
    line = (
        "| 1 | `mistral-7b/instruct` | DaruSum | 0.322 | 0.322 ±0.001 | 0.000 ±0.002 | reproduced |"
    )
    assert line in page and "asked otherwise: limit 20" in page


def test_results_of_a_run_are_compared(tmp_path: Path) -> None:
    """Through the store and `lep_bench.results`, as the script is run."""
    store = Store(tmp_path)
    model = ModelRecord(
        name=MODEL,
        family="mistral-7b",
        stage="instruct",
        fingerprint="f",
        lineage=("openchat/openchat-3.5-0106@abc",),
    )
    scoring = Scoring(
        protocol="paper",
        format="chat",
        dtype="bfloat16",
        conversation="openchat_3.5_1210",
        samplings=5,
    )
    for task in SUM:
        values = [PRINTED + (0.02 if number % 2 else -0.02) for number in range(500)]
        result = TaskResult(
            status="ok",
            key="0" * 8,
            suite="paper",
            model=model,
            task=task,
            task_version="1",
            task_fingerprint="v1",
            scoring=scoring,
            scores={"score": Score(value=PRINTED, stderr=0.001, spread=0.0001, samplings=5)},
            samples=len(values),
            provenance=Provenance(created="2025", engine="hf", device="cuda:0", dtype="bfloat16"),
        )
        samples = [
            Sample(
                doc_id=number,
                doc_hash=f"{task}-{number}",
                group="",
                gold="x",
                prediction="y",
                values={"score": value},
                prompt_ids="0" * 16,
            )
            for number, value in enumerate(values)
        ]
        store.write(result, samples)
    measured = ledger.read_results(tmp_path)
    figures = ledger.compare(measured)
    own = figures[(figures.row == ROW) & (figures.figure == "darusum")]
    assert own.status.tolist() == ["reproduced"] * 2  # tables 1 and 4
    assert own.error.iloc[0] == pytest.approx(SE)
    assert own.quoted_error.iloc[0] == pytest.approx(math.hypot(SE, math.sqrt(2) * 0.0001 / 2))
    assert own.checkpoint.iloc[0] == "openchat/openchat-3.5-0106@abc"
    shutil.copytree(FOLDER, tmp_path / "folder")
    measured.to_csv(tmp_path / "folder" / "measured.csv", index=False)
    again = ledger.compare(ledger.read_measured(tmp_path / "folder"))
    pd.testing.assert_frame_equal(again, figures)
