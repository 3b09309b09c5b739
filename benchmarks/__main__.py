"""`python -m benchmarks [NAME ...] [--quick]`: measure, print a table, keep the figures and draw them."""

import argparse
import hashlib
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tqdm import tqdm

from eigen_digits.data import DataError

from . import local, page, serving, widget
from .rounds import CACHE, ROOT, Benchmark, MissingError

RESULTS = ROOT / "benchmarks" / "results.json"
PICTURE = ROOT / "nbs" / "images" / "benchmarks.png"
MODULES = serving, local, page, widget
BENCHMARKS: dict[str, Benchmark] = {name: found for module in MODULES for name, found in module.BENCHMARKS.items()}
_DONE = CACHE / "run.json"  # how far a run of all of them has come
_EXPECTED = (0.977, 0.987)  # 98.2 ± 0.5 %, by the original's own protocol


def baseline_accuracy() -> list[str]:
    """What was measured of the baseline, a line each; raises `MissingError` unless it is what the original reached."""
    path = ROOT / "models" / "original" / "evaluation.json"
    if not path.exists():
        raise MissingError(f"{path.relative_to(ROOT)} is missing; `eigen-digits evaluate --recipe original` writes it")
    figures, (low, high) = json.loads(path.read_text()), _EXPECTED
    if not low <= figures["shared"]["accuracy"] <= high:
        raise MissingError(
            f"the baseline is not the original, which read {low:.1%} to {high:.1%} right; it reads "
            f"{_accuracy(figures['shared'])}. Train and evaluate it again with `--recipe original`."
        )
    return [_accuracy(figures[group]) for group in ("shared", "swiss")]


def _accuracy(figure: dict) -> str:
    low, high = figure["interval"]
    return f"{figure['accuracy']:.2%} ({low:.2%} to {high:.2%}) of {figure['count']:,}: {figure['protocol']}"


def _write(path: Path, content: dict) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _code() -> str:
    """A digest of the code and the model that are measured."""
    files = [*(ROOT / "eigen_digits").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    files += (ROOT / "models" / "eigen-digits").glob("*.tflite")
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:16]


def _machine() -> dict:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        models = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = models[0] if models else processor
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version()}


def _store(name: str, entry: dict) -> None:
    """Put a figure in its place in results.json."""
    found = _read(RESULTS).get("figures", {}) | {name: entry}
    _write(RESULTS, {"machine": _machine(), "figures": {name: found[name] for name in BENCHMARKS if name in found}})


def row(name: str, entry: dict) -> str:
    """A figure as a line of the table."""
    ratios = f"{min(entry['rounds']):.3g} to {max(entry['rounds']):.3g}"
    goal, met = "", ""
    if entry["goal"]:
        goal = f"{'≥' if entry['goal_is'] == 'at least' else '≤'} {entry['goal']:.3g}"
        met = "met" if entry["met"] else "MISSED"
    return f"{name:<23}{entry['ratio']:>8.3g}  {ratios:<17}{goal:<9}{met:<8}{entry['of']}"


def measure(names: Iterable[str], quick: bool, keep: Callable[[str, dict], None]) -> list[str]:
    """Run benchmarks and give each entry to `keep`; the names of those that could not run, whose reasons it prints."""
    failed = []
    tqdm.write(f"{'figure':<23}{'ratio':>8}  {'rounds':<17}{'goal':<9}{'':<8}of")
    for name in tqdm(list(names), "benchmarks", leave=False, disable=None):
        try:
            entry = BENCHMARKS[name].entry(BENCHMARKS[name].run(quick))
        except (MissingError, DataError, RuntimeError) as error:
            failed.append(name)
            tqdm.write(f"{name:<23}not measured: {error}")
            continue
        tqdm.write(row(name, entry))
        keep(name, entry)
    return failed


def measure_all() -> list[str]:
    """Run all benchmarks, or those that a stopped run of the same code has left; the names of those that failed."""
    code, run = _code(), _read(_DONE)
    done = run["done"] if run.get("code") == code else []
    if done:
        print(f"going on after {', '.join(done)}; to begin anew, delete {_DONE.relative_to(ROOT)}")

    def keep(name: str, entry: dict) -> None:
        _store(name, entry)
        done.append(name)
        _write(_DONE, {"code": code, "done": done})

    failed = measure([name for name in BENCHMARKS if name not in done], False, keep)
    if not failed:
        _DONE.unlink()
    return failed


def draw(figures: dict[str, dict]) -> None:
    """Draw the ratios and their goals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [entry for entry in reversed(figures.values()) if entry["goal"]]
    figure, axes = plt.subplots(figsize=(10, 0.5 * len(shown) + 1.2), layout="constrained")
    for place, entry in enumerate(shown):
        colour = "tab:green" if entry["met"] else "tab:red"
        axes.plot([1, entry["ratio"]], [place] * 2, color=colour, linewidth=9, solid_capstyle="butt", alpha=0.75)
        axes.plot(entry["goal"], place, "|", color="black", markersize=20, markeredgewidth=2)
        sign = "≥" if entry["goal_is"] == "at least" else "≤"
        text = f"{entry['ratio']:.3g}×   goal {sign} {entry['goal']:.3g}{'' if entry['met'] else ', missed'}"
        axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    axes.set_yticks(range(len(shown)), [entry["of"].replace(" / ", "\n/ ") for entry in shown], fontsize=8)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("ratio, green where it reaches its goal (black)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(PICTURE, dpi=110)
    plt.close(figure)


def main() -> int:
    """Run what the command line says; the exit code, 1 if something could not be measured."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure ratios, and hold them against goals.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all if none is given: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="only try them out: short rounds, nothing is written")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    try:
        print("the baseline:", *baseline_accuracy(), sep="\n  ")
    except MissingError as error:
        print(error, file=sys.stderr)
        return 1
    for stop in (signal.SIGINT, signal.SIGTERM):  # however it is stopped, no server stays behind
        signal.signal(stop, signal.default_int_handler)
    try:
        if options.quick:
            return bool(measure(options.names or BENCHMARKS, True, lambda name, entry: None))
        failed = measure(options.names, False, _store) if options.names else measure_all()
        draw(_read(RESULTS).get("figures", {}))
        return bool(failed)
    except KeyboardInterrupt:
        print("stopped; what was finished is kept, and the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
