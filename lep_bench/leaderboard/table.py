"""The table as data: blocks of rows that may be compared, each cell with its error, each difference
with its control.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from lep_bench.leaderboard.cells import Condition
from lep_bench.records.schema import Noise

if TYPE_CHECKING:
    from pandas import DataFrame

SYMBOLS = "symbols_per_token"
BITS = "bits_per_byte"
# columns of the frame that hold words: of these names, or with these endings
TEXTS = ("model family stage format protocol engine dtype failed control measured_with").split()
TEXT_ENDINGS = ("_verdict", "_test")
# what a comparison says after correction; "equal": within ±delta
Verdict = Literal["higher", "lower", "equal", "undecided"]


@dataclass(frozen=True)
class Column:
    """One score. `percent` columns hold 0 to 1 and are printed times 100; `digits` are those
    printed.
    """

    key: str
    label: str
    task: str
    metric: str
    percent: bool
    digits: int
    in_mean: bool


@dataclass(frozen=True)
class Cell:
    """A number and how sure it is. `stderr` is over items, `spread` the standard deviation over
    `seeds` training seeds, `sampling` the one over `samplings` draws of sampled answers, whose mean
    `value` is (None where nothing was sampled).

    Status "missing": never asked; "failed": asked, and the reason stands in the table's failures.
    `limit`: asked on so many items only.
    """

    status: str = "missing"
    value: float | None = None
    stderr: float | None = None
    spread: float | None = None
    seeds: int = 0
    samples: int = 0
    limit: int | None = None
    stale: bool = False
    sampling: float | None = None
    samplings: int = 1
    # against the same column of the row's control, corrected over the block's tasks and rows
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Summary:
    """A further mean: over the tasks of a group (always plain), or over fewer tasks than the
    suite's own mean (of its kind).
    """

    label: str
    tasks: tuple[str, ...]
    group: bool


@dataclass(frozen=True)
class Contamination:
    """What a scan of training texts found: per task the number of rows read and of rows flagged.
    `ngram` is in words.
    """

    texts: tuple[str, ...]
    ngram: int
    tasks: tuple[tuple[str, int, int], ...]

    @property
    def flagged(self) -> tuple[tuple[str, int, int], ...]:
        """The tasks with at least one flagged row."""
        return tuple(found for found in self.tasks if found[2])


@dataclass(frozen=True)
class Difference:
    """Mean of a row minus mean of its `control`, paired over the items both answered; `seeds` is
    the smaller count.

    `low` and `high` bound it with 95%; `p` is of the test that is named, `corrected` after Holm
    over the block's contrasts.
    """

    control: str
    letter: str
    value: float
    stderr: float | None
    seeds: int
    low: float | None = None
    high: float | None = None
    p: float | None = None
    corrected: float | None = None
    verdict: Verdict | None = None
    test: str = ""


@dataclass(frozen=True)
class Contrast:
    """A planned contrast of the suite's mean: `question` says which, `model` is compared with
    `difference.control`.
    """

    question: str
    model: str
    difference: Difference


@dataclass(frozen=True)
class Health:
    """What a row's generated texts look like, over the tasks that generate. Shares run from 0 to 1,
    None where not known.

    `stopped`: ended before the limit; `cyrillic`: of the letters, where the reference is Russian;
    `repeated`: of the word 4-grams, those that occurred before in the same text; `invalid`: texts
    with bytes that are no UTF-8 (U+FFFD).
    """

    texts: int
    stopped: float | None
    cyrillic: float | None
    repeated: float | None
    invalid: float


@dataclass(frozen=True)
class Cost:
    """What the `tasks` (of the suite's `of`) took whose every answer the engine gave in this run.
    `characters` are those of the questions; `seconds` and `memory` (bytes) are None in results of
    earlier versions. `machine` says in words where."""

    tasks: int
    of: int
    tokens_in: int
    tokens_out: int
    characters: int
    seconds: float | None
    memory: int | None
    machine: str


@dataclass(frozen=True)
class Row:
    """One model under one condition, all its training seeds together. `letter` names a row that
    others are compared with.

    `clean`: (score, score without the flagged rows) per task with flagged rows, then of the mean;
    None where there is no such number. `refused`: why there is no difference although row and
    control were scored: other versions, other machines.
    """

    model: str
    label: str
    stage: str
    letter: str
    cells: tuple[Cell, ...]
    mean: Cell
    control: str | None
    difference: Difference | None
    failure: int | None
    summaries: tuple[Cell, ...] = ()
    clean: tuple[tuple[float, float] | None, ...] = ()
    cost: Cost | None = None
    refused: str | None = None
    # best and worst rank by the mean among the section's rows, jointly with 95%
    rank: tuple[int, int] | None = None
    health: Health | None = None

    @property
    def limit(self) -> int | None:
        """The smallest item limit among the row's cells."""
        return min((c.limit for c in self.cells if c.limit is not None), default=None)

    @property
    def stale(self) -> bool:
        """Whether any cell is of an earlier model or task version."""
        return any(c.stale for c in self.cells)

    @property
    def failed(self) -> bool:
        """Whether nothing at all could be scored."""
        return not any(c.status == "ok" for c in self.cells) and any(
            c.status == "failed" for c in self.cells
        )


@dataclass(frozen=True)
class Section:
    """The rows of a family, references first. `prefix` + a row's label is the model's full name."""

    family: str
    prefix: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Block:
    """Rows that were asked in the same way: the only ones whose numbers may be compared.

    `smallest`: the difference of the mean that a single contrast would have found with a power of
    80% (median over contrasts).
    """

    condition: Condition
    sections: tuple[Section, ...]
    findings: tuple[Contrast, ...] = ()
    smallest: float | None = None

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every row of every section."""
        return tuple(row for section in self.sections for row in section.rows)


@dataclass(frozen=True)
class Failure:
    """Why a row, or some cells of it, could not be scored. `number` is what the row refers to."""

    number: int
    model: str
    tasks: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Note:
    """What results say beside their numbers: how a tokenizer had to be read, prompts cut, shots
    dropped, rows left out.
    """

    text: str
    tasks: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Everything a page says. `items` gives each task's count of items, 0 where nothing was scored;
    `unpaired` the tasks of the mean whose score is no mean of its items; `commands` make the
    results again (none: a run of all models of the suite); `noise` is what was measured of the
    noise floor of the machines behind the numbers; means within ±`delta` count as equal."""

    suite: str
    title: str
    note: str
    columns: tuple[Column, ...]
    mean_kind: str
    mean_tasks: tuple[tuple[str, float], ...]
    items: tuple[tuple[str, int], ...]
    blocks: tuple[Block, ...]
    failures: tuple[Failure, ...]
    mean_name: str | None = None
    summaries: tuple[Summary, ...] = ()
    contamination: Contamination | None = None
    unpaired: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    commands: tuple[str, ...] = ()
    noise: tuple[Noise, ...] = ()
    delta: float = 0.01
    # only the rows of a layout: nothing may be concluded from what is not there
    partial: bool = False

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every row of every block."""
        return tuple(row for block in self.blocks for row in block.rows)

    @property
    def made_by(self) -> tuple[str, ...]:
        """The commands that make the results again, also where a run of all models does it."""
        return self.commands or (f"lep-bench run --suite {self.suite} --models all",)

    def symbols_per_token(self, row: Row) -> float | None:
        """Characters per token of the row's tokenizer on the suite's Russian text."""
        places = (i for i, column in enumerate(self.columns) if column.metric == SYMBOLS)
        return next((row.cells[i].value for i in places), None)

    def relative_tokens(self, row: Row, reference: Row | None = None) -> float | None:
        """Tokens that a row needs for a Russian text for which the reference needs one. Default
        reference: the instruct model of the row's section, else its base.
        """
        if reference is None:
            own = next(
                (s.rows for b in self.blocks for s in b.sections if any(r is row for r in s.rows)),
                (),
            )
            names = {r.label: r for r in own}
            reference = names.get("instruct", names.get("base"))
        ours = self.symbols_per_token(row)
        theirs = None if reference is None else self.symbols_per_token(reference)
        return theirs / ours if ours and theirs else None

    def to_rows(self) -> list[dict[str, Any]]:
        """A dict per row with the columns of `to_frame`; None where there is no value."""
        sampled = self.samplings > 1
        return [
            self._to_dict(block.condition, section.family, row, sampled)
            for block in self.blocks
            for section in block.sections
            for row in section.rows
        ]

    def row_names(self) -> list[str]:
        """The columns of `to_frame`, also of a table without rows."""
        blank = Row("", "", "", "", (Cell(),) * len(self.columns), Cell(), None, None, None)
        blank = replace(blank, summaries=(Cell(),) * len(self.summaries))
        return list(self._to_dict(Condition("", 0, "", "", ""), "", blank, self.samplings > 1))

    def to_frame(self) -> DataFrame:
        """A pandas DataFrame, one line per model and block.

        Scores, errors and differences run from 0 to 1; where there is none the value is missing.
        Every score KEY has the columns KEY, KEY_stderr, KEY_seed_sd (standard deviation over
        training seeds) and KEY_verdict (against the control); the mean and further means the first
        three. Then follow rank_best, rank_worst, the control and the difference from it, the cost
        (seconds, bytes, counts of tokens and characters) and what the generated texts look like.
        """
        from pandas import DataFrame, to_numeric  # pandas takes half a second to import

        frame = DataFrame(self.to_rows(), columns=self.row_names())
        for name in self.row_names():
            if name not in TEXTS and not name.endswith(TEXT_ENDINGS):
                frame[name] = to_numeric(frame[name])
        return frame

    def _to_dict(
        self, condition: Condition, family: str, row: Row, sampled: bool
    ) -> dict[str, Any]:
        d, cost, health = row.difference, row.cost, row.health
        measured = cost if cost and cost.tasks else None
        values: dict[str, Any] = {
            "model": row.model,
            "family": family,
            "stage": row.stage,
            "format": condition.format,
            "shots": condition.shots,
            "protocol": condition.protocol,
            "engine": condition.engine,
            "dtype": condition.dtype,
            "limit": row.limit,
            "stale": row.stale,
            "failed": "all" if row.failed else "some" if row.failure else "",
            "training_seeds": max(cell.seeds for cell in (*row.cells, row.mean)),
        }
        names = [*(c.key for c in self.columns), "mean", *(s.label for s in self.summaries)]
        for i, (name, cell) in enumerate(zip(names, (*row.cells, row.mean, *row.summaries))):
            values |= {
                name: cell.value,
                f"{name}_stderr": cell.stderr,
                f"{name}_seed_sd": cell.spread,
            }
            values |= {f"{name}_sampling_sd": cell.sampling} if sampled else {}
            values |= {f"{name}_verdict": cell.verdict} if i < len(row.cells) else {}
        values["rank_best"], values["rank_worst"] = row.rank or (None, None)
        return values | {
            "control": row.control,
            "difference": d and d.value,
            "difference_stderr": d and d.stderr,
            "difference_low": d and d.low,
            "difference_high": d and d.high,
            "difference_p": d and d.p,
            "difference_p_corrected": d and d.corrected,
            "difference_verdict": d and d.verdict,
            "difference_test": d and d.test,
            "relative_tokens": self.relative_tokens(row),
            "tasks_counted": measured.tasks if measured else 0,
            "tokens_in": measured and measured.tokens_in,
            "tokens_out": measured and measured.tokens_out,
            "characters": measured and measured.characters,
            "seconds": measured and measured.seconds,
            "peak_memory_bytes": measured and measured.memory,
            "measured_with": measured and measured.machine,
            "texts": health and health.texts,
            "stopped": health and health.stopped,
            "cyrillic": health and health.cyrillic,
            "repeated": health and health.repeated,
            "invalid": health and health.invalid,
        }

    @property
    def models(self) -> int:
        """Distinct models with at least one row."""
        return len({row.model for row in self.rows})

    @property
    def families(self) -> tuple[str, ...]:
        """Families in order of appearance; baselines and local models are counted as such."""
        return tuple(dict.fromkeys(s.family for b in self.blocks for s in b.sections))

    @property
    def seeds(self) -> int:
        """The largest number of training seeds behind a cell."""
        return max((c.seeds for row in self.rows for c in (*row.cells, row.mean)), default=0)

    @property
    def samplings(self) -> int:
        """The largest number of draws of sampled answers behind a cell; 1 where nothing was
        sampled.
        """
        return max((c.samplings for row in self.rows for c in row.cells), default=1)
