"""What the data commands print: pairs, conversions and verifications as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medical_team.dataset.report import Report
from medical_team.dataset.row_checks import Kind
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType

_SHOWN = 20


def marked_change(before: str, after: str) -> Text:
    """A change in wdiff's form: ``[-words only before-]`` and ``{+words only after+}``."""
    old, new = before.split(), after.split()
    text = Text()
    for tag, a1, a2, b1, b2 in SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        if tag == "equal":
            text.append(" ".join(old[a1:a2]) + " ")
            continue
        if a1 < a2:
            text.append(f"[-{' '.join(old[a1:a2])}-] ", style="red")
        if b1 < b2:
            text.append(f"{{+{' '.join(new[b1:b2])}+}} ", style="green")
    text.rstrip()
    return text


def print_pairs(cases: Sequence[Case], console: Console) -> None:
    """Shows the sentence in which each pair differs, and counts the pairs by error type."""
    shown = Table(
        "case", "error type", "sentence", "[-error-] {+correction+}", title="contrastive pairs"
    )
    for case in cases:
        place = f"{case.error_sentence_id} of 0-{len(case.error_sentences) - 1}"
        change = marked_change(case.error_sentence, case.corrected_sentence)
        shown.add_row(Text(case.case_id), Text(case.error_type), place, change)
    counted = Table("error type", "pairs", "error notes", "clean notes", title="counts")
    for name, count in Counter(case.error_type for case in cases).most_common():
        counted.add_row(Text(name), *[str(count)] * 3)
    counted.add_section()
    counted.add_row("all", *[str(len(cases))] * 3)
    console.print(shown, counted)


def print_manifest(manifest: Mapping[str, Any], output_dir: Path, console: Console) -> None:
    """Shows what a conversion wrote."""
    files = manifest["files"]
    table = Table("", title=f"dataset, seed {manifest['seed']}")
    for name in files:
        table.add_column(Text(name), justify="right")
    table.add_row("rows", *(str(file["rows"]) for file in files.values()))
    for game in GameType:
        counts = (str(file["game_types"].get(game, 0)) for file in files.values())
        table.add_row(f"  {game}", *counts)
    console.print(table)
    for split, source in manifest["sources"].items():
        note = (
            f"{split}: {sum(source['error_cases'].values())} error cases in {source['file']},"
            f" {source['left_out']['number']} rows left out, {source['mended']['number']} mended"
        )
        console.print(Text(note), soft_wrap=True)
    held_out = manifest["settings"]["val_fraction"]
    if held_out is not None:
        note = (
            f"no file for val given: {held_out:.0%} of the train cases are held out as val (seeded)"
        )
        console.print(Text(note), soft_wrap=True)
    console.print(Text(f"written to {output_dir}"), soft_wrap=True)


def print_report(report: Report, console: Console) -> None:
    """Shows what a verification found: a column a file, then warnings and problems."""
    table = Table(title="verification")
    table.add_column(no_wrap=True)
    for file in report.files:
        table.add_column(Text(f"{file.path.parent.name}/{file.path.name}"), justify="right")
    error_types = sorted({name for file in report.files for name in file.error_types})
    lines: list[tuple[str, Sequence[object]]] = [
        ("rows", [file.rows for file in report.files]),
        *((f"  {game}", [file.game_types[game] for file in report.files]) for game in GameType),
        *((f"  {name}", [file.error_types[name] for file in report.files]) for name in error_types),
        ("words, min / mean / max", [file.words for file in report.files]),
        ("tokens, min / mean / max", [file.tokens for file in report.files]),
        ("duplicate prompts", [file.duplicates for file in report.files]),
        ("near-duplicates across files", [file.near_duplicates for file in report.files]),
        ("leaks", [file.problems[Kind.LEAK] for file in report.files]),
        ("rows over the prompt limit", [file.problems[Kind.LENGTH] for file in report.files]),
        ("other problems", [_other_problems(file.problems) for file in report.files]),
    ]
    for name, values in lines:
        table.add_row(Text(name), *map(str, values))
    console.print(table)
    _print_messages("warning", report.warnings, console)
    _print_messages("problem", report.problems, console)
    verdict = f"{len(report.problems)} problem(s), {len(report.warnings)} warning(s)"
    console.print(Text(f"{'FAILED' if report.problems else 'ok'}: {verdict}"))


def _other_problems(problems: Counter[Kind]) -> int:
    return sum(count for kind, count in problems.items() if kind not in (Kind.LEAK, Kind.LENGTH))


def _print_messages(kind: str, messages: Sequence[str], console: Console) -> None:
    for message in messages[:_SHOWN]:
        console.print(Text(f"{kind}: {message}"), soft_wrap=True)
    if len(messages) > _SHOWN:
        console.print(Text(f"{kind}: and {len(messages) - _SHOWN} more"))
