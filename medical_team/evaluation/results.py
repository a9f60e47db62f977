"""What an evaluation leaves behind, text by text and in sums."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from medical_team.atomic_files import replacing
from medical_team.evaluation.comparison import Comparison
from medical_team.evaluation.corrections import AGGREGATE, BERTSCORE, BLEURT, Scorers
from medical_team.evaluation.errors import EvaluationError
from medical_team.evaluation.measures import Estimate, Scored
from medical_team.evaluation.notes import Note, note_ids
from medical_team.evaluation.predictions import Finding, Prediction, read_submission

TEXTS = "texts.jsonl"


@dataclass(frozen=True, slots=True)
class TextResult:
    """One text, as ``texts.jsonl`` holds it.

    Attributes:
        text_id: the text.
        error_type: empty for a clean text.
        gold: what was to be said.
        predicted: what was said, ``None`` without a usable answer.
        flag_right: whether the flag is right.
        sentence_right: whether the sentence id is right.
        corrections: the metrics of its correction, where both sides have one.
        violation: why there is no usable answer.
    """

    text_id: str
    error_type: str
    gold: Prediction
    predicted: Prediction | None
    flag_right: bool
    sentence_right: bool
    corrections: dict[str, float] = field(default_factory=dict)
    violation: str | None = None


def text_results(scored: Scored, violations: Mapping[str, str]) -> list[TextResult]:
    """The result of every text.

    Args:
        scored: predictions against the gold annotation.
        violations: by text id, why there is no usable answer.
    """
    of_text = {pair.text: number for number, pair in enumerate(scored.texts.pairs)}

    def corrections(text: int) -> dict[str, float]:
        if text not in of_text:
            return {}
        return {name: one[of_text[text]] for name, one in scored.corrections.values.items()}

    return [
        TextResult(
            note.text_id,
            note.error_type,
            _gold(note),
            scored.predictions.get(note.text_id),
            scored.texts.flag_right[number],
            scored.texts.sentence_right[number],
            corrections(number),
            violations.get(note.text_id),
        )
        for number, note in enumerate(scored.notes)
    ]


def write_texts(results: Sequence[TextResult], folder: Path) -> None:
    """Writes ``texts.jsonl``."""
    line = TypeAdapter(TextResult)
    with replacing(folder / TEXTS) as stream:
        stream.writelines(line.dump_json(one).decode() + "\n" for one in results)


def write_pairs(scored: Scored, folder: Path) -> None:
    """Writes the pairs of corrections, as ``python -m bleurt.score_files`` reads them."""
    sides = {
        "candidate": [pair.candidate for pair in scored.texts.pairs],
        "reference": [pair.reference for pair in scored.texts.pairs],
    }
    for side, texts in sides.items():
        with replacing(folder / f"corrections.{side}.txt") as stream:
            stream.writelines(" ".join(text.split()) + "\n" for text in texts)


def write_metrics(values: Mapping[str, object], folder: Path) -> None:
    """Writes ``metrics.json``."""
    with replacing(folder / "metrics.json") as stream:
        json.dump(values, stream, indent=2, ensure_ascii=False)
        stream.write("\n")


def check_comparison_folder(folder: Path, answers: str) -> None:
    """Says whether a comparison may be written into a folder.

    Args:
        folder: it need not exist.
        answers: name of the file that holds a model's answers.

    Raises:
        EvaluationError: if it holds an evaluation.
    """
    for name in (TEXTS, answers):
        if (folder / name).exists():
            raise EvaluationError(
                f"--output {folder}: holds an evaluation ({name}); choose another folder for the"
                " comparison"
            )


def write_comparison(found: Comparison, names: tuple[str, str], folder: Path) -> None:
    """Writes ``comparison.json``."""
    with replacing(folder / "comparison.json") as stream:
        json.dump(
            {
                "a": names[0],
                "b": names[1],
                "texts": found.texts,
                "differences": {
                    name: {"a": one.first, "b": one.second, "change": asdict(one.change)}
                    for name, one in found.differences.items()
                },
                "mcnemar": {name: asdict(one) for name, one in found.mcnemar.items()},
            },
            stream,
            indent=2,
            ensure_ascii=False,
        )
        stream.write("\n")


def as_json(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Estimates as plain values."""
    return {name: asdict(one) for name, one in estimates.items()}


def read_run(
    path: Path, notes: Sequence[Note], left_out: Sequence[Note] = ()
) -> tuple[Scored, tuple[Finding, ...]]:
    """A run that was evaluated before, or a submission file, scored without models.

    BERTScore and BLEURT are those that the run kept.

    Args:
        path: an output folder, or a submission file.
        notes: the texts.
        left_out: other texts of the data; a submission's lines on them are passed over.

    Returns:
        The scores, and what was wrong with a submission file.

    Raises:
        EvaluationError: if it cannot be read or is about other texts.
    """
    if not path.is_dir():
        submission = read_submission(path, note_ids(notes), set(note_ids(left_out)))
        return Scored(notes, submission.predictions, Scorers.none()), submission.findings
    file, line = path / TEXTS, TypeAdapter(TextResult)
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise EvaluationError(
            f"{file}: {error.strerror}. Expected the output folder of a finished evaluation, or a"
            " submission file."
        ) from error
    try:
        results = [line.validate_json(one) for one in lines]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "a line"
        raise EvaluationError(f"{file}, {where}: {first['msg']}. Evaluate again.") from error
    held, wanted = {one.text_id for one in results}, set(note_ids(notes))
    if held != wanted:
        example = min(held ^ wanted)
        raise EvaluationError(
            f"{file}: {len(held)} texts, expected the {len(wanted)} of --data ({example} is only in"
            f" {'the run' if example in held else '--data'}). Give the --data and --split of the"
            " run."
        )
    of_text = {one.text_id: one for one in results}
    for note in notes:
        if of_text[note.text_id].gold != _gold(note):
            raise EvaluationError(
                f"{file}, Text ID {note.text_id}: the run's gold annotation is"
                f" {asdict(of_text[note.text_id].gold)}, that of --data {asdict(_gold(note))}."
                " Give the --data of the run, or evaluate again."
            )
    scored = Scored(
        notes,
        {one.text_id: one.predicted for one in results if one.predicted is not None},
        Scorers.none(),
    )
    kept = [of_text[notes[pair.text].text_id].corrections for pair in scored.texts.pairs]
    for name in (BERTSCORE, BLEURT, AGGREGATE):
        if kept and all(name in one for one in kept):
            scored.corrections.values[name] = [one[name] for one in kept]
    return scored, ()


def _gold(note: Note) -> Prediction:
    return Prediction(
        str(int(note.has_error)), str(note.error_sentence_id), note.correction or "NA"
    )
