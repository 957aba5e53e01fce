"""A Hub on the loopback interface, a suite of one task and one model in it, and `lep-bench bundle`
for that suite.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from lep_bench import bundle

# pytest's importlib mode puts no test folder on the path
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))
from bundled import DARUMERU, DATA, MODEL, SUITE
from hub import Hub


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands set these variables for all that they start; after a test they are as before."""
    for name in (bundle.DATA, bundle.DICTIONARY_PATH):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in bundle.OFFLINE:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def hub(surroundings: None, monkeypatch: pytest.MonkeyPatch):
    with Hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            served.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        served.add("dataset", "RefalMachine/darumeru", DATA, commit=DARUMERU, licence="mit")
        more = {"pytorch_model.bin": b"pickle", "original/params.json": b"{}"}
        served.commit = served.add("model", "org/pico", {**MODEL, **more}, licence="apache-2.0")
        yield served


@pytest.fixture
def configs(tmp_path: Path, hub: Hub) -> Path:
    """A suite of one task and one model, pinned."""
    baseline = {
        "model": "org/pico",
        "revision": hub.commit,
        "format": "plain",
        "conversation": "non_instruct_simple",
        "parameters": 300_000,
    }
    for kind, name, content in (("suites", "tiny", SUITE), ("baselines", "pico", baseline)):
        (tmp_path / "configs" / kind).mkdir(parents=True)
        (tmp_path / "configs" / kind / f"{name}.yaml").write_text(
            yaml.safe_dump(content), encoding="utf-8"
        )
    return tmp_path / "configs"


@pytest.fixture
def make(cli, configs: Path, tmp_path: Path):
    """`lep-bench bundle --suite tiny DIR ...`, as in a process of its own: an earlier command set
    variables for what it starts.
    """

    def run(*more: object, folder: object = None):
        for name in (bundle.DATA, bundle.DICTIONARY_PATH):
            os.environ.pop(name, None)
        return cli(
            "bundle", "--suite", "tiny", folder or tmp_path / "bundle", "--configs", configs, *more
        )

    return run
