from __future__ import annotations

import json
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medical_team.archive.attack import ArchivedAttack, attack_to_json
from medical_team.archive.file import (
    ArchiveContent,
    ArchiveError,
    append_attacks,
    append_plays,
    read_archive,
    read_frozen,
    replace_archive,
    write_frozen,
)
from medical_team.medec import Case
from medical_team.medical_game_manager import GameType


def attack_number(number: int, step: int = 1) -> ArchivedAttack:
    case = Case(f"c-{number}", ("A man.", "He has gout."), 1, "He has a cold.", "diagnosis", "val")
    return ArchivedAttack.of(
        step=step,
        case=case,
        game_type=GameType.ADVERSARIAL_BENIGN,
        note=("A man.", f"Er hat Fieber, 4{number} °C."),
        error_present=True,
        source="reference",
        succeeded=True,
    )


FIRST, SECOND, THIRD = (attack_number(number) for number in range(3))


def line_of(attack: ArchivedAttack, **changes: Any) -> bytes:
    data = {"format": 1, "attack": json.loads(attack_to_json(attack)) | changes}
    return json.dumps(data).encode()


DAMAGED = {
    "half a line": (line_of(SECOND)[:150], "it is no JSON"),
    "invalid UTF-8": (line_of(SECOND).replace(b"Fieber", b"Fi\xe9ber"), "decode byte 0xe9"),
    "zero bytes": (b"\0" * 40, "it is no"),
    "no object": (b"[1, 2]", "it has no format number"),
    "no format": (b'{"attack": {}}', "it has no format number"),
    "nested too deep": (b"[" * 200_000, "it is no JSON"),
    "wrong type": (line_of(SECOND, step="1"), "attack.step: Input should be a valid integer"),
    "undecided": (line_of(SECOND, error_present=None), "attack.error_present: Input should be"),
    "unknown field": (line_of(SECOND, colour="red"), "attack.colour: Unexpected keyword"),
    "lost counters": (
        line_of(SECOND).replace(b', "played": 0, "missed": 0', b""),
        "it has not all fields",
    ),
    "changed note": (line_of(SECOND, note=["Another."]), "attack_id"),
    "plays of nothing": (b'{"format": 1, "step": 1}', "plays: Field required"),
    "plays of wrong type": (b'{"format": 1, "step": 1, "plays": {"a": [1]}}', r"plays\.a"),
    "more missed than played": (
        b'{"format": 1, "step": 1, "plays": {"a": [1, 2]}}',
        "2 of 1 plays are missed",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_is_skipped_with_a_warning_that_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes, reason: str
) -> None:
    file = tmp_path / "attacks.jsonl"
    file.write_bytes(b"\n".join([line_of(FIRST), damage, line_of(THIRD), b""]))
    with caplog.at_level(logging.WARNING):
        content = read_archive(file)
    assert list(content.attacks.values()) == [FIRST, THIRD]
    assert content.plays == {}
    (warning,) = caplog.messages
    assert warning.startswith(f"{file}, line 2 is skipped: ")
    with pytest.raises(ArchiveError, match=reason):
        read_frozen(file)


@pytest.mark.parametrize(("damage", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_a_frozen_set_with_a_damaged_line_is_refused(
    tmp_path: Path, damage: bytes, reason: str
) -> None:
    file = tmp_path / "frozen.jsonl"
    file.write_bytes(b"\n".join([line_of(FIRST), damage, line_of(THIRD), b""]))
    with pytest.raises(ArchiveError, match=rf"frozen\.jsonl, line 2: .*({reason}).*delete"):
        read_frozen(file)


def test_a_line_that_was_cut_off_anywhere_costs_no_other_line(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    append_attacks(file, [FIRST])
    whole = file.stat().st_size
    append_attacks(file, [SECOND])
    written = file.read_bytes()
    for end in range(whole, len(written)):
        file.write_bytes(written[:end])
        append_attacks(file, [THIRD])
        found = list(read_archive(file).attacks.values())
        # All that the last byte holds is the line's end.
        assert found == ([FIRST, SECOND, THIRD] if end == len(written) - 1 else [FIRST, THIRD])


def test_a_line_cut_off_at_the_end_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "attacks.jsonl"
    append_attacks(file, [FIRST, SECOND])
    file.write_bytes(file.read_bytes()[:-9])
    with caplog.at_level(logging.WARNING):
        assert list(read_archive(file).attacks.values()) == [FIRST]
    assert caplog.messages == [
        f"{file}, line 2 is skipped: it is cut off, its writer was stopped",
    ]


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_the_lines_that_did_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    append_attacks(file, [FIRST])
    with (
        no_file_longer_than(file.stat().st_size + 100),
        pytest.raises(ArchiveError, match=r"attacks\.jsonl: not written \(no space left"),
    ):
        append_attacks(file, [SECOND])
    append_attacks(file, [THIRD])
    assert list(read_archive(file).attacks.values()) == [FIRST, THIRD]


def test_a_full_disk_leaves_the_file_that_was_to_be_replaced(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    append_attacks(file, [FIRST])
    content = ArchiveContent({attack.attack_id: attack for attack in (SECOND, THIRD)})
    with no_file_longer_than(100), pytest.raises(ArchiveError, match="Nothing was changed"):
        replace_archive(file, content)
    assert list(read_archive(file).attacks.values()) == [FIRST]
    assert [path.name for path in tmp_path.iterdir()] == ["attacks.jsonl"]


def test_another_format_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    append_attacks(file, [FIRST])
    with file.open("a") as stream:
        stream.write('{"format": 2, "attack": "as later versions write it"}\n')
    for read in (read_archive, read_frozen):
        with pytest.raises(ArchiveError, match=r"line 2: .* format 2, .* format 1\. Move the file"):
            read(file)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "new" / "attacks.jsonl"
    append_attacks(file, [FIRST, SECOND])
    append_plays(file, 7, {FIRST.attack_id: (3, 1)})
    append_plays(file, 7, {FIRST.attack_id: (1, 1), SECOND.attack_id: (1, 0)})
    content = read_archive(file)
    assert content.plays == {7: {FIRST.attack_id: (4, 2), SECOND.attack_id: (1, 0)}}
    assert content.entries == 4
    replace_archive(file, content)
    assert read_archive(file) == content
    counted = (FIRST.played_again(4, 2), SECOND.played_again(1, 0))
    assert tuple(content.counted().values()) == read_frozen(file) == counted


def test_lines_of_steps_that_are_played_again_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    append_attacks(file, [attack_number(step, step) for step in range(1, 6)])
    append_plays(file, 2, {"a": (1, 0)})
    append_plays(file, 4, {"a": (1, 1)})
    content = read_archive(file, before_step=4)
    assert [attack.step for attack in content.attacks.values()] == [1, 2, 3]
    assert content.plays == {2: {"a": (1, 0)}}
    assert content.later == 3


def test_an_attack_written_twice_counts_as_first_written(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    append_attacks(file, [FIRST, SECOND, attack_number(0, step=9)])
    assert read_frozen(file) == (FIRST, SECOND)


def test_a_missing_file_is_an_empty_archive(tmp_path: Path) -> None:
    assert read_archive(tmp_path / "none.jsonl") == ArchiveContent()


def test_a_frozen_set_survives_its_file(tmp_path: Path) -> None:
    frozen = (THIRD.played_again(3, 2), FIRST)
    write_frozen(tmp_path / "frozen.jsonl", frozen)
    assert read_frozen(tmp_path / "frozen.jsonl") == frozen


def test_a_frozen_set_is_there_and_not_empty(tmp_path: Path) -> None:
    file = tmp_path / "frozen.jsonl"
    with pytest.raises(ArchiveError, match=r"frozen\.jsonl cannot be read \(No such file"):
        read_frozen(file)
    with pytest.raises(ArchiveError, match="there is no attack"):
        write_frozen(file, [])
    file.touch()
    with pytest.raises(ArchiveError, match="holds no attack"):
        read_frozen(file)
