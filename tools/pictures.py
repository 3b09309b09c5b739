"""Make the pictures that hold the line in `tests/pictures`: ten digits drawn for this project, in all kinds of scenes.

With the `dev` extra installed:

    python tools/pictures.py           write tests/pictures/<situation>-<number>-<digit>.png
    python tools/pictures.py --check   fail if they are not what this makes
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.interpolate import make_interp_spline

from eigen_digits.evaluation import PICTURES, picture_of

FOLDER = Path(__file__).parent.parent / "tests" / "pictures"
EACH = 3  # pictures of each situation

# Points of each stroke, x to the right and y down; a curve runs through those of a stroke, or straight lines do.
CURVED = {
    0: [[(52, 10), (28, 22), (18, 60), (30, 98), (52, 108), (76, 94), (84, 56), (74, 20), (50, 10)]],
    2: [[(20, 30), (40, 10), (70, 16), (74, 42), (50, 72), (20, 104)], [(20, 104), (50, 102), (82, 104)]],
    3: [[(24, 18), (48, 10), (70, 22), (64, 44), (42, 54), (68, 62), (78, 84), (56, 106), (22, 98)]],
    5: [[(74, 12), (34, 12)], [(34, 12), (28, 54)], [(28, 54), (52, 48), (76, 64), (72, 94), (46, 108), (20, 98)]],
    6: [[(68, 10), (38, 34), (22, 74), (34, 104), (62, 106), (74, 84), (58, 64), (32, 72), (24, 86)]],
    8: [
        [(62, 20), (44, 10), (28, 24), (40, 48), (68, 72), (70, 98), (46, 108), (26, 94), (36, 66), (62, 44), (64, 22)]
    ],
    9: [[(72, 26), (50, 10), (28, 22), (28, 46), (48, 56), (70, 42), (74, 22)], [(74, 22), (72, 66), (60, 108)]],
}
STRAIGHT = {
    1: [[(26, 46), (60, 10), (60, 108)]],
    4: [[(60, 10), (18, 74), (84, 74)], [(66, 44), (62, 108)]],
    7: [[(18, 14), (80, 12), (44, 108)], [(32, 62), (74, 58)]],
}


def strokes_of(digit: int) -> list[np.ndarray]:
    """The pen strokes of a digit."""
    if digit in STRAIGHT:
        return [np.array(stroke, float) for stroke in STRAIGHT[digit]]
    return [_curve(np.array(stroke, float)) for stroke in CURVED[digit]]


def _curve(points: np.ndarray) -> np.ndarray:
    at = np.arange(len(points))
    return make_interp_spline(at, points, k=min(3, len(points) - 1))(np.linspace(0, len(points) - 1, 8 * len(points)))


def pictures() -> dict[str, Image.Image]:
    """Each picture by the name of its file."""
    sources, made = [strokes_of(digit) for digit in range(10)], {}
    for situation in dict.fromkeys(cell.situation for cell in PICTURES):
        cells = [cell for cell in PICTURES if cell.situation == situation and cell.is_usual]
        for number in range(EACH):
            rng = np.random.default_rng([7, len(made)])
            digit, cell = len(made) % 10, cells[(2 * number + 1) * len(cells) // (2 * EACH)]
            name = f"{situation.replace(' ', '-')}-{number}-{digit}.png".replace("'", "")
            made[name] = picture_of(cell, sources[digit], rng, sources)
    return made


def encoded(picture: Image.Image) -> bytes:
    """A picture as a PNG file."""
    picture.save(file := io.BytesIO(), "PNG", optimize=True)
    return file.getvalue()


def main() -> int:
    """Write the pictures, or compare them; the exit code."""
    parser = argparse.ArgumentParser(description="Make the pictures in tests/pictures.")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    made = {name: encoded(picture) for name, picture in pictures().items()}
    if not parser.parse_args().check:
        FOLDER.mkdir(exist_ok=True)
        for path in FOLDER.glob("*.png"):
            path.unlink()
        for name, content in made.items():
            (FOLDER / name).write_bytes(content)
        return 0
    there = {path.name for path in FOLDER.glob("*.png")}
    differ = [name for name in made if name not in there or not _same(FOLDER / name, made[name])]
    print(*sorted(differ + list(there - made.keys())), sep="\n", end="")
    return int(bool(differ or there - made.keys()))


def _same(path: Path, content: bytes) -> bool:
    """Whether two pictures differ by no more than another processor's rounding."""
    one, two = (np.asarray(Image.open(source), int) for source in (path, io.BytesIO(content)))
    return one.shape == two.shape and bool(np.mean(np.abs(one - two) > 2) < 0.01)


if __name__ == "__main__":
    sys.exit(main())
