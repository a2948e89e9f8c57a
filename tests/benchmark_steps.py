"""Takes a step by every way of training of a benchmark: `python tests/benchmark_steps.py targets`.

On a toy problem, eagerly; of ways that differ by a number alone, by the first.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import keras
import numpy as np
from absl import flags

import lexirobust as lr

ROOT: Final = pathlib.Path(__file__).resolve().parents[1]
# With room for the largest l2 norm of all, 4, between 0 and 1.
SIZE: Final = 20
X: Final = np.random.default_rng(0).uniform(size=(24, SIZE)).astype(np.float32)
Y: Final = np.arange(24) % 3

Step = tuple[str, lr.LexicographicModel, list[Any]]


def network() -> keras.Model:
    layers = [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3, dtype="float32")]
    return keras.Sequential([keras.Input((SIZE,)), *layers])


def weights(model: lr.LexicographicModel) -> np.ndarray:
    return np.concatenate([np.ravel(v) for v in model.trainable_variables])


def families(ways: Iterable[str]) -> list[str]:
    """The first of the ways whose names differ by their numbers alone."""
    first: dict[str, str] = {}
    for way in ways:
        first.setdefault("".join(c for c in way if not c.isdigit() and c != "."), way)
    return [*first.values()]


def steps_of_targets() -> Iterator[Step]:
    import targets

    ways = {**targets.EXPERIMENTS["mnist"].ways, **targets.EXPERIMENTS["label_noise"].ways}
    for way in families(ways):
        attack = lr.attacks.PGD(norm="l2", steps=1)
        model = ways[way](network(), attack, 0.5, lr.WarmStart())
        model.compile(keras.optimizers.Adam(0.01))
        yield way, model, []


def steps_of_mini_batch() -> Iterator[Step]:
    import mini_batch

    flags.FLAGS(["mini_batch"])  # Read as they are by default.
    mini_batch.NETWORKS["small"] = network
    for way in families(mini_batch.WAYS):
        settings = {**mini_batch.common(), "network": "small", "magnitude": 0.5, "way": way}
        yield way, *mini_batch.model_of(settings, X, Y)


def steps_of_mnist_ways() -> Iterator[Step]:
    import mnist_ways

    for way in families(mnist_ways.WAYS):
        model = mnist_ways.WAYS[way](network())
        model.compile(keras.optimizers.Adam(0.01))
        yield way, model, []


STEPS: Final[dict[str, Callable[[], Iterator[Step]]]] = {
    "targets": steps_of_targets,
    "mini_batch": steps_of_mini_batch,
    "mnist_ways": steps_of_mnist_ways,
}


def main(benchmark: str) -> None:
    """Print how far each way moves the weights."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    for way, model, callbacks in STEPS[benchmark]():
        before = weights(model)
        model.run_eagerly = True
        model.fit(X, Y, batch_size=len(X), callbacks=callbacks, verbose=0)
        distance = np.linalg.norm(weights(model) - before)
        print(f"{way}: {distance:.3g}", flush=True)
        if not 0 < distance < np.inf:
            raise RuntimeError(f"{way} has not moved the weights, or not to numbers.")


if __name__ == "__main__":
    main(sys.argv[1])
