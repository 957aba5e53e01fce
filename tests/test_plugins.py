"""Installed adapter packages: found through their entry point, listed, and unable to stop anything
when they are broken.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent / "plugin_example"


def install(source: Path, site: Path) -> None:
    """pip install SOURCE, as a user would, into a folder of its own; everything it builds with is
    installed here already.
    """
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    result = subprocess.run(
        [*command, "--target", str(site), str(source)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr


def lep_bench(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-m", "lep_bench", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the import path that holds the example, and a package whose module cannot be
    imported.
    """
    work = tmp_path_factory.mktemp("plugins")
    good, bad, site = work / "good", work / "bad", work / "site"
    shutil.copytree(EXAMPLE, good, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(good, bad)
    (bad / "lep_bench_shift").rename(bad / "lep_bench_broken")
    project = (bad / "pyproject.toml").read_text(encoding="utf-8")
    project = (
        project.replace("lep-bench-shift", "lep-bench-broken")
        .replace("lep_bench_shift", "lep_bench_broken")
        .replace("shift =", "broken =")
    )
    (bad / "pyproject.toml").write_text(project, encoding="utf-8")
    (bad / "lep_bench_broken" / "__init__.py").write_text(
        "import a_module_that_nobody_has\n", encoding="utf-8"
    )
    install(good, site)
    install(bad, site)
    return site


def test_an_installed_package_is_listed_with_its_origin(site: Path) -> None:
    result = lep_bench(site, "list", "adapters")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if " shift " in line)
    assert line.split()[:2] == ["propagation", "shift"]
    assert "package lep-bench-shift 1.2.3" in line
    assert "moved by what instruction tuning did" in line


def test_its_method_gives_models_and_all_means_them(site: Path) -> None:
    result = lep_bench(site, "list", "models", "mini-llama/*/shift")
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert ["mini-llama/extended/shift", "propagation", "yes"] in rows
    assert "mini-llama/extended/shift" in lep_bench(site, "list", "models", "all").stdout


def test_a_broken_package_is_listed_with_its_reason_and_stops_nothing(site: Path) -> None:
    result = lep_bench(site, "list", "adapters")
    assert result.returncode == 0
    broken = next(line for line in result.stdout.splitlines() if line.startswith("broken:"))
    assert "lep-bench-broken 1.2.3" in broken and "a_module_that_nobody_has" in broken
    assert "conversion" in result.stdout
    assert lep_bench(site, "list", "models", "all").returncode == 0


def test_a_broken_package_is_named_when_an_unknown_adapter_is_asked_for(
    site: Path, tmp_path: Path
) -> None:
    shipped = Path(__file__).parent.parent / "configs" / "families" / "mini-llama.yaml"
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "mini-llama.yaml").write_text(
        shipped.read_text(encoding="utf-8").replace("  swap: {}", "  lost: {}"), encoding="utf-8"
    )
    result = lep_bench(site, "list", "models", "--configs", str(tmp_path))
    assert result.returncode == 2
    assert (
        "'lost'" in result.stderr
        and "lep-bench-broken" in result.stderr
        and "Traceback" not in result.stderr
    )


def test_two_adapters_of_one_name_are_refused_with_both_places(site: Path, tmp_path: Path) -> None:
    shutil.copy(EXAMPLE / "lep_bench_shift" / "__init__.py", tmp_path / "again.py")
    result = lep_bench(site, "list", "adapters", "--adapters", str(tmp_path))
    assert result.returncode == 2
    assert "again.py" in result.stderr and "lep_bench_shift" in result.stderr
