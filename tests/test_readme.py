"""What README.md shows really works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from lep_bench.testing import check_adapter

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def example(folder: Path) -> Path:
    """The README's plugin example, pasted into a file."""
    match = re.search(r'```python title="my-adapters/shift.py"\n(.*?)```', README, re.DOTALL)
    assert match, "README.md has no plugin example"
    file = folder / "shift.py"
    file.write_text(match[1], encoding="utf-8")
    return file


def lep_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lep_bench", *arguments], capture_output=True, text=True, timeout=120
    )


def test_the_plugin_example_gives_models(tmp_path: Path) -> None:
    example(tmp_path)
    result = lep_bench("list", "models", "mini-llama/*/shift", "--adapters", str(tmp_path))
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == [
        f"mini-llama/{v}/shift" for v in ("bpe", "unigram", "extended", "optimized")
    ]
    assert all(row[2] == "yes" for row in rows), "an adapter of the user's own belongs to `all`"
    listed = lep_bench("list", "adapters", "--adapters", str(tmp_path)).stdout
    assert "shift" in listed and "mean move of the shared tokens" in listed


def test_the_plugin_example_keeps_the_contract(tmp_path: Path) -> None:
    check_adapter(example(tmp_path), strength=0.5)


def test_the_first_screen_has_the_table_and_the_two_commands() -> None:
    screen = "\n".join(README.splitlines()[:40])
    assert (
        screen.index("make run")
        < screen.index("make test")
        < screen.index("<!-- lep-bench:table -->")
        < screen.index("| `instruct`")
    )
    assert README.count("LoRA adapter") == 1


def test_no_other_host_than_the_papers_is_named() -> None:
    assert set(re.findall(r"https?://([^/\s)]+)", README)) <= {"arxiv.org", "127.0.0.1:8000"}
