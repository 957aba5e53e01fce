"""benchmarks/house.py counts what it says it counts, on sources small enough to count by hand."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parent.parent / "benchmarks" / "house.py"


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_house", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def circles(house: ModuleType, sources: dict[str, str]) -> dict[str, dict[str, list[list[str]]]]:
    """Circles of a package `p`; the packages without any are left out."""
    found = house.find_circles({f"p/{name}.py": ast.parse(text) for name, text in sources.items()})
    return {
        size: {"": of["modules"], **{name: c for name, c in of["packages"].items() if c}}
        for size, of in found.items()
    }


def test_absolute_and_relative_imports_make_the_same_circle(house: ModuleType) -> None:
    for back in (
        "from p import a",
        "import p.a",
        "from p.a import f",
        "from . import a",
        "from .a import f",
    ):
        found = circles(house, {"__init__": "", "a": "import p.b", "b": back})
        assert found["as modules load"] == {"": [["p.a", "p.b"]], "p": [["a", "b"]]}, back


def test_a_relative_import_in_a_package_starts_at_that_package(house: ModuleType) -> None:
    sources = {
        "__init__": "",
        "a": "from .r import x",
        "r/__init__": "from .x import f",
        "r/x": "from ..a import g",
    }
    assert circles(house, sources)["as modules load"] == {"": [["p.a", "p.r.x"]], "p": [["a", "r"]]}


def test_imports_in_functions_and_for_types_join_later(house: ModuleType) -> None:
    in_function = "def f():\n    from p import a"
    for_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import a"
    found = circles(
        house, {"__init__": "", "a": "import p.b, p.c", "b": in_function, "c": for_types}
    )
    assert [found[size][""] for size in found] == [[], [["p.a", "p.b"]], [["p.a", "p.b", "p.c"]]]


def test_packages_can_be_in_a_circle_where_no_modules_are(house: ModuleType) -> None:
    sources = {
        "__init__": "",
        "r/__init__": "",
        "r/x": "import p.s.y",
        "r/z": "",
        "s/__init__": "",
        "s/y": "",
        "s/w": "import p.r.z",
    }
    assert circles(house, sources)["as modules load"] == {"": [], "p": [["r", "s"]]}
