"""Everything is written whole or not at all."""

import errno

import pytest

from lep_bench import files
from lep_bench.errors import LepBenchError


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    files.write_json(target, {"n": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(LepBenchError, match="disk is full"):
        files.write_json(target, {"n": 2})
    assert target.read_text() == '{\n "n": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_appears_only_when_it_is_whole(tmp_path):
    with pytest.raises(RuntimeError), files.new_folder(tmp_path / "out") as folder:
        (folder / "part").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with files.new_folder(tmp_path / "out") as folder:
        (folder / "part").write_text("x")
    assert (tmp_path / "out" / "part").read_text() == "x"
    with pytest.raises(LepBenchError, match="exists already"), files.new_folder(tmp_path / "out"):
        pass


def test_sweep_removes_what_killed_writers_left(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / (files.UNFINISHED + "x")).mkdir()
    (tmp_path / (files.UNFINISHED + "y")).write_text("half")
    (tmp_path / "kept").write_text("whole")
    assert files.remove_unfinished(tmp_path) == 2
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "kept"]


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
