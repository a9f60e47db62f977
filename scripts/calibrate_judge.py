"""Measures how often a judge errs on MEDEC's gold pairs; training reads OUTPUT/calibration.json.

The judge is asked about error notes, clean notes and harmlessly reworded clean notes, with right,
wrong and missing answers of an assessor. Every answer is kept in OUTPUT/answers.jsonl, so that the
same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import Progress

from medical_team.atomic_files import replacing, why_not_written
from medical_team.calibration.answers import collect
from medical_team.calibration.items import Item, chosen_cases, items_of
from medical_team.calibration.rates import calibration_of
from medical_team.calibration.record import CalibrationError, write_calibration
from medical_team.calibration.report import draw_reliability, report
from medical_team.calibration.store import Asked
from medical_team.judges import build_judge, settings_class
from medical_team.judges.questions import Question
from medical_team.judges.settings import JudgeSettings, ModelSettings
from medical_team.medec import MedecError, read_medec
from medical_team.medical_judge import Judge, JudgeError, JudgeUnavailableError

GROUP = Path(__file__).resolve().parents[1] / "configs" / "judge"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--judge", required=True, help="name in configs/judge, or a YAML file with a section judge"
    )
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings to use instead"
    )
    parser.add_argument("--medec", type=Path, required=True, help="MEDEC CSV file")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--limit", type=int, help="most cases to ask about, all if not given")
    parser.add_argument("--seed", type=int, default=0, help="draws the cases and the sentences")
    parser.add_argument(
        "--concurrency", type=int, help="batches asked at once (judge.concurrency if not given)"
    )
    args = parser.parse_args()
    for name in ("limit", "concurrency"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} is {value}, expected at least 1")
    try:
        settings = _settings(args.judge, args.set)
        items = _items(args.medec, args.limit, args.seed)
        judge = build_judge(settings)
        try:
            _calibrate(judge, settings, items, args)
        finally:
            judge.close()
    except JudgeUnavailableError as error:
        parser.exit(
            1, f"stopped: {error}\nThe answers so far are kept; the same command goes on.\n"
        )
    except KeyboardInterrupt:
        parser.exit(130, "stopped. The answers so far are kept; the same command goes on.\n")
    except (CalibrationError, MedecError, JudgeError) as error:
        parser.exit(2, f"error: {error}\n")
    except OSError as error:
        parser.exit(2, f"error: {why_not_written(error, args.output)}\n")


def _calibrate(
    judge: Judge, settings: JudgeSettings, items: Sequence[Item], args: argparse.Namespace
) -> None:
    asked = Asked(
        judge=judge.name,
        fingerprint=judge.fingerprint,
        data_sha256=hashlib.sha256(args.medec.read_bytes()).hexdigest(),
        seed=args.seed,
        questions=_questions(settings),
    )
    with Progress(console=Console(stderr=True)) as shown:
        task = shown.add_task("asking", total=len(items))
        replies = collect(
            judge,
            settings,
            [item.query for item in items],
            args.output / "answers.jsonl",
            asked,
            concurrency=args.concurrency or settings.concurrency,
            progress=lambda more: shown.advance(task, more),
        )
    date = datetime.now(UTC).isoformat(timespec="seconds")
    calibration = calibration_of(items, replies, settings, asked, file=args.medec.name, date=date)
    page = report(calibration)
    with replacing(args.output / "report.md") as stream:
        stream.write(page)
    draw_reliability(calibration, args.output / "reliability.png")
    # Last, so that who finds it finds the rest too.
    write_calibration(calibration, args.output / "calibration.json")
    Console().print(Markdown(page))
    print(f"written to {args.output}; train with judge.calibration={args.output}/calibration.json")


def _settings(judge: str, changes: Sequence[str]) -> JudgeSettings:
    path = Path(judge) if judge.endswith((".yaml", ".yml")) else GROUP / f"{judge}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in GROUP.glob("*.yaml")))
        raise CalibrationError(
            f"--judge {judge}: no file {path}. Give one of {known}, or a YAML file with a section"
            " judge"
        )
    values = _section(path)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise CalibrationError(f"--set {change}: expected KEY=VALUE, as max_batch=8")
        values[key.removeprefix("judge.")] = yaml.safe_load(value)
    for key, value in values.items():
        if isinstance(value, str) and "${" in value:
            raise CalibrationError(
                f"{path}, judge.{key}: {value} is only known in training; give its value:"
                f" --set {key}=VALUE"
            )
    try:
        kind = settings_class(values.get("name"))
        settings: JudgeSettings = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # a check of several settings together, which names them itself
            raise CalibrationError(f"{path}: {first['msg']}") from error
        key = ".".join(["judge", *map(str, first["loc"])])
        known = ", ".join(sorted(kind.__dataclass_fields__))
        raise CalibrationError(
            f"{path}, {key}: {first['msg']} (found {first['input']!r}; known: {known})"
        ) from error
    except ValueError as error:
        raise CalibrationError(f"{path}: {error}") from error
    # A calibration made before has no say in this one.
    return replace(settings, calibration=None)


def _section(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CalibrationError(f"{path}: cannot be read as YAML ({error})") from error
    section = content.get("judge") if isinstance(content, dict) else None
    if not isinstance(section, dict):
        raise CalibrationError(f"{path}: no section 'judge', expected one with at least 'name'")
    if "defaults" in content:
        raise CalibrationError(
            f"{path}: holds a list 'defaults', which only training follows. Write the settings out."
        )
    return dict(section)


def _items(medec: Path, limit: int | None, seed: int) -> list[Item]:
    cases = chosen_cases(list(read_medec(medec, "test")), limit, seed)
    if not cases:
        raise CalibrationError(
            f"{medec}: no error row to ask about. Expected a MEDEC file with rows of Error Flag 1."
        )
    return [item for case in cases for item in items_of(case, seed)]


def _questions(settings: JudgeSettings) -> tuple[str, ...]:
    if not isinstance(settings, ModelSettings):
        return ()
    return tuple(
        one.value for one in Question if settings.ask_realistic or one is not Question.REALISTIC
    )


if __name__ == "__main__":
    main()
