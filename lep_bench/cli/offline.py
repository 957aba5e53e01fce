"""Check a bundle, and whether a suite can be run on this machine without a network: for
`lep-bench bundle --check` and `lep-bench doctor --offline`.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lep_bench import bundle
from lep_bench.cli.diagnosis import INSTALL, Diagnosis
from lep_bench.errors import CheckpointError, LepBenchError, count_noun

if TYPE_CHECKING:
    from lep_bench.config.models import NamedCheckpoint
    from lep_bench.pipeline.session import Session
    from lep_bench.tasks import TaskFile


# One inflected word and its lemma tell whether the Russian dictionaries are there.
WORD, LEMMA = "словарями", "словарь"
OWN_ROWS = "task folders"  # where the rows of a task stand that needs no dataset
Folders = Sequence[Path] | None


def check(
    suites: Sequence[str],
    data: Path | None,
    models: Sequence[str],
    configs: Folders,
    adapters: Folders,
    tasks_dir: Folders,
) -> Iterator[Diagnosis]:
    """Look at everything that `run --suite ... --models ...` reads, without the network. The last
    finding of a suite is the command that runs what is all there. No `models`: none is looked at.

    Raises LepBenchError for unknown names.
    """
    from lep_bench.pipeline.session import Session

    # First: some libraries read the environment once, when they are imported.
    bundle.use_data_folder(data, offline=True)
    # No bundle is made into a folder that somebody filled by hand: what stands there would be taken
    # for what was meant.
    has_manifest = data is not None and bundle.read_manifest(data) is not None
    remedy = bundle.render_command(suites, data if data and has_manifest else "DIR")
    wheels = data / bundle.WHEELS if data is not None else None
    general = list(check_manifest(data, remedy)) if data is not None else []
    general.append(check_lemmatiser(remedy))
    general.append(check_packages(wheels if wheels is not None and wheels.is_dir() else None))
    yield from general
    for name in suites:
        session = Session.read(name, Path("no-results"), configs, adapters, tasks_dir)
        rows = list(check_rows(session, remedy))
        yield from rows
        instead = (
            "; for a model of your own instead: this doctor command with --models PATH"
            if models == ["all"]
            else ""
        )
        held = list(check_checkpoints(session, models, f"{remedy} --models{instead}"))
        yield from held
        if any(finding.level == "error" for finding in (*general, *rows)):
            continue
        whole = bool(models) and all(finding.level != "error" for finding in held)
        repeated = {
            "--data": (data,) if data else (),
            "--configs": configs,
            "--adapters": adapters,
            "--tasks-dir": tasks_dir,
        }
        options = [
            f"{option} {folder}" for option, folders in repeated.items() for folder in folders or ()
        ]
        if not whole:
            options.append("--offline --models PATH")
        else:
            options.append(
                "--offline" if models == ["all"] else f"--offline --models {','.join(models)}"
            )
        yield Diagnosis(
            "ok",
            "to run",
            f"{name}: all is there" if whole else f"{name}: all but the suite's models is there",
            " ".join(["lep-bench run --suite", name, *options]),
        )


def check_manifest(root: Path, remedy: str) -> Iterator[Diagnosis]:
    """Compare every file of a bundle with its manifest, by size and hash."""

    held = bundle.read_manifest(root)
    if held is None:
        yield Diagnosis(
            "note",
            "bundle",
            f"{root} has no {bundle.MANIFEST}: nothing proves that its rows are unchanged, "
            "or all of them",
            remedy,
        )
        return
    faults = [(line, entry) for entry in held.entries for line in bundle.find_faults(root, entry)]
    for line, entry in faults:
        yield Diagnosis("error", "bundle", line, bundle.render_remedy(held, root, entry))
    if not faults:
        count = sum(len(entry.files) for entry in held.entries)
        yield Diagnosis(
            "ok",
            "bundle",
            f"{root}: {count_noun(count, 'file')} as stored {held.created} for "
            f"{', '.join(held.suites)}",
        )
    copies = [
        entry.id
        for entry in held.entries
        if entry.kind in ("dataset", "model") and entry.commit is None
    ]
    if copies:
        yield Diagnosis(
            "note",
            "bundle",
            f"copied from a local folder, so nothing proves their revision: {', '.join(copies)}",
            f"with a network and without --data: {bundle.render_command(held.suites, 'NEW-DIR')}",
        )


def check_rows(session: Session, remedy: str) -> Iterator[Diagnosis]:
    """The rows of every task, read with all that the task needs of them: one finding for each
    dataset, then whether all are there.
    """
    from lep_bench.tasks import scan_tasks

    known = scan_tasks(session.task_folders)
    groups: dict[str, list[TaskFile]] = {}
    for task in map(known.get, session.suite.tasks):
        name = task.dataset[0] if task.dataset else ""
        groups.setdefault(name if bundle.HUB_ID.fullmatch(name) else OWN_ROWS, []).append(task)
    lacking = copies = 0
    for name, tasks in groups.items():
        finding, count = check_dataset(name, tasks, known.folders, session, remedy)
        lacking, copies = lacking + count, copies + (finding.level == "note")
        yield finding
    total = len(session.suite.tasks)
    if lacking:
        yield Diagnosis(
            "error",
            "rows",
            f"not complete: {lacking} of {count_noun(total, 'task')} of {session.suite.name} cannot "
            "be asked",
            remedy,
        )
    else:
        doubt = f"; {copies} of {len(groups)} data sets are unproven copies" if copies else ""
        yield Diagnosis(
            "ok", "rows", f"complete for {count_noun(total, 'task')} of {session.suite.name}{doubt}"
        )


def check_dataset(
    name: str, tasks: Sequence[TaskFile], folders: Sequence[Path], session: Session, remedy: str
) -> tuple[Diagnosis, int]:
    """The finding for the tasks that read one dataset, and how many of them have no rows."""
    from lep_bench.evaluate.lmeval import build_metadata, count_rows

    count, faults = 0, dict[str, str]()
    for task in tasks:
        try:
            count += count_rows(task, folders, build_metadata(session.suite))
        except LepBenchError as error:
            faults[task.name] = str(error)
    if faults:
        first, why = next(iter(faults.items()))
        text = (
            f"{', '.join(faults)}: "
            f"{why.removeprefix(f'{first}: ').removeprefix('its rows cannot be read: ')}"
        )
        return Diagnosis("error", name, text, remedy), len(faults)
    text, root = f"{count:,} rows of {count_noun(len(tasks), 'task')}", bundle.data_folder()
    if root is None or name == OWN_ROWS or bundle.is_proven(name, tasks[0].revision):
        return Diagnosis("ok", name, text), 0
    if bundle.locate_dataset(name) is None and bundle.read_manifest(root) is not None:
        return Diagnosis("ok", name, f"{text}, from the Hub's cache"), 0
    return Diagnosis("note", name, f"{text}; a copy, nothing proves its revision"), 0


def check_checkpoints(session: Session, models: Sequence[str], remedy: str) -> Iterator[Diagnosis]:
    """The checkpoints that `run --models ...` reads: all shards there, whole, with a tokenizer."""
    if not models:
        return
    from lep_bench.hub import BUILTIN
    from lep_bench.pipeline.checkpoints import list_read

    try:
        plan = session.plan(models)
    except CheckpointError as error:
        # A folder that is no checkpoint: its fingerprint is part of the plan.
        yield Diagnosis("error", "models", str(error))
        return
    read = list_read(plan, session.checkpoints(models))
    built_in = sum(c.location.startswith(BUILTIN) for c in read.values())
    if built_in:
        yield Diagnosis("ok", "models", f"{count_noun(built_in, 'built-in checkpoint')}")
    yield from (
        check_checkpoint(c, remedy) for c in read.values() if not c.location.startswith(BUILTIN)
    )


def check_checkpoint(c: NamedCheckpoint, remedy: str) -> Diagnosis:
    """The finding for one checkpoint."""
    from lep_bench import hub

    name = c.model or "model"
    try:
        held = (
            bundle.locate_model(c.location, c.revision)
            if hub.find_local(c.location) is None
            else None
        )
        folder = held[0] if held else hub.find_cached(c.location, c.revision)
        if folder is None:
            return Diagnosis(
                "error",
                name,
                f"{c.location}{f' at {c.revision}' if c.revision else ''}: not here",
                remedy,
            )
        hub.check_complete(folder)
    except CheckpointError as error:
        return Diagnosis("error", name, str(error), remedy)
    if held and not held[1]:
        return Diagnosis("note", name, f"{folder}: a copy, nothing proves its revision")
    return Diagnosis("ok", name, str(folder))


def check_lemmatiser(remedy: str) -> Diagnosis:
    """Whether the lemmatiser knows a word."""

    try:
        import pymorphy3

        form = pymorphy3.MorphAnalyzer().parse(WORD)[0].normal_form
        version = importlib.metadata.version("pymorphy3")
    except Exception as error:  # somebody else's package: whatever it raises is the finding
        advice = f"pip install pymorphy3, or {remedy}"
        return Diagnosis(
            "error",
            "lemmas",
            f"pymorphy3 or its dictionaries do not load: {type(error).__name__}: {error}",
            advice,
        )
    if form != LEMMA:
        return Diagnosis(
            "error",
            "lemmas",
            f"the lemma of {WORD!r} is {form!r}, not {LEMMA!r}: the dictionaries are not "
            "the Russian ones",
            remedy,
        )
    return Diagnosis("ok", "lemmas", f"pymorphy3 {version}, dictionaries {_find_dictionaries()}")


def _find_dictionaries() -> str:
    return os.environ.get(bundle.DICTIONARY_PATH) or "of the installed package"


def check_packages(wheels: Path | None) -> Diagnosis:
    """Whether everything that lep-bench requires is installed."""
    from lep_bench.bundling import list_requirements

    names = [re.split(r"[<>=!~\[; (]", need)[0] for need in list_requirements()]
    missing = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    advice = f"pip install --no-index --find-links {wheels} lep-bench" if wheels else INSTALL
    if missing:
        return Diagnosis("error", "packages", f"not installed: {', '.join(missing)}", advice)
    return Diagnosis("ok", "packages", f"all {len(names)} that lep-bench requires are installed")
