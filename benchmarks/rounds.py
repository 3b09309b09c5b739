"""What every benchmark shares: alternating rounds, processes of their own, and what a figure is."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "benchmarks" / ".cache"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
AS_INSTALLED = dict.fromkeys((*ONE_THREAD, "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "TF_ENABLE_ONEDNN_OPTS"))

Pairs = list[tuple[float, float]]  # (above, below) of each round


class MissingError(Exception):
    """What a benchmark needs is not there, or not as it must be; the text names it and tells how to get it."""


class Benchmark(NamedTuple):
    """A figure, the median of above / below over all rounds, and its goal."""

    run: Callable[[bool], Pairs]  # takes whether to be quick
    above: str
    below: str
    unit: str  # of both
    goal: float | None  # None: for information
    at_least: bool = True  # False: the goal is a most

    def is_met(self, ratio: float) -> bool | None:
        """Whether a ratio reaches the goal; None where there is none."""
        if self.goal is None:
            return None
        return ratio >= self.goal if self.at_least else ratio <= self.goal

    def entry(self, pairs: Pairs) -> dict:
        """What results.json holds of these rounds: the ratio first, the medians for information."""
        ratios = [above / below for above, below in pairs]
        medians = [float(f"{median(side):.4g}") for side in zip(*pairs, strict=True)]
        return {
            "ratio": round(median(ratios), 4),
            "of": f"{self.above} / {self.below}",
            "goal": self.goal and round(self.goal, 4),
            "goal_is": "at least" if self.at_least else "at most",
            "met": self.is_met(median(ratios)),
            "rounds": [round(ratio, 4) for ratio in ratios],
            "medians": {"above": medians[0], "below": medians[1], "unit": self.unit},
        }


def progress(count: int, label: str) -> Iterator[int]:
    """The numbers below `count`, with a progress bar on a terminal."""
    return tqdm(range(count), label, leave=False, disable=None)


def alternate(above: Callable[[], float], below: Callable[[], float], rounds: int, label: str) -> Pairs:
    """Measure two things in turn; every other round begins with the second, so that a drift favours neither."""
    pairs = []
    for number in progress(rounds, label):
        if number % 2:
            second = below()
            pairs.append((above(), second))
        else:
            pairs.append((above(), below()))
    return pairs


def environment(changes: dict[str, str | None]) -> dict[str, str]:
    """The environment of this process with some variables set, or left out where they are None."""
    changed = {**os.environ, **changes}
    return {name: value for name, value in changed.items() if value is not None}


def alone(function: Callable, *arguments, **variables: str | None):
    """What a function gives in a process of its own, with these environment variables; None leaves one out."""
    with _changed_environment(variables), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@contextmanager
def _changed_environment(changes: dict[str, str | None]) -> Iterator[None]:
    """Let child processes inherit other variables: numerical libraries read theirs when they are loaded."""
    before, after = dict(os.environ), environment(changes)
    try:
        os.environ.clear()
        os.environ.update(after)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
