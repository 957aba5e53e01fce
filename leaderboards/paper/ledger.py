"""The paper's figures beside yours, each with a status. Nothing is run: results are those of
`lep-bench run --suite paper`.

    python leaderboards/paper/ledger.py --out runs            # tables
    python leaderboards/paper/ledger.py --out runs --json     # every figure, errors and intervals
    python leaderboards/paper/ledger.py --out runs --publish  # keep them for the page
    python leaderboards/paper/ledger.py --page                # render README.md from the CSV files
    python leaderboards/paper/ledger.py --check               # exit 1 unless README.md is that page

A figure is *reproduced* where the 95% interval of measured - quoted lies within ±DELTA. It
*differs* where that interval lies wholly outside, and is *inconclusive* otherwise. Each verdict
errs with at most 2.5%, and none depends on which other rows were measured. The interval is

    ±(z * sqrt(SE_m^2 + SE_q^2) + half of the last printed digit).

SE_m is the measured figure's error: over items, and over training seeds where there are several.
The paper prints no errors. SE_q is therefore what a run on the paper's number of rows n_q would
have if its items spread as those measured here. Tasks are independent: no item is in two of them.

    SE_q^2 = sum over tasks of (SE_t / k)^2 * n_t / n_q + (spread over draws of sampled answers)^2

for k tasks in the figure's mean and n_t measured rows. n_q = n_t where the paper's number is not
known. The paper drew its answers once. Where all items of a task agree and SE_t is 0, the binomial
p (1 - p) / n_q stands for it, p being the printed figure. Both runs asked the same rows, so their
errors are not independent. How much they share cannot be known without the paper's answers, and
assuming nothing errs on the wide side. Symbols per token are no share of 1: there ±DELTA is a share
of the quoted figure.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pandas as pd

import lep_bench
from lep_bench.errors import LepBenchError

FOLDER = Path(__file__).resolve().parent
SUITE, DELTA, SOURCE = "paper", 0.01, "arXiv 2412.21140"
SYMBOLS = "symbols_per_token"
GROUPS = {
    "darummlu": ("rummlu", "mmlu_ru", "mmlu_en"),
    "darumera": ("multiq", "parus", "rcb", "rwsd", "use", "ruopenbookqa", "ruworldtree", "rucola"),
    "darusum": ("sum_abstractive", "sum_extractive"),
    "darucopy_en": ("copy_sent_en", "copy_para_en"),
    "darucopy_ru": ("copy_sent_ru", "copy_para_ru"),
}
GROUPS = {group: tuple(f"darumeru_{task}" for task in tasks) for group, tasks in GROUPS.items()}
ALL_TASKS = tuple(task for tasks in GROUPS.values() for task in tasks)
TASKS = {SYMBOLS: ("darumeru_copy_sent_ru",), "micro_avg": ALL_TASKS, **GROUPS}
TITLES = {
    SYMBOLS: "symbols/token",
    "micro_avg": "Micro-Avg",
    "darummlu": "DaruMMLU",
    "darumera": "DaruMERA",
    "darusum": "DaruSum",
    "darucopy_en": "DaruCopy EN",
    "darucopy_ru": "DaruCopy RU",
}
PLAIN = "non_instruct_simple"  # the conversation format of foundation models, who saw five examples
KEY = ["model", "vocab", "method", "tuning"]  # names the same model in every table of the paper
ROUNDING = 0.001  # three printed decimals in the mean and in every group mean
Z = NormalDist().inv_cdf(0.975)
HALF_DIGIT = 0.0005  # scores are printed with three decimals, symbols per token with two

REPRODUCED, DIFFERS, INCONCLUSIVE = "reproduced", "differs", "inconclusive"
OTHER, REFUSED, NOT_RUN, CANNOT = "other donor", "refused", "not run", "cannot be built"
STATUSES = {
    REPRODUCED: "the 95% interval of measured − quoted lies within ±delta",
    DIFFERS: "that interval lies wholly outside ±delta",
    INCONCLUSIVE: "neither: the errors are too large to say",
    OTHER: "measured, but made of other checkpoints than the paper's: no verdict",
    REFUSED: "measured, but asked in another way than the paper asked",
    NOT_RUN: "can be built, was not measured",
    CANNOT: "what the paper made it of is not public, "
    "and nothing that goes by its name was measured",
}
# What the ledger reads of `lep_bench.results`, and what measured.csv keeps.
COLUMNS = [
    *(
        "model",
        "lineage",
        "seed",
        "engine",
        "task",
        "metric",
        "score",
        "stderr",
        "spread",
        "samples",
    ),
    *("protocol", "shots", "format", "conversation", "dtype", "limit", "status", "reason", "stale"),
]


def read_quoted(folder: Path = FOLDER) -> pd.DataFrame:
    """The printed rows (scores 0 to 1, NaN where the paper prints none) with the columns of
    models.csv: the model here ("" where nothing can build it), the checkpoints that the paper made
    it of, the conversation format, `why` it cannot be built from what is public, and `doubts` that
    nobody could settle (several are parted by " | ").

    Raises LepBenchError (file:line) for a row that is not marked as quoted with its source, or has
    no line in models.csv.
    """
    quoted, models = (
        pd.read_csv(folder / name, dtype={"table": str}, keep_default_na=False, na_values=numbers)
        for name, numbers in (("quoted.csv", dict.fromkeys(TITLES, "")), ("models.csv", {}))
    )
    marked = (quoted.status == "quoted") & (quoted.source == f"{SOURCE}, table " + quoted.table)
    explained = (models.why != "") | ((models.lep_bench != "") & (models.made_of != ""))
    for file, good, says in (
        ("quoted.csv", marked, "status must be 'quoted' and source the paper's table"),
        (
            "models.csv",
            explained,
            "a row without a model here and the paper's checkpoints must say why",
        ),
    ):
        if not good.all():
            raise LepBenchError(f"{folder / file}:{good.idxmin() + 2}: {says}")
    rows = quoted.merge(models, on=KEY, how="left", validate="many_to_one")
    rows["row"] = rows[KEY].apply(lambda parts: ", ".join(filter(None, parts)), axis=1)
    for row in rows[rows.why.isna()].itertuples():
        raise LepBenchError(
            f"{folder / 'models.csv'}: no line for the quoted row table {row.table}, {row.row}: "
            "add one"
        )
    return rows


def read_items(folder: Path = FOLDER) -> dict[str, int]:
    """By task, how many rows the paper asked; without the tasks where that is not known."""
    return (
        pd.read_csv(folder / "items.csv").dropna().set_index("task")["items"].astype(int).to_dict()
    )


def read_measured(folder: Path = FOLDER) -> pd.DataFrame:
    """The published results of this folder; no rows where nothing was published."""
    file = folder / "measured.csv"
    if not file.is_file():
        return pd.DataFrame(columns=COLUMNS)
    return pd.read_csv(file, converters={"lineage": ast.literal_eval}).replace(
        {"reason": math.nan}, ""
    )


def read_results(out: Path) -> pd.DataFrame:
    """Your results of the suite, the columns that the ledger reads; no rows without any results."""
    if not (out / SUITE).is_dir():
        return pd.DataFrame(columns=COLUMNS)
    return lep_bench.results(out, SUITE)[COLUMNS]


def recompute_micro_avg(rows: pd.DataFrame) -> pd.Series:
    """The mean over the 17 data sets that the printed group means give."""
    return sum(len(tasks) * rows[group] for group, tasks in GROUPS.items()) / len(ALL_TASKS)


def find_refusal(cell: Any) -> str:
    """Why a measured cell is not set beside the paper's figures; "" where it is."""
    plain = cell.expected == PLAIN
    expected = {
        "protocol": "paper",
        "shots": 5 if plain else 0,
        "format": "plain" if plain else "chat",
        "conversation": cell.expected,
        "dtype": "bfloat16",
        "limit": "none",
    }
    asked = {name: getattr(cell, name) for name in expected}
    asked = {name: "none" if pd.isna(value) else value for name, value in asked.items()}
    wrong = [
        f"{k} {asked[k]} instead of {expected[k]}" for k in expected if asked[k] != expected[k]
    ]
    if wrong:
        return f"asked otherwise: {', '.join(wrong)}"
    return f"{cell.task} was asked in an earlier version" if cell.stale else ""


def name_other_parents(lineage: Sequence[str], made_of: str, why: str) -> str:
    """Why a measured model is not the paper's row although it goes by its name; "" where it is."""
    if not made_of:
        return why
    used = [parent.partition("@")[0] for parent in lineage]
    missing = [parent for parent in made_of.split() if parent not in used]
    return (
        f"made of {', '.join(used) or 'unnamed checkpoints'}, without {', '.join(missing)}"
        * bool(missing)
    )


def judge(low: float, high: float, delta: float) -> str:
    """What an interval of a difference says. A bound of ±delta is within."""
    if -delta <= low and high <= delta:
        return REPRODUCED
    return DIFFERS if low > delta or high < -delta else INCONCLUSIVE


def measure(
    cells: pd.DataFrame, figure: str, quoted: float, items: dict[str, int]
) -> dict[str, float]:
    """The measured figure, its error and that of the quoted one: a mean over tasks, then over those
    training seeds that have all of them. Empty where there is none.
    """
    metric = SYMBOLS if figure == SYMBOLS else "score"
    cells = cells[
        (cells.metric == metric) & (cells.status == "ok") & cells.task.isin(TASKS[figure])
    ]
    count = cells.groupby("seed").task.transform("nunique")
    cells = cells[count == len(TASKS[figure])]
    if cells.empty:
        return {}
    means = cells.groupby("seed").score.mean()
    # Seeds answer the same items, so their errors over items do not shrink with the seeds' number.
    by_task = cells.groupby("task").agg(stderr=("stderr", "mean"), samples=("samples", "min"))
    weight = 1 / len(TASKS[figure])
    error = weight * math.sqrt((by_task.stderr**2).sum(skipna=False))
    between = means.std() / math.sqrt(len(means)) if len(means) > 1 else 0.0
    spread = (cells.spread.astype(float) ** 2).groupby(cells.task).mean().sum()
    p = min(max(quoted, HALF_DIGIT), 1 - HALF_DIGIT)
    variance = (by_task.stderr**2 * by_task.samples).where(by_task.stderr != 0, p * (1 - p))
    rows = pd.Series(items).reindex(by_task.index).fillna(by_task.samples)
    theirs = weight * math.sqrt((variance / rows).sum(skipna=False) + spread)
    return {
        "measured": means.mean(),
        "error": math.hypot(error, between),
        "quoted_error": error if figure == SYMBOLS else theirs,
    }


def compare_figure(
    row: Any, figure: str, used: pd.DataFrame, refused: pd.DataFrame, items: dict[str, int]
) -> dict[str, Any]:
    """One quoted figure beside what was measured of it: a status and, where they are known, the
    measured figure, the errors and the bounds of the difference.
    """
    quoted, tasks = getattr(row, figure), TASKS[figure]
    found = {} if used.empty else measure(used, figure, quoted, items)
    if not found:
        reasons = refused.refusal[refused.task.isin(tasks)].unique()
        if len(reasons):
            return {"status": REFUSED, "why": "; ".join(reasons)}
        if used.empty:
            return {"status": CANNOT if row.why else NOT_RUN, "why": row.why}
        own = used[used.task.isin(tasks)]
        failed = own[own.status != "ok"]
        scored = own[own.status == "ok"].task.nunique()
        missing = f"{TITLES[figure]}: {scored} of {len(tasks)} tasks scored"
        reasons = (failed.task + ": " + failed.reason.astype(str)).unique()
        return {"status": NOT_RUN, "why": "; ".join([missing, *reasons])}
    if other := used.other.iloc[0]:
        return {
            "status": OTHER,
            "why": other,
            "measured": found["measured"],
            "error": found["error"],
        }
    if math.isnan(found["error"]):
        why = "no error of the measured figure is known"
        return {"status": INCONCLUSIVE, "why": why, "measured": found["measured"]}
    symbols = figure == SYMBOLS
    half = Z * math.hypot(found["error"], found["quoted_error"]) + HALF_DIGIT * (
        10 if symbols else 1
    )
    # Nine digits: the last bits of a float shall not decide at a bound.
    low, high = (round(found["measured"] - quoted + side * half, 9) for side in (-1, 1))
    status = judge(low, high, DELTA * (quoted if symbols else 1.0))
    return {"status": status, "why": "", **found, "low": low, "high": high}


def choose_model(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells of one measured model, of several by that name: the one made of the paper's
    checkpoints, then the one with the most tasks.
    """
    if cells.empty:
        return cells
    own = [cells.lineage, cells.engine]
    rank = pd.DataFrame(
        {
            "paper": cells.other.eq("").groupby(own).first(),
            "tasks": cells.task.where(cells.status == "ok").groupby(own).nunique(),
        }
    )
    lineage, engine = rank.sort_values(["paper", "tasks"], kind="stable").index[-1]
    return cells[(cells.lineage == lineage) & (cells.engine == engine)]


def compare(measured: pd.DataFrame, folder: Path = FOLDER) -> pd.DataFrame:
    """One row per quoted figure, in the paper's order: table, row, lep_bench (the model here),
    figure, quoted, status, why, doubts, checkpoint, measured, error, quoted_error, low, high,
    difference (measured - quoted).

    `measured` has the columns of `lep_bench.results`. Raises LepBenchError for data files of
    `folder` that do not fit together.
    """
    rows, items = read_quoted(folder), read_items(folder)
    models = rows[rows.lep_bench != ""].drop_duplicates("lep_bench")
    models = models[["lep_bench", "conversation", "made_of", "why"]]
    models.columns = ["model", "expected", "made_of", "unbuilt"]
    cells = measured.reindex(columns=COLUMNS).merge(models, on="model")
    cells["refusal"] = [find_refusal(cell) for cell in cells.itertuples()]
    cells["other"] = [
        name_other_parents(c.lineage, c.made_of, c.unbuilt) for c in cells.itertuples()
    ]
    figures = []
    for row in rows.itertuples():
        own = cells[cells.model == row.lep_bench]
        used, refused = choose_model(own[own.refusal == ""]), own[own.refusal != ""]
        parents = used.lineage.iloc[0] if len(used) else row.made_of.split()
        for figure in TITLES:
            if math.isnan(getattr(row, figure)):
                continue
            figures.append(
                {
                    "table": row.table,
                    "row": row.row,
                    "lep_bench": row.lep_bench,
                    "checkpoint": parents[-1] if parents else "",
                    "figure": figure,
                    "quoted": getattr(row, figure),
                    "doubts": row.doubts,
                    **compare_figure(row, figure, used, refused, items),
                }
            )
    columns = ["measured", "error", "quoted_error", "low", "high"]
    frame = pd.DataFrame(figures)
    frame = frame.reindex(columns=[*frame.columns.difference(columns, sort=False), *columns])
    frame[columns] = frame[columns].astype(float)
    return frame.assign(difference=frame.measured - frame.quoted)


def summarise(figures: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A line per quoted row (table, row, in lep-bench, checkpoint, status, notes), and the notes
    that its last column numbers.
    """
    notes: dict[str, int] = {}
    lines = []
    for (table, row), own in figures.groupby(["table", "row"], sort=False):
        counts = own.status.value_counts()
        status = own.status.iloc[0]
        if len(counts) > 1:
            status = ", ".join(f"{counts[one]} {one}" for one in STATUSES if one in counts)
        first = own.iloc[0]
        remarks = ["; ".join(filter(None, own.why.unique())), *first.doubts.split(" | ")]
        numbers = [notes.setdefault(note, len(notes) + 1) for note in filter(None, remarks)]
        numbered = ", ".join(map(str, dict.fromkeys(numbers)))
        model, checkpoint = first.lep_bench or "—", first.checkpoint or "—"
        lines.append([table, row, model, checkpoint, status, numbered])
    heads = ["table", "row", "in lep-bench", "checkpoint", "status", "notes"]
    return pd.DataFrame(lines, columns=heads), list(notes)


def format_number(value: float, digits: int, sign: str = "") -> str:
    """A number with a real minus sign; zero has no sign."""
    text = f"{round(value, 10):{sign}.{digits}f}".replace("-", "−")
    return text.lstrip("+−") if not text.strip("+−0.") else text


def list_measured(figures: pd.DataFrame) -> pd.DataFrame:
    """A line per measured figure: ± standard error after what was measured, half the interval after
    the difference.
    """
    lines = []
    for row in figures.dropna(subset="measured").itertuples():
        digits = 2 if row.figure == SYMBOLS else 3
        error = f" ±{format_number(row.error, digits)}" if row.error > 0 else ""
        half = "" if math.isnan(row.low) else f" ±{format_number((row.high - row.low) / 2, digits)}"
        lines.append(
            [
                row.table,
                row.lep_bench,
                TITLES[row.figure],
                format_number(row.quoted, digits),
                format_number(row.measured, digits) + error,
                format_number(row.difference, digits, "+") + half,
                row.status,
            ]
        )
    heads = ["table", "in lep-bench", "figure", "quoted", "measured", "difference, 95%", "status"]
    return pd.DataFrame(lines, columns=heads)


def escape(text: str) -> str:
    """Plain text in Markdown, also inside a table."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)


def format_code(name: str) -> str:
    """A name as code; a dash stays a dash."""
    return name if name == "—" else f"`{name}`"


def format_markdown(frame: pd.DataFrame, right: int = 0) -> str:
    """A Markdown table of strings, its last `right` columns aligned to the right."""
    marks = [":--"] * (len(frame.columns) - right) + ["--:"] * right
    return "\n".join(f"| {' | '.join(line)} |" for line in [frame.columns, marks, *frame.values])


def render_quoted(rows: pd.DataFrame) -> str:
    """One table of the paper."""
    families = {"mistral": "Mistral-7B", "llama3": "LLaMa-3-8B", "other": "others"}
    names = [name for name in TITLES if name != SYMBOLS or rows[SYMBOLS].notna().any()]
    shown = pd.DataFrame(
        {"status": "quoted", "family": rows.family.map(families).fillna(rows.family)}
    )
    for name, head in (("model", "model"), ("vocab", "vocabulary"), ("method", ""), ("tuning", "")):
        shown[head or name] = rows[name].map(escape)
    for name in names:
        digits = 2 if name == SYMBOLS else 3
        shown[TITLES[name]] = [
            "—" if math.isnan(value) else format_number(value, digits) for value in rows[name]
        ]
    return format_markdown(shown, right=len(names))


def render_check(rows: pd.DataFrame) -> str:
    """Whether every printed Micro-Avg is the mean that the page says."""
    means = recompute_micro_avg(rows)
    odd = rows[(means - rows.micro_avg).abs() > ROUNDING]
    if odd.empty:
        return (
            f"- Checked: in all {len(rows)} rows the printed Micro-Avg equals that formula within "
            f"{ROUNDING:g}, which is rounding."
        )
    listed = "; ".join(
        f"table {row.table}, {escape(row.row)}: printed {row.micro_avg:.3f}, formula "
        f"{means[row.Index]:.3f}"
        for row in odd.itertuples()
    )
    return (
        f"- Checked: the printed Micro-Avg equals that formula within {ROUNDING:g} except for: "
        f"{listed}."
    )


def render_page(folder: Path = FOLDER) -> str:
    """README.md of the folder: page.md with its tables, from the CSV files."""
    rows = read_quoted(folder)
    figures = compare(read_measured(folder), folder)
    overview, notes = summarise(figures)
    counts = figures.status.value_counts()
    overview.row = overview.row.map(escape)
    for column in ("in lep-bench", "checkpoint"):
        overview[column] = overview[column].map(format_code)
    measured = list_measured(figures)
    measured["in lep-bench"] = measured["in lep-bench"].map(format_code)
    parts = {
        "checked": render_check(rows),
        "rows": str(len(rows)),
        "figures": str(len(figures)),
        "delta": f"{DELTA:g}",
        "statuses": "\n".join(
            f"- **{status}** ({counts.get(status, 0)}): {says}" for status, says in STATUSES.items()
        ),
        "overview": format_markdown(overview),
        "notes": "\n".join(f"{n}. {escape(note)}" for n, note in enumerate(notes, 1)),
        "measured": "Nothing measured yet." if measured.empty else format_markdown(measured),
        **{f"table{number}": render_quoted(own) for number, own in rows.groupby("table")},
    }
    template = (folder / "page.md").read_text(encoding="utf-8")
    return re.sub(r"\{(\w+)\}", lambda match: parts[match[1]], template)


def print_tables(figures: pd.DataFrame, out: Path) -> None:
    """The ledger for a terminal."""
    overview, notes = summarise(figures)
    print(overview.drop(columns="checkpoint").to_string(index=False))
    print("\nNotes:", *(f" {n}  {note}" for n, note in enumerate(notes, 1)), sep="\n")
    measured = list_measured(figures)
    if len(measured):
        print(f"\n{measured.to_string(index=False)}")
    counts = figures.status.value_counts()
    listed = ", ".join(f"{counts[status]} {status}" for status in STATUSES if status in counts)
    print(f"\n{len(figures)} figures, ±delta is ±{DELTA:g}: {listed}")
    if measured.empty:
        print(f"{out} has no figures of these models: lep-bench run --suite {SUITE} --out {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare your results with the paper's figures.")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="the folder of your results")
    parser.add_argument("--json", action="store_true", help="every figure with errors and interval")
    parser.add_argument("--publish", action="store_true", help="keep the results in measured.csv")
    parser.add_argument("--page", action="store_true", help="render README.md from the CSV files")
    parser.add_argument("--check", action="store_true", help="exit 1 unless README.md is that page")
    options = parser.parse_args(arguments)
    page = FOLDER / "README.md"
    if options.check:
        same = page.read_text(encoding="utf-8") == render_page()
        print(page, "equals" if same else "is not", "what the CSV files render to")
        return 0 if same else 1
    if options.page:
        page.write_text(render_page(), encoding="utf-8")
        print(page)
        return 0
    measured = read_results(options.out)
    if options.publish:
        measured.to_csv(FOLDER / "measured.csv", index=False)
        page.write_text(render_page(), encoding="utf-8")
        print(page)
        return 0
    figures = compare(measured)
    if options.json:
        counts = {status: int((figures.status == status).sum()) for status in STATUSES}
        rows = json.loads(figures.to_json(orient="records"))
        content = {"suite": SUITE, "delta": DELTA, "figures": counts, "rows": rows}
        print(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        print_tables(figures, options.out)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LepBenchError as error:
        sys.exit(f"error: {error}")
