"""The shape of the source, and what a run with nothing to do costs.

    python benchmarks/house.py [--before CHECKOUT] [--json FILE] [--runs DIR] [--before-runs DIR]

"After" is the checkout that this script stands in. "Before" is any other one, of whatever layout.
The main job first runs once for each, in a temporary folder, which takes minutes; --runs and
--before-runs name folders that stay and are used again, each checkout its own. Prints a table and
writes benchmarks/results/house.json.

Statements are `ast.stmt` nodes of the .py files that git tracks or would track, without tests/.

An import circle is a strongly connected component of the import graph. The graph is taken in three
sizes: imports that run as a module loads, also those in functions, also those for type checkers.
Between the children of a package, an import from p.a.x to p.b.y counts as one from a to b. Modules
named in a string (importlib) are not seen.

A run with nothing to do is the main job on its finished folder. Seconds are of whole processes. The
sides take turns, and the median counts. A file is entered when any of its code runs, its import
included. A file-to-file call goes to a function or module body from the nearest caller that belongs
to the package, where that lies in another file; typer, functools and the import system are skipped.
Each pair of files counts once. Threads count, other processes do not. Plans and parses are calls of
the functions named in PLANS and PARSES. Reads are openings of a result file by whatever function.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter, defaultdict
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve()
PACKAGE = "lep_bench"
MAIN_JOB = ["run", "--models", "all", "--suite", "mini", "--engine", "hf"]
# What makes a plan, and what parses one result file. A function that moves is added under its new
# name; the old one stays for old checkouts.
PLANS = {"planner.make", "pipeline.plan.make_plan"}
PARSES = {"store.read_result", "records.store.read_result", "records.store.parse_result"}
RESULT_FILES = "*/results/*.json"  # in the out folder; * crosses folders
LISTED_APART = ("benchmarks", "leaderboards", "adapters", "tasks", f"{PACKAGE}/templates")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
LOADING, FUNCTIONS, TYPES = "as modules load", "also in functions", "also for types"
PIPES: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}

Edges = dict[str, set[str]]


def measure_source(checkout: Path) -> dict[str, Any]:
    """What can be counted without a run: `measures` for the table, and the names behind them."""
    names = git(checkout, "ls-files", "-co", "--exclude-standard", "--", "*.py").splitlines()
    files = [n for n in names if (checkout / n).is_file() and not n.startswith("tests/")]
    texts = {name: (checkout / name).read_text(encoding="utf-8") for name in files}
    trees = {name: ast.parse(text, name) for name, text in texts.items()}
    package = {name: tree for name, tree in trees.items() if name.startswith(f"{PACKAGE}/")}

    def count(prefix: str, *kinds: type[ast.AST]) -> int:
        inside = (tree for name, tree in trees.items() if name.startswith(prefix))
        return sum(isinstance(node, kinds) for tree in inside for node in ast.walk(tree))

    per_100 = 100 / count(f"{PACKAGE}/", ast.stmt)
    measures: dict[str, float | None] = {
        f"statements in {PACKAGE}/": count(f"{PACKAGE}/", ast.stmt),
        f"files in {PACKAGE}/": len(package),
        f"flat files in {PACKAGE}/": sum(name.count("/") == 1 for name in package),
        "statements in the repository without tests": count("", ast.stmt),
        "files in the repository without tests": len(trees),
    }
    for folder in LISTED_APART:
        measures[f"  of these, statements in {folder}/"] = count(f"{folder}/", ast.stmt)
    circles = find_circles(package)
    for size, found in circles.items():
        measures[f"circles of modules, imports {size}"] = len(found["modules"])
        measures[f"circles of siblings, imports {size}"] = sum(map(len, found["packages"].values()))
    classes = defaultdict(set)
    for file, tree in package.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes[node.name].add(file)
    several = {name: sorted(where) for name, where in sorted(classes.items()) if len(where) > 1}
    lines = [len(line) for name in package for line in texts[name].split("\n")]
    measures |= {
        "class names with several meanings": len(several),
        "conditional expressions per 100 statements": count(f"{PACKAGE}/", ast.IfExp) * per_100,
        "comprehensions per 100 statements": count(f"{PACKAGE}/", *COMPREHENSIONS) * per_100,
        "longest line": max(lines),
        "lines over 100 columns": sum(length > 100 for length in lines),
    }
    return {"measures": measures, "circles": circles, "classes": several}


def git(checkout: Path, *command: str) -> str:
    """What git prints."""
    command = ("git", "-c", "core.quotePath=off", *command)
    return subprocess.check_output(command, cwd=checkout, text=True)


def find_circles(package: dict[str, ast.Module]) -> dict[str, Any]:
    """For each size of the graph the circles of modules, and by package those of its children."""
    modules = {module_name(file): file for file in package}
    imports = {name: collect_imports(package[file]) for name, file in modules.items()}
    edges: Edges = {name: set() for name in modules}
    circles: dict[str, Any] = {}
    for size in (LOADING, FUNCTIONS, TYPES):
        for name, file in modules.items():
            here = name if file.endswith("/__init__.py") else name.rpartition(".")[0]
            for node in imports[name][size]:
                edges[name] |= imported_modules(node, here, set(modules)) - {name}
        parents = sorted({name.rpartition(".")[0] for name in modules} - {""})
        children = {parent: components(between_children(edges, parent)) for parent in parents}
        circles[size] = {"modules": components(edges), "packages": children}
    return circles


def module_name(file: str) -> str:
    """The dotted name; that of `a/__init__.py` is `a`."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def collect_imports(tree: ast.Module) -> dict[str, list[ast.Import | ast.ImportFrom]]:
    """The import statements of a module by the smallest graph that they are part of."""
    imports: dict[str, list[ast.Import | ast.ImportFrom]] = defaultdict(list)

    def visit(node: ast.AST, size: str) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports[size].append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            size = TYPES
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = FUNCTIONS
        for child in ast.iter_child_nodes(node):
            visit(child, size)

    visit(tree, LOADING)
    return imports


def imported_modules(node: ast.Import | ast.ImportFrom, here: str, modules: set[str]) -> set[str]:
    """Modules of ours that a statement in the package `here` names."""
    prefix = ""
    if isinstance(node, ast.ImportFrom):
        parts = here.split(".")[: len(here.split(".")) + 1 - node.level] if node.level else []
        prefix = "".join(f"{part}." for part in [*parts, *filter(None, [node.module])])
    found = set()
    for name in (prefix + alias.name for alias in node.names):
        while name and name not in modules:  # a function or class: what holds it
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {""}


def between_children(edges: Edges, parent: str) -> Edges:
    """The graph of a package's direct children."""

    def child(name: str) -> str:
        inside = name.startswith(f"{parent}.")
        return name.removeprefix(f"{parent}.").split(".")[0] if inside else ""

    lifted: Edges = defaultdict(set)
    for importer, targets in edges.items():
        if child(importer):
            lifted[child(importer)] |= {child(t) for t in targets} - {"", child(importer)}
    return lifted


def components(edges: Edges) -> list[list[str]]:
    """Strongly connected components of two nodes or more."""
    reach: Edges = {}
    for start in edges:
        reach[start], stack = set(), [start]
        while stack:
            new = edges.get(stack.pop(), set()) - reach[start]
            reach[start] |= new
            stack += new
    mutual = {tuple(sorted(b for b in reach[a] if a in reach.get(b, ()))) for a in edges}
    return sorted(list(circle) for circle in mutual if circle)


class Side:
    """One checkout and the out folder of its main job."""

    def __init__(self, name: str, checkout: Path, runs: Path) -> None:
        self.name, self.checkout = name, checkout.resolve()
        self.main_job = [*MAIN_JOB, "--out", str(runs.resolve())]
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def start(self, *command: str) -> float:
        """Run Python in the checkout and return wall seconds; exits where the command fails."""
        where: Any = {"cwd": self.checkout, "env": os.environ | {"PYTHONPATH": str(self.checkout)}}
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-P", *command], **where, **PIPES)
        seconds = time.perf_counter() - begin
        if done.returncode:
            sys.exit(f"{self.name}: {' '.join(command)} failed:\n{done.stdout}")
        return seconds

    def trace(self) -> dict[str, int]:
        """What the hooks saw of one run of the main job."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "trace.json")
            self.start(str(HERE), "--trace", str(file), *self.main_job)
            return json.loads(file.read_text(encoding="utf-8"))


def trace(file: Path, arguments: list[str]) -> None:
    """Run `lep-bench ARGUMENTS` in this process and write to `file` what the hooks saw."""
    root = str(Path.cwd() / PACKAGE) + os.sep  # `Side.start` sets the folder
    out = arguments[arguments.index("--out") + 1] + os.sep
    calls: Counter[str] = Counter()
    edges: set[tuple[str, str]] = set()
    entered: set[str] = set()
    opened: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(root):
            return
        here = frame.f_code.co_filename.removeprefix(root)
        calls[f"{module_name(here)}.{frame.f_code.co_qualname}"] += 1
        entered.add(here)
        caller = frame.f_back
        while caller and not caller.f_code.co_filename.startswith(root):
            caller = caller.f_back
        if caller and caller.f_code.co_filename != frame.f_code.co_filename:
            edges.add((caller.f_code.co_filename, here))

    def audit(event: str, values: tuple[Any, ...]) -> None:
        if event == "open" and str(values[0]).startswith(out):
            opened.append(str(values[0]).removeprefix(out))

    sys.argv = [PACKAGE, *arguments]
    sys.addaudithook(audit)
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        runpy.run_module(PACKAGE, run_name="__main__", alter_sys=True)
    finally:  # a command ends with SystemExit, which goes on from here
        sys.setprofile(None)
        assert entered, f"{sys.modules[PACKAGE].__file__} was imported, which is not in {root}"
        stored = [str(found).removeprefix(out) for found in Path(out).rglob("*.json")]
        seen = {
            "files": len(entered),
            "edges": len(edges),
            "plans": sum(calls[name] for name in PLANS),
            "parses": sum(calls[name] for name in PARSES),
            "reads": sum(fnmatch(name, RESULT_FILES) for name in opened),
            "results": sum(fnmatch(name, RESULT_FILES) for name in stored),
        }
        file.write_text(json.dumps(seen), encoding="utf-8")


def measure_runs(sides: list[Side]) -> dict[str, dict[str, float | None]]:
    """The lines of the table that need runs, by side."""
    for side in sides:
        print(f"{side.name}: the main job until nothing is left to do", flush=True)
        side.start("-m", PACKAGE, *side.main_job)
    for command, repeats in (("run", 5), ("--help", 7)):
        for side in sides * repeats:
            arguments = side.main_job if command == "run" else [command]
            side.seconds[command].append(side.start("-m", PACKAGE, *arguments))
    measures = {}
    for side in sides:
        seen = side.trace()
        measures[side.name] = {
            "seconds of a run with nothing to do": statistics.median(side.seconds["run"]),
            "  its plans": seen["plans"] or None,  # 0: none of PLANS is what makes plans there
            "  its parses per result file": seen["parses"] / seen["results"] or None,
            "  its reads per result file": seen["reads"] / seen["results"],
            f"  files of {PACKAGE}/ entered": seen["files"],
            "  file-to-file calls": seen["edges"],
            "seconds of --help": statistics.median(side.seconds["--help"]),
        }
    return measures


def print_table(sides: dict[str, dict[str, Any]]) -> None:
    """A line per measure and a column per side; then the names behind the counts."""
    table = Table(title="The house", title_justify="left")
    for column in ("", *sides):
        table.add_column(column, justify="right" if column else "left")
    for line in sides["after"]["measures"]:
        table.add_row(line, *(render(side["measures"][line]) for side in sides.values()))
    console = Console(width=100)
    console.print(table)
    for name, side in sides.items():
        for size, circles in side["circles"].items():
            for place, found in {"modules": circles["modules"], **circles["packages"]}.items():
                for circle in found:
                    console.print(f"{name}: circle, {size}, {place}: {', '.join(circle)}")
        console.print(f"{name}: class names in several files: {', '.join(side['classes'])}")


def render(value: float | None) -> str:
    return "?" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def main() -> None:
    if sys.argv[1:2] == ["--trace"]:  # `Side.trace` asks for it
        return trace(Path(sys.argv[2]), sys.argv[3:])
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--before", type=Path, metavar="CHECKOUT", help="what to compare this checkout with")
    add("--json", type=Path, metavar="FILE", default=HERE.parent / "results" / "house.json")
    add("--runs", type=Path, metavar="DIR", help="the out folder of this checkout")
    add("--before-runs", type=Path, metavar="DIR", help="the out folder of the other one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sides = [Side("after", HERE.parents[1], given.runs or Path(scratch, "after"))]
        if given.before:
            runs = given.before_runs or Path(scratch, "before")
            sides.insert(0, Side("before", given.before, runs))
        measures = measure_runs(sides)
    cpuinfo = Path("/proc/cpuinfo")
    name = cpuinfo.is_file() and re.search(r"model name\s*: (.+)", cpuinfo.read_text())
    record: dict[str, Any] = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "cpu": name[1] if name else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg(),
        "command": " ".join(["lep-bench", *MAIN_JOB]),
    }
    for side in sides:
        source = measure_source(side.checkout)
        source["measures"] |= measures[side.name]
        commit = git(side.checkout, "describe", "--always", "--dirty", "--exclude=*").strip()
        record[side.name] = {"commit": commit, **source, "seconds": side.seconds}
    given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print_table({side.name: record[side.name] for side in sides})


if __name__ == "__main__":
    main()
