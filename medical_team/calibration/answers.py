"""Asks a judge about the items and decides its labels from what it answered.

A language model is asked in both orders of the notes, and its labels are decided afterwards by
:class:`~medical_team.judges.model_judge.ModelJudge` itself: so another threshold needs no new
answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from medical_team.calibration.store import Asked, PromptAnswer, Reply, append, load
from medical_team.judges.model_judge import Answer, ModelJudge
from medical_team.judges.questions import JudgePrompt, PromptKey, Question, prompts_of
from medical_team.judges.settings import JudgeSettings, ModelSettings
from medical_team.medical_judge import (
    Judge,
    JudgeError,
    Judgement,
    JudgeQuery,
    JudgeUnavailableError,
    Unscored,
)


def collect(
    judge: Judge,
    settings: JudgeSettings,
    queries: Sequence[JudgeQuery],
    path: Path,
    asked: Asked,
    *,
    concurrency: int,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Reply]:
    """Asks what is not answered yet and appends it to the file.

    Args:
        judge: the judge.
        settings: its settings.
        queries: everything to be asked, with distinct ids.
        path: JSON lines; the first says what it is about, then one line an item.
        asked: what the answers are about.
        concurrency: batches asked at the same time.
        progress: told how many more items have an answer.

    Returns:
        A reply for each query, by its id.

    Raises:
        CalibrationError: if the file holds answers of another judge or other data.
        JudgeUnavailableError: if the judge is out of order; what it answered is kept.
    """
    replies = load(path, asked)
    wanted = {query.query_id: query for query in queries}
    # A reply to another question under the same id (the items have changed since) is asked again.
    replies = {name: one for name, one in replies.items() if one.query == wanted.get(name)}
    progress(len(replies))
    left = [query for query in queries if query.query_id not in replies]
    for batch in _ask(judge, settings, left, concurrency):
        append(path, batch)
        replies |= {reply.query.query_id: reply for reply in batch}
        progress(len(batch))
    return replies


def judgements(
    replies: Mapping[str, Reply], settings: JudgeSettings, threshold: float | None
) -> dict[str, Judgement]:
    """The labels that the judge gives with a threshold, by query id.

    Args:
        replies: its replies.
        settings: its settings.
        threshold: P(yes) from which a label counts as yes; only a language model's labels move
            with it. ``None`` for the default.
    """
    found: dict[str, Judgement] = {
        name: reply.judgement for name, reply in replies.items() if reply.judgement is not None
    }
    if isinstance(settings, ModelSettings):
        again = ModelJudge(_Recorded(replies), replace(settings, threshold=threshold))
        asked = [reply.query for reply in replies.values() if reply.judgement is None]
        found |= {one.query_id: one for one in again.judge(asked)}
    return found


def both_orders(replies: Mapping[str, Reply]) -> list[tuple[Answer, Answer]]:
    """The first question's answers with the reference note first and last, where both are there."""
    pairs = []
    for reply in replies.values():
        found = {
            one.key.swapped: one.answer
            for one in reply.answers
            if one.key.question is Question.ERROR_PRESENT and one.answer is not None
        }
        if len(found) == 2:
            pairs.append((found[False], found[True]))
    return pairs


class _Recorded:
    """An engine that gives again what was answered before."""

    def __init__(self, replies: Mapping[str, Reply]) -> None:
        self._answers: dict[PromptKey, Answer | JudgeError] = {
            one.key: one.answer or JudgeError(one.failure or "no answer")
            for reply in replies.values()
            for one in reply.answers
        }

    def answer(
        self, prompts: Sequence[JudgePrompt], reasoning_tokens: int
    ) -> Mapping[PromptKey, Answer | JudgeError]:
        return self._answers

    def close(self) -> None:
        pass


def _ask(
    judge: Judge, settings: JudgeSettings, queries: Sequence[JudgeQuery], concurrency: int
) -> Iterator[list[Reply]]:
    """Replies batch by batch, in the order in which they are ready."""

    def ask(batch: Sequence[JudgeQuery]) -> tuple[list[Reply], JudgeUnavailableError | None]:
        if isinstance(judge, ModelJudge) and isinstance(settings, ModelSettings):
            return _ask_model(judge, settings, batch, concurrency)
        return _ask_judge(judge, batch, concurrency)

    size = settings.max_batch
    batches = [queries[start : start + size] for start in range(0, len(queries), size)]
    with ThreadPoolExecutor(concurrency, thread_name_prefix="calibration") as pool:
        running = [pool.submit(ask, batch) for batch in batches]
        away: JudgeUnavailableError | None = None
        try:
            for done in as_completed(running):
                if done.cancelled():
                    continue
                replies, outage = done.result()
                yield replies
                if outage is not None:
                    # What is being asked at this moment may still be answered, and is kept.
                    away = outage
                    _cancel(running)
        finally:
            _cancel(running)
    if away is not None:
        raise away


def _cancel(running: Sequence[Future[Any]]) -> None:
    for batch in running:
        batch.cancel()


def _ask_judge(
    judge: Judge, batch: Sequence[JudgeQuery], concurrency: int
) -> tuple[list[Reply], JudgeUnavailableError | None]:
    started, away = time.perf_counter(), None
    said: Sequence[Judgement]
    missing = f"{judge.name} gave no verdict"
    try:
        said = judge.judge(batch)
    except JudgeUnavailableError as error:
        said, away = error.answered, error
    except JudgeError as error:
        said, missing = (), str(error)
    took = time.perf_counter() - started
    by_id = {one.query_id: one for one in said}
    share = took / len(batch) / concurrency
    return [
        Reply(
            query,
            took,
            share,
            judgement=by_id.get(query.query_id, Unscored(query.query_id, missing)),
        )
        for query in batch
        if query.query_id in by_id or away is None
    ], away


def _ask_model(
    judge: ModelJudge, settings: ModelSettings, batch: Sequence[JudgeQuery], concurrency: int
) -> tuple[list[Reply], JudgeUnavailableError | None]:
    prompts = [
        prompt
        for query in batch
        for prompt in prompts_of(
            query,
            both_orders=True,
            ask_realistic=settings.ask_realistic,
            reasoning=settings.reasoning_tokens > 0,
        )
    ]
    # Only what training asks is timed; the other order is asked for the position bias.
    timed = [one for one in prompts if settings.both_orders or not one.key.swapped]
    untimed = [one for one in prompts if one.key.swapped and not settings.both_orders]
    engine = judge.engine
    started = time.perf_counter()
    found = dict(engine.answer(timed, settings.reasoning_tokens))
    took = time.perf_counter() - started
    if untimed:
        found |= engine.answer(untimed, settings.reasoning_tokens)
    away = next((one for one in found.values() if isinstance(one, JudgeUnavailableError)), None)
    unavailable = {
        key.query_id for key, one in found.items() if isinstance(one, JudgeUnavailableError)
    }
    share = took / len(batch) / concurrency
    of_game: dict[str, list[PromptAnswer]] = {query.query_id: [] for query in batch}
    for prompt in prompts:
        of_game[prompt.key.query_id].append(_kept(prompt.key, found.get(prompt.key)))
    return [
        Reply(query, took, share, tuple(of_game[query.query_id]))
        for query in batch
        if query.query_id not in unavailable
    ], away


def _kept(key: PromptKey, found: Answer | JudgeError | None) -> PromptAnswer:
    if isinstance(found, Answer):
        return PromptAnswer(key, found)
    return PromptAnswer(
        key, failure="the question was left unanswered" if found is None else str(found)
    )
