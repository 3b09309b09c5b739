"""Our server against the baseline's: latency, throughput, start and memory."""

import sys
import time
from pathlib import Path
from typing import NamedTuple

from . import environments
from .drawings import hard_bodies, picture_bodies, stroke_bodies
from .load import Server, ask, first_answer, load, running
from .rounds import CACHE, Benchmark, MissingError, Pairs, alternate

TRAINED = CACHE / "original" / "model.keras"
_UNTRAINED = CACHE / "untrained.keras"
QUIET = {"DEV_LOG_LEVEL": "warning"}  # as the baseline logs no requests either
_V1, _V2 = "/api/v1/predict", "/api/v2/predict"
_ANSWERS = {_V1: {"predicted_digit", "confidence"}, _V2: {"digit", "confidence", "probabilities", "is_digit", "reason"}}


class Target(NamedTuple):
    """An application, and what it is asked."""

    app: str  # as uvicorn names it
    variables: dict[str, str]  # of its environment
    path: str
    bodies: list[str]
    python: str | Path = sys.executable  # the interpreter that runs it


def _ours(path: str = _V1) -> Target:
    bodies = picture_bodies() if path == _V1 else stroke_bodies()
    return Target("eigen_digits.serving:app", QUIET, path, bodies)


def _baseline(quick: bool) -> Target:
    variables = {"BASELINE_MODEL": str(_baseline_model(quick))}
    return Target("benchmarks.baseline.server:app", variables, _V1, picture_bodies())


def _baseline_model(quick: bool) -> Path:
    """The baseline's network; where it has not been trained, an untrained one will do to try things out."""
    if TRAINED.exists():
        return TRAINED
    if not quick:
        raise MissingError(
            "the baseline's network is not trained; `eigen-digits train --recipe original --out "
            "benchmarks/.cache/original` does that in some fifteen minutes"
        )
    if not _UNTRAINED.exists():
        from eigen_digits.model import original_cnn

        CACHE.mkdir(exist_ok=True)
        original_cnn().save(_UNTRAINED)
    return _UNTRAINED


def _started(server: Server, target: Target) -> None:
    """Wait for the first answer, and make sure that it is one."""
    answer = first_answer(server, target.path, target.bodies[0])
    if missing := _ANSWERS[target.path] - answer.keys():
        raise RuntimeError(f"{target.app}: the answer of {target.path} lacks {', '.join(sorted(missing))}")


def _loaded(above: Target, below: Target, connections: int, figure: str, quick: bool) -> Pairs:
    """Put the same load on two servers in turn; the figure is a field of `Load`."""
    seconds, rounds = (2, 1) if quick else (15, 5)

    def measure(server: Server, target: Target) -> float:
        return getattr(load(server, target.path, target.bodies, connections, seconds), figure)

    with running(above.app, **above.variables) as first, running(below.app, **below.variables) as second:
        for server, target in ((first, above), (second, below)):
            _started(server, target)
            load(server, target.path, target.bodies, connections, 1 if quick else 3)  # caches and threads get warm
        label = f"{connections} connections"
        return alternate(lambda: measure(first, above), lambda: measure(second, below), rounds, label)


def latency(quick: bool) -> Pairs:
    """The median latency over one connection, in ms."""
    return _loaded(_baseline(quick), _ours(), 1, "p50", quick)


def _hard(target: Target) -> Target:
    """The same, asked about drawings of which half are in hard pictures: shadows, boxes, desks."""
    plain = picture_bodies()
    return target._replace(bodies=[body for pair in zip(plain, hard_bodies(), strict=True) for body in pair])


def mixed_latency(quick: bool) -> Pairs:
    """The median latency over one connection, where half of the pictures are hard."""
    return _loaded(_hard(_baseline(quick)), _hard(_ours()), 1, "p50", quick)


def mixed_throughput(quick: bool) -> Pairs:
    """Answers per second over sixteen connections, where half of the pictures are hard."""
    return _loaded(_hard(_ours()), _hard(_baseline(quick)), 16, "rate", quick)


def strokes(quick: bool) -> Pairs:
    """Answers per second over sixteen connections, where ours are sent the strokes."""
    return _loaded(_ours(_V2), _baseline(quick), 16, "rate", quick)


def _ours_installed() -> Target:
    """Our application in an environment that has nothing but what it needs."""
    return _ours()._replace(python=environments.python(environments.ours()))


def _baseline_installed(quick: bool) -> Target:
    """The baseline in an environment of the same kind."""
    return _baseline(quick)._replace(python=environments.python(environments.baseline()))


def _seconds_to_answer(target: Target) -> float:
    start = time.perf_counter()
    with running(target.app, target.python, **target.variables) as server:
        _started(server, target)
        return time.perf_counter() - start


def start(quick: bool) -> Pairs:
    """Seconds from the start of the process to its first answer."""
    ours, baseline = _ours_installed(), _baseline_installed(quick)
    _seconds_to_answer(ours), _seconds_to_answer(baseline)  # compiled, and read from disk
    return alternate(
        lambda: _seconds_to_answer(ours), lambda: _seconds_to_answer(baseline), 1 if quick else 7, "starting"
    )


def _peak_memory(target: Target, requests: int) -> float:
    """Megabytes, the most that a server has held in memory after so many requests."""
    with running(target.app, target.python, **target.variables) as server:
        _started(server, target)
        for number in range(requests):
            ask(server, target.path, target.bodies[number % len(target.bodies)])
        return _high_water(server.process.pid) / 1e6


def _high_water(pid: int) -> int:
    """Bytes, the largest resident set of a process so far."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        raise MissingError("there is no /proc; peak memory is read from it, so this one runs on Linux alone")
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def memory(quick: bool) -> Pairs:
    """Peak memory of the server process after 200 requests, in MB."""
    ours, baseline, requests = _ours_installed(), _baseline_installed(quick), 20 if quick else 200
    return alternate(
        lambda: _peak_memory(ours, requests), lambda: _peak_memory(baseline, requests), 1 if quick else 3, "memory"
    )


BENCHMARKS = {
    "latency": Benchmark(latency, "the baseline's median latency, drawings", "ours, v1, one connection", "ms", 14),
    "mixed-latency": Benchmark(
        mixed_latency, "the baseline's median latency, half hard pictures", "ours, v1, one connection", "ms", 10
    ),
    "mixed-throughput": Benchmark(
        mixed_throughput, "our throughput, half hard pictures, 16 connections", "the baseline's", "1/s", 8
    ),
    "strokes": Benchmark(strokes, "our throughput, strokes, 16 connections", "the baseline's, pictures", "1/s", None),
    "start": Benchmark(start, "start to first answer, ours", "the baseline's", "s", 1 / 5.5, at_least=False),
    "memory": Benchmark(memory, "peak memory of the server, ours", "the baseline's", "MB", 1 / 6, at_least=False),
}
