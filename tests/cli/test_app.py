"""What all commands share: help, old names, exit codes, bugs, interruption."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from typer.main import get_command

from lep_bench import files
from lep_bench.cli.app import RENAMED, SECTIONS, app


def leaves(command, *path: str):
    """Every command that does something, by the words that name it."""
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [leaf for name, one in command.commands.items() for leaf in leaves(one, *path, name)]


COMMANDS = leaves(get_command(app))


def test_every_command_stands_in_one_section_of_the_help(cli) -> None:
    commands = get_command(app).commands
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(
        name for name, command in commands.items() if not command.hidden
    )
    lines = cli("--help").out.splitlines()
    heads = [line.rstrip(":") for line in lines if line.rstrip(":") in SECTIONS]
    assert heads == list(SECTIONS)


@pytest.mark.parametrize("group", [(), ("list",), ("new",)])
def test_every_line_of_the_help_is_whole(cli, group: tuple[str, ...]) -> None:
    text = cli(*group, "--help").out
    assert "..." not in text.replace("[ARGS]...", "") and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS], ids=" ".join)
def test_every_command_has_help_under_both_names(cli, path: tuple[str, ...]) -> None:
    short, long = cli(*path, "-h"), cli(*path, "--help")
    assert short.code == long.code == 0 and short.out == long.out
    assert f"Usage: lep-bench {' '.join(path)}" in short.out


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["models", "mini-llama/*/swap"], ["list", "models", "mini-llama/*/swap"]),
        (["adapters"], ["list", "adapters"]),
        (["families"], ["list", "families"]),
        (["tasks"], ["list", "tasks"]),
        (["where", "tasks"], ["list", "paths", "tasks"]),
    ],
    ids=lambda words: words[0],
)
def test_an_old_name_works_and_says_the_new_one(cli, old: list[str], new: list[str]) -> None:
    was, now = cli(*old), cli(*new)
    assert (was.code, was.out) == (now.code, now.out) == (0, now.out)
    note = f"`lep-bench {old[0]}` is now `lep-bench {RENAMED[old[0]]}`; the old name goes in 0.3\n"
    assert was.err == note + now.err
    assert f"  {old[0]} " not in cli("--help").out


def test_an_old_flag_works_and_says_the_new_command(cli, tmp_path: Path) -> None:
    answer = cli("leaderboard", "--publish", "--out", tmp_path)
    note, error = answer.err.splitlines()
    assert note.startswith("`lep-bench leaderboard --publish` is now `lep-bench publish`")
    assert answer.code == 2 and "no results" in error
    assert "--publish" not in cli("leaderboard", "--help").out


def test_unknown_command_offers_a_near_one(cli) -> None:
    answer = cli("leaderbord")
    assert answer.code == 2 and "'leaderboard'" in answer.err


def test_interruption_says_how_to_go_on(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "shipped_folder", interrupt)
    answer = cli("list", "paths", "tasks")
    assert (answer.code, answer.err) == (130, "interrupted: run the same command again to go on\n")


@pytest.fixture
def bug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """`list paths FOLDER` divides by zero; logs are written to the folder that is returned."""
    monkeypatch.setattr(files, "shipped_folder", lambda name: 1 / 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_bug_is_one_line_and_a_log_with_the_traceback(cli, bug: Path) -> None:
    answer = cli("list", "paths", "tasks")
    (log,) = bug.iterdir()
    assert answer.code == 70 and answer.err.count("\n") == 1
    assert (
        answer.err.startswith("bug: ZeroDivisionError: division by zero") and str(log) in answer.err
    )
    text = log.read_text(encoding="utf-8")
    assert "lep-bench list paths tasks" in text and "Traceback" in text
    assert text.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    "arguments", [("--debug", "list", "paths", "tasks"), ("list", "paths", "tasks", "--debug")]
)
def test_debug_prints_the_traceback(cli, bug: Path, arguments: tuple[str, ...]) -> None:
    answer = cli(*arguments)
    assert answer.code == 70 and "Traceback" in answer.err and not list(bug.iterdir())


def test_a_bug_is_told_where_no_log_can_be_written(
    cli, bug: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    answer = cli("list", "paths", "tasks")
    assert answer.code == 70 and "ZeroDivisionError" in answer.err and "--debug" in answer.err


def test_version(cli) -> None:
    from lep_bench import __version__

    assert cli("--version").out == f"lep-bench {__version__}\n"
