"""Supervised games as Parquet files, from which a model learns the format and the notes' errors.

Each row is a conversation that ends in the assistant's response. Cases of the sample clinic are
answered fact by fact from its table, all others from their gold pair alone.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medical_team.answers import THINK_OPEN
from medical_team.atomic_files import why_not_written
from medical_team.dataset.report import TokenCounter
from medical_team.dataset.row_checks import digest
from medical_team.dataset.rows import SPLITS, DatasetError, case_from_dict
from medical_team.dataset.worked_turns import Example, Task, gold_turns
from medical_team.dataset.writer import publish, read_manifest, tool_version
from medical_team.medec import Case, Findings, read_medec
from medical_team.medical_game_manager import Game, GameRules, GameType
from medical_team.prompts import PromptStyle
from medical_team.sample_world.supervised import case_turns

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "supervised"
_BATCH = 512
# A held-out split keeps a case that stands in the training split too; training goes without it.
_ORDER = tuple(reversed(SPLITS))


@dataclass(frozen=True, slots=True)
class SupervisedSet:
    """What supervised games are made from, and how.

    Attributes:
        sources: for each split (``train``, ``val``, ``test``) a MEDEC CSV file, or a Parquet file
            of ``scripts/convert_dataset_to_verl.py``.
        prompt_style: how much the prompts explain.
        seed: of the wrong facts that hide an error.
        max_length: most tokens of a prompt and its response together, ``None`` for no limit; longer
            rows are left out.
    """

    sources: Mapping[str, Path]
    prompt_style: PromptStyle = PromptStyle.FULL
    seed: int = 0
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            DatasetError: naming the setting, its value and what is allowed.
        """
        if not self.sources or not set(self.sources) <= set(SPLITS):
            raise DatasetError(
                f"sources are {sorted(self.sources)}, expected at least one of {', '.join(SPLITS)}"
            )
        if self.max_length is not None and self.max_length < 1:
            raise DatasetError(f"max length is {self.max_length}, expected at least 1 token")


@dataclass(slots=True)
class _Counts:
    """What one file holds, and what it does not."""

    cases: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    reasoning: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    longest: int = 0


def write_supervised(
    games: SupervisedSet, output_dir: Path, count_tokens: TokenCounter | None = None
) -> dict[str, Any]:
    """Writes ``<split>.parquet`` for each split, and last ``manifest.json``.

    The files are made in a temporary folder and moved when all of them are complete; a failure
    leaves the output folder as it was. Cases of one split that stand in a more protected one too
    (test before val before train) are left out.

    Args:
        games: what is made.
        output_dir: the folder to write to; supervised games in it are replaced.
        count_tokens: gives the length of a conversation, for ``max_length`` and the manifest.

    Returns:
        The manifest.

    Raises:
        MedecError: if a CSV file is not as MEDEC's format has it.
        DatasetError: if a source cannot be read or gives no row, the folder holds data of another
            kind, or the files cannot be written.
    """
    if games.max_length is not None and count_tokens is None:
        raise DatasetError(
            f"max length is {games.max_length} tokens, but no tokenizer is given to count them"
        )
    _check_folder(output_dir)
    existing = next(
        folder for folder in (output_dir, *output_dir.absolute().parents) if folder.exists()
    )
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".partial-") as partial:
            manifest = _write_splits(games, Path(partial), count_tokens)
            publish(Path(partial), output_dir, manifest)
    except OSError as error:
        raise DatasetError(why_not_written(error, output_dir)) from error
    return manifest


def supervised_row(example: Example, index: int, split: str, case_id: str) -> dict[str, Any]:
    """One row: the prompt's messages and the response, which opens its own ``<think>``.

    Args:
        example: the turn.
        index: the row's place in its file.
        split: the split of its case.
        case_id: the case, ``""`` for a drawn note.
    """
    response = {"role": "assistant", "content": THINK_OPEN + example.response}
    return {
        "messages": [*example.messages, response],
        "data_source": f"medec/{KIND}/{example.task}",
        "extra_info": {
            "index": index,
            "split": split,
            "task": str(example.task),
            "case_id": case_id,
        },
    }


def supervised_schema() -> pa.Schema:
    """The columns of :func:`supervised_row` as Arrow types."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        {
            "messages": pa.list_(pa.struct({"role": text, "content": text})),
            "data_source": text,
            "extra_info": pa.struct(
                {"index": pa.int64(), "split": text, "task": text, "case_id": text}
            ),
        }
    )


def write_rows(rows: Iterator[dict[str, Any]], path: Path) -> int:
    """Writes rows of :func:`supervised_row` in batches and returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = supervised_schema(), 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(row)
            count += 1
            if len(batch) == _BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
    return count


def _check_folder(folder: Path) -> None:
    manifest = read_manifest(folder)
    if manifest is not None and manifest.get("kind") != KIND:
        raise DatasetError(
            f"{folder}: its manifest.json is that of data for self-play, which would be replaced;"
            " choose another output folder"
        )


def _write_splits(
    games: SupervisedSet, folder: Path, count_tokens: TokenCounter | None
) -> dict[str, Any]:
    files: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    notes: dict[bytes, str] = {}
    for split in (split for split in _ORDER if split in games.sources):
        source, path, counts = games.sources[split], folder / f"{split}.parquet", _Counts()
        findings = Findings()
        cases = _own_cases(_read_cases(source, split, findings), split, notes, counts)
        rows = write_rows(_rows(cases, games, split, counts, count_tokens), path)
        if not rows:
            raise DatasetError(
                f"{source}: no row for {split} ({dict(counts.left_out) or 'no error case'}); check"
                " that it is the right file and that max length is not too small"
            )
        sources[split] = {
            "file": source.name,
            "sha256": _sha256(source),
            "left_out": {"number": len(findings.left_out), "text_ids": list(findings.left_out)},
            "mended": {"number": len(findings.mended), "text_ids": list(findings.mended)},
        }
        files[path.name] = {
            "sha256": _sha256(path),
            "rows": rows,
            "cases": counts.cases,
            "tasks": dict(sorted(counts.tasks.items())),
            "reasoning": dict(sorted(counts.reasoning.items())),
            "left_out": dict(sorted(counts.left_out.items())),
            "longest": counts.longest if count_tokens else None,
        }
    return {
        "format": 1,
        "kind": KIND,
        "tool": "medical-selfplay",
        "tool_version": tool_version(),
        "seed": games.seed,
        "settings": {"prompt_style": str(games.prompt_style), "max_length": games.max_length},
        "sources": {split: sources[split] for split in SPLITS if split in sources},
        "files": {
            f"{split}.parquet": files[f"{split}.parquet"] for split in SPLITS if split in sources
        },
    }


def _read_cases(source: Path, split: str, findings: Findings) -> Iterator[Case]:
    if source.suffix != ".parquet":
        yield from read_medec(source, split, findings)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    remedy = "expected a file of scripts/convert_dataset_to_verl.py; convert the data again"
    seen: set[str] = set()
    try:
        with pq.ParquetFile(source) as parquet:
            for batch in parquet.iter_batches(batch_size=_BATCH, columns=["extra_info"]):
                for row in batch.to_pylist():
                    case = case_from_dict(row["extra_info"]["case"])
                    if case.case_id not in seen:
                        seen.add(case.case_id)
                        yield case
    except (pa.ArrowException, OSError, KeyError, TypeError, DatasetError) as error:
        raise DatasetError(f"{source}: cannot be read ({str(error)[:200]}), {remedy}") from error


def _own_cases(
    cases: Iterator[Case], split: str, notes: dict[bytes, str], counts: _Counts
) -> Iterator[Case]:
    """Leaves out a case with a note of another split; ``notes`` tells each note's split."""
    for case in cases:
        own = [digest(note) for note in (case.error_note, case.clean_note)]
        other = next((notes[note] for note in own if notes.get(note, split) != split), None)
        if other is not None:
            counts.left_out[f"case of {other} too"] += 1
            continue
        notes.update(dict.fromkeys(own, split))
        yield case


def _rows(
    cases: Iterator[Case],
    games: SupervisedSet,
    split: str,
    counts: _Counts,
    count_tokens: TokenCounter | None,
) -> Iterator[dict[str, Any]]:
    index = 0
    for case in cases:
        rng = random.Random(f"{games.seed} {case.case_id}")
        turns = case_turns(case, games.prompt_style, rng)
        reasoning = "gold pair" if turns is None else "table"
        counts.cases += 1
        for turn in gold_turns(case, games.prompt_style) if turns is None else turns:
            tokens = _length(turn, count_tokens) if count_tokens else 0
            fault = _fault(turn, case, games.prompt_style)
            if fault is None and games.max_length is not None and tokens > games.max_length:
                fault = "longer than max length"
            if fault is not None:
                counts.left_out[f"{turn.task}: {fault}"] += 1
                continue
            counts.tasks[str(turn.task)] += 1
            counts.reasoning[reasoning] += 1
            counts.longest = max(counts.longest, tokens)
            yield supervised_row(turn, index, split, case.case_id)
            index += 1


def _fault(turn: Example, case: Case, style: PromptStyle) -> str | None:
    """Plays the turn by the rules; says what they hold against it, ``None`` if nothing."""
    rules = GameRules(prompt_style=style)
    if turn.task is Task.ASSESS:
        types = (GameType.VANILLA_HARMFUL, GameType.VANILLA_BENIGN)
        game = next(
            game
            for game in (Game(case, kind, rules) for kind in types)
            if game.assessor_messages() == turn.messages
        )
        return game.play_assessment(turn.response).violation
    hides = turn.task is Task.HIDE
    kind = GameType.ADVERSARIAL_HARMFUL if hides else GameType.ADVERSARIAL_BENIGN
    game = Game(case, kind, rules)
    played = game.play_attack(turn.response)
    return played.violation or (f"forfeit, {game.forfeit}" if game.forfeit else None)


def _length(turn: Example, count_tokens: TokenCounter) -> int:
    """Tokens of prompt and response, with those of one more chat turn: a bound from above."""
    response = [{"role": "user", "content": THINK_OPEN + turn.response}]
    return count_tokens(turn.messages) + count_tokens(response)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()
