"""One evaluation from its predictions to the files of its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from medical_team.atomic_files import replacing
from medical_team.evaluation.baselines import baselines
from medical_team.evaluation.corrections import Scorers
from medical_team.evaluation.measures import RESAMPLES, Scored
from medical_team.evaluation.notes import Note
from medical_team.evaluation.predictions import summary
from medical_team.evaluation.report import Evaluated, report
from medical_team.evaluation.results import (
    as_json,
    text_results,
    write_metrics,
    write_pairs,
    write_texts,
)
from medical_team.evaluation.systems import Predicted


def evaluate(
    notes: Sequence[Note],
    said: Predicted,
    scorers: Scorers,
    folder: Path,
    data: Path,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> str:
    """Scores predictions and writes ``texts.jsonl``, the pairs, ``metrics.json`` and ``report.md``.

    Args:
        notes: the texts.
        said: what the system says of them.
        scorers: where the models of the metrics are.
        folder: where to.
        data: the file that the texts are from.
        resamples: bootstrap samples.
        seed: of the samples.

    Returns:
        The report as Markdown.

    Raises:
        EvaluationError: if a model or file of a metric cannot be used.
    """
    scored = Scored(notes, said.predictions, scorers)
    trivial = {
        name: Scored(notes, one, Scorers.none()).estimates(resamples=0)
        for name, one in baselines(notes).items()
    }
    estimates = scored.estimates(resamples=resamples, seed=seed)
    types = Counter(note.error_type for note in notes if note.has_error)
    by_type = {
        kind: (count, scored.estimates(error_type=kind, resamples=resamples, seed=seed))
        for kind, count in types.most_common()
    }
    answered = len(said.predictions)
    facts = {
        "data": str(data),
        **said.facts,
        "texts": f"{len(notes)}, {sum(types.values())} with an error",
        "usable answers": f"{answered} of {len(notes)} ({answered / len(notes):.1%})",
    }
    found = Evaluated(
        facts,
        estimates,
        trivial,
        by_type,
        scored.corrections.not_computed,
        dict(Counter(map(_kind, said.violations.values())).most_common(10)),
        summary(said.findings),
    )
    page = report(found)
    write_texts(text_results(scored, said.violations), folder)
    write_pairs(scored, folder)
    with replacing(folder / "report.md") as stream:
        stream.write(page)
    write_metrics(
        {
            "evaluated": said.system.model_dump(),
            "facts": facts,
            "texts": len(notes),
            "answered": answered,
            "format_kept": answered / len(notes),
            "corrections_compared": len(scored.texts.pairs),
            "scores": as_json(estimates),
            "not_computed": scored.corrections.not_computed,
            "by_error_type": {
                kind: {"texts": count, "scores": as_json(one)}
                for kind, (count, one) in by_type.items()
            },
            "baselines": {name: as_json(one) for name, one in trivial.items()},
            "problems": dict(Counter(one.problem.value for one in said.findings)),
            "bootstrap": {"resamples": resamples, "seed": seed},
        },
        folder,
    )
    return page


def _kind(violation: str) -> str:
    """A violation without what the single answer said."""
    return violation.partition(" (")[0][:100]
