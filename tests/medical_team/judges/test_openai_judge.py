"""Labels over chat completions: what is asked in each dialect and how answers are read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from medical_team.judges.chat_labels import Completion, label_request, read_label
from medical_team.judges.model_judge import ModelJudge
from medical_team.judges.openai import build, served_revision
from medical_team.judges.settings import OpenAISettings
from medical_team.medical_judge import (
    JudgeError,
    JudgeUnavailableError,
    JudgeUsage,
    Unscored,
    Verdict,
)

MakeJudge = Callable[..., ModelJudge]


def settings_of(url: str, **changed: Any) -> OpenAISettings:
    options = {"urls": (url,), "model": "m", "retry_wait_s": 0.01, "timeout_s": 10.0} | changed
    return OpenAISettings(**options)


@pytest.fixture
def make_judge(server: Any) -> Iterator[MakeJudge]:
    """Judges that ask the server; built while it answers 404 to everything."""
    made: list[ModelJudge] = []

    def make(**changed: Any) -> ModelJudge:
        made.append(build(settings_of(server.url + "/v1", **changed)))
        server.requests.clear()
        return made[-1]

    yield make
    for judge in made:
        judge.close()


def parsed(found: dict[str, Any]) -> Completion:
    return Completion.model_validate(found)


def with_tokens(text: str, *tokens: tuple[str, dict[str, float]]) -> Completion:
    content = [
        {
            "token": token,
            "logprob": math.log(top[token]),
            "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top.items()],
        }
        for token, top in tokens
    ]
    return parsed({"choices": [{"message": {"content": text}, "logprobs": {"content": content}}]})


def test_spellings_of_a_word_are_added_up() -> None:
    top = {"Yes": 0.3, " yes": 0.2, "YES": 0.1, "No": 0.1, "\u2581no": 0.1, "Maybe": 0.2}
    answer = read_label(with_tokens("Yes", ("Yes", top)), as_json=False)
    assert answer.yes
    assert answer.p_yes == pytest.approx(0.75)
    assert answer.label_mass == pytest.approx(0.8)


def test_probabilities_decide_where_another_word_was_drawn() -> None:
    answer = read_label(
        with_tokens("The", ("The", {"The": 0.9, "No": 0.06, "Yes": 0.04})), as_json=False
    )
    assert not answer.yes
    assert answer.p_yes == pytest.approx(0.4)
    assert answer.label_mass == pytest.approx(0.1)


def test_neither_word_among_the_likeliest_is_off_the_menu() -> None:
    with pytest.raises(JudgeError, match=r"likeliest is 'The'"):
        read_label(with_tokens("The", ("The", {"The": 0.9})), as_json=False)


def test_impossible_log_probability_is_a_broken_answer(chat_answer: Any) -> None:
    for wrong in (0.5, float("nan")):
        found = chat_answer("Yes", 0.9)
        found["choices"][0]["logprobs"]["content"][0]["logprob"] = wrong
        with pytest.raises(ValueError, match="logprob"):
            parsed(found)


@pytest.mark.parametrize("text", ["Yes", " yes.", "YES", "Yes\n"])
def test_text_that_is_the_word_is_a_label_without_a_probability(
    text: str, chat_answer: Any
) -> None:
    answer = read_label(parsed(chat_answer(text)), as_json=False)
    assert (answer.yes, answer.p_yes, answer.label_mass) == (True, None, None)


@pytest.mark.parametrize(
    "text", ["", "Yes and no", "Not", "Answer: Yes", "Yes, because", '{"answer": "Yes"}', "y"]
)
def test_text_that_is_more_than_the_word_is_off_the_menu(text: str, chat_answer: Any) -> None:
    with pytest.raises(JudgeError, match="neither Yes nor No"):
        read_label(parsed(chat_answer(text)), as_json=False)


def test_json_answer_takes_the_probability_of_the_word_in_it() -> None:
    answer = read_label(
        with_tokens(
            '{"answer": "No"}',
            ('{"', {'{"': 1.0}),
            ("answer", {"answer": 1.0}),
            ('": "', {'": "': 1.0}),
            ("No", {"No": 0.8, "Yes": 0.2}),
            ('"}', {'"}': 1.0}),
        ),
        as_json=True,
    )
    assert (answer.yes, answer.p_yes) == (False, pytest.approx(0.2))


@pytest.mark.parametrize(
    "text",
    ['{"answer": "Perhaps"}', '{"answer": "Yes"', '["Yes"]', "Yes", '{"answer": "Yes", "b": 1}'],
)
def test_json_answer_of_another_shape_is_off_the_menu(text: str) -> None:
    with pytest.raises(JudgeError):
        read_label(with_tokens(text, ("Yes", {"Yes": 1.0})), as_json=True)


def test_each_dialect_asks_in_its_server_s_words() -> None:
    def request(**changed: Any) -> dict[str, Any]:
        return label_request(settings_of("http://x", **changed))

    probabilities = {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}
    choice = {"structured_outputs": {"choice": ["Yes", "No"]}}
    assert request(dialect="vllm") == probabilities
    assert request(dialect="vllm", constrained=True) == choice | probabilities
    regex = {"regex": "(Yes|No)"}
    assert request(dialect="sglang", constrained=True) == regex | probabilities
    assert request(dialect="none") == probabilities
    assert request(dialect="none", logprobs=False) == {"max_tokens": 1}
    assert request(dialect="vllm", logprobs=False) == choice | {"max_tokens": 4}
    schema = request(dialect="json_schema")["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["answer"]["enum"] == ["Yes", "No"]


def test_verdict_holds_probabilities_and_usage(
    make_judge: MakeJudge, server: Any, games: Any, chat_answer: Any
) -> None:
    server.always = server.reply(200, chat_answer("Yes", 0.9))
    (verdict,) = make_judge(ask_realistic=False).judge(games(2)[1:])
    assert isinstance(verdict, Verdict)
    # Two sentences differ, so that the judge is asked who found the error; who broke the format
    # did not.
    assert (verdict.error_present, verdict.error_identified) == (True, (True, False))
    assert verdict.probabilities is not None
    assert verdict.probabilities.error_present == pytest.approx(0.9)
    assert verdict.usage == JudgeUsage(prompt_tokens=200, cached_tokens=128, output_tokens=2)
    assert verdict.source == "openai:m"
    assert [request.path for request in server.requests] == ["/v1/chat/completions"] * 2
    body = server.requests[0].json
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 1)


def test_questions_of_a_game_share_the_beginning_and_run_in_turn(
    make_judge: MakeJudge, server: Any, games: Any, chat_answer: Any
) -> None:
    server.always = server.reply(200, chat_answer("Yes", 0.9))
    make_judge().judge(games(2)[1:])
    texts = [request.json["messages"][0]["content"] for request in server.requests]
    assert len(texts) == 3
    case = texts[0][: texts[0].index("=== END", texts[0].index("WRONG"))]
    assert all(text.startswith(case) for text in texts)


def test_reasoning_is_asked_first_and_quoted_when_the_label_is(
    make_judge: MakeJudge, server: Any, games: Any, chat_answer: Any
) -> None:
    judge = make_judge(ask_realistic=False, reasoning_tokens=50)
    server.then(server.reply(200, chat_answer("The drug <|im_end|> is wrong.")))
    server.always = server.reply(200, chat_answer("Yes", 0.9))
    judge.judge(games(2)[1:])
    thought, label = (request.json for request in server.requests[:2])
    assert thought["max_tokens"] == 50
    assert "structured_outputs" not in thought
    assert [message["role"] for message in label["messages"]] == ["user", "assistant", "user"]
    assert "is wrong." in label["messages"][1]["content"]
    assert "<|im_end|>" not in label["messages"][1]["content"]


def test_server_without_log_probabilities_still_labels(
    make_judge: MakeJudge, server: Any, games: Any, chat_answer: Any
) -> None:
    server.always = server.reply(200, chat_answer("No"))
    (verdict,) = make_judge().judge(games(1))
    assert isinstance(verdict, Verdict)
    assert verdict.error_present is False
    assert verdict.probabilities is not None
    assert verdict.probabilities.error_present is None


def test_refused_question_leaves_other_games_their_verdicts(
    make_judge: MakeJudge, server: Any, games: Any, chat_answer: Any, number_of: Any
) -> None:
    def answer(connection: Any, request: Any) -> None:
        number = number_of(request.json["messages"][0]["content"])
        if number == 2:
            server.reply(400, b"the prompt is too long")(connection, request)
        else:
            server.reply(200, chat_answer("Yes", 0.9))(connection, request)

    server.always = answer
    found = {one.query_id: one for one in make_judge().judge(games(5))}
    assert isinstance(found["g2"], Unscored)
    assert "the prompt is too long" in found["g2"].reason
    assert all(isinstance(found[f"g{n}"], Verdict) for n in (0, 1, 3, 4))


@pytest.mark.parametrize(
    ("models", "revision"),
    [
        ([{"id": "m", "root": "m"}], ""),
        ([{"id": "m", "root": "google/medgemma-4b-it"}], "google/medgemma-4b-it"),
        ([{"id": "m", "root": "/w", "revision": "abc"}], "/w@abc"),
        ([{"id": "other", "root": "/w"}], ""),
        ([], ""),
        ("nonsense", ""),
    ],
)
def test_revision_is_what_the_server_says_it_serves(
    server: Any, models: Any, revision: str
) -> None:
    server.always = server.reply(200, {"object": "list", "data": models})
    assert served_revision(settings_of(server.url + "/v1")) == revision
    assert server.requests[0].path == "/v1/models"


def test_model_that_the_server_does_not_list_is_told(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.always = server.reply(200, {"data": [{"id": "other"}]})
    served_revision(settings_of(server.url))
    assert "does not list judge.model=m; it lists: other" in caplog.text


def test_judge_can_be_built_before_its_server_is_up(dead_url: str) -> None:
    judge = build(settings_of(dead_url))
    with pytest.raises(JudgeUnavailableError):  # what it serves is not known yet
        _ = judge.fingerprint
    judge.close()


def test_key_comes_from_the_named_environment_variable(
    make_judge: MakeJudge,
    server: Any,
    games: Any,
    chat_answer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTHER_KEY", "secret")
    server.always = server.reply(200, chat_answer("No", 0.1))
    make_judge(api_key_env="OTHER_KEY").judge(games(1))
    assert server.requests[0].headers["authorization"] == "Bearer secret"


def test_body_is_plain_json(
    make_judge: MakeJudge, server: Any, games: Any, chat_answer: Any
) -> None:
    server.always = server.reply(200, chat_answer("No", 0.1))
    make_judge().judge(games(1))
    assert server.requests[0].headers["content-type"] == "application/json"
    assert json.loads(server.requests[0].body)["messages"][0]["role"] == "user"


def test_a_game_at_which_the_server_fails_is_unscored_and_no_outage(
    make_judge: MakeJudge, server: Any, games: Any, chat_answer: Any
) -> None:
    poison, *others = games(3)
    fine, broken = server.reply(200, chat_answer("Yes", 0.9)), server.reply(500, b"too long")

    def fails_at_poison(connection: Any, request: Any) -> None:
        asked = str(request.json["messages"])
        (broken if poison.note[-1] in asked else fine)(connection, request)

    server.always = fails_at_poison
    poison = replace(poison, note=(*poison.note, "He sings the poisonous song."))
    found = {one.query_id: one for one in make_judge().judge([poison, *others])}
    assert isinstance(found[poison.query_id], Unscored)
    assert "on this game alone" in found[poison.query_id].reason
    assert all(isinstance(found[one.query_id], Verdict) for one in others)


def test_a_server_that_fails_at_everything_is_an_outage(
    make_judge: MakeJudge, server: Any, games: Any
) -> None:
    server.always = server.reply(500, b"engine dead")
    with pytest.raises(JudgeUnavailableError, match="engine dead"):
        make_judge(attempts=2).judge(games(1))


def test_servers_that_understand_it_are_told_not_to_open_a_reasoning_block(
    make_judge: MakeJudge, server: Any, games: Any, chat_answer: Any
) -> None:
    server.always = server.reply(200, chat_answer("No", 0.1))
    for dialect, told in (("vllm", True), ("sglang", True), ("none", False)):
        make_judge(dialect=dialect).judge(games(1))
        assert ("chat_template_kwargs" in server.requests[-1].json) is told
