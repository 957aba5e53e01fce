"""Fingerprints and cell keys as they were: a result stays current until its inputs change.

`python tests/test_identity_values.py` writes identity_values.json. Where this test fails, a change
of the code made earlier results stale. That is right only where those results are wrong. Then raise
the stage's revision, write the file anew and say so in CHANGELOG.md.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from invented_world import World, identity

from lep_bench import plugin
from lep_bench.config.load import Configs
from lep_bench.config.models import select_models
from lep_bench.pipeline import plan
from lep_bench.pipeline.plan import Settings
from lep_bench.records.store import Store
from lep_bench.tasks import scan_tasks, select_tasks

FILE = Path(__file__).with_name("identity_values.json")
SUITES = ("darumeru", "mini", "paper", "qwen2.5", "russian")
OWN = (
    "darumeru_",
    "mini_",
)  # the tasks that are shipped here; lm-eval's own change with its version
MORE = {"darumeru": ["llama3-8b/optimized/*"]}  # not in `all`: its donor was not seen public
MINI_MODELS = (
    "score:mini-llama/base",
    "score:mini-llama/instruct",
    "score:mini-mistral/base",
    "score:mini-mistral/instruct",
)
# Values that follow from the built-in corpus may change once: when its texts are shipped in place
# of their generator.
MAY_CHANGE_ONCE = "values of builtin:mini, which may change once"


def values() -> dict[str, Any]:
    """Everything that the file holds, as it is now."""
    tasks = {name: task for name, task in scan_tasks().tasks.items() if name.startswith(OWN)}
    suites, of_mini = {}, {}
    with tempfile.TemporaryDirectory() as root:
        for name in SUITES:
            fingerprints, cells = of_suite(name, Path(root) / name)
            if name == "mini":
                of_mini = {
                    node: print_ for node, print_ in fingerprints.items() if node not in MINI_MODELS
                }
                fingerprints = {
                    node: print_ for node, print_ in fingerprints.items() if node in MINI_MODELS
                }
            suites[name] = {"fingerprints": fingerprints, "cells": cells}
        world = World(Path(root) / "world").take()
    return {
        "tasks": {name: tasks[name].fingerprint for name in sorted(tasks)},
        "adapters": {
            f"{kind}/{name}": entry.source_digest
            for (kind, name), entry in sorted(plugin.discover_adapters().entries.items())
            if entry.shipped
        },
        "suites": suites,
        "invented world": {"fingerprints": world.fingerprints, "cells": grouped(world.cells)},
        MAY_CHANGE_ONCE: of_mini,
    }


def of_suite(name: str, out: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Fingerprints by node id, and cell keys, of a shipped suite's models with two seeds each."""
    configs, found = Configs.of(), plugin.discover_adapters()
    suite = configs.suite(name)
    tasks = select_tasks([task for task in suite.tasks if task.startswith(OWN)])
    models = select_models(["all", *MORE.get(name, ())], suite, configs, found, seeds=2)
    made = identity(plan.make_plan(suite, models, tasks, configs, found, Store(out), Settings()))
    return made.fingerprints, grouped(made.cells)


def grouped(cells: dict[str, str]) -> list[dict[str, Any]]:
    """`MODEL:TASK` -> key as keys by task, with the models that share them."""
    keys: dict[str, dict[str, str]] = {}
    for cell, key in cells.items():
        model, _, task = cell.rpartition(":")
        keys.setdefault(model, {})[task] = key
    models: dict[str, list[str]] = {}
    for model, own in keys.items():
        models.setdefault(json.dumps(own), []).append(model)
    return [{"models": some, "keys": json.loads(own)} for own, some in models.items()]


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    with mock.patch.dict(os.environ, {"LEP_BENCH_DATA": ""}):
        return values()


@pytest.fixture(scope="module")
def then() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_tasks_have_their_old_fingerprints(now, then):
    assert now["tasks"] == then["tasks"] and len(then["tasks"]) >= 22


def test_shipped_adapters_have_their_old_source(now, then):
    assert now["adapters"] == then["adapters"] and len(then["adapters"]) >= 16


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("kind", ["fingerprints", "cells"])
def test_suites_have_their_old_fingerprints_and_keys(now, then, suite, kind):
    assert now["suites"][suite][kind] == then["suites"][suite][kind]


@pytest.mark.parametrize("kind", ["fingerprints", "cells"])
def test_local_checkpoints_texts_and_adapters_have_their_old_values(now, then, kind):
    assert now["invented world"][kind] == then["invented world"][kind]


def test_the_mini_corpus_has_its_old_values(now, then):
    """May change once: see `MAY_CHANGE_ONCE`."""
    assert now[MAY_CHANGE_ONCE] == then[MAY_CHANGE_ONCE]


if __name__ == "__main__":
    os.environ["LEP_BENCH_DATA"] = ""
    FILE.write_text(json.dumps(values(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
