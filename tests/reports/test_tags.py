"""Tags of objects: at their boxes, within the picture, on no other tag and hiding no object; none where there is no room."""

import numpy as np
import pytest

from convmae.reports.tags import place_tags


def crowd(count: int, side: float, picture: float, seed: int = 0) -> np.ndarray:
    corners = np.random.default_rng(seed).uniform(0, picture - side, (count, 2))
    return np.hstack([corners, corners + side])


def shared(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return float(np.clip(sides, 0, None).prod())


@pytest.mark.parametrize(("count", "side"), [(5, 60.0), (40, 25.0), (200, 12.0)])
def test_tags_cover_no_tag_and_hide_no_object(count: int, side: float) -> None:
    boxes, (width, height) = crowd(count, side, 400), (50.0, 14.0)
    places = place_tags(boxes, [(width, height)] * count, (400, 400))
    tags = [np.array([*place, place[0] + width, place[1] + height]) for place in places if place]
    for number, tag in enumerate(tags):
        assert tag.min() >= 0
        assert tag.max() <= 400
        assert all(shared(tag, other) == 0 for other in tags[:number])
        assert all(shared(tag, box) <= side**2 / 2 + 1e-6 for box in boxes)


def test_a_sparse_picture_names_all_and_a_dense_one_few() -> None:
    for boxes, least, most in ((crowd(3, 80, 400, 1), 3, 3), (crowd(200, 20, 400), 1, 60)):
        places = place_tags(boxes, [(70.0, 16.0)] * len(boxes), (400, 400))
        assert least <= sum(place is not None for place in places) <= most


def test_objects_that_are_left_out_move_no_tag() -> None:
    """The surest keep their tags whatever less sure ones there are beyond ``drawn``."""
    boxes, size = crowd(120, 12, 200, 2), (40.0, 14.0)
    alone = place_tags(boxes[:20], [size] * 20, (200, 200))
    assert place_tags(boxes, [size] * 120, (200, 200), drawn=20)[:20] == alone
    assert place_tags(boxes, [size] * 120, (200, 200))[:20] != alone


def test_no_tag_is_larger_than_the_picture() -> None:
    boxes = np.array([[1.0, 1, 9, 9], [2, 2, 8, 8]])
    assert place_tags(boxes, [(20.0, 5.0), None], (10, 10)) == [None, None]
