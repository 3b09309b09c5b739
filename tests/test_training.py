"""What takes too long for a cell of the training notebook: cross-validation with everything that it holds out."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="comes with the extra `train`")

SETS = ("swiss", "swiss-more", "mnist", "sklearn")


@pytest.fixture(scope="module")
def sets():
    """Three sets to learn from, one only to test on: of each a few digits by six writers, one of them reserved."""
    from eigen_digits import training

    rng, found = np.random.default_rng(0), {}
    for name in SETS:
        pixels, writers = rng.integers(0, 256, (60, 28, 28), np.uint8), np.arange(60) % 6
        fold = np.where(writers == 5, -1, writers)
        names = np.arange(60).astype(str)
        found[name] = training.DigitSet(pixels, pixels, np.arange(60) % 10, writers.astype(str), names, fold)
    return found


@pytest.fixture(scope="module")
def recipe():
    from eigen_digits import training

    shares = {"swiss": 0.4, "swiss-more": 0.2, "mnist": 0.4}
    tiny = dict(epochs=2, fold_epochs=2, steps=2, batch=8, augmentation=None)
    return replace(training.RECIPES["eigen-digits"], frame=False, sets=shares, **tiny)


@pytest.fixture(scope="module")
def learnt(sets, recipe, tmp_path_factory):
    """What each network learnt from, by the name of its split; and the folder with the predictions."""
    from eigen_digits import training

    folder, seen = tmp_path_factory.mktemp("home"), {}
    plain = training.train_network

    def watched(recipe, known, home, epochs):
        seen[home.name] = {name: {bytes(picture) for picture in pixels} for name, (pixels, _) in known.items()}
        return plain(recipe, known, home, epochs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_network", watched)
        patch.setattr(training, "load_sets", lambda *args, **kwargs: sets)
        training.cross_validate(recipe, folder)
        before = dict(seen)
        training.cross_validate(recipe, folder)  # all is kept: nothing is trained again
    assert seen == before
    return seen, folder


def test_no_network_learns_from_what_it_is_tested_on(learnt, sets):
    seen, _ = learnt
    assert set(seen) == {*(f"fold-{k}" for k in range(5)), "shared", "without swiss", "without mnist"}
    for name, one in sets.items():
        for k in range(5):
            held_out = {bytes(picture) for picture in one.pixels[one.fold == k]}
            assert not held_out & seen[f"fold-{k}"].get(name, set())
    assert set(seen["without swiss"]) == {"mnist"} and set(seen["without mnist"]) == {"swiss", "swiss-more"}


def test_all_others_are_learnt_from(learnt, sets):
    seen, _ = learnt
    for name in ("swiss", "mnist"):
        one = sets[name]
        assert seen["fold-2"][name] == {bytes(picture) for picture in one.pixels[one.fold != 2]}
    assert all("sklearn" not in known for known in seen.values())


def test_each_digit_of_a_fold_is_predicted_once(learnt, sets):
    from eigen_digits.evaluation import read_predictions

    groups = read_predictions(learnt[1])
    assert {*SETS, "shared", "without swiss", "without mnist"} == set(groups)
    for name in SETS:
        tested = sets[name].fold >= 0
        assert np.array_equal(groups[name].names, sets[name].names[tested])
        assert np.array_equal(groups[name].fold, sets[name].fold[tested])
        assert np.isfinite(groups[name].logits).all()
    assert len(groups["without mnist"].labels) == 60 and len(groups["shared"].labels) == 12


def test_nothing_wild_can_be_learnt_from():
    from eigen_digits import scenes, training
    from eigen_digits.data import DATASETS
    from eigen_digits.evaluation import WILD

    for name in WILD:
        assert DATASETS[name].use == "measure"
        with pytest.raises(ValueError, match=f"{name}.*only for measuring"):
            training.Recipe(sets={name: 1.0})
        with pytest.raises(ValueError, match=f"{name}.*only for measuring"):
            scenes.load_inks([name])
    for recipe in training.RECIPES.values():
        assert not {*recipe.sets} & {*WILD}
    ink = training.InkRecipe()
    assert not {*ink.digits, *ink.others} & {*WILD}
