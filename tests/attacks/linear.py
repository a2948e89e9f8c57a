"""Linear classifiers, their nearest boundaries, and what every minimal attack must keep to."""

import keras
import numpy as np
import tensorflow as tf

DUAL = {"l1": np.inf, "l2": 2, "linf": 1}
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}


class Linear:
    """Logits `x @ weights + offset`, and how many inputs they were asked for."""

    def __init__(self, classes=4, size=20, seed=0):
        rng = np.random.default_rng(seed)
        self.weights = rng.normal(size=(size, classes)).astype(np.float32)
        # The centre of the unit box is near all boundaries.
        self.offset = -0.5 * self.weights.sum(axis=0)
        self.seen = tf.Variable(0, dtype=tf.int64)

    def logits(self, x):
        return np.asarray(x, np.float64) @ self.weights + self.offset

    def labels(self, x):
        return np.argmax(self.logits(x), axis=1)

    def __call__(self, x):
        self.seen.assign_add(tf.shape(x, out_type=tf.int64)[0])
        return tf.reshape(x, (-1, len(self.weights))) @ self.weights + self.offset


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


def check_found(classifier, x, y, found, norm, bounds):
    """What is found is misclassified, inside the bounds, and as far away as said."""
    moved = found.inputs.numpy()
    success = found.success.numpy()
    wrong = np.argmax(classifier(tf.constant(moved)), axis=1) != y
    assert np.array_equal(wrong, success)
    if bounds is not None:
        assert moved.min() >= np.float32(bounds[0])
        assert moved.max() <= np.float32(bounds[1])
    flat = (moved.astype(np.float64) - x).reshape(len(x), -1)
    norms = np.linalg.norm(flat, ord=ORDER[norm], axis=1)
    assert found.distances.dtype == tf.float32
    np.testing.assert_allclose(found.distances.numpy()[success], norms[success], rtol=1e-4)
    assert np.all(np.isinf(found.distances.numpy()[~success]))
    assert np.array_equal(moved[~success], x[~success])


def check_misclassified(attack):
    """A sample that is misclassified is its own nearest point, and costs one query."""
    classifier, x = Linear(), samples()
    y = classifier.labels(x)
    y[:3] = (y[:3] + 1) % 4
    found = attack(classifier, x, y)
    assert found.distances.numpy()[:3].tolist() == [0, 0, 0]
    assert np.all(found.distances.numpy()[3:] > 0)
    assert np.array_equal(found.inputs.numpy()[:3], x[:3])
    assert found.success.numpy()[:3].all()
    assert found.queries.numpy()[:3].tolist() == [1, 1, 1]


def check_queries(attack):
    """For a sample alone, they are what the classifier saw; in a batch at most that."""
    classifier, x = Linear(), samples()
    y = classifier.labels(x)
    attack(classifier, x[:1], y[:1])  # The first call looks at the classifier, too.
    for row in range(3):
        before = int(classifier.seen)
        found = attack(classifier, x[row : row + 1], y[row : row + 1])
        assert found.queries.numpy().tolist() == [int(classifier.seen) - before]
    before = int(classifier.seen)
    found = attack(classifier, x, y)
    assert found.queries.dtype == tf.int32
    assert found.queries.numpy().sum() <= int(classifier.seen) - before


def check_round_trip(attack):
    config = keras.saving.serialize_keras_object(attack)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(attack)
    assert again.get_config() == attack.get_config()


def check_compiles(attack):
    """The search runs as one XLA program."""
    classifier, x = Linear(), samples()
    y = classifier.labels(x)

    def logits(x):
        return x @ classifier.weights + classifier.offset

    search = tf.function(
        lambda x, y, seed: attack.search(logits, x, y, seed), jit_compile=True, autograph=False
    )
    found = search(tf.constant(x), tf.constant(y), tf.constant([1, 2]))
    assert found.success.numpy().all()
    check_found(classifier, x, y, found, attack.norm, attack.bounds)


def check_types(attack):
    """Inputs of float64 stay so."""
    weights = np.random.default_rng(0).normal(size=(20, 3))
    x = samples().astype(np.float64)
    found = attack(lambda x: (x - 0.5) @ weights, x, np.argmax((x - 0.5) @ weights, axis=1))
    assert found.inputs.dtype == tf.float64
    assert found.success.numpy().all()
