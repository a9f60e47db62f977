"""Reads one clinical note and prints what a trained assessor says of it. Not a medical device.

NOTE is a text file, or - for standard input: plain text, or one numbered sentence a line. Exit
codes: 0 answered, whatever the verdict; 1 the model stopped; 2 bad input; 3 the model's answer
breaks its format.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext
from pathlib import Path

from medical_team.answers import Classification
from medical_team.evaluation.assessor import Assessed, load_assessor
from medical_team.evaluation.errors import EvaluationError, GenerationError, NoteError
from medical_team.evaluation.model_folder import unsettled_hint
from medical_team.evaluation.plain_note import PlainNote, plain_note
from medical_team.prompts import PromptStyle
from medical_team.report.terminal_text import plain

NO_FORMAT = 3
MOST_BYTES = 1_000_000


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="an exported model's folder")
    parser.add_argument("note", metavar="NOTE", help="a text file, or -")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--reasoning", action="store_true", help="print the reasoning too")
    parser.add_argument(
        "--prompt-style", choices=list(map(str, PromptStyle)), help="not the model's own"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda; auto is a GPU where one is")
    args = parser.parse_args()
    print("Not a medical device.", file=sys.stderr)
    try:
        note = plain_note(_text(args.note))
        _be_quiet()
        if (hint := unsettled_hint(args.model)) and args.prompt_style is None:
            print(f"warning: {hint}", file=sys.stderr)
        style = None if args.prompt_style is None else PromptStyle(args.prompt_style)
        assessor = load_assessor(args.model, style=style, device=args.device)
        said = assessor.assess([note.sentences])[0]
        if said.refusal is not None:
            raise NoteError(f"the note is too long for the model: {said.refusal}; shorten it")
    except NoteError as error:
        print(f"error: {args.note}: {error}", file=sys.stderr)
        return 2
    except EvaluationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except GenerationError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        return 130
    print(_as_json(said, note) if args.json else _shown(said, note, args.reasoning))
    return 0 if said.assessment else NO_FORMAT


def _be_quiet() -> None:
    """Keeps what transformers says while it loads from standing between the messages."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _text(note: str) -> str:
    try:
        with nullcontext(sys.stdin.buffer) if note == "-" else Path(note).open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise NoteError(f"{error.strerror}; expected a text file, or -") from error
    if len(raw) > MOST_BYTES:
        raise NoteError(f"longer than {MOST_BYTES:,} bytes; expected one clinical note")
    if b"\0" in raw:
        at = raw.index(b"\0")
        raise NoteError(f"a binary file (NUL at byte {at}); expected UTF-8 text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NoteError(f"not UTF-8 ({error.reason} at byte {error.start})") from error


def _shown(said: Assessed, note: PlainNote, reasoning: bool) -> str:
    answer, lines = said.assessment, []
    if answer is None:
        lines.append(f"No verdict: the answer breaks the format ({plain(said.violation or '')}).")
        lines.append(f"It was: {plain(said.response)}")
    elif answer.classification is Classification.SAFE or answer.sentence_id is None:
        lines.append("Verdict: no error found")
    else:
        lines.append(f"Verdict: error in sentence {note.first + answer.sentence_id}")
        lines.append(f"Sentence: {plain(note.sentences[answer.sentence_id])}")
        lines.append(f"Correction: {plain(answer.correction or '')}")
    if reasoning and said.reasoning:
        lines.append(f"Reasoning: {plain(said.reasoning)}")
    return "\n".join(lines)


def _as_json(said: Assessed, note: PlainNote) -> str:
    answer = said.assessment
    at = None if answer is None else answer.sentence_id
    return json.dumps(
        {
            "classification": None if answer is None else answer.classification.value,
            "sentence_id": at,
            "sentence_number": None if at is None else note.first + at,
            "sentence": None if at is None else note.sentences[at],
            "correction": None if answer is None else answer.correction,
            "reasoning": said.reasoning,
            "violation": said.violation,
            "response": said.response,
            "sentences": note.sentences,
        },
        indent=2,
        ensure_ascii=False,
    )


if __name__ == "__main__":
    sys.exit(main())
