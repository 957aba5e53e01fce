"""Which input changes which fingerprints and cell keys, and which inputs change none.

A result is current while its model's fingerprint and its own key are those of the plan. Every
input of an artifact and of a cell is changed here in turn, and exactly what changes is named.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "leaderboard"))
from invented_run import result
from invented_world import COMMIT, FILES, SERVER, Identity, World, checkpoint, safetensors

from lep_bench.pipeline import plan
from lep_bench.records.store import Store

Change = Callable[[World], Any]

# Models by what they descend from. A pattern fits node ids such as `donor:fam/made/donor` and
# `score:fam/made/donor`.
ORIGINAL_DONOR = ("*:fam/original/donor*",)
MADE_DONOR = ("*:fam/made/donor*",)
MADE_ADAPTED = ("*:fam/made/shift*", "*:fam/made/still*")
GIVEN_DONOR = ("score:fam/given/donor*",)
GIVEN_ADAPTED = ("*:fam/given/shift*", "*:fam/given/still*")
INITS = ("*:fam/*/instruct-init",)
TUNED_INSTRUCT = ("*:fam/instruct+polish*",)
TUNED = ("*:fam/*+polish*",)
VOCABULARY = ("vocabulary:fam/made", "*:fam/made/*")  # the vocabulary and all that has it
BASE = ("score:fam/base", *VOCABULARY, *ORIGINAL_DONOR, *INITS, *GIVEN_ADAPTED)
INSTRUCT = (
    "score:fam/instruct",
    "answers:fam/instruct",
    *TUNED_INSTRUCT,
    *INITS,
    *MADE_ADAPTED,
    *GIVEN_ADAPTED,
)
CORPUS = (*VOCABULARY, *ORIGINAL_DONOR, "answers:fam/instruct", *TUNED)
# Models by how they are asked: cells are `MODEL:TASK`.
CHAT = ("*/instruct*:*", "*/shift*:*", "*/still*:*", "baselines/*:*")
PLAIN = (
    "*/base:*",
    "*/init:*",
    "*/donor*:*",
    "local/mine:*",
)  # the local model has no chat template
ALL = ("*",)


def put(name: str, data: bytes | str) -> Change:
    """Write a file."""
    return lambda world: world.files.update(
        {name: data.encode() if isinstance(data, str) else data}
    )


def edit(name: str, old: str, new: str) -> Change:
    """Change a part of a file."""
    return lambda world: world.change(name, old.encode(), new.encode())


def setting(where: str, *path: str, to: Any) -> Change:
    """Change a value of a YAML: `where` is family, other, suite, or a baseline's name."""

    def change(world: World) -> None:
        inside = world.baselines[where] if where in world.baselines else getattr(world, where)
        for part in path[:-1]:
            inside = inside.setdefault(part, {})
        inside[path[-1]] = to

    return change


def adapter(name: str, old: str = "Invented.", new: str = "Invented anew.") -> Change:
    """Change a part of an adapter's file."""

    def change(world: World) -> None:
        assert old in world.adapters[name]
        world.adapters[name] = world.adapters[name].replace(old, new)

    return change


def run(**settings: Any) -> Change:
    """Another option of `lep-bench run`."""
    return lambda world: world.settings.update(settings)


def data(
    files: dict[str, bytes], commits: dict[tuple[str, str], str | None] | None = None
) -> Change:
    """A data folder with these files.

    `commits` are those that its manifest names for (kind, id). Without any it has no manifest.
    """

    def change(world: World) -> None:
        world.data = "data"
        world.files |= {f"data/{name}": content for name, content in files.items()}
        entries = [
            {
                "kind": kind,
                "id": name,
                "revision": "r1" if kind == "model" else None,
                "commit": commit,
                "files": [],
            }
            for (kind, name), commit in (commits or {}).items()
        ]
        if entries:
            manifest = {"created": "2025", "lep_bench": "0", "suites": [], "entries": entries}
            world.files["data/bundle.json"] = json.dumps(manifest).encode()

    return change


def both(*changes: Change) -> Change:
    """Several changes at once."""
    return lambda world: [change(world) for change in changes]


def moved(what: str, to: str) -> Change:
    """A folder of the project under another name."""

    def change(world: World) -> None:
        world.files = {
            name.replace(f"{what}/", f"{to}/", 1) if name.startswith(f"{what}/") else name: d
            for name, d in world.files.items()
        }
        text = json.dumps(world.family).replace(f"../../{what}", f"../../{to}")
        world.family = json.loads(text)

    return change


ROWS = b'{"a": 1}\n'
COPY = {
    name.replace("copy/", "models/org/other-base/"): content
    for name, content in checkpoint("copy", 8.0).items()
}

# name -> (change, patterns of the fingerprints that change, patterns of the keys that change)
CHANGES: dict[str, tuple[Change, tuple[str, ...], tuple[str, ...]]] = {
    # checkpoints
    "base: a weight": (put("base/model.safetensors", safetensors(1.0, 2.5)), BASE, ()),
    "base: tokenizer": (put("base/tokenizer.json", "{}"), BASE, ()),
    "base: config": (put("base/config.json", '{"vocab_size": 5}'), BASE, ()),
    "base: sentencepiece model": (put("base/tokenizer.model", "x"), BASE, ()),
    "base: a further shard": (put("base/extra.safetensors", safetensors(1.0)), BASE, ()),
    "base: another folder": (setting("family", "base", to="../../mine"), BASE, ()),
    "instruct: a weight": (put("instruct/model.safetensors", safetensors(1.0, 3.5)), INSTRUCT, ()),
    "instruct: chat template": (put("instruct/chat_template.jinja", "{{ x }}"), INSTRUCT, ()),
    "instruct: generation config": (put("instruct/generation_config.json", "{}"), INSTRUCT, ()),
    "instruct: names of two files exchanged": (
        both(
            put("instruct/config.json", FILES["instruct/tokenizer.json"]),
            put("instruct/tokenizer.json", FILES["instruct/config.json"]),
        ),
        INSTRUCT,
        (),
    ),
    "donor: a weight": (
        put("donor/model.safetensors", safetensors(4.0, 2.5)),
        (*GIVEN_DONOR, *GIVEN_ADAPTED, "*:fam/given/instruct-init"),
        (),
    ),
    "donor: tokenizer": (
        put("donor/tokenizer.json", "{}"),
        (*GIVEN_DONOR, *GIVEN_ADAPTED, "*:fam/given/instruct-init"),
        (),
    ),
    "local model: a weight": (
        put("mine/model.safetensors", safetensors(5.5)),
        ("score:local/mine",),
        (),
    ),
    "base: revision on the Hub": (
        setting("other", "base_revision", to="r9"),
        ("score:other/base", "*:other/given/s*", "*:other/given/instruct-init"),
        (),
    ),
    "base: no revision": (
        lambda w: w.other.pop("base_revision"),
        ("score:other/base", "*:other/given/s*", "*:other/given/instruct-init"),
        (),
    ),
    "instruct: revision on the Hub": (
        setting("other", "instruct_revision", to="r9"),
        ("score:other/instruct", "*:other/given/s*", "*:other/given/instruct-init"),
        (),
    ),
    "donor: revision on the Hub": (
        setting("other", "vocabularies", "given", "donor_revision", to="r9"),
        ("*:other/given/*",),
        (),
    ),
    "donor: another id on the Hub": (
        setting("other", "vocabularies", "given", "donor", to="org/new"),
        ("*:other/given/*",),
        (),
    ),
    "baseline: revision": (setting("hub", "revision", to="r9"), ("score:baselines/hub",), ()),
    "baseline: another model": (
        setting("hub", "model", to="org/new"),
        ("score:baselines/hub",),
        (),
    ),
    "served model: its name there": (
        setting("served", "model", to="api:new"),
        ("score:baselines/served",),
        (),
    ),
    "base: an unproven copy in the data folder": (
        data(COPY, {("model", "org/other-base"): None}),
        ("score:other/base", "*:other/given/s*", "*:other/given/instruct-init"),
        (),
    ),
    # texts
    "corpus: a text file": (put("texts/a.txt", "Один.\nТри.\n"), CORPUS, ()),
    "corpus: a JSONL file": (put("texts/b.jsonl", '{"text": "four"}\n'), CORPUS, ()),
    "corpus: compressed": (
        both(
            put("texts/a.txt.gz", gzip.compress(b"x", mtime=0)),
            setting("family", "corpus", to=["../../texts/a.txt.gz"]),
        ),
        CORPUS,
        (),
    ),
    "corpus: order of its files": (
        setting("family", "corpus", to=["../../texts/b.jsonl", "../../texts/a.txt"]),
        CORPUS,
        (),
    ),
    "corpus: one file only": (setting("family", "corpus", to=["../../texts/a.txt"]), CORPUS, ()),
    "corpus: a dataset": (setting("family", "corpus", to="org/texts"), CORPUS, ()),
    # settings of a family
    "row policy": (
        setting("family", "row_policy", to="paper"),
        ("*:fam/made/*init", *INITS, *MADE_DONOR, *MADE_ADAPTED, *GIVEN_ADAPTED),
        (),
    ),
    "vocabulary: a parameter": (
        setting("family", "vocabularies", "made", "params", "size", to=301),
        VOCABULARY,
        (),
    ),
    "vocabulary: a parameter that was at its default": (
        setting("family", "vocabularies", "made", "params", "keep", to=11),
        VOCABULARY,
        (),
    ),
    **{
        f"pretraining: {name}": (
            setting("family", "pretraining", name, to=value),
            (*MADE_DONOR, *ORIGINAL_DONOR, *MADE_ADAPTED),
            (),
        )
        for name, value in {
            "characters": 2000,
            "block": 32,
            "batch": 8,
            "learning_rate": 1e-3,
            "warmup": 5,
            "weight_decay": 0.0,
            "schedule": "constant",
        }.items()
    },
    "propagation: a parameter": (
        setting("family", "propagation", "shift", "scale", to=3.0),
        ("*:fam/*/shift*",),
        (),
    ),
    "propagation: a parameter that was at its default": (
        setting("family", "propagation", "shift", "tenth", to=0.2),
        ("*:fam/*/shift*",),
        (),
    ),
    "propagation: a parameter, of another family": (
        setting("other", "propagation", "shift", "scale", to=3.0),
        ("*:other/*/shift*",),
        (),
    ),
    "tuning: a parameter": (
        setting("family", "tuning", "polish", "params", "rate", to=0.25),
        TUNED,
        (),
    ),
    "tuning: count of the instruct model's answers": (
        setting("family", "tuning", "polish", "params", "answers", to=6),
        ("answers:fam/instruct", *TUNED),
        (),
    ),
    "tuning: their length": (
        setting("family", "tuning", "polish", "params", "answer_tokens", to=9),
        ("answers:fam/instruct", *TUNED),
        (),
    ),
    "tuning: no answers": (
        setting("family", "tuning", "polish", "params", "answers", to=0),
        ("answers:fam/instruct", *TUNED),
        (),
    ),
    # code
    "adapter: vocabulary": (adapter("cut.py"), VOCABULARY, ()),
    "adapter: propagation": (adapter("shift.py"), ("*/shift*",), ()),
    "adapter: another propagation": (adapter("still.py"), ("*/still*",), ()),
    "adapter: tuning": (adapter("polish.py"), TUNED, ()),
    # cells: how models are asked
    "shots of base models": (setting("suite", "base", "shots", to=4), (), PLAIN),
    "shots of instruct models": (setting("suite", "instruct", "shots", to=1), (), CHAT),
    "format of base models": (setting("suite", "base", "format", to="chat"), (), PLAIN),
    "format of instruct models": (setting("suite", "instruct", "format", to="plain"), (), CHAT),
    "protocol": (setting("suite", "protocol", to="strict"), (), ALL),
    "dtype": (
        setting("suite", "dtype", to="float16"),
        (),
        ("[!b]*:*", "baselines/hub:*"),
    ),  # what a server computes in, nobody knows
    "samplings": (setting("suite", "samplings", to=5), (), ALL),
    "metadata": (setting("suite", "metadata", to={"max_length": 512}), (), ALL),
    "limit": (run(limit=10), (), ALL),
    "engine": (run(engine="vllm"), (), ("[!b]*:*", "baselines/hub:*")),
    "engine api": (run(engine="api"), (), ("[!b]*:*", "baselines/hub:*")),
    "format of a baseline": (setting("hub", "format", to="plain"), (), ("baselines/hub:*",)),
    "local model: a chat template": (
        put("mine/tokenizer_config.json", '{"chat_template": "x"}'),
        ("score:local/mine",),
        ("local/mine:*",),
    ),
    # cells: tasks
    "task: its YAML": (edit("tasks/one.yaml", "1.0", "1.1"), (), ("*:one",)),
    "task: a comment in its YAML": (
        edit("tasks/one.yaml", "task: one", "task: one # 1"),
        (),
        ("*:one",),
    ),
    "task: a YAML that it includes": (
        put("tasks/_base.yaml", "output_type: generate_until\n"),
        (),
        ("*:two",),
    ),
    "task: code beside it": (put("tasks/utils.py", "raise KeyError\n"), (), ("*:one", "*:two")),
    "task: further code below": (put("tasks/deep/more.py", ""), (), ("*:one", "*:two")),
    "task: data that one YAML names": (put("tasks/data/two.jsonl", "{} \n"), (), ("*:two",)),
    "task: data that none names": (put("tasks/data/words.txt", "дело\n"), (), ("*:one", "*:two")),
    "task: another file of data": (put("tasks/data/more.csv", "1"), (), ("*:one", "*:two")),
    "task: a task in another folder": (edit("elsewhere/far.yaml", "json", "csv"), (), ("*:far",)),
    "task: revision of its dataset": (edit("tasks/one.yaml", COMMIT, "b" * 40), (), ("*:one",)),
    "task: rows in the data folder": (data({"org/rows/test.jsonl": ROWS}), (), ("*:one",)),
    "task: rows of another revision, as the manifest says": (
        data({"org/rows/test.jsonl": ROWS}, {("dataset", "org/rows"): "b" * 40}),
        (),
        ("*:one",),
    ),
    "task: a data folder that nobody knows": (
        data({"somewhere/test.jsonl": ROWS}),
        (),
        ("*:one",),
    ),  # the task's class may find its rows there
}

# name -> change; nothing may follow from it
NOTHING: dict[str, Change] = {
    "the out folder": lambda world: setattr(world, "out", "elsewhere/out"),
    "speed of the hardware": run(flops=1e15),
    "address and key of the server": run(server=SERVER),
    "address of a baseline's server": setting("served", "url", to="http://localhost:1/v1"),
    "key of a baseline's server": setting("served", "key_variable", to="OTHER_KEY"),
    "family: description": setting("family", "description", to="words"),
    "family: estimate of its size": setting("family", "parameters", to=123),
    "family: licence": setting("family", "licence", to="llama3"),
    "family: gated": setting("other", "gated", to=True),
    "family: unverified": setting("family", "unverified", to={"base": "words"}),
    "family: conversation, save under protocol paper": setting(
        "family", "conversation", to="llama3"
    ),
    "vocabulary: unverified": setting("family", "vocabularies", "given", "unverified", to="words"),
    "vocabulary: parameters beside a given donor": setting(
        "family", "vocabularies", "given", "params", to={"size": 9}
    ),
    "vocabulary: a parameter written at its default": setting(
        "family", "vocabularies", "made", "params", "keep", to=10
    ),
    "pretraining: written at its default": setting(
        "family", "pretraining", "schedule", to="cosine"
    ),
    "propagation: a parameter written at its default": setting(
        "family", "propagation", "shift", "tenth", to=0.1
    ),
    "propagation: a whole number for a float": setting(
        "family", "propagation", "shift", "scale", to=2
    ),
    "row policy written at its default": setting("family", "row_policy", to="bytes-exact"),
    "baseline: description": setting("hub", "description", to="words"),
    "baseline: notes": setting("hub", "notes", to="words"),
    "baseline: estimate of its size": setting("hub", "parameters", to=5),
    "baseline: gated": setting("hub", "gated", to=True),
    "suite: title": setting("suite", "title", to="words"),
    "suite: note": setting("suite", "note", to="words"),
    "suite: mean": setting(
        "suite",
        "mean",
        to={"kind": "centred", "tasks": {"two": 0.5}, "delta": 0.5, "name": "words"},
    ),
    "suite: groups": setting("suite", "groups", to={"G": ["one"]}),
    "suite: means without": setting("suite", "without", to={"W": ["one"]}),
    "suite: order of tasks": setting("suite", "tasks", to=["far", "two", "one"]),
    "suite: count of seeds": setting("suite", "seeds", to=3),
    "suite: dtype and samplings as they are": both(
        setting("suite", "samplings", to=1), setting("suite", "metadata", to={})
    ),
    "order of keys in YAML": lambda world: setattr(
        world, "dump", lambda given: yaml.safe_dump(turned(given), sort_keys=False)
    ),
    "YAML's style": lambda world: setattr(
        world, "dump", lambda given: "# words\n" + json.dumps(given)
    ),
    "name of the checkpoints' folder": moved("base", "renamed"),
    "name of the instruct model's folder": moved("instruct", "renamed"),
    "name of the donor's folder": moved("donor", "renamed"),
    "name of the texts' folder": moved("texts", "renamed"),
    "name of a text": both(
        lambda world: world.files.update({"texts/z.txt": world.files.pop("texts/a.txt")}),
        setting("family", "corpus", to=["../../texts/z.txt", "../../texts/b.jsonl"]),
    ),
    "name of the adapters' folder": lambda world: setattr(world, "adapters_folder", "my-adapters"),
    "name of an adapter's file": lambda world: world.adapters.update(
        {"renamed.py": world.adapters.pop("shift.py")}
    ),
    "name of the tasks' folder": lambda world: setattr(world, "tasks_folder", "my-tasks"),
    "checkpoint: README": put("base/README.md", "words"),
    "checkpoint: pickled weights": put("base/pytorch_model.bin", "words"),
    "checkpoint: lep.json": put("base/lep.json", "{}"),
    "checkpoint: a folder in it": put("base/onnx/config.json", "{}"),
    "task: README": put("tasks/README.md", "words"),
    "task: hidden and compiled files": both(
        put("tasks/.cache/x.txt", "x"), put("tasks/__pycache__/utils.cpython-311.py", "x")
    ),
    "task: a YAML of no task": put("tasks/_other.yaml", "x: 1\n"),
    "data folder: other rows": data(
        {"org/others/test.jsonl": ROWS}, {("dataset", "org/others"): None}
    ),
    "data folder: the pinned revision, as the manifest says": data(
        {"org/rows/test.jsonl": ROWS}, {("dataset", "org/rows"): COMMIT}
    ),
    "data folder: another checkpoint": data(
        {name.replace("other-base", "no-one"): content for name, content in COPY.items()},
        {("model", "org/no-one"): None},
    ),
    "data folder: the checkpoint at its revision, as the manifest says": data(
        COPY, {("model", "org/other-base"): COMMIT}
    ),
}


def turned(given: Any) -> Any:
    """The same with every mapping's keys in the opposite order."""
    return (
        {key: turned(given[key]) for key in reversed(given)} if isinstance(given, dict) else given
    )


def matching(patterns: Iterable[str], names: Iterable[str]) -> set[str]:
    """Names that a pattern fits; every pattern must fit one."""
    names = set(names)
    found = {
        pattern: {name for name in names if fnmatchcase(name, pattern)} for pattern in patterns
    }
    assert all(found.values()), (
        f"patterns that fit nothing: {[pattern for pattern, some in found.items() if not some]}"
    )
    return set().union(*found.values())


def different(old: dict[str, str], new: dict[str, str]) -> set[str]:
    """Names whose value is another one, or which stand on one side only."""
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """The identity of the project as it is."""
    return World(tmp_path_factory.mktemp("world")).take()


@pytest.mark.parametrize("name", CHANGES)
def test_an_input_changes_what_is_made_from_it_and_nothing_else(
    unchanged: Identity, tmp_path: Path, name: str
) -> None:
    change, fingerprints, cells = CHANGES[name]
    world = World(tmp_path)
    change(world)
    changed = world.take()
    assert different(unchanged.fingerprints, changed.fingerprints) == matching(
        fingerprints, unchanged.fingerprints
    )
    assert different(unchanged.cells, changed.cells) == matching(cells, unchanged.cells)


@pytest.mark.parametrize("name", NOTHING)
def test_what_is_no_input_changes_nothing(unchanged: Identity, tmp_path: Path, name: str) -> None:
    world = World(tmp_path)
    NOTHING[name](world)
    assert world.take() == unchanged


def renamed(names: dict[str, str], old: str, new: str) -> dict[str, str]:
    """The same values under names in which `old` is replaced."""
    return {name.replace(old, new): value for name, value in names.items()}


def test_a_familys_name_is_no_input(unchanged: Identity, tmp_path: Path) -> None:
    world = World(tmp_path, family_name="another")
    world.suite["families"] = ["another", "other"]
    made = world.take()
    assert made.fingerprints == renamed(
        unchanged.fingerprints, "fam/", "another/"
    ) and made.cells == renamed(unchanged.cells, "fam/", "another/")


def test_a_vocabularys_name_is_no_input(unchanged: Identity, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.family["vocabularies"] = {
        "other" if name == "made" else name: given
        for name, given in world.family["vocabularies"].items()
    }
    made = world.take()
    assert made.fingerprints == renamed(unchanged.fingerprints, "fam/made", "fam/other")
    assert made.cells == renamed(unchanged.cells, "fam/made", "fam/other")


def test_training_seeds_are_inputs_of_what_is_trained(unchanged: Identity) -> None:
    """And of every cell. What is computed from a given donor is the same for every seed."""
    seeds = {
        name.removesuffix("@seed1"): print_
        for name, print_ in unchanged.fingerprints.items()
        if name.endswith("@seed1")
    }
    first = {name: unchanged.fingerprints[name] for name in seeds}
    assert different(first, seeds) == matching(
        (*MADE_DONOR, *ORIGINAL_DONOR, *MADE_ADAPTED, *TUNED), first
    )
    cells = {
        name.replace("@seed1", ""): key for name, key in unchanged.cells.items() if "@seed1" in name
    }
    assert (
        cells and different({name: unchanged.cells[name] for name in cells}, cells) == cells.keys()
    )


REVISED = {
    "vocabulary": (VOCABULARY, ()),
    "init": (("*:fam/made/init", *MADE_DONOR, *MADE_ADAPTED), ()),
    "instruct-init": (("*/instruct-init",), ()),
    "donor": ((*MADE_DONOR, *ORIGINAL_DONOR, *MADE_ADAPTED), ()),
    "propagation": (("*/shift*", "*/still*"), ()),
    "answers": (("answers:fam/instruct", *TUNED), ()),
    "tuning": (TUNED, ()),
    "score": ((), ALL),
}


def test_every_stage_has_a_revision() -> None:
    assert plan.REVISIONS.keys() == REVISED.keys()


@pytest.mark.parametrize("stage", REVISED)
def test_a_stages_revision_changes_what_it_makes(
    unchanged: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setitem(plan.REVISIONS, stage, plan.REVISIONS[stage] + 1)
    fingerprints, cells = REVISED[stage]
    changed = World(tmp_path).take()
    assert different(unchanged.fingerprints, changed.fingerprints) == matching(
        fingerprints, unchanged.fingerprints
    )
    assert different(unchanged.cells, changed.cells) == matching(cells, unchanged.cells)


def test_under_protocol_paper_the_conversation_is_an_input(tmp_path: Path) -> None:
    def paper(folder: str, *changes: Change) -> dict[str, str]:
        world = World(tmp_path / folder)
        both(setting("suite", "protocol", to="paper"), *changes)(world)
        return world.take().cells

    plain = paper("plain")
    of_family = paper("family", setting("family", "conversation", to="mistral"))
    assert different(plain, of_family) == matching(
        [pattern.replace("*/", "fam/*", 1) for pattern in CHAT[:3]], plain
    )
    of_baseline = paper("baseline", setting("hub", "conversation", to="mistral"))
    assert different(plain, of_baseline) == matching(["baselines/hub:*"], plain)
    assert paper("default", setting("family", "conversation", to="template")) == plain


def test_an_installed_packages_version_stands_for_its_code(tmp_path: Path) -> None:
    """Its files are not read: an editable install has none of its own."""
    from lep_bench.plugin import RegisteredAdapter, discover_adapters

    world = World(tmp_path)
    world.take()
    mine = discover_adapters([tmp_path / "adapters"]).get("propagation", "shift").adapter
    one, two, same = (
        RegisteredAdapter(mine, f"package words {version}", False).source_digest
        for version in ("1.0", "1.1", "1.0")
    )
    assert one == same != two


def test_a_cell_is_current_with_its_models_fingerprint_and_its_key_only(tmp_path: Path) -> None:
    made = World(tmp_path).plan()
    record, task, key = next(one for one in made.expected if one[0].name == "fam/made/shift")
    store = Store(tmp_path / "out")

    def current(**changes: Any) -> int:
        stored = result(record, task).model_copy(
            update={"suite": "invented", "key": key, **changes}
        )
        store.write(stored, [])
        count = World(tmp_path).plan().current_cells
        store.result(stored.suite, stored.model.name, task, stored.key).unlink()
        return count

    assert made.current_cells == 0 and current() == 1
    assert current(model=record.model_copy(update={"fingerprint": "0" * 16})) == 0
    assert current(key="0" * 16) == 0
    assert current(status="failed", error="it broke") == 0
    assert current(suite="another") == 0
    assert current(schema_version=0) == 0


def test_what_is_made_is_current_by_its_fingerprint(tmp_path: Path) -> None:
    """Its fingerprint names its folder. An artifact of another fingerprint is made beside it."""
    (folder,) = (
        node.folder
        for node in World(tmp_path).plan().nodes.values()
        if node.id == "propagation:fam/given/still"
    )
    assert folder.name.endswith(World(tmp_path).take().fingerprints["propagation:fam/given/still"])
    folder.mkdir(parents=True)
    (folder / "lep.json").write_text("{}")
    assert {node.id for node in World(tmp_path).plan().cached} == {"propagation:fam/given/still"}
    world = World(tmp_path)
    adapter("still.py")(world)
    assert not world.plan().cached
