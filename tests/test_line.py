"""Holds the line: what the shipped model says of a small fixed set that no network learnt from."""

import numpy as np
import pytest

from eigen_digits import Recognizer

load_digits = pytest.importorskip("sklearn.datasets", reason="the fixed set comes with scikit-learn").load_digits

EVERY = 9  # of scikit-learn's 1,797 digits, 200 are asked
# Place in the set → what is read instead of the label.
MISREAD = {
    954: 4,
    1008: 9,
    1242: 9,
    1341: 7,
    1575: 9,
}


def test_the_shipped_model_reads_the_fixed_set_as_ever():
    digits = load_digits()
    places = np.arange(0, len(digits.target), EVERY)
    pictures = np.uint8(digits.images * 255 / 16)[places]
    read = [answer.digit for answer in Recognizer.load().predict_many(pictures)]
    labels = digits.target[places]
    assert {int(at): digit for at, digit, label in zip(places, read, labels, strict=True) if digit != label} == MISREAD
