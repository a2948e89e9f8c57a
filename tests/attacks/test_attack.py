import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import Attack


class Still(Attack):
    """Moves nothing: what is asked here is what attacks have in common, and comes before that."""

    def __init__(self):
        super().__init__("linf", (0.0, 1.0), seed=0)

    def get_config(self):
        return {}

    def perturb(self, classifier, x, y, magnitude, seed):
        classifier(x)
        return x


class AlwaysDropout(keras.layers.Layer):
    """Drops out in use as in training."""

    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, x):
        return keras.random.dropout(x, 0.5, seed=self.seed_generator)


def network(*middle, activation=None):
    dense = keras.layers.Dense(3, activation=activation)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), *middle, dense])


def samples():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(10, 4)).astype(np.float32), rng.integers(3, size=10)


BY_CALL = pytest.mark.parametrize(
    "run",
    [
        lambda classifier: Still()(classifier, *samples(), 0.1),
        lambda classifier: Still().sweep(classifier, *samples(), [0.1, 0.2]),
        lambda classifier: lr.evaluate_robustness(classifier, *samples(), Still(), [0.1]),
    ],
    ids=["call", "sweep", "evaluation"],
)


def problems(run):
    """What a call says about its classifier."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    messages = [str(each.message) for each in caught if each.category is UserWarning]
    return [message for message in messages if "`classifier`" in message]


@BY_CALL
def test_classifier_that_gives_probabilities_is_named(run):
    with pytest.warns(
        UserWarning, match="`classifier` must give logits.*without the final softmax"
    ):
        run(network(activation="softmax"))


@BY_CALL
def test_randomised_classifier_is_named(run):
    with pytest.warns(UserWarning, match="`classifier` is randomised.*Switch the randomness off"):
        run(network(AlwaysDropout()))


@BY_CALL
@pytest.mark.parametrize(
    "middle",
    [lambda: keras.layers.Dropout(0.5), keras.layers.BatchNormalization],
    ids=["Dropout", "BatchNormalization"],
)
def test_sound_classifier_is_not_warned_of(run, middle):
    assert problems(lambda: run(network(middle()))) == []


def test_log_probabilities_are_logits():
    classifier = network(activation="softmax")
    attack = Still()
    assert problems(lambda: attack(lambda x: tf.math.log(classifier(x)), *samples(), 0.1)) == []


def test_classifier_is_looked_at_once_for_a_shape():
    calls = []

    def classifier(x):
        if tf.executing_eagerly():
            calls.append(x.shape)
        return tf.stack([tf.reduce_sum(x, axis=1), tf.ones_like(x[:, 0])], axis=1) - 2.0

    attack, (x, y) = Still(), samples()
    y = y % 2
    for _ in range(2):
        attack(classifier, x, y, 0.1)
        attack.sweep(classifier, x[:4], y[:4], [0.1, 0.2])
    assert calls == [(10, 4)] * 2
    attack(classifier, x[:, :2], y, 0.1)
    assert calls[2:] == [(10, 2)] * 2


def test_few_samples_of_many_are_looked_at():
    sizes = []

    def classifier(x):
        if tf.executing_eagerly():
            sizes.append(len(x))
        return tf.concat([x, -x], axis=1)

    Still()(classifier, np.full((1000, 1), 0.5), np.zeros(1000, int), 0.1)
    assert max(sizes) < 100


def test_in_a_data_pipeline_nothing_is_looked_at():
    x, y = samples()
    classifier = network(activation="softmax")
    attack = Still()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    moved = []
    found = problems(
        lambda: moved.extend(data.map(lambda x, y: attack(classifier, x, y, 0.1)).take(1))
    )
    assert found == []
    assert moved[0].shape == (5, *x.shape[1:])
