"""The package without a server: folders, import and installed size."""

import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from . import environments
from .environments import megabytes
from .rounds import AS_INSTALLED, ROOT, Benchmark, MissingError, Pairs, alternate, environment


def _seconds(*command: str | Path, code: str) -> float:
    """How long a fresh Python runs some code with arguments; what it prints is dropped."""
    variables, start = environment(AS_INSTALLED | {"PYTHONDONTWRITEBYTECODE": None}), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, env=variables, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"python -c {code!r} ended with code {done.returncode}: {done.stderr.decode()[-500:]}")
    return time.perf_counter() - start


_COMMAND = "from eigen_digits.cli import main; main(prog_name='eigen-digits')"


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


def importing(quick: bool) -> Pairs:
    """Seconds of a fresh process that loads the recognizer, and of one that imports numpy."""
    ours = partial(_seconds, code="from eigen_digits import Recognizer; Recognizer.load()")
    numpy = partial(_seconds, code="import numpy")
    ours(), numpy()  # compiled and read from disk
    return alternate(ours, numpy, 3 if quick else 21, "importing")


def size(quick: bool) -> Pairs:
    """Megabytes of a fresh environment that serves, without pip and bytecode, and of what it may take at most."""
    return [(megabytes(environments.ours()), 260.0)]


BENCHMARKS = {
    "size": Benchmark(size, "installed size, ours", "260 MB", "MB", 1, at_least=False),
    "folder-jobs": Benchmark(folder_jobs, "a folder of 10,000 scans, one process", "two processes", "s", 1.7),
    "import": Benchmark(importing, "loading the recognizer", "import numpy, fresh processes", "s", 3, False),
}
