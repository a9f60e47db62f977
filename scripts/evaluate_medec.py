"""Evaluates a model, a server or a file of predictions on MEDEC by the benchmark's own rules.

OUTPUT gets report.md, metrics.json and texts.jsonl. A model's answers are kept in
OUTPUT/answers.jsonl as they come, so that the same command goes on after a stop and asks nothing
again. --compare tells whether one of two runs is better. docs/evaluation.md explains the figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from medical_team.atomic_files import replacing, why_not_written
from medical_team.evaluation.comparison import compare
from medical_team.evaluation.corrections import Scorers, check_scorers
from medical_team.evaluation.errors import EvaluationError, GenerationError
from medical_team.evaluation.model_folder import unsettled_hint
from medical_team.evaluation.notes import SPLITS, Note, data_file, read_notes
from medical_team.evaluation.predictions import Finding, summary, write_submission
from medical_team.evaluation.protocols import Protocol
from medical_team.evaluation.report import comparison_report
from medical_team.evaluation.results import check_comparison_folder, read_run, write_comparison
from medical_team.evaluation.run import evaluate
from medical_team.evaluation.systems import (
    ANSWERS,
    InProcess,
    OnServer,
    Predicted,
    ask,
    asking_of,
    submitted,
)
from medical_team.medec import MedecError

DTYPES = ("auto", "float32", "bfloat16", "float16")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    line.add_argument("--data", type=Path, required=True, metavar="CSV", help="MEDEC file, or a"
                      " folder with one file a split")  # fmt: skip
    line.add_argument("--split", choices=SPLITS, help="of a folder the file (test), of a file the"
                      " rows whose Text ID names it (all)")  # fmt: skip
    line.add_argument("--output", type=Path, metavar="DIR", help="folder to write to")
    system = line.add_mutually_exclusive_group(required=True)
    system.add_argument("--model", help="folder or Hugging Face id, run in this process")
    system.add_argument("--server", metavar="URL", help="OpenAI-compatible, as http://HOST:PORT/v1")
    system.add_argument("--predictions", type=Path, metavar="FILE", help="official submission file")
    system.add_argument("--compare", type=Path, nargs=2, metavar=("A", "B"), help="two output"
                        " folders or submission files on the same data")  # fmt: skip
    line.add_argument("--limit", type=int, metavar="N", help="only the first N texts")
    line.add_argument("--seed", type=int, default=0, help="of sampling and bootstrap (0)")
    line.add_argument("--write-submission", nargs="?", type=Path, const=Path(), metavar="FILE",
                      help="write the official lines (OUTPUT/predictions.txt)")  # fmt: skip
    line.add_argument("--strict", action="store_true", help="refuse predictions with a malformed"
                      " line, or with a duplicate, unknown or missing id")  # fmt: skip
    asked = line.add_argument_group("how a model is asked; unset, assessor.json in its folder says")
    asked.add_argument("--prompt", choices=list(map(str, Protocol)), help="the game's assessor"
                       " prompt (full, compact) or MEDEC's own (full)")  # fmt: skip
    asked.add_argument("--think-opened", action=argparse.BooleanOptionalAction, help="whether the"
                       " prompt ends in <think> (yes, unless --prompt benchmark)")  # fmt: skip
    asked.add_argument("--max-tokens", type=int, help="most tokens of an answer (1024)")
    asked.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (0)")
    run = line.add_argument_group("where a model runs")
    run.add_argument("--backend", choices=("transformers", "vllm"), default="transformers")
    run.add_argument("--batch-size", type=int, default=32, help="transformers: texts at once (32)")
    run.add_argument("--device", default="auto", help="transformers: as torch names it (auto)")
    run.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights (auto)")
    run.add_argument("--concurrency", type=int, default=8, help="server, vllm: texts in flight (8)")
    run.add_argument("--model-name", help="server: the model's name there, if it lists several")
    run.add_argument("--tokenizer", metavar="FOLDER", help="server: send prompts as token ids to"
                     " /completions, as in training (vLLM, SGLang)")  # fmt: skip
    run.add_argument("--timeout", type=float, default=600.0, help="server: seconds a try (600)")
    scores = line.add_argument_group("models of the correction metrics")
    scores.add_argument("--bertscore-model", type=Path, metavar="FOLDER",
                        help="microsoft/deberta-xlarge-mnli (the hub's cache)")  # fmt: skip
    scores.add_argument("--bleurt-checkpoint", type=Path, metavar="FOLDER", help="BLEURT-20")
    scores.add_argument("--bleurt-scores", type=Path, metavar="FILE", help="BLEURT's scores of"
                        " OUTPUT/corrections.*.txt, a line a pair")  # fmt: skip
    return line


def main() -> None:
    """Runs the command."""
    line = parser()
    args = line.parse_args()
    if args.output is None and not args.compare:
        line.error("--output is needed, the folder to write to")
    for name in ("limit", "max_tokens", "batch_size", "concurrency", "timeout"):
        if (value := getattr(args, name)) is not None and value <= 0:
            line.error(f"--{name.replace('_', '-')} is {value}, expected more than 0")
    if not 0 <= args.temperature < float("inf"):
        line.error(f"--temperature is {args.temperature}, expected 0 or above")
    if not 0 <= args.seed < 2**32:
        line.error(f"--seed is {args.seed}, expected 0 to {2**32 - 1}")
    _be_quiet()
    try:
        notes = read_notes(args.data, args.split)
        chosen, left_out = notes[: args.limit], notes[len(notes[: args.limit]) :]
        (_compare if args.compare else _evaluate)(chosen, left_out, args)
    except GenerationError as error:
        line.exit(1, f"stopped: {error}\nThe answers so far are kept; the same command goes on.\n")
    except KeyboardInterrupt:
        line.exit(130, "stopped. The answers so far are kept; the same command goes on.\n")
    except (EvaluationError, MedecError) as error:
        line.exit(2, f"error: {error}\n")
    except OSError as error:
        line.exit(2, f"error: {why_not_written(error, args.output or Path())}\n")


def _evaluate(notes: list[Note], left_out: list[Note], args: argparse.Namespace) -> None:
    scorers = Scorers(args.bertscore_model, args.bleurt_checkpoint, args.bleurt_scores)
    check_scorers(scorers)
    data = data_file(args.data, args.split)
    if args.predictions:
        said = submitted(notes, args.predictions, args.output, left_out)
        _tell(said.findings, args.predictions, strict=args.strict)
    else:
        said = _answered(notes, data, args)
    page = evaluate(notes, said, scorers, args.output, data, seed=args.seed)
    if args.write_submission is not None:
        name = args.write_submission.name
        file = args.write_submission if name else args.output / "predictions.txt"
        for text_id in write_submission(said.predictions, file):
            print(f"warning: {file}: the format cannot hold the correction of Text ID {text_id}"
                  " as it stands", file=sys.stderr)  # fmt: skip
    Console().print(Markdown(page))
    print(f"written to {args.output}")


def _answered(notes: list[Note], data: Path, args: argparse.Namespace) -> Predicted:
    model: InProcess | OnServer
    if args.server:
        model = OnServer(
            args.server, args.model_name, args.tokenizer, args.concurrency, args.timeout
        )
    else:
        model = InProcess(
            args.model, args.backend, args.batch_size, args.concurrency, args.device, args.dtype
        )
    if (hint := unsettled_hint(model.settings_folder)) and args.prompt is None:
        print(f"warning: {hint}", file=sys.stderr)
    asking = asking_of(
        model.settings_folder,
        protocol=None if args.prompt is None else Protocol(args.prompt),
        think_opened=args.think_opened,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        seed=args.seed,
    )
    return ask(notes, data, model, asking, args.output, _bar(len(notes)))


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("answered"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        task = shown.add_task("", total=total)
        yield lambda done: shown.advance(task, done)


def _tell(findings: Sequence[Finding], path: Path, *, strict: bool) -> None:
    """Warns of what is wrong with a submission file, or refuses it."""
    for message in summary(findings):
        print(f"warning: {message}", file=sys.stderr)
    if findings and strict:
        raise EvaluationError(f"{path}: {len(findings)} problems, see above.")


def _compare(notes: list[Note], left_out: list[Note], args: argparse.Namespace) -> None:
    if args.output is not None:
        check_comparison_folder(args.output, ANSWERS)
    runs = []
    for path in args.compare:
        scored, findings = read_run(path, notes, left_out)
        _tell(findings, path, strict=args.strict)
        runs.append(scored)
    found = compare(*runs, seed=args.seed)
    names = (str(args.compare[0]), str(args.compare[1]))
    page = comparison_report(found, names)
    Console().print(Markdown(page))
    if args.output is not None:
        with replacing(args.output / "comparison.md") as stream:
            stream.write(page)
        write_comparison(found, names, args.output)


def _be_quiet() -> None:
    """Keeps what transformers says while it loads from standing between the messages."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


if __name__ == "__main__":
    main()
