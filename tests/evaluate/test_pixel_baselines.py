"""What pixels say by themselves."""

import numpy as np
import pytest

from cvjax.evaluate.pixel_baselines import PixelBaseline

RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)


def picture(*colours):
    """A column of pixels."""
    return np.array(colours, np.uint8)[:, None]


def fitted(**options):
    """Red is class 1, green class 2 twice as often; a pixel that does not count would be class 0."""
    image = picture(RED, GREEN, GREEN, BLUE)
    return PixelBaseline(3, **options).fit([(image, np.array([[1], [2], [2], [255]]))])


def test_the_majority():
    assert fitted(channels=0).predict(picture(RED, BLUE)).tolist() == [[2], [2]]


def test_colours_and_what_was_never_seen():
    answers = fitted(channels=3).predict(picture(GREEN, RED, (203, 12, 9), BLUE, (100, 100, 100)))
    assert answers.dtype == np.uint8 and answers[:, 0].tolist() == [2, 1, 1, 2, 2]


def test_a_colour_that_means_another_thing_higher_up():
    """The upper half of the same colour is class 0, the lower half class 1."""
    image, labels = np.full((24, 2, 3), 90, np.uint8), np.repeat([[0], [1]], 12, axis=0) * np.ones((1, 2), int)
    alone, with_height = (PixelBaseline(2, 3, bands=bands).fit([(image, labels)] * 2).predict(image)
                          for bands in (False, True))
    assert len(np.unique(alone)) == 1
    np.testing.assert_array_equal(with_height, labels)
    small = PixelBaseline(2, 3, bands=True).fit([(image, labels)]).predict(image[:4])
    assert small.tolist() == [[0, 0]] * 2 + [[1, 1]] * 2, "heights are shares of the picture"


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match="no pixel that counts"):
        PixelBaseline(2, 1).fit([(np.zeros((2, 2, 1), np.uint8), np.full((2, 2), 255))])
