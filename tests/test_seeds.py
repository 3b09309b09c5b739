"""The folds once more from another seed, which takes too long for a cell of notebook 03."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="comes with the extra `train`")


def test_another_seed_trains_other_networks_and_asks_about_the_same_digits(tmp_path):
    from eigen_digits import training

    sample = training.load_kind("sample")
    few = training.Kind(*(values[::20] for values in sample))
    kinds = {"sample": few._replace(fold=np.arange(len(few.labels)) % 3 - 1)}
    tiny = training.Recipe(sets={"sample": 1.0}, epochs=2, steps=2, batch=8, variation=None)
    tiny = replace(tiny, base=tiny)
    training.out_of_fold(tiny, kinds, tmp_path, folds=2)
    path = training.reseed(tiny, kinds, tmp_path, folds=2, chosen=[tiny, tiny], seeds=(1,))
    other = tmp_path / "runs" / "seeds" / "1"
    for name in ("runs/base/part/answers.npz", "folds/0.tflite", "folds/1.tflite"):
        assert (tmp_path / name).read_bytes() != (other / name).read_bytes()
    with np.load(path) as right, np.load(other / "out_of_fold.npz") as answers:
        keys = {f"{seed}/{kind}" for seed in ("seed 42", "seed 1") for kind in ("sample", "shared")}
        assert set(right.files) == keys
        assert np.array_equal(answers["sample/labels"], few.labels[kinds["sample"].fold >= 0])
        digits = answers["sample/logits"][:, :10].argmax(axis=1)
        assert np.array_equal(right["seed 1/sample"], digits == answers["sample/labels"])
        assert len(right["seed 42/sample"]) == len(right["seed 1/sample"])
