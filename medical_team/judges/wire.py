"""What travels between our judge server and :class:`~medical_team.remote_judge.RemoteJudge`.

Types are strict, so that a label is only ever a JSON true, false or null: ``"yes"`` or ``1`` is an
error and not a guess. Requests may hold no unknown field; answers may, so that a newer server still
serves an older client.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator

from medical_team.answers import Assessment, Classification
from medical_team.medical_judge import (
    JudgeQuery,
    JudgeUsage,
    LabelProbabilities,
    Unscored,
    Verdict,
)

Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class RequestModel(BaseModel):
    """A part of a request: unknown fields are an error."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ResponseModel(BaseModel):
    """A part of an answer: unknown fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class AssessmentIn(RequestModel):
    """One assessor's answer; see :class:`~medical_team.answers.Assessment`."""

    classification: Literal["Harmful", "Safe"]
    sentence_id: int | None
    correction: str | None

    @classmethod
    def from_assessment(cls, assessment: Assessment) -> AssessmentIn:
        """The wire form of a record."""
        return cls(
            classification=assessment.classification.value,
            sentence_id=assessment.sentence_id,
            correction=assessment.correction,
        )

    def to_assessment(self) -> Assessment:
        """The record."""
        return Assessment(Classification(self.classification), self.sentence_id, self.correction)


class QueryIn(RequestModel):
    """One game; see :class:`~medical_team.medical_judge.JudgeQuery`."""

    query_id: str = Field(min_length=1, max_length=200)
    # FailFast: a body full of wrong items must not cost an error message for each of them.
    clean_note: Annotated[list[str], FailFast()]
    note: Annotated[list[str], FailFast()] = Field(min_length=1)
    assessments: Annotated[list[AssessmentIn | None], FailFast()]

    @classmethod
    def from_query(cls, query: JudgeQuery) -> QueryIn:
        """The wire form of a record.

        Raises:
            pydantic.ValidationError: if it does not fit: an id that is empty, too long or no
                Unicode, or an empty note.
        """
        return cls(
            query_id=query.query_id,
            clean_note=list(query.clean_note),
            note=list(query.note),
            assessments=[
                None if one is None else AssessmentIn.from_assessment(one)
                for one in query.assessments
            ],
        )

    def to_query(self) -> JudgeQuery:
        """The record."""
        return JudgeQuery(
            self.query_id,
            tuple(self.clean_note),
            tuple(self.note),
            tuple(None if one is None else one.to_assessment() for one in self.assessments),
        )


class JudgeRequest(RequestModel):
    """The body of ``POST /judge``: games with distinct ids."""

    queries: Annotated[list[QueryIn], FailFast()] = Field(min_length=1)

    @field_validator("queries")
    @classmethod
    def _ids_are_distinct(cls, queries: list[QueryIn]) -> list[QueryIn]:
        seen: set[str] = set()
        for query in queries:
            if query.query_id in seen:
                raise ValueError(f"query_id {query.query_id!r} is given twice; ids must differ")
            seen.add(query.query_id)
        return queries


class ProbabilitiesOut(ResponseModel):
    """P(yes) of each question; see :class:`~medical_team.medical_judge.LabelProbabilities`."""

    error_present: Probability | None = None
    error_identified: list[Probability | None] = []
    realistic: Probability | None = None

    @classmethod
    def from_probabilities(cls, probabilities: LabelProbabilities) -> ProbabilitiesOut:
        """The wire form of a record."""
        return cls(
            error_present=probabilities.error_present,
            error_identified=list(probabilities.error_identified),
            realistic=probabilities.realistic,
        )

    def to_probabilities(self) -> LabelProbabilities:
        """The record."""
        return LabelProbabilities(self.error_present, tuple(self.error_identified), self.realistic)


class UsageOut(ResponseModel):
    """Tokens of one verdict; see :class:`~medical_team.medical_judge.JudgeUsage`."""

    prompt_tokens: Count = 0
    cached_tokens: Count | None = None
    output_tokens: Count = 0

    @classmethod
    def from_usage(cls, usage: JudgeUsage) -> UsageOut:
        """The wire form of a record."""
        return cls(
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
        )

    def to_usage(self) -> JudgeUsage:
        """The record."""
        return JudgeUsage(self.prompt_tokens, self.cached_tokens, self.output_tokens)


class VerdictOut(ResponseModel):
    """The labels of one game; see :class:`~medical_team.medical_judge.Verdict`."""

    query_id: str
    error_present: bool | None
    error_identified: list[bool | None]
    realistic: bool | None
    source: str
    probabilities: ProbabilitiesOut | None = None
    usage: UsageOut = UsageOut()
    cached: bool = False

    @classmethod
    def from_verdict(cls, verdict: Verdict) -> VerdictOut:
        """The wire form of a record."""
        told = verdict.probabilities
        return cls(
            query_id=verdict.query_id,
            error_present=verdict.error_present,
            error_identified=list(verdict.error_identified),
            realistic=verdict.realistic,
            source=verdict.source,
            probabilities=None if told is None else ProbabilitiesOut.from_probabilities(told),
            usage=UsageOut.from_usage(verdict.usage),
            cached=verdict.cached,
        )

    def to_verdict(self) -> Verdict:
        """The record."""
        told = self.probabilities
        return Verdict(
            self.query_id,
            self.error_present,
            tuple(self.error_identified),
            self.realistic,
            self.source,
            None if told is None else told.to_probabilities(),
            self.usage.to_usage(),
            self.cached,
        )


class UnscoredOut(ResponseModel):
    """A game without a verdict; see :class:`~medical_team.medical_judge.Unscored`.

    Attributes:
        query_id: the game.
        reason: why, in one line.
        unavailable: the judge was out of order, so that asking again may help.
    """

    query_id: str
    reason: str
    unavailable: bool = False

    @classmethod
    def from_unscored(cls, unscored: Unscored) -> UnscoredOut:
        """The wire form of a record."""
        return cls(query_id=unscored.query_id, reason=unscored.reason)

    def to_unscored(self) -> Unscored:
        """The record."""
        return Unscored(self.query_id, self.reason)


class JudgeResponse(ResponseModel):
    """The answer to ``POST /judge``.

    Attributes:
        judge: the judge's name.
        fingerprint: see :class:`~medical_team.medical_judge.Judge`.
        verdicts: in any order.
        unscored: in any order.
    """

    judge: str
    fingerprint: str
    verdicts: list[VerdictOut]
    unscored: list[UnscoredOut]


class Health(ResponseModel):
    """The answer to ``GET /health``.

    Attributes:
        status: ``healthy`` comes with 200, the others with 503.
        model: what the server was told to serve.
        fingerprint: the judge's, ``None`` until it is loaded.
        detail: why it is not healthy.
    """

    status: Literal["healthy", "loading", "unavailable"]
    model: str
    fingerprint: str | None = None
    detail: str | None = None


class ClassifyQuery(BaseModel):
    """One game as Self-RedTeam's trainer sends it.

    Attributes:
        game_idx: names the game.
        prompt: the attacker's move: the note to assess.
        response: the defender's move: the assessor's answer.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    game_idx: int | str
    prompt: str
    response: str | None = None


class ClassifyRequest(BaseModel):
    """The body of ``POST /classify``; whatever else that trainer sends is ignored.

    Attributes:
        queries: games with distinct ``game_idx``.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    queries: Annotated[list[ClassifyQuery], FailFast()] = Field(min_length=1)

    @field_validator("queries")
    @classmethod
    def _games_are_distinct(cls, queries: list[ClassifyQuery]) -> list[ClassifyQuery]:
        seen: set[int | str] = set()
        for query in queries:
            if query.game_idx in seen:
                raise ValueError(f"game_idx {query.game_idx!r} is given twice; they must differ")
            seen.add(query.game_idx)
        return queries


class ClassifyLabel(ResponseModel):
    """Labels of one game: WildGuard's, which that trainer reads, then the ones they are made of.

    :func:`medical_team.judge_server.classify.label_of` says how.
    """

    game_idx: int | str
    prompt_harmfulness: Literal["harmful", "unharmful"] | None = None
    response_harmfulness: Literal["harmful", "unharmful"] | None = None
    response_refusal: Literal["refusal", "compliance"] | None = None
    is_parsing_error: bool = False
    error_present: bool | None = None
    error_identified: bool | None = None
    realistic: bool | None = None
    reason: str | None = None


class ClassifyResponse(ResponseModel):
    """The answer to ``POST /classify``.

    Attributes:
        labels: one for each query and in their order, since that trainer matches by position.
    """

    labels: list[ClassifyLabel]
