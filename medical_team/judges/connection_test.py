"""Tests the connection to a judge server: is it one, is it ready, how fast, and what it answers."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from medical_team.answers import Assessment, Classification
from medical_team.judges.settings import RemoteSettings
from medical_team.medical_judge import JudgeError, Judgement, JudgeQuery, Unscored

if TYPE_CHECKING:
    from medical_team.judges.wire import Health
    from medical_team.remote_judge import RemoteJudge

_ROUNDS = 5
_CLEAN = (
    "A 54-year-old woman presents with three days of dysuria and fever.",
    "Urine culture grows Escherichia coli that is sensitive to ciprofloxacin.",
    "She is started on ciprofloxacin.",
)
_WRONG = (*_CLEAN[:2], "She is started on fluconazole.")
_ANSWER = Assessment(Classification.HARMFUL, 2, _CLEAN[2])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the test; see the module's text.

    Args:
        arguments: of the command line; ``None`` takes the process's own.

    Returns:
        The exit code: 0 if the server labelled the sample, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="python -m medical_team.remote_judge", description=__doc__
    )
    parser.add_argument("--url", required=True, help="address of the server, http://HOST:PORT")
    parser.add_argument(
        "--api-key-env",
        default="MEDICAL_JUDGE_API_KEY",
        metavar="NAME",
        help="environment variable that holds the server's key (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="longest wait for one answer in seconds (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        settings = RemoteSettings(
            urls=(options.url,),
            api_key_env=options.api_key_env,
            timeout_s=options.timeout,
            attempts=1,
        )
        health, latencies_s, judgements = _measured(settings)
    except (JudgeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _print(options.url, health, latencies_s, judgements)
    return 1 if any(isinstance(one, Unscored) for one in judgements) else 0


def _measured(settings: RemoteSettings) -> tuple[Health, list[float], list[Judgement]]:
    from medical_team.remote_judge import build

    judge = build(settings)
    try:
        health = judge.health()
        judgements = judge.judge(_samples(0))
        latencies_s = [_latency_s(judge, round_) for round_ in range(1, _ROUNDS + 1)]
    finally:
        judge.close()
    return health, latencies_s, judgements


def _samples(round_: int) -> list[JudgeQuery]:
    # Each round's notes differ, so that no answer comes from the server's cache.
    clean, wrong = ((f"Patient {round_}: seen in clinic.", *note) for note in (_CLEAN, _WRONG))
    answer = Assessment(_ANSWER.classification, 3, _ANSWER.correction)
    return [
        JudgeQuery("with an error", clean, wrong, (answer,)),
        JudgeQuery("without an error", clean, clean, (answer,)),
    ]


def _latency_s(judge: RemoteJudge, round_: int) -> float:
    start = time.perf_counter()
    judge.judge(_samples(round_)[:1])
    return time.perf_counter() - start


def _print(
    url: str, health: Health, latencies_s: Sequence[float], judgements: Sequence[Judgement]
) -> None:
    from rich.console import Console
    from rich.table import Table

    connection = Table(title=f"Judge server {url}", show_header=False)
    connection.add_row("status", health.status)
    connection.add_row("model", health.model)
    connection.add_row("fingerprint", health.fingerprint or "")
    for name, take in (("least", min), ("median", statistics.median), ("most", max)):
        connection.add_row(f"latency of one verdict, {name}", f"{1000 * take(latencies_s):.1f} ms")
    sample = Table(title="A made-up note")
    for heading in ("note", "error present", "P(yes)", "assessor found it", "realistic"):
        sample.add_column(heading)
    for one in sorted(judgements, key=lambda judgement: judgement.query_id):
        sample.add_row(*_row(one))
    console = Console()
    console.print(connection)
    console.print(sample)


def _row(judgement: Judgement) -> list[str]:
    if isinstance(judgement, Unscored):
        return [judgement.query_id, f"unscored: {judgement.reason}", "", "", ""]
    told = judgement.probabilities.error_present if judgement.probabilities else None
    return [
        judgement.query_id,
        _shown(judgement.error_present),
        "not told" if told is None else f"{told:.3f}",
        ", ".join(_shown(label) for label in judgement.error_identified),
        _shown(judgement.realistic),
    ]


def _shown(label: bool | None) -> str:
    return {True: "yes", False: "no", None: "undecided"}[label]
