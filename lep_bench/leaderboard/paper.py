"""The paper's own figures: quoted, each with its source, on a page of their own. What was measured
here stands in `ledger`'s section only.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lep_bench import files
from lep_bench.config.load import Configs
from lep_bench.errors import LepBenchError, count_noun
from lep_bench.leaderboard.page import escape, format_code, format_table
from lep_bench.leaderboard.text import MISSING

DATA, MODELS, ITEMS = "quoted.csv", "models.csv", "items.csv"
# data sets in each group mean
GROUPS = {"darummlu": 3, "darumera": 8, "darusum": 2, "darucopy_en": 2, "darucopy_ru": 2}
ROUNDING = 0.001  # three printed decimals in the mean and in every group mean
SOURCE = "arXiv 2412.21140"
FIGURES = {
    "symbols_per_token": "symbols/token",
    "micro_avg": "Micro-Avg",
    "darummlu": "DaruMMLU",
    "darumera": "DaruMERA",
    "darusum": "DaruSum",
    "darucopy_en": "DaruCopy EN",
    "darucopy_ru": "DaruCopy RU",
}
_TITLES = {
    "1": "Instruct models and the best adapted ones",
    "2": "Foundation models: new vocabularies after continued pre-training",
    "3": "Instruct models: propagation without tuning",
    "4": "Instruct models: propagation and tuning",
}
Read = TypeVar("Read")
_FAMILIES = {"mistral": "Mistral-7B", "llama3": "LLaMa-3-8B", "other": "others"}


@dataclass(frozen=True)
class Quoted:
    """One printed row. Scores are 0 to 1; None where the paper prints none."""

    table: str
    family: str
    model: str
    vocabulary: str
    method: str
    tuning: str
    scores: dict[str, float | None]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the same model has in every table."""
        return self.model, self.vocabulary, self.method, self.tuning

    def recomputed(self) -> float | None:
        """The mean over the 17 data sets that the group means give; None where one is not
        printed.
        """
        values = {name: self.scores[name] for name in GROUPS}
        if any(v is None for v in values.values()):
            return None
        return math.fsum(n * (values[name] or 0.0) for name, n in GROUPS.items()) / sum(
            GROUPS.values()
        )

    @property
    def label(self) -> str:
        """The row as one line, without its table."""
        return ", ".join(filter(None, self.key))

    def name(self) -> str:
        """The row as one line."""
        return f"table {self.table}, {self.label}"


@dataclass(frozen=True)
class Counterpart:
    """A quoted row here: its `model` ("" where nothing can build it), the checkpoints that the
    paper made it of as far as they are known, nearest last, and `why` it cannot be built from what
    is public (empty where it can)."""

    model: str
    made_of: tuple[str, ...]
    why: str


def quoted(folder: Path) -> list[Quoted]:
    """The rows of `folder`/quoted.csv. Raises LepBenchError (file:line) for a row that is not
    marked as quoted with its source.
    """

    def one(row: dict[str, str]) -> Quoted:
        if row["status"] != "quoted" or row["source"] != f"{SOURCE}, table {row['table']}":
            raise ValueError("status must be 'quoted' and source the paper's table")
        scores = {name: float(row[name]) if row[name] else None for name in FIGURES}
        return Quoted(
            row["table"],
            row["family"],
            row["model"],
            row["vocab"],
            row["method"],
            row["tuning"],
            scores,
        )

    return _read(folder / DATA, one)


def counterparts(folder: Path) -> dict[tuple[str, str, str, str], Counterpart]:
    """By `Quoted.key`, the rows of `folder`/models.csv. Raises LepBenchError (file:line)."""

    def one(row: dict[str, str]) -> tuple[tuple[str, str, str, str], Counterpart]:
        if not row["why"] and not (row["lep_bench"] and row["made_of"]):
            raise ValueError("a row without a model here and the paper's checkpoints must say why")
        return (row["model"], row["vocab"], row["method"], row["tuning"]), Counterpart(
            row["lep_bench"], tuple(row["made_of"].split()), row["why"]
        )

    return dict(_read(folder / MODELS, one))


def items(folder: Path) -> dict[str, int]:
    """By task, how many rows the paper asked; without the tasks where that is not known. Raises
    LepBenchError (file:line).
    """
    return {
        task: int(count)
        for task, count in _read(folder / ITEMS, lambda row: (row["task"], row["items"]))
        if count
    }


def _read(file: Path, one: Callable[[dict[str, str]], Read]) -> list[Read]:
    number = 1
    rows = []
    try:
        with open(file, encoding="utf-8", newline="") as text:
            reader = csv.DictReader(text)
            for row in reader:
                number = reader.line_num
                rows.append(one(row))
    except (OSError, KeyError, ValueError) as error:
        raise LepBenchError(f"{file}:{number}: {error}") from error
    return rows


def exceptions(rows: list[Quoted]) -> list[tuple[Quoted, float]]:
    """Rows whose printed Micro-Avg is not the mean over the 17 data sets within rounding, with what
    the group means give.
    """
    found = []
    for row in rows:
        mean, printed = row.recomputed(), row.scores["micro_avg"]
        if mean is not None and printed is not None and abs(mean - printed) > ROUNDING:
            found.append((row, mean))
    return found


def render_paper(folder: Path) -> str:
    """The whole README.md of the folder, from its data files and, where there are any, its
    committed results.
    """
    rows = quoted(folder)
    odd = exceptions(rows)
    lines = [
        "# Figures of the paper, quoted",
        "",
        (
            "**Nothing in tables 1 to 4 was measured by lep-bench.** Every row is quoted from M. "
            "Tikhomirov, D. Chernyshev, *Facilitating large"
        ),
        (
            f"language model Russian adaptation with Learned Embedding Propagation*, [{SOURCE}"
            "](https://arxiv.org/abs/2412.21140), by the table that"
        ),
        f"printed it; [{DATA}]({DATA}) holds the same rows for machines.",
        (
            "What was measured of them stands in [the last section](#measured-beside-quoted), "
            "each figure beside the quoted one."
        ),
        "",
        (
            "- Scores run from 0 to 1, without errors, as printed. *symbols/token*: characters "
            "per token on Russian text."
        ),
        "- *Micro-Avg*: the plain mean over the 17 data sets of Darumeru:",
        "  (3 DaruMMLU + 8 DaruMERA + 2 DaruSum + 2 DaruCopy EN + 2 DaruCopy RU) / 17.",
        _checked(rows, odd),
        (
            "- Foundation models were asked with five examples, instruct models with none: table "
            "2 does not compare with the others."
        ),
        (
            "- The fair control of a tuned row is the original vocabulary with the same tuning "
            "(table 4), not the untuned model."
        ),
        (
            '- Table 1 prints its two adapted rows as "calibration (best)"; by table 4 their '
            "figures are those of tuning on saiga d7 + copy task."
        ),
        "",
    ]
    for table, title in _TITLES.items():
        lines += [
            f"## Table {table}: {title}",
            "",
            *_markdown([r for r in rows if r.table == table]),
            "",
        ]
    lines += ["## Measured beside quoted", "", *_beside(folder)]
    return "\n".join(lines).rstrip("\n") + "\n"


def write_paper(folder: Path) -> None:
    """Render README.md from the data files, atomically."""
    files.write_text(folder / "README.md", render_paper(folder))


def _checked(rows: list[Quoted], odd: list[tuple[Quoted, float]]) -> str:
    if not odd:
        return (
            f"- Checked: in all {len(rows)} rows the printed Micro-Avg equals that formula "
            f"within {ROUNDING:g}, which is rounding."
        )
    listed = "; ".join(
        f"{escape(row.name())}: printed {row.scores['micro_avg']:.3f}, formula {mean:.3f}"
        for row, mean in odd
    )
    return (
        f"- Checked: the printed Micro-Avg equals that formula within {ROUNDING:g} except for: "
        f"{listed}."
    )


def _markdown(rows: list[Quoted]) -> list[str]:
    symbols = any(row.scores["symbols_per_token"] is not None for row in rows)
    names = [name for name in FIGURES if symbols or name != "symbols_per_token"]
    lines = []
    for row in rows:
        parts = [
            "quoted",
            _FAMILIES.get(row.family, row.family),
            row.model,
            row.vocabulary,
            row.method,
            row.tuning,
        ]
        digits = {"symbols_per_token": 2}
        values = [
            MISSING if (v := row.scores[n]) is None else f"{v:.{digits.get(n, 3)}f}" for n in names
        ]
        lines.append([escape(p) for p in parts] + values)
    heads = ["status", "family", "model", "vocabulary", "method", "tuning"]
    return format_table([*heads, *(FIGURES[n] for n in names)], lines, "l" * len(heads) + "r")


def _beside(folder: Path) -> list[str]:
    """The ledger of the committed results, as Markdown."""
    from lep_bench.leaderboard import ledger  # which reads this module's data

    found, delta = ledger.committed(folder), Configs.of().suite(ledger.SUITE).mean.delta
    counts, (rows, notes) = ledger.tally(found), ledger.overview(found)
    beside = [[t, _coded(model), *map(escape, rest)] for t, model, *rest in ledger.beside(found)]
    return [
        (
            f"`lep-bench run --suite {ledger.SUITE}` asks as the paper asked, `lep-bench "
            f"reproduce --suite {ledger.SUITE}` prints this for results of"
        ),
        (
            f"your own. {count_noun(len(found), 'row')}, "
            f"{count_noun(sum(counts.values()), 'figure')}, "
            f"±delta is ±{delta:g}:"
        ),
        "",
        *(
            f"- **{status}** ({counts[status]}): {meaning}"
            for status, meaning in ledger.STATUSES.items()
        ),
        "",
        (
            "The interval joins the measured figure's error over items with that of the quoted "
            "one and its rounding. The paper prints no errors:"
        ),
        (
            "the quoted figure's is computed from the spread of the items measured here and the "
            f"paper's number of rows ([{ITEMS}]({ITEMS})). Both"
        ),
        (
            "asked the same rows; as nobody can know how much of their errors that cancels, none "
            "of it is taken off: intervals err on the wide side."
        ),
        (
            "With the benchmark's numbers of rows and scores like the paper's they are about "
            "±0.008 for DaruMMLU, ±0.013 for Micro-Avg, ±0.027 for"
        ),
        (
            "DaruMERA (four of its tasks have 100 to 220 rows): where that is more than ±delta a "
            "figure may differ, or stay inconclusive."
        ),
        (
            "Of symbols per token ±delta is a share of the quoted figure. The paper does not say "
            "on which Russian text it counted them; here it is on"
        ),
        f"copies of sentences. Names, checkpoints and reasons are kept in [{MODELS}]({MODELS}).",
        "",
        *format_table(
            ledger.OVERVIEW,
            [
                [t, escape(row), _coded(model), _coded(made_of), *rest]
                for t, row, model, made_of, *rest in rows
            ],
            "l",
        ),
        "",
        "Checkpoint: the donor where there is one. Notes:",
        "",
        *(f"{number}. {escape(note)}" for number, note in enumerate(notes, 1)),
        "",
        *(format_table(ledger.BESIDE, beside, "l") if beside else ["Nothing measured yet."]),
    ]


def _coded(name: str) -> str:
    return name if name == MISSING else format_code(name)
