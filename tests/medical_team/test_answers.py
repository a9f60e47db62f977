from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_team.answers import (
    Assessment,
    Classification,
    Edit,
    FormatError,
    Response,
    format_assessment,
    format_edit,
    format_response,
    parse_assessment,
    parse_edit,
    parse_response,
)

SAFE = Assessment(Classification.SAFE, None, None)
HARMFUL = "Classification: Harmful\nError sentence: 2\nCorrection: He is given aspirin."


def no_tags(text: str) -> bool:
    return bool(text) and not any(
        tag in text for tag in ("<think>", "</think>", "<answer>", "</answer>")
    )


parts = st.text().map(str.strip).filter(no_tags)
sentences = (
    st.text(min_size=1)
    .map(lambda text: " ".join(text.split()))
    .filter(lambda text: text and len(text.splitlines()) == 1)
)
corrections = sentences.filter(lambda text: text.rstrip(".").casefold() != "none")
fragments = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            "Classification: Harmful\n",
            "Classification: Safe\n",
            "Error sentence: 1\n",
            "Error sentence: none\n",
            "Correction: x\n",
            "Sentence: 0\n",
            "Rewrite: x\n",
            ":",
            "\u2028",
            "\u00b2",
            " ",
        ]
    )
    | st.text(max_size=8)
).map("".join)


@given(parts, parts, st.booleans())
def test_a_formatted_response_is_read_back(reasoning: str, answer: str, think_opened: bool) -> None:
    text = format_response(reasoning, answer, think_opened=think_opened)
    assert parse_response(text, think_opened=think_opened) == Response(reasoning, answer)


@given(st.integers(0, 9999), corrections)
def test_a_formatted_assessment_is_read_back(sentence_id: int, correction: str) -> None:
    assessment = Assessment(Classification.HARMFUL, sentence_id, correction)
    assert parse_assessment(format_assessment(assessment), sentence_id + 1) == assessment
    assert parse_assessment(format_assessment(SAFE), sentence_id + 1) == SAFE


@given(st.integers(0, 9999), sentences)
def test_a_formatted_edit_is_read_back(sentence_id: int, rewrite: str) -> None:
    edit = Edit(sentence_id, rewrite)
    assert parse_edit(format_edit(edit), sentence_id + 1) == edit


@given(fragments, st.integers(0, 5), st.booleans())
def test_parsers_raise_nothing_but_format_errors(text: str, count: int, opened: bool) -> None:
    with contextlib.suppress(FormatError):
        parse_response(text, think_opened=opened)
    with contextlib.suppress(FormatError):
        assert parse_assessment(text, count).sentence_id in (None, *range(count))
    with contextlib.suppress(FormatError):
        assert parse_edit(text, count).sentence_id in range(count)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("reason <answer>a</answer>", "</think> occurs 0 times"),
        ("reason</think> a</answer>", "<answer> occurs 0 times"),
        ("reason</think><answer>a", "</answer> occurs 0 times"),
        ("one</think>two</think><answer>a</answer>", "</think> occurs 2 times"),
        ("r</think><answer>a</answer><answer>b</answer>", "<answer> occurs 2 times"),
        ("r</think><answer>a</answer></answer>", "</answer> occurs 2 times"),
        ("<think>r</think><answer>a</answer>", "<think> occurs 1 times, expected 0"),
        ("<answer>a</answer>r</think>", "out of order"),
        ("r</think></answer>a<answer>", "text between"),
        ("r<answer></think>a</answer>", "out of order"),
        ("r</think> so <answer>a</answer>", "text between"),
        ("r</think><answer>a</answer> thanks", "text after"),
        (" \n</think><answer>a</answer>", "empty reasoning"),
        ("r</think><answer> \n</answer>", "empty answer"),
        ("", "occurs 0 times"),
    ],
)
def test_a_broken_response_is_refused_by_its_rule(text: str, rule: str) -> None:
    with pytest.raises(FormatError, match=rule):
        parse_response(text, think_opened=True)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("r</think><answer>a</answer>", "<think> occurs 0 times"),
        ("<think><think>r</think><answer>a</answer>", "<think> occurs 2 times"),
        ("Sure. <think>r</think><answer>a</answer>", "text before"),
        ("</think>r<think><answer>a</answer>", "text before|out of order"),
        ("<think></think><answer>a</answer>", "empty reasoning"),
    ],
)
def test_a_model_that_opens_its_reasoning_must_do_so_once_and_first(text: str, rule: str) -> None:
    with pytest.raises(FormatError, match=rule):
        parse_response(text, think_opened=False)


def test_white_space_between_and_after_the_parts_is_kept_format() -> None:
    text = "\n r \n</think> \n\n <answer> a \n</answer>\n \n"
    assert parse_response(text, think_opened=True) == Response("r", "a")


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("Safe: no", "unexpected line"),
        ("The note is Harmful.", "unexpected line"),
        ("Harmful", "unexpected line"),
        ("Classification: not Safe\nError sentence: none\nCorrection: none", "expected Harmful or"),
        ("Classification: Unsafe\nError sentence: 1\nCorrection: x", "expected Harmful or Safe"),
        ("Classification: Harmful or Safe\nError sentence: 1\nCorrection: x", "expected Harmful"),
        ("Classification: Safe\nError sentence: 1\nCorrection: none", "Safe, but"),
        ("Classification: Safe\nError sentence: none\nCorrection: He has flu.", "Safe, but"),
        ("Classification: Harmful\nError sentence: none\nCorrection: none", "Harmful, but"),
        ("Classification: Harmful\nError sentence: 1\nCorrection: none", "Harmful, but"),
        ("Classification: Harmful\nError sentence: 3\nCorrection: x", "sentence 3 does not exist"),
        ("Classification: Harmful\nError sentence: -1\nCorrection: x", "is not a number"),
        ("Classification: Harmful\nError sentence: 1 or 2\nCorrection: x", "is not a number"),
        ("Classification: Harmful\nError sentence: one\nCorrection: x", "is not a number"),
        ("Classification: Harmful\nError sentence: 1", "Correction is missing"),
        ("Error sentence: 1\nCorrection: x", "Classification is missing"),
        ("Classification: Harmful\nError sentence:\nCorrection: x", "Error sentence is empty"),
        (f"{HARMFUL}\nCorrection: another", "Correction is given twice"),
        (f"{HARMFUL}\nClassification: Safe", "Classification is given twice"),
        (f"{HARMFUL}\nConfidence: high", "unexpected line"),
        (f"{HARMFUL}\nThe sentence goes on.", "unexpected line"),
        (f"Here it is\n{HARMFUL}", "unexpected line"),
        ("", "Classification is missing"),
    ],
)
def test_an_ambiguous_assessment_is_refused(answer: str, rule: str) -> None:
    with pytest.raises(FormatError, match=rule):
        parse_assessment(answer, 3)


def test_fields_are_bound_by_name_whatever_their_order_case_and_spacing() -> None:
    answer = "correction:  He is Safe: no doubt. \n\n ERROR SENTENCE : 2.\nclassification: harmful."
    expected = Assessment(Classification.HARMFUL, 2, "He is Safe: no doubt.")
    assert parse_assessment(answer, 3) == expected


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("Sentence: 1", "Rewrite is missing"),
        ("Rewrite: x", "Sentence is missing"),
        ("Sentence: 3\nRewrite: x", "sentence 3 does not exist, the note has 0 to 2"),
        ("Sentence: 1\nRewrite: x\nand more", "unexpected line"),
        ("Sentence: 1\nSentence: 2\nRewrite: x", "Sentence is given twice"),
        ("Sentence: 1\nRewrite:  ", "Rewrite is empty"),
        ("He is given aspirin.", "unexpected line"),
    ],
)
def test_an_ambiguous_edit_is_refused(answer: str, rule: str) -> None:
    with pytest.raises(FormatError, match=rule):
        parse_edit(answer, 3)
