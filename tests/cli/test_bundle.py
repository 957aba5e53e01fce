"""`lep-bench bundle` against a Hub on the loopback interface, and work with the bundle where no
network is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from bundled import BASE, DARUMERU, DATA, MODEL, STORED
from hub import Hub
from huggingface_hub import constants

from lep_bench import bundle, bundling, files
from lep_bench.files import shipped_folder

SNAPSHOT = f"datasets--RefalMachine--darumeru/snapshots/{DARUMERU}"
pytestmark = pytest.mark.skipif(not BASE.is_dir(), reason="no shipped checkpoints")


def list_files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_a_list_names_everything_and_fetches_nothing(make, hub: Hub, tmp_path: Path) -> None:
    done = make("--list", "--models", "--wheels")
    assert done.code == 0, done.err
    rows = {line.split()[0]: line for line in done.out.splitlines()}
    assert (
        rows["dataset"].split()[1:3] == ["RefalMachine/darumeru", DARUMERU]
        and " mit " in rows["dataset"]
    )
    assert (
        rows["model"].split()[1:4] == ["org/pico", hub.commit, "5"]
        and "apache-2.0" in rows["model"]
        and "to fetch" in rows["model"]
    )
    assert "pymorphy3_dicts_ru" in rows["dictionaries"] and "constraints.txt" in rows["wheels"]
    assert not (tmp_path / "bundle").exists() and not hub.downloads()


def test_a_bundle_holds_what_is_needed_and_proves_it(make, hub: Hub, tmp_path: Path) -> None:
    done = make("--models")
    assert done.code == 0, done.err
    root = tmp_path / "bundle"
    assert list_files(root / "RefalMachine" / "darumeru") == STORED, (
        "another task's rows are not needed"
    )
    snapshot = root / "models--org--pico" / "snapshots" / hub.commit
    assert list_files(snapshot) == sorted(MODEL), "no pickles, no folders below"
    assert sorted(hub.downloads()) == sorted([*STORED, *MODEL])
    held = bundle.read_manifest(root)
    assert held.suites == ("tiny",) and {entry.kind for entry in held.entries} == {
        "dataset",
        "dictionaries",
        "model",
    }
    rows = held.entry("dataset", "RefalMachine/darumeru")
    assert (rows.licence, rows.gated, rows.commit) == ("mit", False, DARUMERU)
    stored = {file.path: file for file in rows.files}
    assert {name: file.sha256 for name, file in stored.items()} == {
        name: hashlib.sha256(DATA[name]).hexdigest() for name in STORED
    }
    assert (
        sum(file.bytes for file in stored.values())
        == sum(len(DATA[name]) for name in STORED)
        == rows.bytes
    )
    asked = len(hub.asked)
    assert done.out.count("stored: ") == 3
    done = make("--models")
    assert done.code == 0 and len(hub.downloads()) == len(STORED) + len(MODEL), (
        "what is here is not fetched again"
    )
    assert done.out.count("there: ") == 3 and "stored" not in done.out
    assert len(hub.asked) > asked
    assert "here" in make("--list").out.splitlines()[1]


def test_what_broke_off_goes_on(
    make, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fails_after = 1
    with monkeypatch.context() as quick:
        quick.setattr("time.sleep", lambda seconds: None)  # between the library's own attempts
        done = make()
    last = done.err.splitlines()[-1]
    assert (
        done.code == 2
        and "cannot reach the Hugging Face Hub" in last
        and "the same command goes on" in last
    )
    assert len(list_files(tmp_path / "bundle" / SNAPSHOT)) == 1
    assert not (tmp_path / "bundle" / "bundle.json").exists()
    assert not (tmp_path / "bundle" / "RefalMachine").exists(), "no task sees half a dataset"
    hub.fails_after, hub.asked[:] = None, []
    assert make().code == 0
    assert hub.downloads() == [name for name in STORED if name != "data/parus/prompt.jsonl"]
    assert list_files(tmp_path / "bundle" / "RefalMachine" / "darumeru") == STORED


def test_a_file_that_is_not_the_revisions_is_refused(make, hub: Hub, tmp_path: Path) -> None:
    honest = DATA["data/parus/test.jsonl"]
    hub.corrupt["data/parus/test.jsonl"] = honest.replace("Трава".encode(), "трава".encode())
    done = make()
    assert (
        done.code == 1 and f"data/parus/test.jsonl is not what revision {DARUMERU} says" in done.err
    )
    assert list_files(tmp_path / "bundle" / SNAPSHOT) == ["data/parus/prompt.jsonl"]
    assert (
        bundle.read_manifest(tmp_path / "bundle").entry("dataset", "RefalMachine/darumeru") is None
    )


def test_a_gated_model_is_one_line_and_the_rest_is_stored(make, hub: Hub, tmp_path: Path) -> None:
    hub.repositories["model", "org/pico"].gated = True
    done = make("--models")
    assert (
        done.code == 1
        and (
            "missing: org/pico is gated: accept its licence on its Hub page, then run `hf auth "
            "login`"
        )
        in done.err
    )
    assert (
        bundle.read_manifest(tmp_path / "bundle").entry("dataset", "RefalMachine/darumeru")
        is not None
    )
    assert bundle.read_manifest(tmp_path / "bundle").entry("model", "org/pico") is None
    assert " yes " in make("--models", "--list").out


def test_bad_input_is_one_line(
    make, hub: Hub, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(
        *words: str, code: int = 2, options: tuple[object, ...] = (), folder: object = None
    ) -> None:
        done = make(*options, folder=folder)
        assert (
            done.code == code
            and all(word in done.err for word in words)
            and "Traceback" not in done.err
        ), done.err

    refused("cannot write", folder="/dev/null/bundle")
    (tmp_path / "file").write_text("x")
    refused("is a file, a folder is needed", folder=tmp_path / "file")
    refused("there is no such folder", options=("--data", tmp_path / "nothing"))
    with monkeypatch.context() as small:
        small.setattr(files.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
        refused("free some space", folder=tmp_path / "full")
    assert not (tmp_path / "full").exists()
    repository = hub.repositories["dataset", "RefalMachine/darumeru"]
    honest = repository.commits[DARUMERU]
    repository.commits[DARUMERU] = {**honest, "../../data/parus/test.jsonl": b"{}"}
    refused("'../../data/parus/test.jsonl' is refused")
    repository.commits[DARUMERU] = {"data/rcb/test.jsonl": b"{}\n"}
    refused("has no file for parus/prompt, parus/test", code=1)
    repository.commits = {"b" * 40: honest}
    repository.branches = {"main": "b" * 40}
    refused(f"has no revision '{DARUMERU}'", code=1)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    refused("cannot reach the Hugging Face Hub")
    done = make("--list", folder=tmp_path / "new")
    assert (
        "sizes are not known without the Hub" in done.err
        and "MB and 1 thing of unknown size into" in done.out
    )


def test_a_local_folder_feeds_a_bundle(make, cli, hub: Hub, configs: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    for name in STORED:
        (mirror / "RefalMachine" / "darumeru" / name).parent.mkdir(parents=True, exist_ok=True)
        (mirror / "RefalMachine" / "darumeru" / name).write_bytes(DATA[name])
    done = make("--data", mirror)
    assert done.code == 0 and not hub.downloads() and "no manifest proves its revision" in done.out
    assert (
        bundle.read_manifest(tmp_path / "bundle").entry("dataset", "RefalMachine/darumeru").commit
        is None
    )
    own = mirror / "RefalMachine" / "darumeru" / "data"  # one dataset's own folder
    assert make("--data", own, folder=tmp_path / "second").code == 0 and not hub.downloads()
    assert make(folder=tmp_path / "proven").code == 0
    hub.asked.clear()
    assert (
        make("--data", tmp_path / "proven", folder=tmp_path / "third").code == 0 and not hub.asked
    )
    assert (
        bundle.read_manifest(tmp_path / "third").entry("dataset", "RefalMachine/darumeru").commit
        == DARUMERU
    )
    assert make("--data", mirror, folder=mirror).code == 0 and (mirror / "bundle.json").is_file(), (
        "a mirror gets its manifest in place"
    )


GUARD = """
import os, socket
def refuse(*arguments, **more):
    with open(os.environ["GUARD"], "a") as file:
        file.write(repr(arguments[-1]) + "\\n")
    raise OSError("the network was reached for")
socket.getaddrinfo = socket.socket.connect = socket.socket.connect_ex = refuse
"""


@pytest.fixture
def guarded(tmp_path: Path, configs: Path):
    """Run `lep-bench ...` in a process (and all that it starts) whose sockets raise and leave a
    note.
    """
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    away = {name: value for name, value in os.environ.items() if name not in bundle.OFFLINE}
    surroundings = {
        **away,
        "PYTHONPATH": str(tmp_path / "guard"),
        "GUARD": str(tmp_path / "notes"),
        "HF_HOME": str(tmp_path / "home"),
    }

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "lep_bench",
            *map(str, arguments),
            "--configs",
            str(configs),
        ]
        return subprocess.run(
            command, env=surroundings, capture_output=True, text=True, timeout=300
        )

    return run


@pytest.mark.slow
def test_a_run_from_a_bundle_touches_no_network(make, guarded, tmp_path: Path) -> None:
    assert make("--models").code == 0
    root, notes = tmp_path / "bundle", tmp_path / "notes"
    run = guarded(
        "run",
        "--suite",
        "tiny",
        "--data",
        root,
        "--offline",
        "--out",
        tmp_path / "out",
        "--workers",
        1,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert not notes.exists(), notes.read_text()
    result = json.loads(
        next((tmp_path / "out" / "tiny" / "results").rglob("*.json")).read_text(encoding="utf-8")
    )
    assert (
        result["status"] == "ok"
        and result["samples"] == 3
        and result["model"]["name"] == "baselines/pico"
    )
    assert guarded("bundle", "--suite", "tiny", tmp_path / "other", "--list").returncode == 0
    assert notes.exists(), "the guard does not see what the library asks for"


def test_a_bundle_that_was_changed_is_refused_by_name(
    make, cli, configs: Path, tmp_path: Path
) -> None:
    assert make("--models").code == 0
    root = tmp_path / "bundle"

    def refused(*words: str) -> None:
        done = cli(
            "run",
            "--suite",
            "tiny",
            "--configs",
            configs,
            "--data",
            root,
            "--offline",
            "--dry-run",
            "--out",
            tmp_path / "out",
        )
        assert (
            done.code == 2
            and all(word in done.err for word in words)
            and "lep-bench bundle --suite tiny" in done.err
        ), done.err
        assert done.err.count("\n") == 1

    rows, weights = (
        root / "RefalMachine" / "darumeru" / "data" / "parus" / "test.jsonl",
        next(root.glob("models--org--pico/snapshots/*/model.safetensors")),
    )
    honest = rows.read_bytes()
    rows.write_bytes(honest.replace("берегов".encode(), "берегоф".encode()))
    refused("RefalMachine/darumeru/data/parus/test.jsonl was changed")
    (tmp_path / "text.txt").write_text("Раз, два, три.")
    for command in (
        ("contamination", "--suite", "tiny", "--text", tmp_path / "text.txt"),
        ("prompts", "baselines/pico", "darumeru_parus"),
    ):
        done = cli(
            *command, "--configs", configs, "--data", root, "--offline", "--out", tmp_path / "out"
        )
        assert done.code == 2 and "data/parus/test.jsonl was changed" in done.err, done.err
    rows.write_bytes(honest[:-1])
    refused("data/parus/test.jsonl has", "were stored")
    rows.unlink()
    refused("data/parus/test.jsonl is missing")
    rows.write_bytes(honest)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    refused("model.safetensors was changed", f"{root} --models")
    weights.write_bytes(whole)
    more = rows.with_name("test.parquet")
    more.write_bytes(b"other rows")
    refused("data/parus/test.parquet was added")
    more.unlink()
    words = root / "dictionaries" / "words.dawg"
    words.write_bytes((kept := words.read_bytes())[:-1] + b"x")
    refused("dictionaries/words.dawg was changed")
    words.write_bytes(kept)
    assert (
        cli(
            "run",
            "--suite",
            "tiny",
            "--configs",
            configs,
            "--data",
            root,
            "--dry-run",
            "--out",
            tmp_path / "out",
        ).code
        == 0
    )


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from instead of an index: empty wheels of all that lep-bench
    requires, as pinned.
    """
    import base64
    import zipfile

    pins = dict(
        line.split("==")
        for line in (shipped_folder("configs").parent / "constraints.txt").read_text().splitlines()
        if "==" in line[1:]
    )
    folder = tmp_path / "index"
    folder.mkdir()
    for need in bundling.list_requirements():
        name = need.replace(">", "<").replace("=", "<").split("<")[0]
        stem = f"{name.replace('-', '_')}-{pins[name]}"
        content = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {pins[name]}\n",
            "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
            record = ""
            for file, text in content.items():
                wheel.writestr(f"{stem}.dist-info/{file}", text)
                digest = (
                    base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
                    .decode()
                    .rstrip("=")
                )
                record += f"{stem}.dist-info/{file},sha256={digest},{len(text)}\n"
            wheel.writestr(f"{stem}.dist-info/RECORD", record + f"{stem}.dist-info/RECORD,,\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # pip's odd way to say: without isolation
    return folder


def test_a_wheelhouse_has_every_requirement(make, index: Path, tmp_path: Path) -> None:
    done = make("--wheels")
    assert done.code == 0, done.err
    held = {path.name for path in (tmp_path / "bundle" / "wheels").iterdir()}
    assert {path.name for path in index.iterdir()} < held and any(
        name.startswith("lep_bench-") for name in held
    )
    entry = next(
        entry
        for entry in bundle.read_manifest(tmp_path / "bundle").entries
        if entry.kind == "wheels"
    )
    assert len(entry.files) == len(held) and not bundle.find_faults(tmp_path / "bundle", entry)
    next(index.glob("typer-*")).unlink()
    shutil.rmtree(tmp_path / "bundle" / "wheels")
    done = make("--wheels")
    assert (
        done.code == 2
        and "the wheelhouse cannot be made: pip download" in done.err
        and "typer" in done.err
    )
