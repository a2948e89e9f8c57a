"""Nearest boundary points against closed forms and root finding."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize, special

import lexirobust as lr
from lexirobust.attacks import FAB, PGD, DeepFool, HopSkipJump

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(6, 2)).astype(np.float32)
OFFSET = np.array([0.3, -0.2], np.float32)
X = (2 * RNG.normal(size=(20, 6))).astype(np.float32)
DUAL = {"l1": np.inf, "l2": 2, "linf": 1}


def linear(x):
    return tf.convert_to_tensor(x) @ WEIGHTS + OFFSET


def way_to_hyperplane(x, normal, lack):
    """What has to be added to inputs for `normal` to grow by `lack` `[N]`, in l2."""
    return lack[:, None] * normal / np.sum(np.square(normal))


@pytest.mark.parametrize("method", [DeepFool(bounds=None), FAB(bounds=None, steps=10, seed=0)])
def test_removers_of_linear_classifiers_are_known(method):
    normal = (WEIGHTS[:, 0] - WEIGHTS[:, 1]).astype(np.float64)
    lead = X @ normal + OFFSET[0] - OFFSET[1]
    removers = lr.negative_adversarial_remover(linear, X, method)
    expected = -way_to_hyperplane(X, normal, -lead)
    np.testing.assert_allclose(removers, expected, atol=1e-4)
    # What is left without it is on the boundary, and twice as much of it in another class.
    given = np.argmax(linear(X), axis=1)
    assert np.abs(np.diff(linear(X - removers), axis=1)).max() < 1e-3
    assert (np.argmax(linear(X - 2 * removers), axis=1) != given).all()


@pytest.mark.parametrize("norm", sorted(DUAL))
def test_distances_are_those_of_the_norm(norm):
    normal = (WEIGHTS[:, 0] - WEIGHTS[:, 1]).astype(np.float64)
    lead = X @ normal + OFFSET[0] - OFFSET[1]
    found = lr.nearest_boundary(linear, X, FAB(norm, bounds=None, steps=10, seed=0))
    expected = np.abs(lead) / np.linalg.norm(normal, ord=DUAL[norm])
    np.testing.assert_allclose(found.distances, expected, rtol=1e-4)


def test_decisions_alone_give_nearly_the_same():
    x = X[:5]
    first = lr.negative_adversarial_remover(linear, x, FAB(bounds=None, steps=10, seed=0))
    second = lr.negative_adversarial_remover(linear, x, HopSkipJump("l2", bounds=None, seed=0))
    assert (np.linalg.norm(first - second, axis=1) < 0.3 * np.linalg.norm(first, axis=1)).all()


def test_the_neutral_boundary_of_two_classes_is_shifted_by_the_odds():
    priors = np.array([0.1, 0.9])
    normal = (WEIGHTS[:, 0] - WEIGHTS[:, 1]).astype(np.float64)
    lead = X @ normal + OFFSET[0] - OFFSET[1]
    # Inputs of both sides: those that speak against the class they are given are among them.
    lack = special.logit(priors[0]) - lead
    removers = lr.negative_adversarial_remover(linear, X, DeepFool(bounds=None), priors)
    np.testing.assert_allclose(removers, -way_to_hyperplane(X, normal, lack), atol=1e-4)
    assert ((lead > 0) & (lack > 0)).sum() + ((lead < 0) & (lack < 0)).sum() > 0


def test_the_neutral_boundary_of_several_classes_is_where_the_prior_is_reached():
    matrix = RNG.normal(size=(2, 4)).astype(np.float32)
    priors = np.array([0.1, 0.2, 0.3, 0.4])
    x = (3 * RNG.normal(size=(30, 2))).astype(np.float32)
    found = lr.nearest_boundary(
        lambda x: x @ matrix, x, FAB(bounds=None, steps=30, restarts=3, seed=0), priors, 7
    )
    given = np.argmax(x @ matrix, axis=1)
    assert len(set(given)) > 2
    assert found.success.numpy().all()
    reached = special.softmax(found.inputs.numpy() @ matrix, axis=1)[np.arange(30), given]
    np.testing.assert_allclose(reached, priors[given], rtol=2e-3)

    def distance(clean, label):
        """To where each of many rays crosses first."""
        best = np.inf
        for angle in np.linspace(0, 2 * np.pi, 720):
            ray = np.array([np.cos(angle), np.sin(angle)])

            def above(t, ray=ray):
                logits = (clean + np.multiply.outer(t, ray)) @ matrix
                return special.softmax(logits, axis=-1)[..., label] - priors[label]

            steps = np.linspace(0, min(best, 30.0), 60)
            values = above(steps)
            change = np.flatnonzero(np.sign(values[1:]) != np.sign(values[0]))
            if change.size:
                best = optimize.brentq(above, steps[change[0]], steps[change[0] + 1])
        return best

    expected = [distance(*pair) for pair in zip(x[:6].astype(float), given, strict=False)]
    ratios = found.distances[:6] / np.array(expected)
    # No ray is shorter; a search from a few starts need not find the shortest where it is curved.
    assert np.min(ratios) > 0.999
    assert np.median(ratios) < 1.01


def test_where_no_boundary_is_found_there_is_no_remover():
    def constant(x):
        return tf.concat([0 * x + 1, 0 * x], axis=1)

    x = np.zeros((2, 1), np.float32)
    assert np.isnan(lr.negative_adversarial_remover(constant, x, DeepFool(bounds=(-1, 1)))).all()


@pytest.mark.parametrize("priors", [None, [0.3, 0.7]])
def test_a_classifier_is_given_no_more_than_a_batch(priors):
    sizes = set()

    def watched(x):
        sizes.add(x.shape[0])
        return linear(x)

    found = lr.nearest_boundary(watched, X, DeepFool(bounds=None), priors, batch_size=6)
    assert max(size for size in sizes if size is not None) == 6
    whole = lr.nearest_boundary(linear, X, DeepFool(bounds=None), priors)
    np.testing.assert_allclose(found.inputs, whole.inputs, atol=1e-5)


def test_bad_input_is_named():
    fab = FAB(bounds=None)
    with pytest.raises(TypeError, match="`method` must be an attack of least norm"):
        lr.nearest_boundary(linear, X, PGD())
    with pytest.raises(ValueError, match="`priors` must be one for each of 2 classes"):
        lr.nearest_boundary(linear, X, fab, [0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match=r"`priors` must be .* probabilities"):
        lr.nearest_boundary(linear, X, fab, [0.5, 0.6])
    with pytest.raises(ValueError, match="finite"):
        lr.nearest_boundary(linear, np.full((1, 6), np.nan), fab)
    with pytest.raises(ValueError, match="`batch_size` must be an integer"):
        lr.nearest_boundary(linear, X, fab, batch_size=0)


@pytest.mark.parametrize("priors", [None, [0.5, 0.5]])
def test_what_is_not_a_number_is_no_class_to_be_explained(priors):
    def classifier(x):
        return tf.math.log(linear(x))

    undefined = np.isnan(classifier(X)).any(axis=1).sum()
    assert 0 < undefined < len(X)
    with pytest.raises(ValueError, match=f"NaN in the logits of {undefined} of {len(X)} inputs"):
        lr.nearest_boundary(classifier, X, DeepFool(bounds=None), priors)
