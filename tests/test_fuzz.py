"""Whatever it is given, a recognizer answers or raises `ImageError`, and nothing else."""

import io
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from eigen_digits.inference import EMPTY, Recognizer
from eigen_digits.preprocessing import ImageError, rasterize

HEAVY = os.environ.get("EIGEN_DIGITS_HEAVY") == "1"
ALLOWED = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
FORMATS = (*ALLOWED, "PPM")
TIFF_HEADER = b"II*\0\b\0\0\0"

bounded = settings(max_examples=100, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


def check(recognizer: Recognizer, image: bytes | np.ndarray) -> None:
    """Ask once; an answer must hold together, and a refusal must say what is wrong."""
    try:
        answer = recognizer.predict(image)
    except ImageError as error:
        assert str(error)
        return
    if answer.reason == "empty":
        assert answer == EMPTY
        return
    assert answer.probabilities.shape == (10,) and np.isfinite(answer.probabilities).all()
    assert answer.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert answer.confidence == answer.probabilities[answer.digit] == answer.probabilities.max()
    assert answer.reason in ([None] if answer.is_digit else ["unsure", "several", "other"])


def encoded(form: str, side: int = 40, **options) -> bytes:
    """A drawn seven as a small picture file."""
    file = io.BytesIO()
    rasterize([[(80, 70), (200, 70), (120, 220)]]).resize((side, side)).save(file, form, **options)
    return file.getvalue()


@st.composite
def damaged(draw) -> bytes:
    """A picture file of any format with some bytes changed, and perhaps cut short."""
    data = bytearray(encoded(draw(st.sampled_from(FORMATS))))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=8)):
        data[place] = byte
    return bytes(data[: draw(st.none() | st.integers(0, len(data)))])


@st.composite
def oddly_turned(draw) -> bytes:
    """A picture file whose Exif, where a camera says how it was held, is anything."""
    exif = b"Exif\0\0" + draw(st.sampled_from([b"", TIFF_HEADER])) + draw(st.binary(max_size=60))
    return encoded(draw(st.sampled_from(["PNG", "JPEG", "WEBP"])), exif=exif)


@bounded
@given(data=st.binary(max_size=200) | damaged() | oddly_turned())
def test_any_bytes(recognizer, data):
    check(recognizer, data)


KINDS = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(),
    arrays.unsigned_integer_dtypes(),
    arrays.floating_dtypes(),
    arrays.complex_number_dtypes(),
    arrays.datetime64_dtypes(),
    arrays.unicode_string_dtypes(),
)
SHAPES = st.one_of(
    arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 3, 4])),
)


@bounded
@given(array=arrays.arrays(KINDS, SHAPES))
def test_any_array(recognizer, array):
    check(recognizer, array)
