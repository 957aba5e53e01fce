"""A small project in a folder: families, adapters, checkpoints, texts and tasks.

This file writes every byte of it itself, so every fingerprint made from it is the same on every
machine. Only `World.plan` and `identity` know the planner: when it moves, only they change.
"""

from __future__ import annotations

import copy
import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from lep_bench import plugin
from lep_bench.config.load import Configs
from lep_bench.config.models import select_models
from lep_bench.pipeline.plan import Plan, Server, Settings, make_plan
from lep_bench.records.store import Store
from lep_bench.tasks import select_tasks

COMMIT = "a" * 40
ADAPTERS = {
    "cut.py": '''from lep_bench.plugin import Params, vocabulary


class Cut(Params):
    size: int = 200
    keep: int = 10


@vocabulary("cut")
def cut(base, texts, params: Cut):
    """Invented."""
    raise NotImplementedError
''',
    "shift.py": '''from lep_bench.plugin import Params, propagation


class Shift(Params):
    scale: float = 1.0
    tenth: float = 0.1


@propagation("shift")
def shift(problem, params: Shift):
    """Invented."""
    raise NotImplementedError
''',
    "still.py": '''from lep_bench.plugin import Params, propagation


@propagation("still")
def still(problem, params: Params):
    """Invented."""
    raise NotImplementedError
''',
    "polish.py": '''from lep_bench.plugin import Params, tuning


class Polish(Params):
    answers: int = 0
    answer_tokens: int = 64
    rate: float = 0.5


@tuning("polish")
def polish(model, params: Polish):
    """Invented."""
    raise NotImplementedError
''',
}
FAMILY = {
    "base": "../../base",
    "instruct": "../../instruct",
    "corpus": ["../../texts/a.txt", "../../texts/b.jsonl"],
    "vocabularies": {
        "original": {},
        "made": {"method": "cut", "params": {"size": 300}},
        "given": {"method": "cut", "donor": "../../donor"},
    },
    "pretraining": {"characters": 1000, "block": 16, "batch": 4},
    "propagation": {"shift": {"scale": 2.0}, "still": {}},
    "tuning": {"polish": {"after": ["shift"], "params": {"answers": 5, "answer_tokens": 8}}},
}
OTHER = {
    "base": "org/other-base",
    "instruct": "org/other-instruct",
    "base_revision": "r1",
    "instruct_revision": "r2",
    "parameters": 1000,
    "vocabularies": {
        "given": {"method": "cut", "donor": "org/other-donor", "donor_revision": "r3"}
    },
    "propagation": {"shift": {}, "still": {}},
}
BASELINES = {
    "hub": {"model": "org/baseline", "revision": "r4", "parameters": 1000},
    "served": {"model": "api:served", "url": "http://localhost:8000/v1"},
}
SUITE = {
    "title": "Invented",
    "families": ["fam", "other"],
    "baselines": ["hub", "served"],
    "tasks": ["one", "two", "far"],
    "protocol": "greedy",
    "base": {"format": "plain", "shots": 5},
    "instruct": {"format": "chat", "shots": 0},
    "dtype": "bfloat16",
    "mean": {"kind": "plain", "tasks": {"one": 0.25}},
}


def safetensors(*values: float) -> bytes:
    """A file with one float32 tensor."""
    data = struct.pack(f"<{len(values)}f", *values)
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [len(values)], "data_offsets": [0, len(data)]}}
    ).encode()
    return len(header).to_bytes(8, "little") + header + data


def checkpoint(name: str, *values: float) -> dict[str, bytes]:
    """The files of a checkpoint in the folder `name`."""
    files = {
        "config.json": b'{"vocab_size": 4}',
        "tokenizer.json": f'{{"of": "{name}"}}'.encode(),
        "model.safetensors": safetensors(*values),
    }
    return {f"{name}/{file}": data for file, data in files.items()}


FILES = {
    **checkpoint("base", 1.0, 2.0),
    **checkpoint("instruct", 1.0, 3.0),
    **checkpoint("donor", 4.0, 2.0),
    **checkpoint("mine", 5.0),
    "texts/a.txt": "Один.\nДва.\n".encode(),
    "texts/b.jsonl": b'{"text": "three"}\n',
    "tasks/one.yaml": b"task: one\nclass: !function utils.Task\ndataset_path: org/rows\n"
    b"dataset_kwargs: {revision: " + COMMIT.encode() + b"}\nmetadata: {version: 1.0}\n",
    "tasks/two.yaml": b"include: _base.yaml\ntask: two\nclass: !function utils.Task\n"
    b"dataset_kwargs: {file: two.jsonl}\n",
    "tasks/_base.yaml": b"output_type: multiple_choice\n",
    "tasks/utils.py": b"raise RuntimeError('never run')\n",
    "tasks/data/two.jsonl": b"{}\n",
    "tasks/data/words.txt": "слово\n".encode(),
    "elsewhere/far.yaml": b"task: far\ndataset_path: json\n",
}


@dataclass(frozen=True)
class Identity:
    """What decides which results are current.

    `fingerprints` holds one per stage, by node id. `cells` holds the keys, by `MODEL:TASK`.
    """

    fingerprints: dict[str, str]
    cells: dict[str, str]


@dataclass
class World:
    """A project in `root`, changed as a test likes before `take` writes it down and plans it."""

    root: Path
    family: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(FAMILY))
    other: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(OTHER))
    baselines: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(BASELINES))
    suite: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(SUITE))
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    adapters: dict[str, str] = field(default_factory=lambda: dict(ADAPTERS))
    settings: dict[str, Any] = field(default_factory=dict)
    family_name: str = "fam"
    adapters_folder: str = "adapters"
    tasks_folder: str = "tasks"
    dump: Callable[[Any], str] = yaml.safe_dump
    out: str = "out"
    data: str = ""  # LEP_BENCH_DATA, below root

    def change(self, name: str, old: bytes, new: bytes) -> None:
        """Change a part of a file that is there."""
        assert old in self.files[name], name
        self.files[name] = self.files[name].replace(old, new)

    def plan(self) -> Plan:
        """Write everything down and plan all models, two training seeds each, on all tasks."""
        configs = {
            f"families/{self.family_name}": self.family,
            "families/other": self.other,
            "suites/invented": self.suite,
        }
        configs |= {f"baselines/{name}": given for name, given in self.baselines.items()}
        files = {
            f"configs/{name}.yaml": self.dump(given).encode() for name, given in configs.items()
        }
        files |= {
            f"{self.adapters_folder}/{name}": text.encode() for name, text in self.adapters.items()
        }
        files |= {
            name.replace("tasks/", f"{self.tasks_folder}/")
            if name.startswith("tasks/")
            else name: d
            for name, d in self.files.items()
        }
        for name, data in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(data)
        with mock.patch.dict(
            os.environ, {"LEP_BENCH_DATA": str(self.root / self.data) if self.data else ""}
        ):
            known, found = (
                Configs.of([self.root / "configs"]),
                plugin.discover_adapters([self.root / self.adapters_folder]),
            )
            suite = known.suite("invented")
            tasks = select_tasks(
                suite.tasks, [self.root / self.tasks_folder, self.root / "elsewhere"]
            )
            models = select_models(["all", str(self.root / "mine")], suite, known, found, seeds=2)
            return make_plan(
                suite,
                models,
                tasks,
                known,
                found,
                Store(self.root / self.out),
                Settings(**self.settings),
            )

    def take(self) -> Identity:
        """The identity of everything in this project, of what is current too."""
        return identity(self.plan())


def identity(plan: Plan) -> Identity:
    """Fingerprints and cell keys of a plan, of what is there already too."""
    nodes = {node.id: node.fingerprint for node in (*plan.nodes.values(), *plan.cached)}
    models = [
        (record.name if record.seed == 0 else f"{record.name}@seed{record.seed}", task, key)
        for record, task, key in plan.expected
    ]
    return Identity(nodes, {f"{model}:{task}": key for model, task, key in models})


SERVER = Server("http://elsewhere:9/v1", "SECRET")
