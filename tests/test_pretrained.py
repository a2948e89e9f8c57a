"""Classifiers that come with the package: they load, and are as accurate as their cards say."""

import importlib.resources
import re
import zipfile

import keras
import numpy as np
import pytest
from scipy import stats

import lexirobust as lr
from tests.helpers import data_folder

NAMES = lr.pretrained.names()


def test_there_are_some():
    assert len(NAMES) == 3


@pytest.mark.parametrize("name", NAMES)
def test_they_give_logits(name):
    classifier = lr.pretrained.load(name)
    assert not classifier.compiled
    logits = keras.ops.convert_to_numpy(classifier(np.zeros((2, 28, 28, 1), np.float32)))
    assert logits.shape == (2, 10)
    assert logits.dtype == np.float32
    assert lr.pretrained.card(name)["parameters"] == classifier.count_params()


@pytest.mark.parametrize("name", NAMES)
def test_their_files_set_nothing_that_is_a_default(name):
    """Older releases of Keras do not know newer settings, and refuse them even as `None`."""
    file = importlib.resources.files("lexirobust.pretrained") / f"{name}.keras"
    with file.open("rb") as opened, zipfile.ZipFile(opened) as archive:
        assert b"null" not in re.sub(rb"\[null[^\]]*\]", b"", archive.read("config.json"))


@pytest.mark.parametrize("ask", [lr.pretrained.load, lr.pretrained.card])
def test_unknown_names_are_refused_with_those_that_there_are(ask):
    with pytest.raises(ValueError, match=r"`name` must be one of \['fashion.*Received: 'cifar'"):
        ask("cifar")


@pytest.mark.release  # Half a minute each.
@pytest.mark.parametrize("name", NAMES)
def test_they_are_as_accurate_as_their_cards_say(name):
    card, classifier = lr.pretrained.card(name), lr.pretrained.load(name)
    folder = data_folder(card["data"])
    if folder is None:
        pytest.skip(
            f"{card['data']} is in none of TFDS_DATA_DIR, ../shared/tfds, ~/tensorflow_datasets"
        )
    x, y = getattr(lr.datasets, card["data"])("test", data_dir=folder)
    right = classifier.predict(x, batch_size=1000, verbose=0).argmax(axis=1) == y
    assert len(y) == card["tested"]
    # Roundings differ between machines, and decide of very few images.
    assert abs(right.mean() - card["natural"]) <= 3 / len(y)

    attack = lr.attacks.AutoAttack(card["norm"], seed=1, steps=50, max_queries=500)
    magnitude = card["magnitude"]
    curve = lr.evaluate_robustness(classifier, x[:100], y[:100], attack, [magnitude], checks=False)
    resisting = int(curve.correct[0].sum())
    # As likely as not by the card: fewer images are a sample of those that it is of.
    assert stats.binomtest(resisting, 100, card["robust"]).pvalue > 0.001
