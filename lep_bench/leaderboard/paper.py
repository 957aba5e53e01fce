"""The paper's own figures: quoted, each with its source, on a page of their own. Nothing measured here ever joins them."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from lep_bench import atomic
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard.render import escape
from lep_bench.leaderboard.text import MISSING

DATA = "quoted.csv"
GROUPS = {"darummlu": 3, "darumera": 8, "darusum": 2, "darucopy_en": 2, "darucopy_ru": 2}  # data sets in each group mean
ROUNDING = 0.001  # three printed decimals in the mean and in every group mean
SOURCE = "arXiv 2412.21140"
_TITLES = {
    "1": "Instruct models and the best adapted ones",
    "2": "Foundation models: new vocabularies after continued pre-training",
    "3": "Instruct models: propagation without tuning",
    "4": "Instruct models: propagation and tuning",
}
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

    def recomputed(self) -> float | None:
        """The mean over the 17 data sets that the group means give; None where one is not printed."""
        values = {name: self.scores[name] for name in GROUPS}
        if any(v is None for v in values.values()):
            return None
        return math.fsum(n * (values[name] or 0.0) for name, n in GROUPS.items()) / sum(GROUPS.values())

    def name(self) -> str:
        """The row as one line."""
        return ", ".join(p for p in (f"table {self.table}", self.model, self.vocabulary, self.method, self.tuning) if p)


def quoted(folder: Path) -> list[Quoted]:
    """The rows of `folder`/quoted.csv. Raises LepBenchError (file:line) for a row that is not marked as quoted with its source."""
    file = folder / DATA
    number = 1
    rows = []
    try:
        with open(file, encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle)
            for row in reader:
                number = reader.line_num
                if row["status"] != "quoted" or row["source"] != f"{SOURCE}, table {row['table']}":
                    raise ValueError("status must be 'quoted' and source the paper's table")
                scores = {name: float(row[name]) if row[name] else None for name in ("symbols_per_token", "micro_avg", *GROUPS)}
                rows.append(Quoted(row["table"], row["family"], row["model"], row["vocab"], row["method"], row["tuning"], scores))
    except (OSError, KeyError, ValueError) as error:
        raise LepBenchError(f"{file}:{number}: {error}") from error
    return rows


def exceptions(rows: list[Quoted]) -> list[tuple[Quoted, float]]:
    """Rows whose printed Micro-Avg is not the mean over the 17 data sets within rounding, with what the group means give."""
    found = []
    for row in rows:
        mean, printed = row.recomputed(), row.scores["micro_avg"]
        if mean is not None and printed is not None and abs(mean - printed) > ROUNDING:
            found.append((row, mean))
    return found


def page(folder: Path) -> str:
    """The whole README.md of the folder, from its data file."""
    rows = quoted(folder)
    odd = exceptions(rows)
    lines = [
        "# Figures of the paper, quoted",
        "",
        "**Nothing on this page was measured by lep-bench.** Every row is quoted from M. Tikhomirov, D. Chernyshev, *Facilitating large",
        f"language model Russian adaptation with Learned Embedding Propagation*, [{SOURCE}](https://arxiv.org/abs/2412.21140), by the table that",
        f"printed it; [{DATA}]({DATA}) holds the same rows for machines. Measured and quoted rows never share a table.",
        "",
        "- Scores run from 0 to 1, without errors, as printed. *symbols/token*: characters per token on Russian text.",
        "- *Micro-Avg*: the plain mean over the 17 data sets of Darumeru:",
        "  (3 DaruMMLU + 8 DaruMERA + 2 DaruSum + 2 DaruCopy EN + 2 DaruCopy RU) / 17.",
        _checked(rows, odd),
        "- Foundation models were asked with five examples, instruct models with none: table 2 does not compare with the others.",
        "- The fair control of a tuned row is the original vocabulary with the same tuning (table 4), not the untuned model.",
        '- Table 1 prints its two adapted rows as "calibration (best)"; by table 4 their figures are those of tuning on saiga d7 + copy task.',
        "",
    ]
    for table, title in _TITLES.items():
        lines += [f"## Table {table}: {title}", "", *_markdown([r for r in rows if r.table == table]), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def write(folder: Path) -> None:
    """Render README.md from the data file, atomically."""
    atomic.write_text(folder / "README.md", page(folder))


def _checked(rows: list[Quoted], odd: list[tuple[Quoted, float]]) -> str:
    if not odd:
        return f"- Checked: in all {len(rows)} rows the printed Micro-Avg equals that formula within {ROUNDING:g}, which is rounding."
    listed = "; ".join(f"{escape(row.name())}: printed {row.scores['micro_avg']:.3f}, formula {mean:.3f}" for row, mean in odd)
    return f"- Checked: the printed Micro-Avg equals that formula within {ROUNDING:g} except for: {listed}."


def _markdown(rows: list[Quoted]) -> list[str]:
    symbols = any(row.scores["symbols_per_token"] is not None for row in rows)
    names = (["symbols_per_token"] if symbols else []) + ["micro_avg", *GROUPS]
    heads = {"symbols_per_token": "symbols/token", "micro_avg": "Micro-Avg", "darummlu": "DaruMMLU", "darumera": "DaruMERA",
             "darusum": "DaruSum", "darucopy_en": "DaruCopy EN", "darucopy_ru": "DaruCopy RU"}  # fmt: skip
    lines = ["| status | family | model | vocabulary | method | tuning | " + " | ".join(heads[n] for n in names) + " |"]
    lines.append("| :-- | :-- | :-- | :-- | :-- | :-- |" + " --: |" * len(names))
    for row in rows:
        parts = ["quoted", _FAMILIES.get(row.family, row.family), row.model, row.vocabulary, row.method, row.tuning]
        digits = {"symbols_per_token": 2}
        values = [MISSING if (v := row.scores[n]) is None else f"{v:.{digits.get(n, 3)}f}" for n in names]
        lines.append("| " + " | ".join([escape(p) for p in parts] + values) + " |")
    return lines
