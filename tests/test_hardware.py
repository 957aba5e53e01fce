"""What a run finds on a machine, and the engine that it takes. No GPU is needed: what is found is a
value.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lep_bench import files as files_module
from lep_bench.config.load import Configs
from lep_bench.errors import ConfigError, LepBenchError, UnknownNameError
from lep_bench.pipeline import hardware
from lep_bench.pipeline.hardware import Vllm, choose_engine, gpu_is_hinted, list_visible_gpus

GPU_VLLM, CPU_VLLM, NONE = (
    Vllm("0.26.0"),
    Vllm("0.32.0", cpu=True),
    Vllm(missing="vLLM is not installed"),
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with that many GPUs, that vLLM and that many cores."""

    def make(gpus: int, vllm: Vllm = NONE, cores: int = 16) -> None:
        monkeypatch.setattr(hardware, "list_gpus", lambda: tuple(map(str, range(gpus))))
        monkeypatch.setattr(
            hardware, "query_nvidia", lambda: ["NVIDIA H200, 143771 MiB, 570.1"] * gpus
        )
        monkeypatch.setattr(Vllm, "find", classmethod(lambda cls: vllm))
        monkeypatch.setattr(files_module, "count_cores", lambda: cores)

    return make


@pytest.mark.parametrize(
    ("files", "environment", "there"),
    [
        ([], {}, False),
        (["null", "nvidiactl", "nvidia-uvm", "kvm"], {}, False),
        (["null", "nvidia3", "nvidiactl"], {}, True),
        (["kfd"], {}, True),
        (["dxg"], {}, True),
        (["nvidia0"], {"CUDA_VISIBLE_DEVICES": ""}, False),
        (["nvidia0"], {"CUDA_VISIBLE_DEVICES": "-1"}, False),
        (["nvidia0"], {"CUDA_VISIBLE_DEVICES": "0"}, True),
        ([], {"CUDA_VISIBLE_DEVICES": "0"}, False),
    ],
)
def test_a_gpu_is_expected_where_a_device_file_is_and_none_hides_it(
    tmp_path, files, environment, there
):
    for name in files:
        (tmp_path / name).touch()
    assert gpu_is_hinted(environment, tmp_path) is there
    assert gpu_is_hinted(environment, tmp_path / "no-dev") is False


def test_visible_devices_are_read_as_cuda_reads_them():
    assert list_visible_gpus({}) is None
    assert list_visible_gpus({"CUDA_VISIBLE_DEVICES": "2, 0"}) == ("2", "0")
    assert list_visible_gpus({"CUDA_VISIBLE_DEVICES": "1,-1,2"}) == ("1",)
    assert list_visible_gpus({"CUDA_VISIBLE_DEVICES": "MIG-a,GPU-b"}) == ("MIG-a", "GPU-b")
    assert list_visible_gpus({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}) == ()


@pytest.mark.skipif(gpu_is_hinted(os.environ), reason="a GPU may be here")
def test_without_a_gpu_torch_is_not_imported():
    script = (
        "import sys; from lep_bench.pipeline import hardware; from lep_bench.config.load "
        "import Configs\n"
        "print(hardware.resolve_hardware(Configs.of())); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("engine hf: no GPU here; ")


@pytest.mark.parametrize(
    ("asked", "gpus", "vllm", "engine", "says"),
    [
        ("auto", 0, NONE, "hf", "no GPU here"),
        ("auto", 0, CPU_VLLM, "hf", "no GPU here"),
        ("auto", 1, GPU_VLLM, "vllm", "version 0.26.0 on NVIDIA H200"),
        ("auto", 1, NONE, "hf", "on NVIDIA H200; vLLM is not installed"),
        ("auto", 1, CPU_VLLM, "hf", "built for processors"),
        ("hf", 1, GPU_VLLM, "hf", "on NVIDIA H200"),
        ("vllm", 0, CPU_VLLM, "vllm", "version 0.32.0 on the processor (no GPU here)"),
        ("api", 0, NONE, "api", "a server answers"),
    ],
)
def test_auto_is_vllm_where_a_gpu_and_a_vllm_for_it_are(asked, gpus, vllm, engine, says):
    chosen, why = choose_engine(asked, gpus, "NVIDIA H200" if gpus else "no GPU here", vllm)
    assert chosen == engine and says in why


@pytest.mark.parametrize(
    ("gpus", "vllm", "says"),
    [
        (0, NONE, "vLLM is not installed"),
        (0, GPU_VLLM, "built for GPUs"),
        (1, CPU_VLLM, "built for processors"),
    ],
)
def test_a_vllm_that_cannot_work_here_is_refused_before_anything_is_built(gpus, vllm, says):
    with pytest.raises(LepBenchError, match=says):
        choose_engine("vllm", gpus, "a GPU" if gpus else "no GPU here", vllm)


def test_one_worker_per_gpu_and_each_sees_its_own(machine):
    machine(gpus=4, vllm=GPU_VLLM)
    found = hardware.resolve_hardware(Configs.of())
    assert (found.name, found.engine, found.device, found.workers, found.threads) == (
        "gpus",
        "vllm",
        "cuda",
        4,
        4,
    )
    assert [found.seen_by(n) for n in range(4)] == [("0",), ("1",), ("2",), ("3",)]
    assert str(found) == "engine vllm: version 0.26.0 on 4 x NVIDIA H200; 4 workers, 4 threads each"
    one = hardware.resolve_hardware(Configs.of(), "gpu", engine="hf")
    assert (one.engine, one.workers, one.threads, one.seen_by(0)) == ("hf", 1, 16, ("0",))
    assert hardware.resolve_hardware(Configs.of(), "cpu").record() == {
        "workers": 8,
        "threads": 2,
        "config": "cpu",
    }
    assert hardware.resolve_hardware(Configs.of(), "cpu").seen_by(7) == ()


def test_gpus_that_share_a_model_go_to_one_worker(machine, tmp_path):
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware/pairs.yaml").write_text("device: cuda\ntensor_parallel: 2\nmemory: 0.6\n")
    machine(gpus=5, vllm=GPU_VLLM)
    found = hardware.resolve_hardware(Configs.of([tmp_path]), "pairs")
    assert found.gpus == (("0", "1"), ("2", "3")) and found.memory == 0.6
    assert found.record() == {
        "workers": 2,
        "threads": 8,
        "config": "pairs",
        "gpus": 2,
        "memory": 0.6,
    }
    with pytest.raises(
        LepBenchError, match="3 workers with 2 GPUs each are asked for and 5 are here"
    ):
        hardware.resolve_hardware(Configs.of([tmp_path]), "pairs", workers=3)
    with pytest.raises(LepBenchError, match="tensor_parallel 2 is for engine vllm"):
        hardware.resolve_hardware(Configs.of([tmp_path]), "pairs", engine="hf")


def test_bad_hardware_is_one_clear_line(machine, tmp_path):
    machine(gpus=0)
    with pytest.raises(
        LepBenchError, match="hardware gpu asks for a GPU and none is here .*--hardware cpu"
    ):
        hardware.resolve_hardware(Configs.of(), "gpu")
    with pytest.raises(UnknownNameError, match="unknown hardware 'tpu'.*gpu"):
        hardware.resolve_hardware(Configs.of(), "tpu")
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware/mine.yaml").write_text("device: cpu\nthread: 3\n")
    with pytest.raises(ConfigError, match=r"mine.yaml:2: thread: .*did you mean threads"):
        hardware.resolve_hardware(Configs.of([tmp_path]), "mine")


def test_a_vllm_engine_and_a_server_get_one_worker(machine):
    machine(gpus=0, vllm=CPU_VLLM)
    assert [
        hardware.resolve_hardware(Configs.of(), engine=engine).workers
        for engine in ("vllm", "api", "hf")
    ] == [1, 1, 8]
    assert hardware.resolve_hardware(Configs.of(), engine="vllm", workers=2).workers == 2


def test_what_is_installed_is_read_from_metadata(monkeypatch, tmp_path):
    def install(package: str, number: str) -> Vllm:
        folder = tmp_path / f"{package}-{number}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: {number}\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        return Vllm.find()

    assert install("vllm", "0.27.1") == Vllm("0.27.1")
    (tmp_path / "vllm-0.27.1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm\nVersion: 0.27.1+cpu\n"
    )
    assert Vllm.find() == Vllm("0.27.1+cpu", cpu=True)
    (tmp_path / "vllm-0.27.1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm\nVersion: 0.9.0\n"
    )
    assert "vllm 0.9.0 is installed, engine vllm needs" in Vllm.find().missing


def test_every_shipped_hardware_parses():
    configs = Configs.of()
    assert configs.names("hardware") == ["cpu", "gpu", "gpus"]
    assert {name: configs.devices(name).device for name in configs.names("hardware")} == {
        "cpu": "cpu",
        "gpu": "cuda",
        "gpus": "cuda",
    }


def test_a_worker_sees_its_gpus_and_its_threads_before_torch_is_there(tmp_path: Path):
    """The real worker process, up to where a GPU would be needed: what its environment is when the
    first adapter is imported.
    """
    from multiprocessing import get_context

    from lep_bench.pipeline import worker
    from lep_bench.pipeline.hardware import Hardware
    from lep_bench.records.store import Store

    (tmp_path / "spy.py").write_text(
        "import os, pathlib, sys\n"
        "seen = [os.environ.get('CUDA_VISIBLE_DEVICES'), os.environ['OMP_NUM_THREADS'], "
        "str('torch' in sys.modules)]\n"
        f"pathlib.Path({str(tmp_path / 'seen')!r}).write_text(' '.join(map(str, seen)))\n"
        "from lep_bench.plugin import Params, vocabulary\n"
        "@vocabulary('spy')\n"
        "def spy(base, texts, params: Params):\n"
        "    'Nothing (test).'\n"
    )
    place = Hardware(2, 3, "vllm", "cuda", (("0", "1"), ("2", "GPU-x")))
    order = worker.Order("mini", Store(tmp_path / "out"), {}, Configs.of(), (tmp_path,), (), place)
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    far, near = context.Pipe(duplex=False)
    process = context.Process(target=worker.run_worker, args=(order, theirs, far, 1), daemon=True)
    process.start()
    theirs.close()
    ours.close()  # no orders: it leaves by itself
    process.join(timeout=60)
    near.close()
    assert process.exitcode == 0
    assert (tmp_path / "seen").read_text() == "2,GPU-x 3 False"
