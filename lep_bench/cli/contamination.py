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
    print_table,
    split_names,
)
from lep_bench.errors import LepBenchError, RunFailedError, TaskError, unknown_name
from lep_bench.files import check_folder

if TYPE_CHECKING:
    from lep_bench.config.schema import Family, Suite
    from lep_bench.leaderboard.contamination import ContaminationReport, EvaluationRow, Text, Watch


COLUMNS = ("TASK", "ROWS", "EXACT", "TOO SHORT", "CLEAN", "COVERED")
EXAMPLES = 3  # hits of a task that are printed; the JSON has all

Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="FILE...",
        show_default=False,
        help="Training texts: text, JSONL (chats too), Parquet, .gz, folders of these "
        "or a Hub dataset.",
    ),
]


@app.command()
def contamination(
    suite: Annotated[
        str, typer.Option("--suite", metavar="NAME", help="The suite whose rows to search for.")
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
        int, typer.Option("--n", min=5, max=50, help="Length of the n-grams, in words.")
    ] = 13,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Also write all hits to this file.", show_default=False
        ),
    ] = None,
    out: Out = Path("runs"),
    data: DataFolder = None,
    offline: Offline = False,
    configs: ConfigFolders = None,
    tasks_dir: TaskFolders = None,
) -> None:
    """Look for evaluation rows in training texts.

    EXACT: a text contains n words in a row of one of the row's fields (lower case, ё as е, no
    punctuation). A row whose fields are all shorter counts when a text contains all of them within
    50 words. TOO SHORT: rows with fewer than 5 different words, or without a field of 3 words,
    cannot be told from other text. CLEAN: all other rows. COVERED: the mean share of the exact
    rows' n-grams that the texts contain. Prompt templates do not count, and neither does wording
    that more than 10 rows of a task share. Paraphrases and edited copies are not found.

    The lines of a plain text belong together until an empty one. Texts are read once, and memory
    does not grow with them. All hits are written to OUT/SUITE/contamination.json, and the
    leaderboard then also shows scores without the exact rows. A task whose rows cannot be read is
    left out, and the command ends with 1.

    \b
    lep-bench contamination --suite darumeru --text cpt/*.parquet chats.jsonl --json hits.json
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
    report_files = _list_report_files(out, suite, json_file)
    families = [known.family(name) for name in family or ()]
    texts = _open_texts((*(text or ()), *(more or ())), families)
    wanted = chosen.tasks if tasks is None else split_names(tasks, "--tasks")
    folders = (*(tasks_dir or ()), *lm_eval_folders(chosen.lm_eval))
    rows, left_out = _read_rows(chosen, wanted, folders)

    from lep_bench.leaderboard.contamination import scan

    with _Progress(len(texts)) as progress:
        report = scan(rows, texts, n, progress)
    _show(report)
    for file in report_files:
        write_json(file, report.record())
        typer.echo(f"written: {file}")
    for why in left_out.values():
        typer.echo(f"left out: {why}", err=True)
    if left_out:
        raise RunFailedError(
            f"{len(left_out)} of {len(wanted)} tasks were not searched for, their rows "
            f"cannot be read: {', '.join(left_out)}"
        )


def _list_report_files(out: Path, suite: str, json_file: Path | None) -> list[Path]:
    """The files to write. Raises LepBenchError, before the work, for one that cannot be written."""
    from lep_bench.files import join_names

    place = join_names(check_folder(out, "--out"), suite, "contamination.json")
    check_folder(place.parent)
    if json_file is not None and check_folder(json_file.parent, "--json") and json_file.is_dir():
        raise LepBenchError(f"--json {json_file} is a folder: give a file in it")
    return [place, *([json_file] if json_file else [])]


def _open_texts(files: tuple[str, ...], families: list[Family]) -> list[Text]:
    """The texts of --text and of the families' corpora. Raises LepBenchError where there are none,
    or one that cannot be read.
    """
    from lep_bench.leaderboard.contamination import open_texts

    texts = open_texts(files) if files else []
    for family in families:
        if family.corpus is None:
            raise LepBenchError(
                f"--family {family.name}: it names no corpus: give its texts with --text"
            )
        if isinstance(family.corpus, str) and family.corpus.startswith("builtin:"):
            texts.append(_open_builtin(family))
        else:
            texts += open_texts(family.corpus)
    if not texts:
        raise LepBenchError(
            "no text to search: give --text FILE..., or --family NAME for the corpus of a family"
        )
    return texts


def _open_builtin(family: Family) -> Text:
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


def _read_rows(
    suite: Suite, tasks: Sequence[str], task_folders: Sequence[Path]
) -> tuple[list[EvaluationRow], dict[str, str]]:
    """(rows, task -> why its rows cannot be read). Raises UnknownNameError for a task that is not
    the suite's, and LepBenchError where no task has rows.
    """
    from lep_bench.evaluate.lmeval import build_metadata, read_evaluation_rows
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
                for row in read_evaluation_rows([name], task_folders, build_metadata(suite))
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
        exact, too_short = len(task.hits), len(task.too_short)
        covered = f"{100 * sum(hit.share for hit in task.hits) / exact:.0f}%" if exact else "-"
        counts = (task.rows, exact, too_short, task.rows - exact - too_short)
        lines.append([task.task, *(f"{count:,}" for count in counts), covered])
    print_table(COLUMNS, lines)
    for task in report.tasks:
        for hit in task.hits[:EXAMPLES]:
            typer.echo(
                f"{task.task} row {hit.row.doc_id}: exact, {100 * hit.share:.0f}%: "
                f'{hit.text}:{hit.document}: "{hit.words}"'
            )
        if task.hits[EXAMPLES:]:
            typer.echo(f"{task.task}: and {len(task.hits) - EXAMPLES:,} more (the JSON lists all)")
    for text in report.texts:
        typer.echo(
            f"searched: {text['name']}: {text['documents']:,} documents, {text['words']:,} words"
        )
