from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medical_team.medical_game_manager import Role
from recipe.medical_selfplay.trajectory_id import TrajectoryId

ids = st.builds(
    TrajectoryId,
    role=st.sampled_from(Role),
    group=st.text(),
    error_present=st.none() | st.booleans(),
    # 0.0 and -0.0 are equal and written differently; no average is -0.0.
    baseline=st.none() | st.floats(allow_nan=False).map(lambda value: value + 0.0),
)


@given(ids)
def test_an_id_is_read_back_whatever_its_group_holds(one: TrajectoryId) -> None:
    assert TrajectoryId.parse(str(one)) == one


@given(ids, ids)
def test_different_ids_are_written_differently(one: TrajectoryId, other: TrajectoryId) -> None:
    assert (str(one) == str(other)) == (one == other)


def test_a_baseline_keeps_every_bit_also_of_a_numpy_number() -> None:
    value = 0.1 + 0.2
    for written in (value, np.float64(value)):
        assert TrajectoryId.parse(str(TrajectoryId(Role.ATTACKER, "a", None, written))) == (
            TrajectoryId(Role.ATTACKER, "a", None, value)
        )


@pytest.mark.parametrize("uid", ["", "7f3a", "7f3a|2", "pad-1", "a|b|c|d", "attacker||x|a"])
def test_a_uid_without_a_role_is_refused_with_the_setting_to_change(uid: str) -> None:
    with pytest.raises(ValueError, match="custom_sampler"):
        TrajectoryId.parse(uid)
