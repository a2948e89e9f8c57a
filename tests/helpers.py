"""What several test files share."""

import functools
import os
import pathlib

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import strategies as st


def data_folder(name: str) -> pathlib.Path | None:
    """Where TensorFlow Datasets has prepared a data set, if it has."""
    root = pathlib.Path(__file__).parents[1]
    folders = [root.parent / "shared" / "tfds", pathlib.Path.home() / "tensorflow_datasets"]
    if "TFDS_DATA_DIR" in os.environ:
        folders.insert(0, pathlib.Path(os.environ["TFDS_DATA_DIR"]))
    return next((folder for folder in folders if (folder / name / "3.0.1").is_dir()), None)


@functools.cache
def mirrored_strategy():
    """Two replicas on the one CPU; one strategy for all, as two would share TensorFlow's keys."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def points_of(count, dimensions, seed=0):
    """`[count, dimensions]` points around 0."""
    return np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)


def rows_of(rng, ranks, size, decades=0.0):
    """`[ranks, size]` random rows whose norms spread over so many powers of ten."""
    rows = rng.normal(size=(ranks, size))
    norms = 10.0 ** rng.uniform(-decades / 2, decades / 2, size=(ranks, 1))
    return norms * rows / np.linalg.norm(rows, axis=1, keepdims=True)


@st.composite
def ranked_gradients(draw, max_ranks=8, least_sine=1e-12):
    """`[T, p]` gradients: conflicts, norms far apart, zero, parallel and nearly dependent rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ranks, size = draw(st.integers(1, max_ranks)), draw(st.integers(1, 12))
    rows = rows_of(rng, ranks, size, decades=9)
    # Little by little against a common direction: the more, the more conflicts.
    rows[1:] -= draw(st.sampled_from([0.0, 1.0, 30.0])) * np.outer(
        np.linalg.norm(rows[1:], axis=1), rows[0] / np.linalg.norm(rows[0])
    )
    for rank in range(1, ranks):
        other = rows[rng.integers(rank)]
        scale = np.linalg.norm(rows[rank])
        other = scale * other / max(np.linalg.norm(other), 1e-300)
        kind = draw(st.sampled_from(["free", "free", "zero", "same", "opposite", "nearly"]))
        if kind == "zero":
            rows[rank] = 0
        elif kind == "same":
            rows[rank] = other
        elif kind == "opposite":
            rows[rank] = -other
        elif kind == "nearly":
            tilt = 10.0 ** rng.uniform(np.log10(least_sine), -1)
            rows[rank] = rng.choice([-1, 1]) * other + tilt * rows[rank]
    return rows * 10.0 ** draw(st.sampled_from([-12, -3, 0, 12]))


def store_mnist(folder, name="mnist", **splits):
    """Writes rows of "image" and "label" to disk under a data set's name, in their order."""
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="3.0.1",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        ),
        split_datasets={
            name: tf.data.Dataset.from_tensor_slices(rows) for name, rows in splits.items()
        },
        data_dir=folder,
        disable_shuffling=True,
    )
