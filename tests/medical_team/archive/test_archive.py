from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from medical_team.archive import (
    ArchivedAttack,
    ArchiveError,
    ArchiveSettings,
    AttackArchive,
    PlayedAgain,
    read_frozen,
)
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType


def attack_number(
    number: int, *, succeeded: bool = True, padding: str = "", step: int = 0
) -> ArchivedAttack:
    case = Case(f"c-{number}", ("A man.", "He has gout."), 1, "He has a cold.", "diagnosis", "val")
    return ArchivedAttack.of(
        step=step,
        case=case,
        game_type=GameType.ADVERSARIAL_BENIGN,
        note=("A man.", f"He has gout of kind {number}.{padding}"),
        error_present=True,
        source="reference",
        succeeded=succeeded,
    )


def archive_at(
    file: Path, capacity: int = 1000, typical_share: float = 1.0, seed: int = 0
) -> AttackArchive:
    return AttackArchive(file, capacity, typical_share, seed)


def play_step(archive: AttackArchive, step: int, numbers: range, padding: str = "") -> None:
    """What a step of training does: some attacks drawn and played again, some new ones."""
    rng = random.Random(step)
    drawn = [archive.draw(rng, "missed", step) for _ in range(3)]
    played = [PlayedAgain(one.attack_id, rng.random() < 0.5) for one in drawn if one is not None]
    archive.add(step, [attack_number(number, padding=padding) for number in numbers])
    archive.record(step, played)


def chi_square(counts: list[int]) -> float:
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 / mean for count in counts)


def test_an_archive_without_a_file_is_empty(tmp_path: Path) -> None:
    archive = archive_at(tmp_path / "attacks.jsonl")
    archive.restore(before_step=5)
    assert len(archive) == 0
    assert archive.draw(random.Random(0), "uniform", 9) is None
    assert list(tmp_path.iterdir()) == []


def test_attacks_are_filed_under_the_step_that_adds_them(tmp_path: Path) -> None:
    archive = archive_at(tmp_path / "attacks.jsonl")
    assert archive.add(7, [attack_number(1, step=6), attack_number(2, step=7)]) == 2
    assert [attack.step for attack in archive.attacks] == [7, 7]


def test_all_successes_and_a_share_of_the_others_are_taken(tmp_path: Path) -> None:
    fooled = [attack_number(number) for number in range(500)]
    seen_through = [attack_number(number, succeeded=False) for number in range(500, 2500)]
    archive = archive_at(tmp_path / "attacks.jsonl", 5000, typical_share=0.25)
    archive.add(1, fooled + seen_through)
    taken = Counter(attack.succeeded for attack in archive.attacks)
    assert taken[True] == 500
    assert abs(taken[False] / 2000 - 0.25) < 4 * (0.25 * 0.75 / 2000) ** 0.5


@pytest.mark.parametrize(("share", "taken"), [(0.0, 0), (1.0, 300)])
def test_the_typical_share_reaches_none_and_all(tmp_path: Path, share: float, taken: int) -> None:
    archive = archive_at(tmp_path / "attacks.jsonl", typical_share=share)
    assert archive.add(1, [attack_number(n, succeeded=False) for n in range(300)]) == taken


def test_which_typical_attacks_are_taken_follows_from_the_seed(tmp_path: Path) -> None:
    attacks = [attack_number(number, succeeded=False) for number in range(300)]

    def taken(name: str, seed: int) -> set[str]:
        archive = archive_at(tmp_path / name, typical_share=0.5, seed=seed)
        archive.add(1, attacks)
        return {attack.attack_id for attack in archive.attacks}

    assert taken("one", 3) == taken("other", 3)
    assert taken("one more", 3) != taken("another seed", 4)


def test_which_typical_attacks_are_taken_says_nothing_of_which_are_kept(tmp_path: Path) -> None:
    fooled = [attack_number(number) for number in range(1000)]
    seen_through = [attack_number(number, succeeded=False) for number in range(1000, 5000)]
    archive = archive_at(tmp_path / "attacks.jsonl", capacity=400, typical_share=0.25)
    archive.add(1, fooled + seen_through)
    kept = sum(attack.succeeded for attack in archive.attacks)
    # Half of the two thousand that were taken succeeded; four standard errors.
    assert abs(kept / 400 - 0.5) < 4 * (0.25 / 400) ** 0.5


def test_an_attack_seen_again_stays_as_it_was_first_seen(tmp_path: Path) -> None:
    archive = archive_at(tmp_path / "attacks.jsonl")
    archive.add(1, [attack_number(1)])
    archive.record(2, [PlayedAgain(attack_number(1).attack_id, True)])
    (before,) = archive.attacks
    assert archive.add(3, [attack_number(1, succeeded=False), attack_number(1)]) == 0
    assert archive.attacks == (before,)
    assert len((tmp_path / "attacks.jsonl").read_text().splitlines()) == 2


def test_a_success_counts_over_a_failure_with_the_same_note(tmp_path: Path) -> None:
    twins = [attack_number(1, succeeded=False), attack_number(1, succeeded=True)]
    for name, order in (("one", twins), ("other", twins[::-1])):
        archive = archive_at(tmp_path / name, typical_share=0.0)
        archive.add(1, order)
        assert [attack.succeeded for attack in archive.attacks] == [True]


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=12), max_size=6),
    st.integers(1, 15),
    st.randoms(use_true_random=False),
)
def test_the_order_in_which_games_end_changes_nothing(
    steps: list[list[tuple[int, bool]]], capacity: int, rng: random.Random
) -> None:
    with TemporaryDirectory() as folder:
        archives = [archive_at(Path(folder) / name, capacity, 0.5) for name in ("one", "other")]
        for step, numbers in enumerate(steps):
            attacks = [attack_number(number, succeeded=won) for number, won in numbers]
            archives[0].add(step, attacks)
            rng.shuffle(attacks)
            archives[1].add(step, attacks)
        assert archives[0].attacks == archives[1].attacks
        assert len(archives[0]) <= capacity


@given(
    st.lists(st.lists(st.integers(0, 60), max_size=8), min_size=1, max_size=12),
    st.sampled_from([1, 4, 1000]),
    st.data(),
)
def test_restore_gives_what_was_there_at_that_step(
    steps: list[list[int]], capacity: int, data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "attacks.jsonl"
        archive = archive_at(file, capacity)
        there = [archive.attacks]
        for step, numbers in enumerate(steps):
            drawn = [archive.draw(random.Random(step), "uniform", step) for _ in range(3)]
            archive.add(step, map(attack_number, numbers))
            archive.record(step, [PlayedAgain(one.attack_id, True) for one in drawn if one])
            there.append(archive.attacks)
        # A run may be killed again before it gets as far as it was.
        before = len(steps)
        for _ in range(3):
            before = data.draw(st.integers(0, before), label="before_step")
            again = archive_at(file, capacity)
            again.restore(before)
            assert again.attacks == there[before]


def test_a_resumed_run_ends_with_the_archive_of_one_that_was_not_killed(tmp_path: Path) -> None:
    whole, killed = archive_at(tmp_path / "whole", 20), archive_at(tmp_path / "killed", 20)
    for step in range(60):
        play_step(whole, step, range(4 * step, 4 * step + 4))
    for step in range(50):
        play_step(killed, step, range(4 * step, 4 * step + 4))
    resumed = archive_at(tmp_path / "killed", 20)
    resumed.restore(before_step=35)
    for step in range(35, 60):
        play_step(resumed, step, range(4 * step, 4 * step + 4))
    assert resumed.attacks == whole.attacks
    assert any(attack.played for attack in resumed.attacks)


def test_what_is_kept_is_uniform_over_all_steps(tmp_path: Path) -> None:
    archive = archive_at(tmp_path / "attacks.jsonl", capacity=500)
    for step in range(300):
        archive.add(step, [attack_number(20 * step + n) for n in range(20)])
    assert len(archive) == 500
    tenths = Counter(attack.step // 30 for attack in archive.attacks)
    # 99.9 % of uniform samples stay below, with 9 degrees of freedom; what is older than a restore
    # can reach was compacted on the way.
    assert chi_square([tenths[tenth] for tenth in range(10)]) < 27.9
    again = archive_at(tmp_path / "attacks.jsonl", capacity=500)
    again.restore(300)
    assert again.attacks == archive.attacks


def test_uniform_draws_are_uniform_over_steps(tmp_path: Path) -> None:
    archive = archive_at(tmp_path / "attacks.jsonl")
    for step in range(10):
        archive.add(step, [attack_number(20 * step + n) for n in range(20)])
    rng = random.Random(1)
    drawn = Counter(
        attack.step for _ in range(4000) if (attack := archive.draw(rng, "uniform", 10)) is not None
    )
    assert chi_square([drawn[step] for step in range(10)]) < 27.9


def test_only_attacks_of_earlier_steps_are_drawn(tmp_path: Path) -> None:
    archive = archive_at(tmp_path / "attacks.jsonl")
    for step in (3, 5, 8):
        archive.add(step, [attack_number(step)])
    for before, steps in [(3, set()), (5, {3}), (6, {3, 5}), (8, {3, 5}), (9, {3, 5, 8})]:
        drawn = [archive.draw(random.Random(n), "missed", before) for n in range(60)]
        assert {attack.step for attack in drawn if attack} == steps


def test_draws_depend_on_the_generator_and_the_content_only(tmp_path: Path) -> None:
    archive, other = archive_at(tmp_path / "one"), archive_at(tmp_path / "other")
    archive.add(1, [attack_number(number) for number in range(30)])
    for number in reversed(range(30)):
        other.add(1, [attack_number(number)])
    for weighting in ("uniform", "missed"):
        one, two = random.Random(5), random.Random(5)
        drawn = [archive.draw(one, weighting, 2) for _ in range(20)]
        assert drawn == [other.draw(two, weighting, 2) for _ in range(20)]
        assert len(set(map(repr, drawn))) > 5


def test_attacks_that_are_still_missed_are_drawn_more(tmp_path: Path) -> None:
    archive = archive_at(tmp_path / "attacks.jsonl")
    easy, hard = attack_number(1), attack_number(2)
    archive.add(1, [easy, hard])
    outcomes = [PlayedAgain(easy.attack_id, False), PlayedAgain(hard.attack_id, True)]
    archive.record(2, outcomes * 8)
    drawn = [archive.draw(random.Random(n), "missed", 3) for n in range(500)]
    # Weights of 9/10 and 1/10.
    assert 0.85 < sum(one.case == hard.case for one in drawn if one) / 500 < 0.95


def test_plays_of_attacks_that_are_not_kept_are_left_out(tmp_path: Path) -> None:
    archive = archive_at(tmp_path / "attacks.jsonl")
    archive.add(1, [attack_number(1)])
    archive.record(2, [PlayedAgain("0" * 32, True)])
    assert archive.attacks == (replace(attack_number(1), step=1),)
    assert len((tmp_path / "attacks.jsonl").read_text().splitlines()) == 1


def test_the_file_stays_bounded_and_counts_what_it_folded(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    archive = archive_at(file, capacity=10)
    longest: Counter[int] = Counter()
    for step in range(1200):
        play_step(archive, step, range(3 * step, 3 * step + 3))
        longest[step // 400] = max(longest[step // 400], file.stat().st_size)
    # Plays of the last 200 steps are kept apart, and the file may double before it is compacted.
    assert longest[2] < 1.2 * longest[1]
    assert len(file.read_text().splitlines()) < 2 * (200 + 2 * 10)
    again = archive_at(file, capacity=10)
    again.restore(1200)
    assert again.attacks == archive.attacks
    assert sum(attack.played for attack in again.attacks) > 200


def test_a_smaller_capacity_keeps_part_of_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    archive = archive_at(file, 40)
    archive.add(1, [attack_number(number) for number in range(40)])
    smaller = archive_at(file, 7)
    smaller.restore(2)
    assert len(smaller) == 7
    assert set(smaller.attacks) < set(archive.attacks)


def test_the_archive_of_a_run_can_be_read_as_a_frozen_set(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    archive = archive_at(file)
    for step in range(5):
        play_step(archive, step, range(4 * step, 4 * step + 4))
    before = file.read_bytes()
    assert set(read_frozen(file)) == set(archive.attacks)
    assert file.read_bytes() == before


def test_a_damaged_line_costs_that_line_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "attacks.jsonl"
    archive_at(file).add(1, [attack_number(number) for number in range(3)])
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:50] + b"\xff\n" + lines[2])
    archive = archive_at(file)
    with caplog.at_level(logging.WARNING):
        archive.restore(2)
    assert len(archive) == 2
    (warning,) = caplog.messages
    assert f"{file}, line 2 is skipped" in warning


def test_what_could_not_be_written_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "folder").touch()
    archive = archive_at(tmp_path / "folder" / "attacks.jsonl")
    with pytest.raises(ArchiveError, match=r"attacks\.jsonl: not written"):
        archive.add(1, [attack_number(1)])
    assert len(archive) == 0


def killed(act: Callable[[], object], when: Callable[[], bool]) -> None:
    """Runs ``act`` in a process of its own, and kills it in the middle or soon after."""

    def run() -> None:
        act()
        signal.pause()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    while not when():
        assert process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_writer_killed_many_times_loses_nothing_that_it_had_written(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    never_killed = archive_at(tmp_path / "whole.jsonl", capacity=12)
    # Without a lock, which a killed process would keep.
    written = multiprocessing.get_context("fork").Value("q", -1, lock=False)
    rng = random.Random(0)
    steps = 0

    def train() -> None:
        archive = archive_at(file, capacity=12)
        archive.restore(steps)
        for step in count(steps):
            play_step(archive, step, range(4 * step, 4 * step + 4))
            written.value = step

    for _ in range(25):
        patience = time.monotonic() + rng.uniform(0.01, 0.1)
        killed(train, when=lambda: written.value >= steps and time.monotonic() > patience)  # noqa: B023
        for step in range(steps, written.value + 1):
            play_step(never_killed, step, range(4 * step, 4 * step + 4))
        steps = written.value + 1
        survived = archive_at(file, capacity=12)
        survived.restore(before_step=steps)
        assert survived.attacks == never_killed.attacks
    assert len(never_killed) == 12


def test_a_line_cut_off_by_a_kill_neither_costs_older_lines_nor_swallows_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "attacks.jsonl"
    archive = archive_at(file)
    archive.add(0, [attack_number(0)])
    cut_off = 0
    for step in range(1, 20):
        size = file.stat().st_size
        # Long enough that nearly every kill comes in the middle of the write.
        long = attack_number(1000 + step, padding="x" * 20_000_000)
        killed(partial(archive_at(file).add, step, [long]), when=partial(has_grown, file, size))
        with file.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            cut_off += stream.read() != b"\n"
        archive.add(step, [attack_number(step)])
        again = archive_at(file)
        caplog.clear()
        again.restore(step + 1)
        assert set(archive.attacks) <= set(again.attacks)
        assert len(again) == len(archive) + step - cut_off
        assert len(caplog.messages) == cut_off
        if cut_off == 3:
            break
    assert cut_off


def test_a_kill_while_the_file_is_replaced_leaves_it_whole(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    archive = archive_at(file)
    for step in range(4):
        archive.add(step, [attack_number(step, padding="x" * 4_000_000)])
    old = file.read_bytes()
    unchanged = 0
    for _ in range(20):
        file.write_bytes(old)
        killed(
            partial(archive_at(file).restore, 3),
            when=lambda: (
                any(map(has_grown, tmp_path.glob(".*.partial")))
                or not has_grown(file, len(old) - 1)
            ),
        )
        unchanged += file.read_bytes() == old
        again = archive_at(file)
        again.restore(before_step=3)
        assert again.attacks == archive.attacks[:3]
        for left in tmp_path.glob(".*.partial"):
            left.unlink()
        if unchanged == 3:
            break
    assert unchanged


def has_grown(file: Path, size: int = 0) -> bool:
    try:
        return file.stat().st_size > size
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fraction", -0.1),
        ("fraction", 1.1),
        ("fraction", float("nan")),
        ("typical_share", 2.0),
        ("capacity", 0),
        ("weighting", "newest"),
        ("file", " "),
    ],
)
def test_a_setting_out_of_range_is_named(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^archive\.{key} is "):
        ArchiveSettings(**{key: value})


def test_settings_are_read_and_unknown_ones_refused() -> None:
    adapter = TypeAdapter(ArchiveSettings)
    read = adapter.validate_python({"fraction": 0.5, "weighting": "missed", "file": "f.jsonl"})
    assert read == ArchiveSettings(fraction=0.5, weighting="missed", file="f.jsonl")
    with pytest.raises(ValidationError, match="size"):
        adapter.validate_python({"size": 3})
