"""What takes too long for a cell of notebook 03: folds from another seed, or of which one learns longer."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="comes with the extra `train`")


@pytest.fixture(scope="module")
def tiny():
    """A recipe of three parts that learn next to nothing."""
    from eigen_digits import training

    part = training.Recipe(sets={"sample": 1.0}, epochs=2, steps=2, batch=8, variation=None)
    return replace(part, base=part, then=replace(part, layer="no_digit"))


@pytest.fixture(scope="module")
def kinds():
    """Some digits of the sample: two folds, and a third that none asks about."""
    from eigen_digits import training

    few = training.Kind(*(values[::20] for values in training.load_kind("sample")))
    return {"sample": few._replace(fold=np.arange(len(few.labels)) % 3 - 1)}


@pytest.fixture(scope="module")
def home(tiny, kinds, tmp_path_factory):
    """A folder in which each of the folds was held out."""
    from eigen_digits import training

    folder = tmp_path_factory.mktemp("home")
    training.out_of_fold(tiny, kinds, folder, folds=2)
    return folder


def weights(path) -> list[np.ndarray]:
    """What a part has learnt."""
    with np.load(path) as file:
        return [file[name] for name in file.files if name != "run"]


def test_another_seed_trains_other_networks_and_asks_about_the_same_digits(home, tiny, kinds):
    from eigen_digits import training

    path = training.reseed(tiny, kinds, home, folds=2, chosen=[tiny, tiny], seeds=(1,))
    other = home / "runs" / "seeds" / "1"
    for name in ("runs/base/part/answers.npz", "folds/0.tflite", "folds/1.tflite"):
        assert (home / name).read_bytes() != (other / name).read_bytes()
    with np.load(path) as right, np.load(other / "out_of_fold.npz") as answers:
        keys = {f"{seed}/{kind}" for seed in ("seed 42", "seed 1") for kind in ("sample", "shared")}
        assert set(right.files) == keys
        assert np.array_equal(answers["sample/labels"], kinds["sample"].labels[kinds["sample"].fold >= 0])
        digits = answers["sample/logits"][:, :10].argmax(axis=1)
        assert np.array_equal(right["seed 1/sample"], digits == answers["sample/labels"])
        assert len(right["seed 42/sample"]) == len(right["seed 1/sample"])


def test_a_fold_that_learns_longer_has_a_base_of_its_own_and_the_others_stay(home, tiny, kinds):
    from eigen_digits import training

    runs = home / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("answers.npz")}
    longer = replace(tiny, base=replace(tiny.base, epochs=3))
    training.out_of_fold(tiny, kinds, home, folds=2, chosen=[tiny, longer])
    trained = {path for path in runs.rglob("answers.npz") if before.get(path) != path.stat().st_mtime_ns}
    own_base = f"choices/base-{tiny.size}-3"
    parts = (f"{own_base}/part", "fold-1/part", "fold-1/then/part", "fold-1")
    assert trained == {runs / part / "answers.npz" for part in parts}
    bases = [weights(runs / base / "part" / "answers.npz") for base in ("base", own_base)]
    assert any(not np.array_equal(*pair) for pair in zip(*bases, strict=True))


def test_what_comes_after_another_start_is_trained_anew(home, tiny, kinds):
    from eigen_digits import training

    part, other = replace(tiny, base=None), replace(tiny, base=None, seed=7)  # what comes then has the same seed
    first = training._weights(part, kinds, home / "again")
    assert all(map(np.array_equal, training._weights(part, kinds, home / "again"), first))
    second = training._weights(other, kinds, home / "again")
    assert any(not np.array_equal(*pair) for pair in zip(first, second, strict=True))
    learnt, after = (weights(home / "again" / name / "answers.npz") for name in ("part", "then/part"))
    same = [np.array_equal(*pair) for pair in zip(learnt, after, strict=True)]
    assert same == [True] * (len(same) - 2) + [False] * 2  # the layer that tells what is no digit alone
