"""Training: what augmentation costs, and how soon our recipe is as right as the original's ever gets."""

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from .rounds import Benchmark, Pairs, alone, alternate, progress

# As published, the original had TensorFlow split each layer over all cores; ours asks it not to.
_TENSORFLOW_DECIDES = {"OMP_NUM_THREADS": None, "TF_NUM_INTRAOP_THREADS": "0"}
_PACKAGE_DECIDES = {"OMP_NUM_THREADS": None, "TF_NUM_INTRAOP_THREADS": None}
_FOLD = 0  # of `writer_folds`, the writers that are held out
_SHORT = dict(epochs=30, steps=20)  # of ours: how finely its learning is watched, and when it gives up


def _scans(name: str):
    """The Swiss scans as a recipe sees them, with their folds."""
    from eigen_digits.training import load_kinds

    return load_kinds(_on_scans(name), ask=False)["swiss"]


def _on_scans(name: str, **changes):
    """A recipe for Swiss scans alone, and in one part."""
    from eigen_digits.training import RECIPES

    return replace(RECIPES[name], sets={"swiss": 1.0}, base=None, then=None, **changes)


def _steps(steps: int, rounds: int) -> Pairs:
    import tensorflow as tf

    from eigen_digits import training

    recipe, scans = _on_scans("eigen-digits"), _scans("eigen-digits")
    sets = {"swiss": (scans.pixels, scans.labels)}
    plain = list(training.batches(sets, replace(recipe, variation=None)).take(16))
    cached = tf.data.Dataset.from_tensor_slices(tuple(map(tf.stack, zip(*plain, strict=True)))).repeat().prefetch(2)
    varied, model = training.batches(sets, recipe), training._compiled(recipe)

    def rate(batches: tf.data.Dataset, count: int = steps) -> float:
        start = time.perf_counter()
        model.fit(batches, steps_per_epoch=count, shuffle=False, verbose=0)
        return count / (time.perf_counter() - start)

    rate(varied, 10), rate(cached, 10)
    return alternate(lambda: rate(varied), lambda: rate(cached), rounds, "training steps")


def steps(quick: bool) -> Pairs:
    """Training steps per second on varied digits, and on batches that are at hand."""
    return alone(_steps, *((40, 1) if quick else (400, 5)), **_PACKAGE_DECIDES)


class _Stopwatch:
    """The seconds since it was made, but for those while it is held."""

    def __init__(self):
        self._since, self.seconds = time.perf_counter(), 0.0

    def hold(self) -> None:
        self.seconds += time.perf_counter() - self._since

    def go_on(self) -> None:
        self._since = time.perf_counter()


def _watch(clock: _Stopwatch, goal: float):
    """A callback that keeps the best (accuracy, seconds) on what is held out, and stops at a goal."""
    import keras

    class Watch(keras.callbacks.Callback):
        best = (0.0, 0.0)

        def on_epoch_begin(self, epoch, logs=None):
            if epoch:  # the first one's clock runs since before the network was compiled
                clock.go_on()

        def on_test_begin(self, logs=None):
            clock.hold()

        def on_epoch_end(self, epoch, logs=None):
            accuracy = logs["val_accuracy"]
            if accuracy > self.best[0]:
                self.best = accuracy, clock.seconds
            if accuracy >= goal:
                self.model.stop_training = True

    return Watch()


def _learn(name: str, goal: float, every: int, changes: dict) -> tuple[float, float]:
    """Train a recipe until it is as right as `goal` about the writers held out: its best accuracy, and seconds to it.

    The seconds begin before the network is compiled. Looking at the writers held out is not counted, nor is
    preprocessing the scans beforehand. Quick trials learn from `every` so many scans only.
    """
    import keras
    import numpy as np

    from eigen_digits import training

    recipe, scans = _on_scans(name, **changes), _scans(name)
    strange = scans.fold == _FOLD
    known = ~strange & (np.arange(len(strange)) % every == 0)
    pixels, labels = scans.pixels[known], scans.labels[known]
    held_out = training._unit(scans.pixels[strange]), scans.labels[strange]
    common = dict(epochs=recipe.epochs, validation_data=held_out, validation_batch_size=512, verbose=0)
    keras.utils.set_random_seed(recipe.seed)
    watch = _watch(_Stopwatch(), goal)
    model = training._compiled(recipe)
    with TemporaryDirectory() as folder:
        common["callbacks"] = [watch, *(training.CALLBACKS[each](Path(folder)) for each in recipe.callbacks)]
        if recipe.steps:
            varied = training.batches({"swiss": (pixels, labels)}, recipe)
            model.fit(varied, steps_per_epoch=recipe.steps, shuffle=False, **common)
        else:
            model.fit(training._unit(pixels), labels, batch_size=recipe.batch, **common)
    return watch.best


def learning(quick: bool) -> Pairs:
    """Seconds until ours is as right about unknown writers as the original ever gets, and until the original is."""
    pairs, every, shorter = [], 16 if quick else 1, {"epochs": 2} if quick else {}
    for seed in progress(1 if quick else 3, "learning"):
        best, theirs = alone(_learn, "original", 1.0, every, {"seed": seed, **shorter}, **_TENSORFLOW_DECIDES)
        reached, ours = alone(_learn, "eigen-digits", best, every, {"seed": seed, **_SHORT}, **_PACKAGE_DECIDES)
        if reached < best:
            raise RuntimeError(f"seed {seed}: ours reached {reached:.2%} and not the original's {best:.2%}")
        pairs.append((ours, theirs))
    return pairs


BENCHMARKS = {
    "steps": Benchmark(steps, "training steps a second, varied digits", "unvaried, at hand", "1/s", 0.85),
    "learning": Benchmark(
        learning, "learning to read unknown writers as the original", "the original", "s", 1 / 3, at_least=False
    ),
}
