"""Pictures of rare classes more often: repeat-factor sampling (LVIS, arXiv 1908.03195, appendix B)."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from convmae.engine.pictures.images import open_image
from convmae.engine.pictures.limits import in_turn
from convmae.engine.pictures.reading import MAX_PIXELS
from convmae.segmentation.data.layout import Pair, count_values, read_label


def find_classes(
    pairs: list[Pair], num_classes: int, reduce_zero_label: bool, max_pixels: int = MAX_PIXELS
) -> NDArray[np.bool_]:
    """Returns which classes each picture's label map holds, [P, N]. Raises UserError naming a label map that is broken."""
    return count_classes(pairs, num_classes, reduce_zero_label, max_pixels) > 0


def count_classes(
    pairs: list[Pair], num_classes: int, reduce_zero_label: bool, max_pixels: int = MAX_PIXELS
) -> NDArray[np.int64]:
    """Returns how many pixels of each class the pictures' label maps have, [P, N]. Raises UserError as `find_classes` does."""

    def counts(pair: Pair) -> NDArray[np.int64]:
        with open_image(pair.label, max_pixels) as image:
            size = image.size
        with in_turn(size):
            return count_values(read_label(pair.label, num_classes, reduce_zero_label, max_pixels))[:num_classes]

    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(counts, pairs)))


def repeat_rare(pairs: list[Pair], held: NDArray[np.bool_], threshold: float) -> list[Pair]:
    """Returns the pairs with those repeated that hold a class which occurs in less than ``threshold`` of all pictures.

    A class in a part f of the pictures has the factor sqrt(threshold / f), at least 1, and a picture the largest of its
    classes. It is repeated as often, rounded up or down so that the factors of the pictures before it add up. What is drawn
    for a copy (its crop, its flip) follows from its place in the list, so that copies differ.
    """
    share = np.maximum(held.mean(axis=0), 1 / len(pairs))
    factors = np.maximum(1.0, np.sqrt(threshold / share))
    of_picture = np.where(held, factors, 1.0).max(axis=1)
    copies = np.diff(np.floor(np.cumsum(of_picture) + 0.5).astype(int), prepend=0)
    return [pair for pair, count in zip(pairs, copies.tolist(), strict=True) for _ in range(count)]
