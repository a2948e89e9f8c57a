"""Ways to train the small network on MNIST, which several benchmarks ask questions of."""

import functools
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import shared
import tensorflow as tf
import tqdm.keras
from absl import flags

import lexirobust as lr

WEIGHTS = flags.DEFINE_string("weights", "results/mnist_ways", "Where trained weights are kept.")

SAMPLES, BATCH, EPOCHS, RATE = 12_000, 256, 15, 0.002

Make = Callable[[keras.Model], lr.LexicographicModel]


def pgd(norm: str) -> lr.attacks.PGD:
    return lr.attacks.PGD(norm=norm, steps=3, bounds=(0.0, 1.0))


def adversarial(norm: str, magnitude: float) -> Make:
    return lambda c: lr.AdversarialTraining(c, pgd(norm), magnitude, warm_start=lr.WarmStart())


def trades(norm: str, magnitude: float) -> Make:
    return lambda c: lr.TRADES(c, pgd(norm), magnitude, beta=6.0, warm_start=lr.WarmStart())


def ranked(norm: str, *magnitudes: float) -> Make:
    return lambda c: lr.OLSRC(
        c, pgd(norm), magnitudes, warm_start=lr.WarmStart(), memory=lr.RunningMean()
    )


def genuine(explored: str, norm: str, *magnitudes: float) -> Make:
    return lambda c: lr.OLGRC(
        c,
        pgd(norm),
        magnitudes,
        explored=explored,
        warm_start=lr.WarmStart(),
        memory=lr.RunningMean(),
    )


WAYS: dict[str, Make] = {
    "plain": lr.Standard,
    "adversarial training at linf 0.3": adversarial("linf", 0.3),
    "adversarial training at linf 0.4": adversarial("linf", 0.4),
    "TRADES 6 at linf 0.3": trades("linf", 0.3),
    "OLSRC at linf 0.3": ranked("linf", 0.3),
    "OLSRC at linf 0.4": ranked("linf", 0.4),
    "adversarial training at l2 2": adversarial("l2", 2.0),
    "TRADES 6 at l2 2": trades("l2", 2.0),
    "OLSRC at l2 2": ranked("l2", 2.0),
    "OLSRC at l2 2 and 4": ranked("l2", 2.0, 4.0),
    "OLGRC (discriminator) at l2 2 and 4": genuine("discriminator", "l2", 2.0, 4.0),
    "OLGRC (nearest) at l2 2 and 4": genuine("nearest", "l2", 2.0, 4.0),
}


def training_data(data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """What all are trained on: `[12000, 28, 28, 1]` images from 0 to 1, and their labels."""
    return lr.datasets.mnist(f"train[:{SAMPLES}]", data_dir=data_dir)


def trained(way: str, seed: int, x: np.ndarray, y: np.ndarray) -> keras.Model:
    """The classifier of a way and a seed: trained, or as it was kept.

    Args:
        way: One of `WAYS`.
        seed: Of weights, order and perturbations.
        x: `[N, 28, 28, 1]` images from 0 to 1.
        y: `[N]` labels.
    """
    keras.utils.set_random_seed(seed)
    classifier = shared.small_network()
    settings = f"{SAMPLES} samples, {EPOCHS} epochs, batch {BATCH}, rate {RATE}"
    kept = pathlib.Path(WEIGHTS.value, settings, f"{way}, {seed}.weights.h5")
    model = WAYS[way](classifier)
    steps = EPOCHS * -(-len(x) // BATCH)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)))
    bar = tqdm.keras.TqdmCallback(verbose=0, desc=f"{way}, seed {seed}")
    fit = functools.partial(
        model.fit, x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[bar]
    )
    return shared.train_once(classifier, kept, fit)


def classes_of(classifier: Callable[[tf.Tensor], tf.Tensor], x: np.ndarray) -> np.ndarray:
    """`[N]` the classes that a classifier says."""
    parts = [classifier(tf.constant(x[i : i + 1000])) for i in range(0, len(x), 1000)]
    return np.concatenate(parts).argmax(axis=1)


class NearestNeighbor(tf.Module):
    """Logits by the distance to the nearest sample of each class, in l2; it can be attacked.

    Args:
        x: `[N, ...]` samples.
        y: `[N]` their classes.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        order = np.argsort(y, kind="stable")
        self.points = tf.constant(x.reshape(len(x), -1)[order])
        self.counts = np.bincount(y)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        """Maps `[N, ...]` inputs to `[N, classes]` logits."""
        flat = tf.reshape(x, [tf.shape(x)[0], -1])
        products = tf.linalg.matmul(flat, self.points, transpose_b=True)
        squares = tf.reduce_sum(tf.square(self.points), axis=1) - 2 * products
        by_class = tf.split(squares, self.counts, axis=1)
        return -tf.stack([tf.reduce_min(each, axis=1) for each in by_class], axis=1)
