"""`lep-bench doctor --offline`: whether a suite can be run on this machine, now, without a
network.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lep_bench import bundle
from lep_bench.errors import CheckpointError, LepBenchError, count_noun

if TYPE_CHECKING:
    from lep_bench.cli.doctor import Diagnosis
    from lep_bench.config.models import NamedCheckpoint
    from lep_bench.pipeline.session import Session
    from lep_bench.tasks import TaskFile


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
    """Everything that `run --suite ... --models ...` reads is looked at without the network; last
    the command for what is all there.

    Raises LepBenchError for unknown names.
    """
    from lep_bench.cli.doctor import Diagnosis
    from lep_bench.pipeline.session import Session

    bundle.use_data_folder(
        data, offline=True
    )  # before anything is imported that reads the environment once
    # Into a folder that somebody filled by hand no bundle is made: what stands there would be taken
    # for what was meant.
    to_make = bundle.render_command(
        suites, data if data is not None and bundle.read_manifest(data) is not None else "DIR"
    )
    wheels = data / bundle.WHEELS if data is not None else None
    found = list(stored(data, to_make)) if data is not None else []
    found += [
        dictionaries(to_make),
        packages(wheels if wheels is not None and wheels.is_dir() else None),
    ]
    yield from found
    able = all(finding.level != "error" for finding in found)
    for name in suites:
        given = Session.read(name, Path("no-results"), configs, adapters, tasks_dir)
        own = [
            ("--data", (data,) if data else ()),
            ("--configs", configs),
            ("--adapters", adapters),
            ("--tasks-dir", tasks_dir),
        ]
        options = [f"{option} {folder}" for option, folders in own for folder in folders or ()]
        command = " ".join(["lep-bench run --suite", name, *options, "--offline"])
        read = list(rows(given, to_make))
        yield from read
        asked = all(finding.level != "error" for finding in read)
        instead = (
            ""
            if models != ["all"]
            else "; for a model of your own instead: this doctor command with --models PATH"
        )
        held = list(checkpoints(given, models, f"{to_make} --models{instead}"))
        yield from held
        if able and asked:
            whole = all(finding.level != "error" for finding in held)
            chosen = (
                ""
                if models == ["all"] and whole
                else f" --models {','.join(models) if whole else 'PATH'}"
            )
            text = (
                f"{name}: all is there" if whole else f"{name}: all but the suite's models is there"
            )
            yield Diagnosis("ok", "to run", text, command + chosen)


def stored(root: Path, to_make: str) -> Iterator[Diagnosis]:
    """The bundle against its manifest, every file by size and hash."""
    from lep_bench.cli.doctor import Diagnosis

    held = bundle.read_manifest(root)
    if held is None:
        yield Diagnosis(
            "note",
            "bundle",
            f"{root} has no {bundle.MANIFEST}: nothing proves that its rows are unchanged, "
            "or all of them",
            to_make,
        )
        return
    wrong = [(line, entry) for entry in held.entries for line in bundle.find_faults(root, entry)]
    for line, entry in wrong:
        yield Diagnosis("error", "bundle", line, bundle.render_remedy(held, root, entry))
    count, of = sum(len(entry.files) for entry in held.entries), ", ".join(held.suites)
    if not wrong:
        yield Diagnosis(
            "ok", "bundle", f"{root}: {count} files as they were stored {held.created} for {of}"
        )
    copies = [
        entry.id
        for entry in held.entries
        if entry.kind in ("dataset", "model") and entry.commit is None
    ]
    if copies:
        advice = (
            f"with a network and without --data: {bundle.render_command(held.suites, 'NEW-DIR')}"
        )
        yield Diagnosis(
            "note",
            "bundle",
            f"copied from a local folder, so nothing proves their revision: {', '.join(copies)}",
            advice,
        )


def rows(given: Session, to_make: str) -> Iterator[Diagnosis]:
    """The rows of every task, read with all that the task needs of them: one finding for each
    dataset, then whether all are there.
    """
    from lep_bench.cli.doctor import Diagnosis
    from lep_bench.tasks import scan_tasks

    known = scan_tasks(given.task_folders)
    groups: dict[str, list[TaskFile]] = {}
    for task in map(known.get, given.suite.tasks):
        name = task.dataset[0] if task.dataset else ""
        groups.setdefault(name if bundle.HUB_ID.fullmatch(name) else OWN_ROWS, []).append(task)
    lacking = copies = 0
    for name, tasks in groups.items():
        finding, count = dataset(name, tasks, known.folders, given, to_make)
        lacking, copies = lacking + count, copies + (finding.level == "note")
        yield finding
    total = len(given.suite.tasks)
    if lacking:
        yield Diagnosis(
            "error",
            "rows",
            f"not complete: {lacking} of {count_noun(total, 'task')} of {given.suite.name} cannot "
            "be asked",
            to_make,
        )
    else:
        doubt = f"; {copies} of {len(groups)} data sets are unproven copies" if copies else ""
        yield Diagnosis(
            "ok", "rows", f"complete for {count_noun(total, 'task')} of {given.suite.name}{doubt}"
        )


def dataset(
    name: str, tasks: Sequence[TaskFile], folders: Sequence[Path], given: Session, to_make: str
) -> tuple[Diagnosis, int]:
    """The finding for the tasks that read one dataset, and how many of them have no rows."""
    from lep_bench.cli.bundle import metadata
    from lep_bench.cli.doctor import Diagnosis
    from lep_bench.evaluate.rows import count_rows

    count, wrong = 0, dict[str, str]()
    for task in tasks:
        try:
            count += count_rows(task, folders, metadata(given.suite))
        except LepBenchError as error:
            wrong[task.name] = str(error)
    if wrong:
        first, why = next(iter(wrong.items()))
        text = (
            f"{', '.join(wrong)}: "
            f"{why.removeprefix(f'{first}: ').removeprefix('its rows cannot be read: ')}"
        )
        return Diagnosis("error", name, text, to_make), len(wrong)
    text, root = f"{count:,} rows of {count_noun(len(tasks), 'task')}", bundle.data_folder()
    if root is None or name == OWN_ROWS or bundle.is_proven(name, tasks[0].revision):
        return Diagnosis("ok", name, text), 0
    if bundle.locate_dataset(name) is None and bundle.read_manifest(root) is not None:
        return Diagnosis("ok", name, f"{text}, from the Hub's cache"), 0
    return Diagnosis("note", name, f"{text}; a copy, nothing proves its revision"), 0


def checkpoints(given: Session, models: Sequence[str], to_make: str) -> Iterator[Diagnosis]:
    """The checkpoints that `run --models ...` reads: all shards there, whole, with a tokenizer."""
    from lep_bench.cli.doctor import Diagnosis
    from lep_bench.hub import BUILTIN
    from lep_bench.pipeline.checkpoints import list_read

    try:
        plan = given.plan(models)
    except (
        CheckpointError
    ) as error:  # a folder that is no checkpoint: its fingerprint is part of the plan
        yield Diagnosis("error", "models", str(error))
        return
    found = list_read(plan, given.checkpoints(models))
    built_in = sum(c.location.startswith(BUILTIN) for c in found.values())
    if built_in:
        yield Diagnosis("ok", "models", f"{count_noun(built_in, 'built-in checkpoint')}")
    yield from (
        checkpoint(c, to_make) for c in found.values() if not c.location.startswith(BUILTIN)
    )


def checkpoint(c: NamedCheckpoint, to_make: str) -> Diagnosis:
    """The finding for one checkpoint."""
    from lep_bench import hub
    from lep_bench.cli.doctor import Diagnosis

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
                to_make,
            )
        hub.check_complete(folder)
    except CheckpointError as error:
        return Diagnosis("error", name, str(error), to_make)
    if held and not held[1]:
        return Diagnosis("note", name, f"{folder}: a copy, nothing proves its revision")
    return Diagnosis("ok", name, str(folder))


def dictionaries(to_make: str) -> Diagnosis:
    """Whether the lemmatiser knows a word."""
    from lep_bench.cli.doctor import Diagnosis

    try:
        import pymorphy3

        found = pymorphy3.MorphAnalyzer().parse(WORD)[0].normal_form
        version = importlib.metadata.version("pymorphy3")
    except Exception as error:  # somebody else's package: whatever it raises is the finding
        advice = f"pip install pymorphy3, or {to_make}"
        return Diagnosis(
            "error",
            "lemmas",
            f"pymorphy3 or its dictionaries do not load: {type(error).__name__}: {error}",
            advice,
        )
    if found != LEMMA:
        return Diagnosis(
            "error",
            "lemmas",
            f"the lemma of {WORD!r} is {found!r}, not {LEMMA!r}: the dictionaries are not "
            "the Russian ones",
            to_make,
        )
    return Diagnosis("ok", "lemmas", f"pymorphy3 {version}, dictionaries {_place()}")


def _place() -> str:
    return os.environ.get(bundle.DICTIONARIES) or "of the installed package"


def packages(wheels: Path | None) -> Diagnosis:
    """Whether everything that lep-bench requires is installed."""
    from lep_bench.bundling import requirements
    from lep_bench.cli.doctor import INSTALL, Diagnosis

    names = [re.split(r"[<>=!~\[; (]", need)[0] for need in requirements()]
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
