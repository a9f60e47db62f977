"""How much texts have in common: attacks on different cases, and a reasoning with its prompt."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import sqrt

from medical_team.medical_game_manager import changed_spans, normalise_sentence

_WORD = re.compile(r"\w+")
_RUN = 5  # words in a row that two texts hardly share by chance


def written_words(source: Sequence[str], note: Sequence[str]) -> tuple[str, ...]:
    """What an attack wrote into the note.

    Args:
        source: the note before, as sentences.
        note: the attacked note, as sentences.

    Returns:
        The words that are new, in order and in lower case; where words were only taken out, these,
        each after a minus sign. Case and punctuation do not count.
    """
    before = [normalise_sentence(sentence) for sentence in source]
    after = [normalise_sentence(sentence) for sentence in note]
    found: list[str] = []
    for old, new in changed_spans(before, after):
        gone = _words(" ".join(before[i] for i in old))
        come = _words(" ".join(after[i] for i in new))
        for out, into in changed_spans(gone, come):
            found += [come[i] for i in into] or [f"-{gone[i]}" for i in out]
    return tuple(found)


def likeness(attacks: Iterable[tuple[str, Sequence[str]]]) -> float | None:
    """How alike attacks on different cases are.

    The mean, over all pairs of attacks on different cases, of the cosine between their counts of
    words and of pairs of neighbouring words. Unlike self-BLEU (arXiv 1802.01886) it does not grow
    with the number of attacks, so steps of different sizes compare. Several attacks on one case are
    not compared: they are meant to answer the same note.

    Args:
        attacks: case and written words of each attack.

    Returns:
        From 0 (no word in common) to 1 (all the same); ``None`` without two cases.
    """
    sums: dict[str, dict[tuple[str, ...], float]] = {}
    counts: Counter[str] = Counter()
    for case_id, words in attacks:
        grams = Counter([*zip(words), *pairwise(words)])
        length = sqrt(_squared(grams))
        if length:
            counts[case_id] += 1
            _add(sums.setdefault(case_id, defaultdict(float)), grams, 1 / length)
    if len(counts) < 2:
        return None
    whole: dict[tuple[str, ...], float] = defaultdict(float)
    for vector in sums.values():
        _add(whole, vector, 1.0)
    # The squared length of the whole sum is the sum over all pairs; those of one case are taken
    # out again.
    across = _squared(whole) - sum(map(_squared, sums.values()))
    pairs = counts.total() ** 2 - sum(count * count for count in counts.values())
    return min(1.0, max(0.0, across / pairs))


def copied_share(text: str, prompt_runs: frozenset[tuple[str, ...]]) -> float | None:
    """The share of a text that stands word for word in a prompt.

    Args:
        text: the text.
        prompt_runs: :func:`word_runs` of the prompt.

    Returns:
        Share of its runs of five words, in [0, 1]; ``None`` if it has fewer words.
    """
    runs = _runs(text)
    return sum(run in prompt_runs for run in runs) / len(runs) if runs else None


def word_runs(text: str) -> frozenset[tuple[str, ...]]:
    """All runs of five words of a text, in lower case and without punctuation."""
    return frozenset(_runs(text))


def _runs(text: str) -> list[tuple[str, ...]]:
    words = _words(text)
    return list(zip(*(words[start:] for start in range(_RUN)), strict=False))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _squared(vector: Mapping[tuple[str, ...], float]) -> float:
    return sum(value * value for value in vector.values())


def _add(
    to: dict[tuple[str, ...], float], vector: Mapping[tuple[str, ...], float], scale: float
) -> None:
    for gram, value in vector.items():
        to[gram] += scale * value
