"""Linear classifiers, their nearest boundaries, and what every minimal attack must keep to."""

import numpy as np
import tensorflow as tf

from tests.helpers import points_of

DUAL = {"l1": np.inf, "l2": 2, "linf": 1}
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}
WEIGHTS = np.array([0.5, -1.0, 2.0, -0.25, 1.5], np.float32)


def two_classes(x):
    """Logits of inputs `[N, 5]`: that of class 1 is above that of class 0 by `x @ WEIGHTS`."""
    score = tf.linalg.matvec(x, tf.constant(WEIGHTS, x.dtype))
    return tf.stack([tf.zeros_like(score), score], axis=1)


def points(count=8, seed=0):
    """Inputs `[count, 5]` around 0, and labels of two classes."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 5)).astype(np.float32), rng.integers(2, size=count)


def random_classes(dimensions, classes=3):
    """A classifier of inputs that have so many dimensions in all, without offsets."""
    matrix = points_of(dimensions, classes, seed=1)
    return lambda x: tf.reshape(x, [-1, dimensions]) @ matrix


class Linear:
    """Logits `x @ weights + offset`, and how many inputs they were asked for."""

    def __init__(self, classes=4, size=20, seed=0):
        rng = np.random.default_rng(seed)
        self.weights = rng.normal(size=(size, classes)).astype(np.float32)
        # The center of the unit box is near all boundaries.
        self.offset = -0.5 * self.weights.sum(axis=0)
        self.seen = tf.Variable(0, dtype=tf.int64)

    def logits(self, x):
        x = np.asarray(x, np.float64).reshape(-1, len(self.weights))
        return x @ self.weights + self.offset

    def labels(self, x):
        return np.argmax(self.logits(x), axis=1)

    def uncounted(self, x):
        """The logits alone, in the inputs' precision."""
        flat = tf.reshape(x, (-1, len(self.weights)))
        return flat @ tf.cast(self.weights, x.dtype) + tf.cast(self.offset, x.dtype)

    def __call__(self, x):
        x = tf.convert_to_tensor(x)
        self.seen.assign_add(tf.shape(x, out_type=tf.int64)[0])
        return self.uncounted(x)


class Decisions(Linear):
    """Shows the class and nothing else, and lets no gradient through."""

    def __call__(self, x):
        classes = tf.argmax(super().__call__(x), axis=1)
        return tf.stop_gradient(tf.one_hot(classes, self.weights.shape[1]) * 3.0 - 1.0)


def samples(count=6, size=20, seed=1):
    return np.random.default_rng(seed).uniform(size=(count, size)).astype(np.float32)


def distances(classifier, x, norm):
    """`[N]` distances to the nearest boundary where no bounds bind."""
    logits, own = classifier.logits(x), classifier.labels(x)
    rows = np.arange(len(x))
    found = np.full((len(x), logits.shape[1]), np.inf)
    for other in range(logits.shape[1]):
        slopes = classifier.weights[:, own] - classifier.weights[:, [other]]
        steep = np.linalg.norm(slopes, ord=DUAL[norm], axis=0)
        np.divide(logits[rows, own] - logits[:, other], steep, out=found[:, other], where=steep > 0)
    return found.min(axis=1)


def moved_by(attack, classifier, x, y, magnitude, seed=(0, 1)):
    """What an attack gives, operation by operation: a graph costs more than a few steps do."""
    x, y, seed = (tf.constant(each) for each in (x, y, seed))
    return attack.perturb(classifier, x, y, magnitude, seed).numpy()


def search(attack, classifier, x, y, seed=(0, 1)):
    """What an attack finds that looks for nearest points, operation by operation."""
    return attack.search(classifier, *(tf.constant(each) for each in (x, y, seed)))


def check_found(classifier, x, y, found, norm, bounds, rounding=0.0):
    """What is found is misclassified, inside the bounds, and as far away as said.

    `rounding` is what logits may be off by: those of another program, on a boundary.
    """
    moved = found.inputs.numpy()
    success = found.success.numpy()
    logits = np.asarray(classifier(tf.constant(moved)))
    own = logits[np.arange(len(y)), y]
    rival = np.where(np.arange(logits.shape[1]) == y[:, None], -np.inf, logits).max(axis=1)
    doubtful = np.abs(rival - own) < rounding
    wrong = np.argmax(logits, axis=1) != y
    assert np.array_equal(wrong[~doubtful], success[~doubtful])
    if bounds is not None:
        assert moved.min() >= np.float32(bounds[0])
        assert moved.max() <= np.float32(bounds[1])
    flat = (moved.astype(np.float64) - x).reshape(len(x), -1)
    norms = np.linalg.norm(flat, ord=ORDER[norm], axis=1)
    assert found.distances.dtype == tf.float32
    np.testing.assert_allclose(found.distances.numpy()[success], norms[success], rtol=1e-4)
    assert np.all(np.isinf(found.distances.numpy()[~success]))
    assert np.array_equal(moved[~success], x[~success])
