"""Made pictures of each situation, which `tools/pictures.py` drew: the shipped recognizer reads them."""

import subprocess
import sys
from pathlib import Path

import pytest

from eigen_digits import Recognizer

ROOT = Path(__file__).parent.parent
PICTURES = sorted((ROOT / "tests" / "pictures").glob("*.png"))


@pytest.fixture(scope="module")
def recognizer() -> Recognizer:
    return Recognizer.load()


def test_there_are_pictures_of_each_situation():
    from eigen_digits.evaluation import PICTURES as GRID

    made = {path.stem.rsplit("-", 2)[0] for path in PICTURES}
    assert made == {cell.situation.replace(" ", "-").replace("'", "") for cell in GRID}


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_each_is_read(recognizer, path):
    assert recognizer.predict(path).digit == int(path.stem[-1])


def test_they_are_what_the_generator_makes():
    done = subprocess.run([sys.executable, "tools/pictures.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
