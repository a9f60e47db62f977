from __future__ import annotations

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
)


@given(ids)
def test_an_id_is_read_back_whatever_its_group_holds(one: TrajectoryId) -> None:
    assert TrajectoryId.parse(str(one)) == one


@given(ids, ids)
def test_different_ids_are_written_differently(one: TrajectoryId, other: TrajectoryId) -> None:
    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize("uid", ["", "7f3a", "7f3a|2", "pad-1"])
def test_a_uid_without_a_role_is_refused_with_the_setting_to_change(uid: str) -> None:
    with pytest.raises(ValueError, match="custom_sampler"):
        TrajectoryId.parse(uid)
