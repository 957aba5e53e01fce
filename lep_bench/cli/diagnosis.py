"""What a check of the machine or of a bundle found, and how it is printed."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import typer

WIDE = 120  # columns of the report
INSTALL = "install again with the tested versions: pip install -c constraints.txt -e ."


@dataclass(frozen=True)
class Diagnosis:
    """One line of the report. `advice` says what to do; empty when nothing needs doing."""

    level: Literal["ok", "note", "warning", "error"]
    topic: str
    text: str
    advice: str = ""


def print_findings(findings: Sequence[Diagnosis]) -> None:
    """Print the findings in columns, as wide as the terminal but at most `WIDE`; below them each
    advice once, with the topics it is for.
    """
    topic = max(len(finding.topic) for finding in findings)
    room = min(WIDE, shutil.get_terminal_size((WIDE, 24)).columns) - topic - 11
    for finding in findings:
        # A path or an id is never broken: somebody copies it.
        first, *rest = textwrap.wrap(
            finding.text, max(room, 30), break_long_words=False, break_on_hyphens=False
        ) or [""]
        typer.echo(f"{finding.level:<7}  {finding.topic:<{topic}}  {first}".rstrip())
        for line in rest:
            typer.echo(" " * (topic + 11) + line)
    advices: dict[str, list[str]] = {}
    for finding in findings:
        if finding.advice:
            advices.setdefault(finding.advice, []).append(finding.topic)
    if advices:
        typer.echo("\nwhat to do")
    for advice, topics in advices.items():
        more = f" and {len(topics) - 3} more" if len(topics) > 3 else ""
        typer.echo(f"- {', '.join(topics[:3])}{more}: {advice}")
