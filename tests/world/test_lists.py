"""Lists that tell nothing of places are in the order in which a picture is read."""

from __future__ import annotations

import random
import re

import pytest

from mezzotint.world.captions import tell
from mezzotint.world.scene import Scene, Solid


@pytest.mark.parametrize("count", [2, 3])
def test_lists_go_from_left_to_right(count: int) -> None:
    kinds = (("cube", "red"), ("sphere", "blue"), ("cone", "green"))[:count]
    # So near each other from left to right that nobody says "left of", nor "from left to right".
    solids = tuple(Solid(shape, colour, x=0.3 * place, y=0.1 * place) for place, (shape, colour) in enumerate(kinds))
    chooser = random.Random(0)
    told = [tell(Scene(tuple(chooser.sample(solids, count))), chooser) for _ in range(600)]
    listed = [[solid.x for solid in one.solids] for one in told if one.order == "any"]
    assert len(listed) > 300
    assert all(row == sorted(row) for row in listed)


def test_groups_that_stand_apart_are_told_from_either_side() -> None:
    solids = (Solid("sphere", "blue", x=-1.2), Solid("cube", "red", x=0.3), Solid("cube", "red", x=1.2))
    chooser = random.Random(0)
    told = [tell(Scene(tuple(chooser.sample(solids, 3))), chooser) for _ in range(600)]
    grouped = [
        one for one in told if one.order == "across" and re.search("two (red )?(cube|box|block|cuboid)", one.text)
    ]
    sides = {side: [one for one in grouped if f" {side} of" in one.text] for side in ("left", "right")}
    assert all(len(row) > 20 for row in sides.values())
    assert all(one.solids[0].shape in ("sphere", "") for one in grouped)
