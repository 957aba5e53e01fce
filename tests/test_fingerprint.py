"""Digests of files: of large ones they are remembered across processes, and never used for another
content.
"""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from lep_bench import files


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large and was written a while ago; the user's cache folder is
    `tmp_path/cache`.
    """
    monkeypatch.setattr(files, "LARGE", 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "model.safetensors"
    return age(file, b"a" * 2000)


def age(file, content, seconds=10):
    file.write_bytes(content)
    now = file.stat().st_mtime_ns - seconds * 10**9
    os.utime(file, ns=(now, now))
    return file


def afresh(file):
    """The digest as a new process finds it."""
    files._file_sha256.cache_clear()
    return files.file_digest(file)


def notes():
    return (
        sorted(files.digest_cache_folder().glob("*"))
        if files.digest_cache_folder().is_dir()
        else []
    )


def test_a_large_files_digest_is_kept_and_read_again(large):
    true = sha256(large.read_bytes()).hexdigest()[: files.LENGTH]
    assert afresh(large) == true and len(notes()) == 1
    note = json.loads(notes()[0].read_text())
    notes()[0].write_text(json.dumps({**note, "sha256": "0" * files.SHA256_LENGTH}))
    assert afresh(large) == "0" * files.LENGTH, "the file was read again"
    link = large.with_name("link")
    link.symlink_to(large)
    assert afresh(link) == "0" * files.LENGTH, "one file under two names is one file"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"sha256": "0000000000000000"}', "\x00"])
def test_a_damaged_note_is_not_believed(large, text):
    true = afresh(large)
    notes()[0].write_text(text)
    assert afresh(large) == true


def test_another_content_is_another_digest(large):
    first = afresh(large)
    age(large, b"b" * 2000, seconds=20)
    assert afresh(large) != first
    copy = large.with_name("copy")
    copy.write_bytes(b"c" * 2000)
    os.utime(copy, ns=(large.stat().st_mtime_ns,) * 2)
    os.replace(copy, large)  # same path, size and time: another inode
    assert afresh(large) == sha256(b"c" * 2000).hexdigest()[: files.LENGTH]


def test_a_file_just_written_and_a_small_one_are_not_remembered(large):
    age(large, b"d" * 2000, seconds=0)
    afresh(large)
    afresh(age(large.with_name("small"), b"e" * 999))
    assert not notes()


def test_many_at_once_and_a_cache_that_cannot_be_written(large, tmp_path, monkeypatch):
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: afresh(large), range(32)))
    assert len(made) == 1 and len(notes()) == 1 and notes()[0].suffix == ".json"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert {afresh(large)} == made
