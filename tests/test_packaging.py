"""A wheel carries the data folders and the small checkpoints; an editable install never copies
them.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from lep_bench.files import FOLDERS, builtin_checkpoints, builtin_texts

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with what is installed here."""
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
    ]
    result = subprocess.run(
        [*command, "--wheel-dir", str(out), str(ROOT)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_has_every_data_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in FOLDERS:
        files = [
            f for f in (ROOT / folder).rglob("*") if f.is_file() and "__pycache__" not in f.parts
        ]
        missing = [
            str(f)
            for f in files
            if f"lep_bench/_data/{f.relative_to(ROOT).as_posix()}" not in names
        ]
        assert not missing, missing
    assert "lep_bench/_data/constraints.txt" in names
    for file in (*builtin_checkpoints().rglob("*.safetensors"), *builtin_texts().iterdir()):
        assert file.relative_to(ROOT).as_posix() in names
    assert not [
        name
        for name in names
        if name.split("/")[0] in (*FOLDERS, "benchmarks", "tests") or "__pycache__" in name
    ]


def test_an_installed_wheel_finds_its_own_folders(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    # Without site (-S) no .pth file is read, so an editable install of this checkout does not come
    # first.
    folders = [str(tmp_path), *{sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}]
    script = f"import sys; sys.path[:0] = {folders!r}; from lep_bench.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-S", "-c", script, "list", "paths", "tasks"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert result.stdout.strip() == str(tmp_path / "lep_bench" / "_data" / "tasks"), (
        result.stdout + result.stderr
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", script, "list", "models", "all"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert result.returncode == 0 and "mini-llama/extended/conversion" in result.stdout, (
        result.stderr
    )


def test_the_checkout_has_no_copies() -> None:
    assert not (ROOT / "lep_bench" / "_data").exists()
