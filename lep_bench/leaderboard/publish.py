"""Writing a leaderboard folder, proving that what is committed equals what its results give, and
all that is published beside it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lep_bench import bundle, files
from lep_bench.config.schema import Suite
from lep_bench.errors import LepBenchError
from lep_bench.leaderboard import cards, curves, page, plots, published, upload
from lep_bench.leaderboard.assemble import assemble
from lep_bench.leaderboard.cells import Metrics, Samples, choose_results
from lep_bench.leaderboard.contamination import StoredScan
from lep_bench.leaderboard.curves import Curve
from lep_bench.leaderboard.examine import examine_results
from lep_bench.leaderboard.page import END, START, fresh, render_page
from lep_bench.leaderboard.table import Table
from lep_bench.leaderboard.text import sign_remark
from lep_bench.records.schema import CHANGED, Noise, TaskResult

RESULTS, PAGE, TABLE = "results.jsonl", "README.md", "table.csv"
# below a folder of `release`
LEADERBOARD, MODELS, RECORDS = "leaderboard", "models", "every_eval_ever/data"


def write_leaderboard(
    folder: Path,
    suite: Suite,
    results: Iterable[TaskResult],
    samples: Samples,
    order: Sequence[str] = (),
    scan: StoredScan | None = None,
    commands: Sequence[str] = (),
    noise: Sequence[Noise] = (),
    folders: Sequence[Path] = (),
    trained: Iterable[Curve] | None = None,
) -> Table:
    """Write `folder`/{results.jsonl, table.csv, README.md}, each whole or not at all; returns the
    table they show.

    With `trained`, the curves of the donors' training (there may be none), also curves.csv and the
    pictures: they take seconds.

    Everything is rendered from the text of results.jsonl, so `check` finds the same bytes. Own
    prose outside the markers of an existing README.md stays. Raises LepBenchError when that page
    has no pair of markers. Arguments: see `assemble.build`; `commands` make the results again
    (none: a run of all models of the suite); of `noise` the entries of machines that scored
    something are shown.
    """
    chosen, items = examine_results(
        choose_results(results, suite.name, suite.tasks),
        samples,
        Metrics.of(suite.tasks, folders),
        scan,
    )
    text = published.dump_results(
        published.Published(
            suite, order, chosen, items, scan and scan.summary, tuple(commands), noise
        )
    )
    existing = _existing(folder / PAGE)
    files.write_text(folder / RESULTS, text)
    table = read_leaderboard(folder)
    if trained is not None or (folder / plots.FOLDER).is_dir():
        curves.write_curves(folder, trained or ())
        plots.draw_pictures(table, folder, curves.read_curves(folder))
    files.write_text(folder / TABLE, page.render_csv(table))
    files.write_text(folder / PAGE, _placed(table, folder, existing))
    return table


def _existing(file: Path) -> str | None:
    """A page to be refreshed; None where there is none. Raises LepBenchError without its markers:
    it is somebody's own.
    """
    existing = _text(file) if file.is_file() else None
    if existing is not None and page.place(existing, "") is None:
        raise LepBenchError(
            f"{file}: needs the lines {START} and {END}, once each, where the table shall "
            "stand; add them or delete the file"
        )
    return existing


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LepBenchError(
            f"{file}: not UTF-8 text ({error}): save it as UTF-8, or delete it and publish again"
        ) from error


def read_leaderboard(folder: Path) -> Table:
    """The table that a folder's committed results give. Raises LepBenchError when they cannot be
    read.
    """
    held = published.load_results(folder / RESULTS)
    return replace(
        assemble(held.chosen, held.lookup, held.suite, held.order, held.contamination),
        commands=held.commands,
        noise=held.noise,
    )


def check_leaderboard(folder: Path) -> list[str]:
    """What in a leaderboard folder is not what its data gives, one line each; empty when all is
    well.
    """
    if not (folder / RESULTS).is_file():
        return [f"{folder}: no {RESULTS}: not a leaderboard folder"]
    file = folder / PAGE
    try:
        table, lines = read_leaderboard(folder), curves.read_curves(folder)
        existing = _existing(file)
    except LepBenchError as error:
        return [str(error)]
    drawn = plots.find_stale(table, folder, lines) if (folder / plots.FOLDER).is_dir() else []
    changed = [f"{folder}: {f.reason}" for f in table.failures if CHANGED in f.reason]
    return (
        changed
        + _compare(file, _placed(table, folder, existing))
        + _compare(folder / TABLE, page.render_csv(table))
        + drawn
    )


def refresh_excerpt(readme: Path, folder: Path) -> bool:
    """Put an excerpt of a leaderboard folder between the markers of another page; False where that
    page has none.
    """
    text = _with_excerpt(readme, folder)
    if text is not None:
        files.write_text(readme, text)
    return text is not None


def check_excerpt(readme: Path, folder: Path) -> list[str]:
    """As `check`, for a page that `refresh_excerpt` wrote; a page without markers is fine."""
    try:
        text = _with_excerpt(readme, folder)
    except LepBenchError as error:
        return [str(error)]
    return [] if text is None else _compare(readme, text)


def _with_excerpt(readme: Path, folder: Path) -> str | None:
    if not readme.is_file() or not (folder / RESULTS).is_file():
        return None
    return page.place(_text(readme), render_excerpt(read_leaderboard(folder)))


def render_excerpt(table: Table, vocabulary: str = "extended") -> str:
    """Markdown of the block asked as the instruct models are: the first family's references and one
    vocabulary.
    """
    block = next((b for b in table.blocks if any(row.stage == "instruct" for row in b.rows)), None)
    if block is None:
        return "Nothing published yet.\n"
    section = block.sections[0]
    chosen = (
        row
        for row in section.rows
        if row.stage == "instruct" or row.label.startswith(f"{vocabulary}/")
    )
    # ranks are among rows that are not here
    sections = (replace(section, rows=tuple(replace(row, rank=None) for row in chosen)),)
    shown = replace(table, blocks=(replace(block, sections=sections),), failures=())
    return page.render_markdown(shown) + (f"\n{remark}\n" if (remark := sign_remark(shown)) else "")


def _placed(table: Table, folder: Path, existing: str | None) -> str:
    """The whole page, with the pictures that the folder holds."""
    body = render_page(
        table,
        plots.plan_pictures(table, curves.read_curves(folder))
        if (folder / plots.FOLDER).is_dir()
        else (),
    )
    return (page.place(existing, body) if existing is not None else None) or fresh(
        table.title, body
    )


def _compare(file: Path, expected: str) -> list[str]:
    if not file.exists():
        return [f"{file}: is missing: publish again"]
    try:
        found = file.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return [f"{file}: cannot be read ({type(error).__name__})"]
    if found == expected:
        return []
    pairs = zip(found.split("\n"), expected.split("\n"))
    line = next(
        (i for i, (a, b) in enumerate(pairs, 1) if a != b),
        min(found.count("\n"), expected.count("\n")) + 1,
    )
    return [
        (
            f"{file}:{line}: differs from what the committed results give: publish again, do not "
            "edit between the markers"
        )
    ]


@dataclass(frozen=True)
class Edition:
    """What is published of a suite beside its leaderboard: a card for each model of `ways`, a
    record for each of `recorded`.
    """

    table: Table
    results: Sequence[TaskResult]
    ways: Mapping[str, cards.Made]
    recorded: Sequence[str]
    tasks: upload.Tasks
    commands: Callable[[str], Sequence[str]]  # which make a model and its control again
    organisation: str

    def files(self, folder: Path) -> dict[str, str]:
        """Path below `folder` -> text; own prose and front matter in its cards stay. Raises
        LepBenchError for a page without markers.
        """
        found, own = {}, dict[str, list[TaskResult]]()
        for result in self.results:
            own.setdefault(result.model.name, []).append(result)
        for name in self.recorded:
            for block, row in upload.standing(self.table, name):
                record = upload.record(
                    self.table,
                    block,
                    row,
                    self.tasks,
                    own[name],
                    self.commands(name)[0],
                    self.organisation,
                )
                found |= {f"{RECORDS}/{record[0]}": record[1]} if record else {}
        for name, made in self.ways.items():
            newest = max(own[name], key=lambda r: r.provenance.created)
            place = f"{MODELS}/{name}"
            existing = _existing(folder / place / PAGE)
            found[f"{place}/{PAGE}"] = cards.render_card(
                self.table, newest, made, self.tasks, self.commands(name), existing
            )
            for block, row in upload.standing(self.table, name)[:1]:
                day = upload.moment(own[name]).date().isoformat()
                entries = upload.community(self.table, block, row, self.tasks, day)
                found |= {f"{place}/.eval_results/{file}": text for file, text in entries.items()}
        found[PAGE] = self._index(_existing(folder / PAGE))
        return found

    def _index(self, existing: str | None) -> str:
        """The page of the whole folder, which is a data set where it is uploaded."""
        lines = [f"> **{page.escape(self.table.note)}**", ""] if self.table.note else []
        lines += [
            (
                f"- [Leaderboard]({LEADERBOARD}/{PAGE}): tables, pictures, item scores (["
                f"{RESULTS}]({LEADERBOARD}/{RESULTS}))"
            )
        ]
        lines += [
            f"- [{page.escape(name)}]({MODELS}/{name}/{PAGE}): model card" for name in self.ways
        ]
        lines += (
            [
                (
                    f"- `{RECORDS}`: the same results in the form of Every Eval Ever "
                    f"{upload.EVERY_EVAL_EVER}"
                )
            ]
            if self.recorded
            else []
        )
        matter = {
            "pretty_name": f"{self.table.title}: leaderboard",
            "language": list(cards.LANGUAGES),
            "tags": ["lep-bench", "leaderboard"],
            "configs": [{"config_name": "table", "data_files": f"{LEADERBOARD}/{TABLE}"}],
        }
        return cards.write_card(matter, self.table.title, "\n".join(lines) + "\n", existing)


def begin_edition(work: Path, folder: Path, board: str) -> Path:
    """The leaderboard's folder below `work`, with what `folder` has of it: prose stays, pictures
    that are right are not drawn again.

    Files of the user's own are left where they are: what is in `work` may be uploaded. Raises
    LepBenchError where the page has no markers."""
    here, made = folder / board, work / board
    _existing(here / PAGE)
    made.mkdir(parents=True, exist_ok=True)
    for file in (
        here / PAGE,
        here / curves.FILE,
        *(() if board else here.glob("*.csv")),
        *(here / plots.FOLDER).glob("*.*"),
    ):
        if file.is_file():
            (made / file.relative_to(here)).parent.mkdir(exist_ok=True)
            shutil.copyfile(file, made / file.relative_to(here))
    return made


def install_edition(work: Path, folder: Path, board: str) -> None:
    """Bring what was made in `work` into its place: each file whole or not at all, pictures that
    are no more removed.
    """
    for file in sorted(p for p in work.rglob("*") if p.is_file()):
        there = folder / file.relative_to(work)
        if not there.is_file() or there.read_bytes() != file.read_bytes():
            files.write_bytes(there, file.read_bytes())
    for old in (folder / board / plots.FOLDER).glob("*"):
        if not (work / board / plots.FOLDER / old.name).exists():
            old.unlink()


def put_file(work: Path, path: str, text: str) -> None:
    """Write a page below `work`. Raises LepBenchError for a path that would leave it."""
    file = bundle.join_relative(work, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
