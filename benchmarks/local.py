"""The package without a server: preprocessing, recognizer, folders, import and installed size."""

import io
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from PIL import Image

from . import environments
from .environments import megabytes
from .rounds import (
    AS_INSTALLED,
    ONE_THREAD,
    ROOT,
    Benchmark,
    MissingError,
    Pairs,
    alone,
    alternate,
    environment,
    progress,
)


def timed(function: Callable, *args) -> tuple[float, object]:
    """Microseconds that a call takes, and what it gives."""
    start = time.perf_counter_ns()
    result = function(*args)
    return (time.perf_counter_ns() - start) / 1e3, result


def decoded(data: bytes) -> Image.Image:
    """A picture with its pixels."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _each_in_turn(measure: Callable[[object], tuple[float, float]], items: list, rounds: int, label: str) -> Pairs:
    """The medians over all items, of times that were taken one right after the other for each."""
    measure(items[0])
    pairs = []
    for _ in progress(rounds, label):
        times = [measure(item) for item in items]
        pairs.append(tuple(median(side) for side in zip(*times, strict=True)))
    return pairs


def _preprocess(transparent: bool, count: int, rounds: int) -> Pairs:
    from eigen_digits.inference import read_artefact, shipped_artefact
    from eigen_digits.preprocessing import preprocess

    from .drawings import drawings, png

    settings = read_artefact(shipped_artefact())[0]["preprocessing"]

    def measure(data: bytes) -> tuple[float, float]:
        decoding, picture = timed(decoded, data)
        return timed(lambda: preprocess(picture, **settings))[0], decoding

    pictures = [png(drawing, transparent) for drawing in drawings(count).images]
    return _each_in_turn(measure, pictures, rounds, "preprocessing drawings")


def preprocess_drawings(quick: bool, transparent: bool = False) -> Pairs:
    """Microseconds to preprocess a decoded 280×280 drawing, and to decode it; medians over 1,000 drawings."""
    return alone(_preprocess, transparent, *((100, 1) if quick else (1000, 5)), **ONE_THREAD)


def _recognize(count: int, rounds: int) -> Pairs:
    import numpy as np

    from eigen_digits import Recognizer
    from eigen_digits.data import load

    recognizer, scans = Recognizer.load(), load("swiss").images
    some = np.random.default_rng(0).permutation(len(scans))[:count]
    items = [(picture, recognizer.preprocess(picture)) for picture in (decoded(scans[i]) for i in some)]

    network = recognizer._network

    def measure(item: tuple) -> tuple[float, float]:
        picture, pixels = item
        return timed(recognizer.predict, picture)[0], timed(network, pixels)[0]

    return _each_in_turn(measure, items, rounds, "recognizing scans")


def recognize_scans(quick: bool) -> Pairs:
    """Microseconds to recognize a decoded scan, and of its network alone; medians over 1,000 scans."""
    return alone(_recognize, *((100, 1) if quick else (1000, 5)), **ONE_THREAD)


def _seconds(*command: str | Path, code: str) -> float:
    """How long a fresh Python runs some code with arguments; what it prints is dropped."""
    variables, start = environment(AS_INSTALLED | {"PYTHONDONTWRITEBYTECODE": None}), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, env=variables, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"python -c {code!r} ended with code {done.returncode}: {done.stderr.decode()[-500:]}")
    return time.perf_counter() - start


_COMMAND = "from eigen_digits.cli import main; main(prog_name='eigen-digits')"
_DECODE = """
import sys
from pathlib import Path
from PIL import Image
for path in sorted(Path(sys.argv[1]).iterdir()):
    Image.open(path).convert("L")
"""


def _seconds_for_folder(folder: Path, jobs: int) -> float:
    return _seconds("predict", folder, "--jobs", str(jobs), code=_COMMAND)


def write_scans(folder: Path, count: int) -> None:
    """Write so many scans into a folder; where there are fewer, some are there under two names."""
    from eigen_digits.data import load

    scans = load("swiss").images
    for number in range(count):
        (folder / f"{number:05d}.png").write_bytes(scans[number % len(scans)])


def _need_jobs() -> None:
    shown = subprocess.run([sys.executable, "-c", _COMMAND, "predict", "--help"], cwd=ROOT, capture_output=True)
    if b"--jobs" not in shown.stdout:
        raise MissingError("`eigen-digits predict` has no option --jobs; check out a version of eigen_digits that has")


def folder_jobs(quick: bool) -> Pairs:
    """Seconds that `eigen-digits predict` takes for a folder of 10,000 scans with one process, and with two."""
    _need_jobs()
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_scans(folder, 500 if quick else 10_000)
        _seconds_for_folder(folder, 2)
        one, two = partial(_seconds_for_folder, folder, 1), partial(_seconds_for_folder, folder, 2)
        return alternate(one, two, 1 if quick else 5, "a folder, one process and two")


def folder_decoding(quick: bool) -> Pairs:
    """Scans per second and core that `eigen-digits predict` reads with two processes, and that one can decode."""
    _need_jobs()
    count = 500 if quick else 10_000
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_scans(folder, count)
        _seconds_for_folder(folder, 2)
        return alternate(
            lambda: count / 2 / _seconds_for_folder(folder, 2),
            lambda: count / _seconds(folder, code=_DECODE),
            1 if quick else 5,
            "a folder, and decoding it",
        )


def importing(quick: bool) -> Pairs:
    """Seconds of a fresh process that loads the recognizer, and of one that imports numpy."""
    ours = partial(_seconds, code="from eigen_digits import Recognizer; Recognizer.load()")
    numpy = partial(_seconds, code="import numpy")
    ours(), numpy()  # compiled and read from disk
    return alternate(ours, numpy, 3 if quick else 21, "importing")


def size(quick: bool) -> Pairs:
    """Megabytes of two fresh environments that serve, without pip and bytecode; the first call downloads them."""
    return [(megabytes(environments.ours()), megabytes(environments.baseline()))]


BENCHMARKS = {
    "size": Benchmark(size, "installed size, ours", "the baseline's", "MB", 1 / 9, at_least=False),
    "preprocess": Benchmark(preprocess_drawings, "preprocessing a drawing", "decoding its PNG", "µs", 0.5, False),
    "preprocess-transparent": Benchmark(
        partial(preprocess_drawings, transparent=True), "the same on transparent paper", "decoding its PNG", "µs", None
    ),
    "recognizer": Benchmark(recognize_scans, "recognizing a decoded scan", "its network alone", "µs", 4, False),
    "folder-jobs": Benchmark(folder_jobs, "a folder of 10,000 scans, one process", "two processes", "s", 1.7),
    "folder-decoding": Benchmark(
        folder_decoding, "scans a second and core, two processes", "decoding them to grey, one process", "1/s", 0.3
    ),
    "import": Benchmark(importing, "loading the recognizer", "import numpy, fresh processes", "s", 3, False),
}
