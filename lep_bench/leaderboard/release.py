"""Everything that is published of a scored suite: leaderboard, model cards and records, in a folder
and on the Hub.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from lep_bench import bundle, files, hub
from lep_bench.config.load import Configs
from lep_bench.config.models import list_all_names, widen_suite
from lep_bench.config.schema import Suite
from lep_bench.errors import LepBenchError, explain_error
from lep_bench.files import write_bytes
from lep_bench.leaderboard import cards, page, plots, publish
from lep_bench.leaderboard.contamination import read_scan
from lep_bench.leaderboard.table import Table
from lep_bench.plugin import Registry
from lep_bench.records.schema import ModelRecord, TaskResult
from lep_bench.records.store import Store
from lep_bench.tasks import select_tasks

# below a folder of several things
LEADERBOARD, MODELS, RECORDS = "leaderboard", "models", "every_eval_ever/data"


@dataclass(frozen=True)
class ScoredRun:
    """The current results of a suite in an --out folder, and the settings that they were made with.
    `order`: the models' names as the plan has them; `data`: the --data folder.
    """

    suite: Suite
    configs: Configs
    registry: Registry
    store: Store
    results: Sequence[TaskResult]
    order: Sequence[str]
    adapter_folders: Sequence[Path] = ()
    task_folders: Sequence[Path] = ()
    data: Path | None = None

    def without_limits(self) -> ScoredRun:
        """The results on all items of their tasks: what may be published."""
        return replace(self, results=[r for r in self.results if r.scoring.limit is None])

    def make_snapshot(self) -> str:
        """The text of results.jsonl. Reads every sample once."""
        name = self.suite.name
        scan = read_scan(
            self.store.leaderboard(name).parent / "contamination.json", self.suite.tasks
        )
        return publish.make_snapshot(
            self.suite,
            self.results,
            self.store.skim,
            self.order,
            scan,
            reproduce_commands(self),
            self.store.noise(name),
            self.task_folders,
        )

    def make_curves(self) -> tuple[plots.Curve, ...]:
        """How the losses of the donors' training fell."""
        donors = [r for r in self.results if r.model.stage == "donor"]
        return plots.make_curves(cards.read_artifacts(self.store, donors))


@dataclass(frozen=True)
class Board:
    """A run's leaderboard, computed once to be written to several folders; `folder` has it."""

    run: ScoredRun
    folder: Path
    snapshot: str
    table: Table

    @classmethod
    def write(cls, run: ScoredRun) -> Board:
        """Compute the leaderboard of a run and write its files to OUT/SUITE/leaderboard."""
        folder, snapshot = run.store.leaderboard(run.suite.name), run.make_snapshot()
        return cls(run, folder, snapshot, publish.write_pages(folder, snapshot))

    @property
    def results(self) -> Sequence[TaskResult]:
        """The cells of the table."""
        return self.run.results

    @property
    def changed(self) -> tuple[str, ...]:
        """A reason for every result that is left out because it was changed by hand."""
        return publish.list_changed(self.table)

    @property
    def order(self) -> Sequence[str]:
        """The models' names in the order of the plan."""
        return self.run.order


def reproduce_commands(
    run: ScoredRun, results: Sequence[TaskResult] | None = None
) -> tuple[str, ...]:
    """The commands that reproduce results (default: the run's): one `lep-bench run` for each
    engine, number format and row limit among them.

    Empty where a run of all models without any option does it: what a page says that names no
    commands.
    """
    results = run.results if results is None else results
    suite = run.configs.suite(run.suite.name)  # in run.suite a --dtype took the place of its own
    usual = list_all_names(suite, run.configs, run.registry)
    groups: dict[tuple[str, str, int | None], list[TaskResult]] = {}
    for result in results:
        key = (result.provenance.engine, result.scoring.dtype, result.scoring.limit)
        groups.setdefault(key, []).append(result)
    commands = []
    for (engine, dtype, limit), own in groups.items():
        names = list(dict.fromkeys(_name_for_option(result.model) for result in own))
        if usual and usual <= set(names):
            names = ["all", *(name for name in names if name not in usual)]
        tasks, seeds = {result.task for result in own}, 1 + max(result.model.seed for result in own)
        options = {
            "--tasks": None
            if tasks == set(suite.tasks)
            else ",".join(task for task in suite.tasks if task in tasks),
            "--limit": limit,
            "--seeds": None if seeds == suite.seeds else seeds,
            "--dtype": None if dtype == suite.dtype or engine == "api" else dtype,
            "--url": own[0].provenance.hardware.get("server", "URL") if engine == "api" else None,
            "--data": run.data,
        }
        words = [
            word
            for option, value in options.items()
            if value is not None
            for word in (option, str(value))
        ]
        words += _folder_options(run)
        if (names, words, engine) != (["all"], [], "hf") or len(groups) > 1:
            chosen = ["--suite", suite.name, "--models", ",".join(names), "--engine", engine]
            commands.append(shlex.join(["lep-bench", "run", *chosen, *words]))
    return tuple(commands)


def _name_for_option(model: ModelRecord) -> str:
    """As --models takes it: a folder below the working folder by its relative path."""
    if model.stage != "local":
        return model.name
    folder = Path(model.lineage[0])
    if folder.is_absolute() and folder.is_relative_to(Path.cwd()):
        return f"./{folder.relative_to(Path.cwd())}"
    return model.lineage[0]


def _folder_options(run: ScoredRun) -> list[str]:
    shipped = files.shipped_folder("configs")
    options = [("--configs", folder) for folder in run.configs.folders if folder != shipped]
    options += [("--adapters", folder) for folder in run.adapter_folders]
    # lm-eval's own folders follow from the suite
    own = [folder for folder in run.task_folders if "lm_eval" not in folder.parts]
    options += [("--tasks-dir", folder) for folder in own]
    return [word for option, folder in options for word in (option, str(folder))]


@dataclass(frozen=True)
class Destination:
    """Where to publish: `board` is the leaderboard's folder below `folder`; `repo` the Hub
    repository that the folder is meant for.
    """

    folder: Path
    board: str
    repo: str | None = None

    @classmethod
    def parse(cls, to: str | None, suite: str, out: Path, upload: bool = False) -> Destination:
        """The value of --to. ORGANISATION/NAME is a Hub repository unless there is such a folder,
        or one that it could be made in and nothing to upload.
        """
        if to is None:
            return cls(files.shipped_folder("leaderboards") / suite, "")
        if not to.strip():
            raise LepBenchError("--to is empty: give a folder, or ORGANISATION/NAME of the Hub")
        path = Path(to).expanduser()
        is_repo = not path.exists() and (upload or not path.parent.exists())
        if is_repo and to[0] not in "./~" and bundle.HUB_ID.fullmatch(to):
            return cls(out / suite / "publish", LEADERBOARD, to)
        return cls(path, LEADERBOARD)

    def check(self) -> None:
        """Raise LepBenchError where nothing can be written."""
        parents = (self.folder, *self.folder.absolute().parents)
        existing = next(p for p in parents if p.exists())
        if not existing.is_dir():
            raise LepBenchError(
                f"--to {self.folder}: {existing} is a file, a folder is needed: choose another name"
            )
        if not os.access(existing, os.W_OK):
            raise LepBenchError(
                f"--to {self.folder}: {existing} is not writable: choose another folder or change "
                "its permissions"
            )

    def find_card_folder(self, lineages: Mapping[str, cards.Lineage]) -> str:
        """The part of the folder that a model's repository takes: its one card. Raises
        LepBenchError for another number of cards.
        """
        if self.repo is None or len(lineages) != 1:
            what = (
                f"these are {len(lineages)} cards: name one model with --models"
                if self.repo
                else "give it with --to ORGANISATION/NAME"
            )
            raise LepBenchError(f"--repo-type model: a model's repository takes one card; {what}")
        return f"{MODELS}/{next(iter(lineages))}/"


@dataclass(frozen=True)
class CardSelection:
    """Which models get a record, and the lineages of those that get a card. `missing`: without
    card, since their lep.json is not in --out; `unknown_licences`: ancestors whose licence nobody
    names.
    """

    recorded: Sequence[str] = ()
    lineages: Mapping[str, cards.Lineage] = field(default_factory=dict)
    missing: Sequence[str] = ()
    unknown_licences: Sequence[str] = ()


def list_scored_models(results: Sequence[TaskResult]) -> dict[str, TaskResult]:
    """The first training seed's result of each scored model: its lineage is the one that is
    told.
    """
    first: dict[str, TaskResult] = {}
    for result in sorted((r for r in results if r.status == "ok"), key=lambda r: r.model.seed):
        first.setdefault(result.model.name, result)
    return first


def select_cards(run: ScoredRun, names: Sequence[str], explicit: bool) -> CardSelection:
    """Cards and records for these scored models. `explicit`: the user named them, so models that
    are only initialised or donors get a card, too.
    """
    results = list_scored_models(run.results)
    families = map(run.configs.family, widen_suite(run.suite, names, run.configs).families)
    licences = {
        location: family.licence
        for family in families
        for location in (family.base, family.instruct)
    }
    lineages: dict[str, cards.Lineage] = {}
    missing = []
    for name in names:
        model = results[name].model
        wanted = cards.is_adapted(model) if explicit else model.propagation or model.tuning
        if model.stage == "local" or wanted:
            lineage = cards.trace_lineage(results[name], run.store, licences)
            if lineage is not None:
                lineages[name] = lineage
            elif model.stage != "local":
                missing.append(name)
    ancestors = [a for lineage in lineages.values() for a in lineage.ancestors]
    unknown = sorted({a.place or a.name for a in ancestors if not a.licence})
    return CardSelection(names, lineages, missing, unknown)


def make_edition(
    run: ScoredRun, table: Table, selection: CardSelection, organisation: str
) -> Edition:
    """What is published beside the leaderboard."""
    controls = {row.model: row.control for row in table.rows}
    usual = f"lep-bench run --suite {run.suite.name} --models all"

    def list_commands(name: str) -> Sequence[str]:
        own = [r for r in run.results if r.model.name in (name, controls.get(name))]
        return reproduce_commands(run, own) or (usual,)

    return Edition(
        table,
        [r for r in run.results if r.model.name in selection.recorded],
        selection.lineages,
        selection.recorded,
        {task.name: task for task in select_tasks(run.suite.tasks, run.task_folders)},
        cache(list_commands),
        organisation,
    )


def release_run(
    run: ScoredRun,
    destination: Destination | None = None,
    selection: CardSelection | None = None,
    organisation: str = "",
    *,
    dry_run: bool = False,
    built: Board | None = None,
) -> dict[str, int]:
    """Make the leaderboard of a run, and the cards and records of a selection, in a temporary
    folder; then move it all into its place (default: leaderboards/SUITE). Returns the files, by
    path below it, with their bytes.

    `built` holds pages that were computed already; they are used where they show the same results.
    """
    to = destination or Destination.parse(None, run.suite.name, run.store.root)
    if built is None or len(built.run.results) != len(run.results):
        built = None
    with TemporaryDirectory(prefix="lep-bench-") as name:
        work = Path(name)
        folder = begin_edition(work, to.folder, to.board)
        snapshot = built.snapshot if built else run.make_snapshot()
        table = publish.write_pages(
            folder, snapshot, run.make_curves(), built.table if built else None
        )
        if changed := publish.list_changed(table):
            raise LepBenchError(f"nothing was published: {changed[0]}")
        if to.board and selection is not None:
            edition = make_edition(run, table, selection, organisation)
            for path, text in edition.files(to.folder).items():
                put_file(work, path, text)
        sizes = {
            p.relative_to(work).as_posix(): p.stat().st_size
            for p in sorted(work.rglob("*"))
            if p.is_file()
        }
        if dry_run:
            return sizes
        install_edition(work, to.folder, to.board)
    if not to.board and run.suite.name == "mini":
        publish.refresh_excerpt(to.folder.parent.parent / "README.md", to.folder)
    return sizes


@dataclass(frozen=True)
class Edition:
    """What is published of a suite beside its leaderboard: a card for each model of `lineages`, a
    record for each of `recorded`.
    """

    table: Table
    results: Sequence[TaskResult]
    lineages: Mapping[str, cards.Lineage]
    recorded: Sequence[str]
    tasks: cards.Tasks
    commands: Callable[[str], Sequence[str]]  # that reproduce a model and its control
    organisation: str

    def files(self, folder: Path) -> dict[str, str]:
        """Path below `folder` -> text; own prose and front matter in its cards stay. Raises
        LepBenchError for a page without markers.
        """
        found: dict[str, str] = {}
        own: dict[str, list[TaskResult]] = {}
        for result in self.results:
            own.setdefault(result.model.name, []).append(result)
        for name in self.recorded:
            for block, row in cards.list_rows(self.table, name):
                record = cards.render_record(
                    self.table,
                    block,
                    row,
                    self.tasks,
                    own[name],
                    self.commands(name)[0],
                    self.organisation,
                )
                found |= {f"{RECORDS}/{record[0]}": record[1]} if record else {}
        for name, made in self.lineages.items():
            newest = max(own[name], key=lambda r: r.provenance.created)
            place = f"{MODELS}/{name}"
            existing = publish.read_existing(folder / place / publish.PAGE)
            found[f"{place}/{publish.PAGE}"] = cards.render_card(
                self.table, newest, made, self.tasks, self.commands(name), existing
            )
            for block, row in cards.list_rows(self.table, name)[:1]:
                day = cards.find_newest_time(own[name]).date().isoformat()
                entries = cards.render_eval_results(self.table, block, row, self.tasks, day)
                found |= {f"{place}/.eval_results/{file}": text for file, text in entries.items()}
        found[publish.PAGE] = self._index(publish.read_existing(folder / publish.PAGE))
        return found

    def _index(self, existing: str | None) -> str:
        """The page of the whole folder, which is a data set where it is uploaded."""
        lines = [f"> **{page.escape_markdown(self.table.note)}**", ""] if self.table.note else []
        lines += [
            (
                f"- [Leaderboard]({LEADERBOARD}/{publish.PAGE}): tables, pictures, item scores (["
                f"{publish.RESULTS}]({LEADERBOARD}/{publish.RESULTS}))"
            )
        ]
        lines += [
            f"- [{page.escape_markdown(name)}]({MODELS}/{name}/{publish.PAGE}): model card"
            for name in self.lineages
        ]
        lines += (
            [
                (
                    f"- `{RECORDS}`: the same results in the form of Every Eval Ever "
                    f"{cards.EVERY_EVAL_EVER}"
                )
            ]
            if self.recorded
            else []
        )
        matter = {
            "pretty_name": f"{self.table.title}: leaderboard",
            "language": list(cards.LANGUAGES),
            "tags": ["lep-bench", "leaderboard"],
            "configs": [{"config_name": "table", "data_files": f"{LEADERBOARD}/{publish.TABLE}"}],
        }
        return cards.write_card(matter, self.table.title, "\n".join(lines) + "\n", existing)


def begin_edition(work: Path, folder: Path, board: str) -> Path:
    """The leaderboard's folder below `work`, with what `folder` has of it: prose stays, pictures
    that are right are not drawn again.

    Files of the user's own are left where they are: what is in `work` may be uploaded. Raises
    LepBenchError where the page has no markers."""
    here, made = folder / board, work / board
    publish.read_existing(here / publish.PAGE)
    made.mkdir(parents=True, exist_ok=True)
    for file in (
        here / publish.PAGE,
        here / plots.CURVES_FILE,
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
            write_bytes(there, file.read_bytes())
    for old in (folder / board / plots.FOLDER).glob("*"):
        if not (work / board / plots.FOLDER / old.name).exists():
            old.unlink()


def put_file(work: Path, path: str, text: str) -> None:
    """Write a page below `work`. Raises LepBenchError for a path that would leave it."""
    file = bundle.join_relative(work, path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def read_token() -> str:
    """The user's token for the Hub. Raises LepBenchError where there is none or the network is not
    to be touched.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise LepBenchError(
            "--upload needs the network, and HF_HUB_OFFLINE says not to touch it: unset it, "
            "or leave --upload out"
        )
    found = get_token()
    if not found:
        raise LepBenchError(
            "--upload: no Hub token: run `hf auth login`, or set HF_TOKEN to one with write "
            "access; nothing was written"
        )
    return found


def upload_files(
    folder: Path,
    files: Sequence[str],
    repo: str,
    repo_type: Literal["dataset", "model"],
    key: str,
    public: bool,
) -> str:
    """Upload these files of a folder as one commit, to a repository that is made (private unless
    `public`) where there is none; its address.

    Raises LepBenchError in one line for what the Hub refuses and where it cannot be reached; the
    folder stays as it is.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api, kept = HfApi(token=key), f"{folder} is whole: mend that and run the same command again"
    try:
        made = api.create_repo(repo, repo_type=repo_type, private=not public, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=made.repo_id,
            repo_type=repo_type,
            allow_patterns=list(files),
            commit_message="Published by lep-bench",
        )
    except HFValidationError as error:
        raise LepBenchError(f"--to {repo}: {str(error).splitlines()[0]}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        why = (
            "refuses the token: it must be valid and may write there"
            if status in (401, 403)
            else f"answered {status} ({explain_error(error)})"
        )
        raise LepBenchError(f"{repo}: the Hub {why}. {kept}") from error
    except Exception as error:
        # ValueError: an answer that is not the Hub's.
        if not isinstance(error, OSError | ValueError) and not hub.is_network_error(error):
            raise
        raise LepBenchError(
            f"{repo}: cannot reach the Hugging Face Hub ({explain_error(error)}). {kept}"
        ) from error
    return str(made)
