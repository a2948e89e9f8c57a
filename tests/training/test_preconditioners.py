"""The metric must be what the Keras optimizer multiplies the next gradient by."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from lexirobust.training.step.preconditioners import preconditioner

# Without momentum a step is minus the preconditioned gradient, up to a common factor.
PLAIN = {
    "Adam": lambda **clip: keras.optimizers.Adam(0.01, beta_1=0.0, **clip),
    "Adam, large epsilon": lambda **clip: keras.optimizers.Adam(
        0.01, beta_1=0.0, epsilon=0.5, **clip
    ),
    "AMSGrad": lambda **clip: keras.optimizers.Adam(0.01, beta_1=0.0, amsgrad=True, **clip),
    "AdamW": lambda **clip: keras.optimizers.AdamW(0.01, weight_decay=0.0, beta_1=0.0, **clip),
    "Nadam": lambda **clip: keras.optimizers.Nadam(0.01, beta_1=0.0, epsilon=0.5, **clip),
    "Adamax": lambda **clip: keras.optimizers.Adamax(0.01, beta_1=0.0, **clip),
    "RMSprop": lambda **clip: keras.optimizers.RMSprop(0.01, **clip),
    "RMSprop, centered": lambda **clip: keras.optimizers.RMSprop(0.01, centered=True, **clip),
    "Adagrad": lambda **clip: keras.optimizers.Adagrad(0.01, **clip),
    "Adadelta": lambda **clip: keras.optimizers.Adadelta(0.01, **clip),
}
CLIPS = [{}, {"clipnorm": 0.5}, {"global_clipnorm": 0.5}, {"clipvalue": 0.3}]


def gradients(seed):
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.normal(size=shape), tf.float32) for shape in [(3, 2), (4,)]]


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("name", PLAIN)
def test_metric_is_the_preconditioner_of_the_very_next_step(name, clip):
    optimizer = PLAIN[name](**clip)
    variables = [keras.Variable(tf.zeros_like(g)) for g in gradients(0)]
    optimizer.build(variables)
    for seed in range(4):
        gradient = gradients(seed)
        expected = [
            -np.asarray(diagonal * g)
            for diagonal, g in zip(
                preconditioner(optimizer)(gradient),
                optimizer._clip_gradients(gradient),
                strict=True,
            )
        ]
        before = [variable.numpy() for variable in variables]
        optimizer.apply(gradient, variables)
        steps = [variable.numpy() - old for variable, old in zip(variables, before, strict=True)]
        expected, steps = (np.concatenate([np.ravel(v) for v in s]) for s in (expected, steps))
        np.testing.assert_allclose(
            steps / np.linalg.norm(steps), expected / np.linalg.norm(expected), atol=2e-5
        )


@pytest.mark.parametrize("name", ["SGD", "Lion", "Adafactor", "Lamb"])
def test_optimizers_without_a_known_diagonal_are_euclidean(name):
    assert preconditioner(getattr(keras.optimizers, name)()) is None


def test_a_users_optimizer_can_be_made_known():
    class Scaled(keras.optimizers.SGD):
        pass

    @preconditioner.register(Scaled)
    def _scaled(optimizer):
        return lambda gradient: [2.0 * tf.ones_like(g) for g in gradient]

    (diagonal,) = preconditioner(Scaled())([tf.ones(3)])
    assert diagonal.numpy().tolist() == [2, 2, 2]
    assert preconditioner(keras.optimizers.SGD()) is None


def test_a_variable_without_a_gradient_takes_no_part():
    variables = [keras.Variable(tf.zeros(2)), keras.Variable(tf.zeros(3))]
    optimizer = keras.optimizers.Adam(clipnorm=1.0)
    optimizer.build(variables)
    metric = preconditioner(optimizer)([tf.ones(2), None])
    assert metric[0].shape == (2,)
    assert np.all(np.isfinite(metric[1]))
