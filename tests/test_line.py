"""Holds the line: what the shipped model says of a small fixed set that no network learnt from."""

import numpy as np
import pytest

from eigen_digits import Recognizer

load_digits = pytest.importorskip("sklearn.datasets", reason="the fixed set comes with scikit-learn").load_digits

EVERY = 9  # of scikit-learn's 1,797 digits, 200 are asked
# Place in the set → what is read instead of the label.
MISREAD = {
    99: 4,
    567: 1,
    657: 4,
    693: 8,
    702: 8,
    738: 4,
    846: 8,
    954: 2,
    1008: 4,
    1071: 8,
    1107: 8,
    1143: 9,
    1242: 7,
    1737: 8,
}


def test_the_shipped_model_reads_the_fixed_set_as_ever():
    digits = load_digits()
    places = np.arange(0, len(digits.target), EVERY)
    pictures = np.uint8(digits.images * 255 / 16)[places]
    read = [answer.digit for answer in Recognizer.load().predict_many(pictures)]
    labels = digits.target[places]
    assert {int(at): digit for at, digit, label in zip(places, read, labels, strict=True) if digit != label} == MISREAD
