"""Conversion of MEDEC files, or of four-field JSON lines, into Parquet files and a manifest.

Rows are written in a shuffled order with flat memory: the cases are spooled to disk once, and rows
are built from their places in the spool.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from medical_team.atomic_files import why_not_written
from medical_team.dataset.case_spool import CaseSpool
from medical_team.dataset.contrastive import read_openrlhf
from medical_team.dataset.rows import (
    SPLITS,
    DatasetError,
    GamePair,
    assign_games,
    is_balanced,
    parquet_schema,
    training_row,
)
from medical_team.medec import ERROR_TYPES, Findings, read_medec
from medical_team.prompts import PromptStyle

MANIFEST = "manifest.json"
_ROW_GROUP = 512


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is converted, and how.

    Attributes:
        sources: for each split (``train``, ``val``, ``test``) the file that it is made from.
        openrlhf: splits whose source is a file of four-field JSON lines; the others are MEDEC CSV
            files.
        seed: of every draw.
        limit: most cases taken from each source, ``None`` for all; a case gives two rows.
        error_types: error types to keep, all where empty.
        prompt_style: how much the prompts explain.
        val_fraction: share of the train cases held out as ``val`` where no source for ``val`` is
            given, in [0, 1).
    """

    sources: Mapping[str, Path]
    openrlhf: frozenset[str] = frozenset()
    seed: int = 0
    limit: int | None = None
    error_types: tuple[str, ...] = ()
    prompt_style: PromptStyle = PromptStyle.FULL
    val_fraction: float = 0.1

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            DatasetError: naming the setting, its value and what is allowed.
        """
        if not self.sources or not set(self.sources) <= set(SPLITS):
            raise DatasetError(
                f"sources are {sorted(self.sources)}, expected at least one of {', '.join(SPLITS)}"
            )
        if self.limit is not None and self.limit < 1:
            raise DatasetError(f"limit is {self.limit}, expected at least 1 case")
        if not 0 <= self.val_fraction < 1:
            raise DatasetError(
                f"val fraction is {self.val_fraction}, expected at least 0 and below 1"
            )


def convert(conversion: Conversion, output_dir: Path) -> dict[str, Any]:
    """Writes ``<split>.parquet`` for each split, and last ``manifest.json``.

    The files are made in a temporary folder and moved when all of them are complete. A failure
    leaves the output folder as it was. A manifest that is there vouches for the files it names.

    Args:
        conversion: what is converted.
        output_dir: the folder to write to; files of an earlier conversion in it are replaced.

    Returns:
        The manifest.

    Raises:
        MedecError: if a CSV file is not as MEDEC's format has it.
        DatasetError: if a source gives no row, an error type is unknown, or the files cannot be
            written.
    """
    existing = next(
        folder for folder in (output_dir, *output_dir.absolute().parents) if folder.exists()
    )
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".partial-") as partial:
            manifest = _write_splits(conversion, Path(partial))
            publish(Path(partial), output_dir, manifest)
    except OSError as error:
        raise DatasetError(why_not_written(error, output_dir)) from error
    return manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a dataset, ``None`` where the folder has none.

    Raises:
        DatasetError: if it is no manifest of this project.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        _ = {name: (entry["sha256"], entry["rows"]) for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DatasetError(
            f"{path}: no manifest of this project; choose another folder or remove the file"
        ) from None
    return dict(manifest)


def _write_splits(conversion: Conversion, folder: Path) -> dict[str, Any]:
    files: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    for split, source in conversion.sources.items():
        with (folder / f"{split}.spool").open("w+b") as stream:
            spool = CaseSpool(stream)
            sources[split] = _fill(spool, source, split, conversion)
            for part, members in _parts(spool, split, source, conversion).items():
                path = folder / f"{part}.parquet"
                files[path.name] = _write_parquet(spool, members, part, path, conversion)
        (folder / f"{split}.spool").unlink()
    return {
        "format": 1,
        "tool": "medical-selfplay",
        "tool_version": tool_version(),
        "seed": conversion.seed,
        "settings": {
            "limit": conversion.limit,
            "error_types": list(conversion.error_types),
            "prompt_style": str(conversion.prompt_style),
            "val_fraction": conversion.val_fraction if _holds_out(conversion) else None,
        },
        "sources": sources,
        "files": files,
    }


def _fill(spool: CaseSpool, source: Path, split: str, conversion: Conversion) -> dict[str, Any]:
    found: Counter[str] = Counter()
    places: dict[str, int] = {}
    findings = Findings()
    rows = (
        read_openrlhf(source, split)
        if split in conversion.openrlhf
        else ((c, None) for c in read_medec(source, split, findings))
    )
    for case, game in rows:
        if case.case_id not in places:
            found[case.error_type] += 1
            kept = not conversion.error_types or case.error_type in conversion.error_types
            places[case.case_id] = len(spool) if kept else -1
            if kept:
                spool.append(case)
        if game is not None and places[case.case_id] >= 0:
            given = spool.given_games[places[case.case_id]]
            if game in given:
                raise DatasetError(
                    f"{source}: two rows hold the same notes and data_type {game}; remove one of"
                    " them"
                )
            given.add(game)
    _check_not_empty(found, len(spool), source, conversion.error_types)
    with source.open("rb") as stream:
        digest = file_digest(stream, "sha256").hexdigest()
    return {
        "file": source.name,
        "sha256": digest,
        "error_cases": dict(sorted(found.items())),
        "left_out": {"number": len(findings.left_out), "text_ids": list(findings.left_out)},
        "mended": {"number": len(findings.mended), "text_ids": list(findings.mended)},
    }


def _check_not_empty(found: Counter[str], kept: int, source: Path, wanted: Sequence[str]) -> None:
    if not found:
        raise DatasetError(
            f"{source}: no error row (Error Flag 1), so the split would be empty; check that it"
            " is the right file"
        )
    unknown = [name for name in wanted if name not in found and name not in ERROR_TYPES]
    if unknown:
        known = sorted({*found, *ERROR_TYPES})
        raise DatasetError(
            f"unknown error type {', '.join(map(repr, unknown))}, expected some of "
            f"{', '.join(known)}"
        )
    if not kept:
        counts = ", ".join(f"{name} ({count})" for name, count in found.most_common())
        raise DatasetError(
            f"{source}: no case of the error types {', '.join(wanted)}; the file has {counts}"
        )


def _holds_out(conversion: Conversion) -> bool:
    return (
        "train" in conversion.sources
        and "val" not in conversion.sources
        and conversion.val_fraction > 0
    )


def _parts(
    spool: CaseSpool, split: str, source: Path, conversion: Conversion
) -> dict[str, list[int]]:
    order = list(range(len(spool)))
    random.Random(f"{conversion.seed} {split} cases").shuffle(order)
    order = order[: conversion.limit]
    if split != "train" or not _holds_out(conversion):
        return {split: order}
    if len(order) < 2:
        raise DatasetError(
            f"{source}: {len(order)} case, too few to hold out a part as val; give a file for"
            " val or a val fraction of 0"
        )
    held_out = max(1, round(conversion.val_fraction * len(order)))
    return {"train": order[held_out:], "val": order[:held_out]}


def _write_parquet(
    spool: CaseSpool, members: Sequence[int], split: str, path: Path, conversion: Conversion
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(f"{conversion.seed} {split} rows")
    games, games_from = _games(spool, members, rng)
    order = list(range(2 * len(members)))
    rng.shuffle(order)
    schema = parquet_schema()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(order), _ROW_GROUP):
            rows = []
            for index, place in enumerate(order[start : start + _ROW_GROUP], start):
                case = replace(spool[members[place // 2]], split=split)
                rows.append(
                    training_row(case, games[place // 2][place % 2], index, conversion.prompt_style)
                )
            writer.write_table(pa.Table.from_pylist(rows, schema))
    with path.open("rb") as stream:
        digest = file_digest(stream, "sha256").hexdigest()
    return {
        "sha256": digest,
        "rows": len(order),
        "cases": len(members),
        "game_types": {
            game: count for game, count in _count(game for pair in games for game in pair)
        },
        "game_types_from": games_from,
        "error_types": dict(
            _count(spool.error_types[member] for member in members for _ in range(2))
        ),
    }


def _games(
    spool: CaseSpool, members: Sequence[int], rng: random.Random
) -> tuple[list[GamePair], str]:
    """The games that the source gives, if they are a balanced dataset, or drawn ones."""
    given: list[GamePair] = []
    for member in members:
        harmful = [game for game in spool.given_games[member] if game.harmful_source]
        benign = [game for game in spool.given_games[member] if not game.harmful_source]
        if len(harmful) == len(benign) == 1:
            given.append((harmful[0], benign[0]))
    if len(given) == len(members) and is_balanced(game for pair in given for game in pair):
        return given, "source"
    return assign_games([spool.error_types[member] for member in members], rng), "seed"


def _count(values: Iterator[str]) -> list[tuple[str, int]]:
    return sorted((str(value), count) for value, count in Counter(values).items())


def publish(partial: Path, output_dir: Path, manifest: Mapping[str, Any]) -> None:
    """Moves the files that a manifest names, and last the manifest, to their folder.

    Args:
        partial: the folder that holds the files, on the same file system.
        output_dir: made where it is missing; files that its own manifest names are removed.
        manifest: names the files and is written beside them.
    """
    previous = read_manifest(output_dir) or {"files": {}}
    (partial / MANIFEST).write_text(
        json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    output_dir.mkdir(parents=True, exist_ok=True)
    # Without a manifest nobody takes the folder for a whole dataset while its files are being
    # exchanged.
    (output_dir / MANIFEST).unlink(missing_ok=True)
    for name in previous["files"].keys() - manifest["files"].keys():
        (output_dir / Path(name).name).unlink(missing_ok=True)
    for name in (*manifest["files"], MANIFEST):
        os.replace(partial / name, output_dir / name)


def tool_version() -> str:
    """This project's version, as a manifest names it."""
    try:
        return version("medical-selfplay")
    except PackageNotFoundError:
        return "not installed"
