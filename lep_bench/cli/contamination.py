"""Evaluation rows in training texts: contamination."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lep_bench.cli.app import (
    ConfigFolders,
    DataFolder,
    Offline,
    Out,
    TaskFolders,
    app,
    check_folder,
    print_table,
    split_names,
)
from lep_bench.errors import LepBenchError, RunFailedError, TaskError, unknown_name

if TYPE_CHECKING:
    from lep_bench.config.schema import Family, Suite
    from lep_bench.leaderboard.contamination import ContaminationReport, EvaluationRow, Text, Watch


COLUMNS = ("TASK", "ROWS", "EXACT", "NEAR", "TOO SHORT", "CLEAN", "COVERED")
EXAMPLES = 3  # hits of a task that are printed; the JSON has all

Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="FILE...",
        show_default=False,
        help="What a model was trained on: text, JSONL (chats too), Parquet, .gz, folders of these "
        "or a Hub dataset.",
    ),
]


@app.command()
def contamination(
    suite: Annotated[
        str, typer.Option("--suite", metavar="NAME", help="The suite whose rows are looked for.")
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Further files for --text.", show_default=False),
    ] = None,
    text: Texts = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            "--family",
            metavar="NAME",
            help="Also the corpus that this family names (repeatable).",
            show_default=False,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks", metavar="TASK,...", help="Only these tasks of the suite.", show_default=False
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("--n", min=5, max=50, help="Words that an exact hit has in a row.")
    ] = 13,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all hits here too.", show_default=False),
    ] = None,
    out: Out = Path("runs"),
    data: DataFolder = None,
    offline: Offline = False,
    configs: ConfigFolders = None,
    tasks_dir: TaskFolders = None,
) -> None:
    """Look for evaluation rows in training texts.

    EXACT: a text has n words of one of the row's fields, one after the other (lower case, ё as е,
    no punctuation); where no field has n words: all the fields within 50 words. NEAR, of the
    others: half of the row's runs of 4 words in one place (MinHash), or four fifths of such fields.
    TOO SHORT: fewer than 5 different words tell nothing. CLEAN: all other rows. COVERED: the mean
    share of the exact rows' n-grams that the texts have. Prompt templates, and wording that more
    than 10 rows of a task share, do not count.

    The lines of a plain text run on until an empty one. Texts are read once, in memory that does
    not grow with them. All hits are written to OUT/SUITE/contamination.json, from which the
    leaderboard shows scores without the exact ones. A task whose rows cannot be read is left out;
    then the command ends with 1.

    \b
    lep-bench contamination --suite darumeru --text cpt/*.parquet instructions.jsonl --json hits.json
    lep-bench contamination --suite mini --family mini-llama
    """
    from lep_bench import bundle

    bundle.use_data_folder(
        data, offline
    )  # before anything is imported that reads the environment once
    from lep_bench.config.load import Configs
    from lep_bench.files import write_json
    from lep_bench.tasks import lm_eval_folders

    if data is not None:
        bundle.verify(data)

    known = Configs.of(configs or ())
    chosen = known.suite(suite)
    written = _written(out, suite, json_file)
    looked_through = _texts(
        (*(text or ()), *(more or ())), [known.family(name) for name in family or ()]
    )
    asked = chosen.tasks if tasks is None else split_names(tasks, "--tasks")
    rows, left_out = _rows(chosen, asked, (*(tasks_dir or ()), *lm_eval_folders(chosen.lm_eval)))

    from lep_bench.leaderboard.contamination import scan

    with _Progress(len(looked_through)) as progress:
        report = scan(rows, looked_through, n, progress)
    _show(report)
    for file in written:
        write_json(file, report.record())
        typer.echo(f"written: {file}")
    for why in left_out.values():
        typer.echo(f"left out: {why}", err=True)
    if left_out:
        raise RunFailedError(
            f"{len(left_out)} of {len(asked)} tasks were not looked for, their rows cannot "
            f"be read: {', '.join(left_out)}"
        )


def _written(out: Path, suite: str, json_file: Path | None) -> list[Path]:
    """The files to be written. Raises LepBenchError, before the work, for those that cannot be."""
    from lep_bench.files import join_names

    place = join_names(check_folder(out, "--out"), suite, "contamination.json")
    check_folder(place.parent)
    if json_file is not None and check_folder(json_file.parent, "--json") and json_file.is_dir():
        raise LepBenchError(f"--json {json_file} is a folder: give a file in it")
    return [place, *([json_file] if json_file else [])]


def _texts(files: tuple[str, ...], families: list[Family]) -> list[Text]:
    from lep_bench.leaderboard import contamination as leaderboard_contamination

    found = leaderboard_contamination.texts(files) if files else []
    for family in families:
        if family.corpus is None:
            raise LepBenchError(
                f"--family {family.name}: it names no corpus: give its texts with --text"
            )
        if isinstance(family.corpus, str) and family.corpus.startswith("builtin:"):
            found.append(_builtin(family))
        else:
            found += leaderboard_contamination.texts(family.corpus)
    if not found:
        raise LepBenchError(
            "no text to look through: give --text FILE..., or --family NAME for the corpus of "
            "a family"
        )
    return found


def _builtin(family: Family) -> Text:
    """All that the stages of a small family read: text for tokenizers and donors, prompts and
    copies for calibration.
    """
    from lep_bench import corpora
    from lep_bench.leaderboard.contamination import Text
    from lep_bench.mini import corpus

    def documents() -> Iterator[str]:
        left = family.pretraining.characters if family.pretraining else 0
        for document in corpus.pretraining_texts():
            if left <= 0:
                break
            yield document
            left -= len(document)
        yield from corpus.vocabulary_texts()
        for tuning in family.tuning.values():
            yield from corpus.calibration_prompts(tuning.params.get("answers", 0))
            yield from (
                "\n".join(pair) for pair in corpus.copy_prompts(tuning.params.get("copies", 0))
            )

    return Text(
        f"{family.corpus} of {family.name}", corpora.corpus_digest(family.corpus), documents()
    )


def _rows(
    suite: Suite, tasks: Sequence[str], task_folders: Sequence[Path]
) -> tuple[list[EvaluationRow], dict[str, str]]:
    """The rows of the tasks, and why those of a task cannot be read. Raises UnknownNameError, and
    LepBenchError where none can be read.
    """
    from lep_bench.cli.bundle import metadata
    from lep_bench.evaluate.rows import read_evaluation_rows
    from lep_bench.leaderboard.contamination import EvaluationRow

    foreign = [name for name in tasks if name not in suite.tasks]
    if foreign:
        raise unknown_name(f"task of suite {suite.name}", foreign[0], suite.tasks)
    rows: list[EvaluationRow] = []
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(tasks):
        try:
            rows += [
                EvaluationRow(*row)
                for row in read_evaluation_rows([name], task_folders, metadata(suite))
            ]
        except TaskError as error:
            left_out[name] = str(error)
    if not rows:
        raise LepBenchError(
            f"no task of {suite.name} has rows that can be read: {next(iter(left_out.values()))}"
        )
    return rows, left_out


class _Progress:
    """A line that moves on a terminal; nothing elsewhere."""

    def __init__(self, texts: int) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        console = Console(stderr=True)
        columns = (
            TextColumn("texts"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._bar.add_task("", total=texts)
        self._seen: dict[str, int] = {}

    def __enter__(self) -> Watch:
        self._bar.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _update(self, name: str, documents: int, words: int) -> None:
        from rich.markup import escape

        self._seen[name] = documents
        note = f"{escape(name)}: {documents:,} documents, {words / 1e6:,.1f} million words"
        self._bar.update(self._task, completed=len(self._seen) - 1, description=note)


def _show(report: ContaminationReport) -> None:
    lines = []
    for task in report.tasks:
        exact, near = task.of(near=False), task.of(near=True)
        covered = f"{100 * sum(hit.share for hit in exact) / len(exact):.0f}%" if exact else "-"
        clean = task.rows - len(exact) - len(near) - len(task.too_short)
        lines.append(
            [
                task.task,
                *(
                    f"{count:,}"
                    for count in (task.rows, len(exact), len(near), len(task.too_short), clean)
                ),
                covered,
            ]
        )
    print_table(COLUMNS, lines)
    for task in report.tasks:
        for hit in task.hits[:EXAMPLES]:
            kind = "near" if hit.near else "exact"
            typer.echo(
                f"{task.task} row {hit.row.doc_id}: {kind}, {100 * hit.share:.0f}%: "
                f'{hit.text}:{hit.document}: "{hit.words}"'
            )
        if task.hits[EXAMPLES:]:
            typer.echo(f"{task.task}: and {len(task.hits) - EXAMPLES:,} more (the JSON lists all)")
    for text in report.texts:
        typer.echo(
            f"looked through: {text['name']}: {text['documents']:,} documents, "
            f"{text['words']:,} words"
        )
