"""`lep-bench doctor --offline`: whether a suite can be run on this machine, now, without a network."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lep_bench import bundle
from lep_bench.errors import CheckpointError, LepBenchError

if TYPE_CHECKING:
    from lep_bench.cli.doctor import Finding
    from lep_bench.cli.setup import Setup

WORD, LEMMA = "словарями", "словарь"
Folders = Sequence[Path] | None


def check(suites: Sequence[str], data: Path | None, configs: Folders, adapters: Folders, tasks_dir: Folders) -> Iterator[Finding]:
    """Everything that a run of the suites reads is looked at without the network; last the command, where nothing is missing.

    Raises LepBenchError for unknown names.
    """
    from lep_bench.cli.doctor import Finding

    missing = False
    for finding in looked_at(suites, data, configs, adapters, tasks_dir):
        missing |= finding.level == "error"
        yield finding
    if not missing:
        yield Finding("ok", "to run", " ".join(["lep-bench run --suite", ",".join(suites), *(["--data", str(data)] if data else []), "--offline"]))


def looked_at(suites: Sequence[str], data: Path | None, configs: Folders, adapters: Folders, tasks_dir: Folders) -> Iterator[Finding]:
    """One finding for the bundle, for each task, each checkpoint, the dictionaries and the packages."""
    from lep_bench.cli.setup import Setup

    bundle.use(data, offline=True)  # before anything is imported that reads the environment once
    to_make = bundle.command(suites, data or "DIR")
    if data is not None:
        yield from stored(data)
    for name in suites:
        given = Setup.read(name, Path("no-results"), configs, adapters, tasks_dir)
        yield from rows(given, to_make)
        yield from checkpoints(given, f"{to_make} --models")
    yield dictionaries(to_make)
    wheels = data / bundle.WHEELS if data is not None else None
    yield packages(wheels if wheels is not None and wheels.is_dir() else None)


def stored(root: Path) -> Iterator[Finding]:
    """The bundle against its manifest, every file by size and hash."""
    from lep_bench.cli.doctor import Finding

    held = bundle.read(root)
    if held is None:
        yield Finding("note", "bundle", f"{root} has no {bundle.MANIFEST}: nothing proves its files", f"{bundle.command((), root)} --data {root}")
        return
    wrong = [(line, entry) for entry in held.entries for line in bundle.wrong(root, entry)]
    for line, entry in wrong:
        yield Finding("error", "bundle", line, bundle.again(held, root, entry))
    if not wrong:
        count = sum(len(entry.files) for entry in held.entries)
        yield Finding("ok", "bundle", f"{root}: {len(held.entries)} entries, {count} files as stored {held.created} for {', '.join(held.suites)}")


def rows(given: Setup, to_make: str) -> Iterator[Finding]:
    """The rows of every task, read with all that the task needs of them."""
    from lep_bench import taskfiles
    from lep_bench.cli.bundle import metadata
    from lep_bench.cli.doctor import Finding
    from lep_bench.evaluate import needs

    known = taskfiles.scan(given.task_folders)
    for name in given.suite.tasks:
        try:
            count = needs.rows(known.get(name), known.folders, metadata(given.suite))
            yield Finding("ok", name, f"{count} rows")
        except LepBenchError as error:
            yield Finding("error", name, str(error), to_make)


def checkpoints(given: Setup, to_make: str) -> Iterator[Finding]:
    """The checkpoints that `run --models all` reads: all shards there, whole, with a tokenizer."""
    from lep_bench import sources
    from lep_bench.cli import checkpoints as read
    from lep_bench.cli.doctor import Finding

    built_in = 0
    for reference, c in read.of_plan(given.plan(["all"]), given.checkpoints()).items():
        if c.location.startswith(sources.BUILTIN):
            built_in += 1
            continue
        try:
            folder = sources.here(c.location, c.revision) or sources.cached(c.location, c.revision)
            if folder is None:
                raise CheckpointError(f"{c.location} at {c.revision or 'its newest revision'} is not here")
            sources.check(folder)
            yield Finding("ok", c.model or reference, str(folder))
        except CheckpointError as error:
            yield Finding("error", c.model or reference, str(error), to_make)
    if built_in:
        yield Finding("ok", "models", f"{built_in} built-in checkpoints")


def dictionaries(to_make: str) -> Finding:
    """Whether the lemmatiser knows a word."""
    from lep_bench.cli.doctor import Finding

    try:
        import pymorphy3

        found = pymorphy3.MorphAnalyzer().parse(WORD)[0].normal_form
        version = importlib.metadata.version("pymorphy3")
    except Exception as error:  # somebody else's package: whatever it raises is the finding
        advice = f"pip install pymorphy3, or {to_make}"
        return Finding("error", "lemmas", f"pymorphy3 or its dictionaries do not load: {type(error).__name__}: {error}", advice)
    if found != LEMMA:
        return Finding("error", "lemmas", f"the lemma of {WORD!r} is {found!r}, not {LEMMA!r}: the dictionaries are not the Russian ones", to_make)
    return Finding("ok", "lemmas", f"pymorphy3 {version}, dictionaries {_place()}")


def _place() -> str:
    return os.environ.get(bundle.DICTIONARIES) or "of the installed package"


def packages(wheels: Path | None) -> Finding:
    """Whether everything that lep-bench requires is installed."""
    from lep_bench.bundling import requirements
    from lep_bench.cli.doctor import INSTALL, Finding

    names = [re.split(r"[<>=!~\[; (]", need)[0] for need in requirements()]
    missing = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    advice = f"pip install --no-index --find-links {wheels} lep-bench" if wheels else INSTALL
    if missing:
        return Finding("error", "packages", f"not installed: {', '.join(missing)}", advice)
    return Finding("ok", "packages", f"all {len(names)} that lep-bench requires are installed")
