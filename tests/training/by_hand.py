"""What the training tests share: small problems, all methods, and one step worked out by hand."""

import os
import pathlib
import subprocess
import sys

import cvxopt
import keras
import numpy as np
import tensorflow as tf

import lexirobust as lr

ROOT = pathlib.Path(__file__).resolve().parents[2]
# In one dimension the sphere is two points, and two opposite starts see both: no randomness.
ATTACK = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
# The same two points, by another name.
OTHER = lr.attacks.PGD(norm="linf", steps=1, restarts=2, bounds=None)
METHODS = {
    "standard": lr.Standard,
    "adversarial": lambda classifier, **options: lr.AdversarialTraining(
        classifier, ATTACK, 4.0, **options
    ),
    "trades": lambda classifier, **options: lr.TRADES(classifier, ATTACK, 4.0, **options),
    "mix": lambda classifier, **options: lr.MixTrain(classifier, ATTACK, 4.0, **options),
    "max": lambda classifier, **options: lr.MultiPerturbationTraining(
        classifier, [ATTACK, OTHER], [1.0, 4.0], "max", **options
    ),
    "avg": lambda classifier, **options: lr.MultiPerturbationTraining(
        classifier, [ATTACK, OTHER], [1.0, 4.0], "avg", **options
    ),
    "olsrc": lambda classifier, **options: lr.OLSRC(classifier, ATTACK, [1.0, 4.0], **options),
    "olgrc": lambda classifier, **options: lr.OLGRC(classifier, ATTACK, [1.0, 4.0], **options),
    "nearest": lambda classifier, **options: lr.OLGRC(
        classifier, ATTACK, [1.0, 4.0], explored="nearest", **options
    ),
}

# Large steps with much memory, so that each of them turns against rank 1 where it is left alone.
OPTIMIZERS = {
    "SGD with momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "SGD with Nesterov's momentum": lambda: keras.optimizers.SGD(0.05, 0.9, nesterov=True),
    "SGD with weight decay": lambda: keras.optimizers.SGD(0.05, weight_decay=0.5),
    "Adam": lambda: keras.optimizers.Adam(0.03),
    "Adam with AMSGrad": lambda: keras.optimizers.Adam(0.03, amsgrad=True),
    "Adam with clipnorm": lambda: keras.optimizers.Adam(0.03, clipnorm=0.01),
    "Adam with global_clipnorm": lambda: keras.optimizers.Adam(0.03, global_clipnorm=0.01),
    "Adam with clipvalue": lambda: keras.optimizers.Adam(0.03, clipvalue=0.001),
    "AdamW": lambda: keras.optimizers.AdamW(0.03, weight_decay=0.5),
    "Nadam": lambda: keras.optimizers.Nadam(0.03),
    "Adamax": lambda: keras.optimizers.Adamax(0.03),
    "RMSprop": lambda: keras.optimizers.RMSprop(0.03),
    "RMSprop, centered, with momentum": lambda: keras.optimizers.RMSprop(
        0.01, momentum=0.9, centered=True
    ),
    "Adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "Adadelta": lambda: keras.optimizers.Adadelta(5.0),
    "Lion": lambda: keras.optimizers.Lion(0.01),
    "Adafactor": lambda: keras.optimizers.Adafactor(0.03),
    "Ftrl": lambda: keras.optimizers.Ftrl(0.1),
    "Lamb": lambda: keras.optimizers.Lamb(0.03),
    "Muon": lambda: keras.optimizers.Muon(0.03),
    "ScheduleFreeAdamW": lambda: keras.optimizers.ScheduleFreeAdamW(0.03),
    "EMA that overwrites the weights": lambda: keras.optimizers.Adam(
        0.03, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3
    ),
    "loss scaling": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.03), initial_scale=2.0**10, dynamic_growth_steps=5
    ),
    "a fixed loss scale": lambda: keras.optimizers.Adam(0.03, loss_scale_factor=64.0),
}
if not hasattr(keras.optimizers, "ScheduleFreeAdamW"):
    del OPTIMIZERS["ScheduleFreeAdamW"]  # It came with Keras 3.14.
if keras.__version__.startswith("3.12."):
    del OPTIMIZERS["Muon"]  # On TensorFlow it fails there, whatever it trains.


def network(*middle, **dense):
    """A small classifier of the toy problem, with further layers in its middle."""
    return keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(8, **dense),
            *middle,
            keras.layers.LeakyReLU(negative_slope=0.2),
            keras.layers.Dense(2),
        ]
    )


def right_network():
    """A classifier that is right on clean data, so that magnitude 4 conflicts with it."""
    classifier = network()
    hidden, last = classifier.layers[0], classifier.layers[-1]
    hidden.kernel.assign(np.linspace(0.2, 1.0, 8)[None])
    last.kernel.assign(np.stack([-np.linspace(0.1, 0.8, 8), np.linspace(0.1, 0.8, 8)], axis=1))
    return classifier


def stochastic_network():
    """With batch normalization, dropout and a penalty."""
    middle = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    return network(*middle, kernel_regularizer=keras.regularizers.L2(0.1))


def tanh_network():
    """A small classifier of five inputs and three classes."""
    keras.utils.set_random_seed(2)
    layers = [keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((5,)), *layers])


def five_inputs():
    """Samples `[40, 5]` for it, and their labels."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(40, 5)).astype(np.float32), rng.integers(3, size=40)


def compiled(model, rate=0.1, optimizer=None, **options):
    """The model, compiled with plain gradient descent unless told otherwise.

    It runs eagerly where it can: a few steps take less time than tracing one. Graphs, XLA and
    replicas are held to the same weights in test_ways_to_run.py and tests/compatibility.py.
    """
    needs_graph = tf.distribute.has_strategy() or {"jit_compile", "steps_per_execution"} & {
        *options
    }
    options = {"run_eagerly": not needs_graph, **options}
    model.compile(optimizer=optimizer or keras.optimizers.SGD(rate), **options)
    return model


def fit(model, x, y, **options):
    """Full-batch training without shuffling; returns the last epoch's logs."""
    options = {"batch_size": len(x), "shuffle": False, "verbose": 0, **options}
    history = model.fit(x, y, **options).history
    return {name: values[-1] for name, values in history.items()}


def weights(model):
    """All trainable weights as one vector."""
    return np.concatenate([np.ravel(v) for v in model.trainable_variables])


def log_softmax(logits):
    """In NumPy."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def cross_entropy(logits, y):
    """Of every sample, in NumPy."""
    return -log_softmax(logits)[np.arange(len(y)), y]


def divergence(logits, others):
    """Kullback-Leibler divergence of every sample, in NumPy."""
    p, q = log_softmax(logits), log_softmax(others)
    return np.sum(np.exp(p) * (p - q), axis=1)


def worst(classifier, x, magnitude, loss):
    """Of the two points at a distance in one dimension, the one with the larger loss."""
    sides = [x - np.float32(magnitude), x + np.float32(magnitude)]
    losses = [loss(classifier(side, training=False)) for side in sides]
    return np.where((losses[0] > losses[1])[:, None], *sides)


def adversarial(classifier, x, y, magnitude):
    """The worst point for the cross entropy."""
    return worst(classifier, x, magnitude, lambda logits: cross_entropy(logits, y))


def loss_at(classifier, x, y, sample_weight=None):
    """The mean cross entropy, as a function to differentiate."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return lambda: loss(y, classifier(x, training=True), sample_weight)


def gradient(classifier, loss):
    """Gradient of `loss()` as one float64 vector, and the loss."""
    with tf.GradientTape() as tape:
        value = loss()
    variables = [v.value for v in classifier.trainable_variables]
    rows = tape.gradient(value, variables, unconnected_gradients="zero")
    return np.concatenate([np.ravel(row).astype(np.float64) for row in rows]), float(value)


def onestep(gradients, alphas):
    """The mix of projected gradients, each projection a quadratic program for cvxopt."""
    mix = alphas[0] * gradients[0]
    for rank in range(1, len(gradients)):
        row = gradients[rank]
        solution = cvxopt.solvers.qp(
            cvxopt.matrix(np.eye(len(row))),
            cvxopt.matrix(-row),
            cvxopt.matrix(-np.stack(gradients[:rank])),
            cvxopt.matrix(np.zeros(rank)),
            options={"show_progress": False, "abstol": 1e-12, "reltol": 1e-12, "feastol": 1e-12},
        )
        mix = mix + alphas[rank] * np.ravel(solution["x"])
    return mix


def cosine(one, two):
    """Of the angle between two vectors."""
    return one @ two / np.linalg.norm(one) / np.linalg.norm(two)


def run_python(*arguments, timeout=1200, cwd=ROOT, **environment):
    """Runs Python in a process of its own that finds this repository."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
