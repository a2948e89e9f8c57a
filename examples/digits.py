"""Ranks a loss above its regularization on scikit-learn's digits, against the usual weighted sum.

    python examples/digits.py --out=results/digits
    python examples/digits.py --methods=weighted,ranked --coefficients=3e-4,1e-3 --epochs=3000

Reference: section 4.2 of "Finding a human-like classifier".
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import pathlib
import time
from typing import Any

import common
import keras
import numpy as np
import tensorflow as tf
import tqdm
from absl import app, flags, logging
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import lexirobust as lr
from lexirobust import plotting

SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the weights.")
COEFFICIENTS = flags.DEFINE_list(
    "coefficients", ["1e-4", "1e-3", "1e-2"], "The regularization's factors, above 0, ascending."
)
METHOD_NAMES = flags.DEFINE_list("methods", ["none", "weighted", "ranked", "per-rank"], "Methods.")
EPOCHS = flags.DEFINE_integer("epochs", 1000, "Full-batch steps.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Adam's learning rate.", 0.0)
SAMPLES = flags.DEFINE_integer("samples", 200, "Training images; all others test.", 10, 1700)
OUT = flags.DEFINE_string("out", "results/digits", "Folder for results.json and digits.png.")

COLORS = {"none": "gray", "weighted": plotting.RED, "ranked": plotting.BLUE, "per-rank": "#2a9d8f"}
MARKERS = {"none": "s", "weighted": "o", "ranked": "^", "per-rank": "v"}
METHODS = {
    # The factor of the regularization is 0: the main loss alone.
    "none": lambda classifier: lr.Standard(classifier),
    # As Keras does it: what regularizers give is added to the loss.
    "weighted": lambda classifier: lr.Standard(classifier),
    "ranked": lambda classifier: ranked(classifier, "onestep"),
    "per-rank": lambda classifier: ranked(classifier, "per_rank"),
}


flags.register_validator(
    "coefficients",
    lambda values: bool(values) and all(common.is_positive(value) for value in values),
    message="numbers above 0",
)
flags.register_validator(
    "methods",
    lambda names: bool(names) and set(names) <= set(METHODS),
    message=f"out of {', '.join(METHODS)}",
)
flags.register_validator(
    "seeds",
    common.are_seeds,
    message="integers of at least 0",
)

Data = tuple[np.ndarray, np.ndarray]
Results = list[dict[str, Any]]


def split(samples: int) -> tuple[Data, Data]:
    """The same training images in every run, `[N, 64]` in [0, 1], and all others for testing."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int32)
    return (x[:samples], y[:samples]), (x[samples:], y[samples:])


def network(coefficient: float) -> keras.Model:
    """One hidden layer; its regularization is the coefficient times the sum of squared weights."""
    squared = keras.regularizers.L2(coefficient)
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu", kernel_regularizer=squared),
            keras.layers.Dense(10, kernel_regularizer=squared),
        ]
    )


def ranked(classifier: keras.Model, update: str) -> lr.LexicographicModel:
    """The main loss first, the regularization below it."""
    ranks = [lr.objectives.Natural(), lr.objectives.Regularization()]
    return lr.LexicographicModel(classifier, ranks, update=update)


def train(method: str, coefficient: float, seed: int, data: tuple[Data, Data]) -> dict[str, Any]:
    """Trains one method from one seed and measures it."""
    keras.utils.set_random_seed(seed)
    model = METHODS[method](network(coefficient))
    # One batch of everything, again and again, as one epoch of Keras: no cost between the steps.
    batches = tf.data.Dataset.from_tensors(data[0]).repeat()
    optimizer = keras.optimizers.Adam(LEARNING_RATE.value)
    model.compile(optimizer=optimizer, steps_per_execution=EPOCHS.value)
    start = time.perf_counter()
    model.fit(batches, steps_per_epoch=EPOCHS.value, shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    on_train, on_test = (
        model.evaluate(*part, batch_size=len(part[0]), return_dict=True, verbose=0) for part in data
    )
    kernels = [layer.kernel for layer in model.classifier.layers]
    return {
        "method": method,
        "coefficient": coefficient,
        "seed": seed,
        "samples": SAMPLES.value,
        "epochs": EPOCHS.value,
        "natural_training_loss": on_train["loss@natural"],
        "squared_weights": float(sum(np.sum(np.square(kernel)) for kernel in kernels)),
        "natural_loss": on_test["loss@natural"],
        "natural_accuracy": on_test["accuracy@natural"],
        "seconds": seconds,
    }


def grouped(results: Results) -> dict[tuple[str, float], Results]:
    """All seeds of the same method and coefficient side by side."""
    groups: dict[tuple[str, float], Results] = {}
    for result in results:
        groups.setdefault((result["method"], result["coefficient"]), []).append(result)
    return groups


def row(seeds: Results) -> dict[str, str]:
    """All seeds of one method as a line of the table: means, and the range where there are many."""

    def shown(field: str, digits: str) -> str:
        values = [result[field] for result in seeds]
        mean = f"{np.mean(values):{digits}}"
        spread = f" ({min(values):{digits}} to {max(values):{digits}})"
        return mean + spread * (len(values) > 1)

    coefficient = seeds[0]["coefficient"]
    return {
        "method": seeds[0]["method"],
        "coefficient": f"{coefficient:g}" if coefficient else "",
        "training loss": shown("natural_training_loss", ".4f"),
        "squared weights": shown("squared_weights", ".0f"),
        "test accuracy": shown("natural_accuracy", ".3f"),
    }


def frontier(results: Results) -> Figure:
    """Draws the main loss against the regularization, a line over coefficients for each method."""
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    axes = figure.subplots()
    groups = grouped(results)
    for method in dict.fromkeys(name for name, _ in groups):
        own = {c: seeds for (name, c), seeds in groups.items() if name == method}
        style: dict[str, Any] = {"color": COLORS[method], "marker": MARKERS[method]}
        for seeds in own.values():
            places = [(r["squared_weights"], r["natural_training_loss"]) for r in seeds]
            squared, losses = zip(*places, strict=True)
            axes.plot(squared, losses, linestyle="", markersize=4, alpha=0.4, **style)
        means = [
            [np.mean([r[field] for r in seeds]) for seeds in own.values()]
            for field in ("squared_weights", "natural_training_loss")
        ]
        axes.plot(means[0], means[1], label=method, **style)
        if method == "weighted":
            for coefficient, x, y in zip(own, *means, strict=True):
                axes.annotate(f"{coefficient:g}", (x, y), (6, 4), textcoords="offset points")
    axes.set(xlabel="sum of squared weights", ylabel="training loss", yscale="log")
    axes.grid(alpha=0.25)
    axes.legend()
    return figure


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # Each run traces one graph: no cause for warnings.
    out = pathlib.Path(OUT.value)
    data = split(SAMPLES.value)
    runs = [
        (method, coefficient, int(seed))
        for method in METHOD_NAMES.value
        for coefficient in ([0.0] if method == "none" else map(float, COEFFICIENTS.value))
        for seed in SEEDS.value
    ]
    results: Results = []
    for method, coefficient, seed in tqdm.tqdm(runs, unit="run", disable=None):
        results.append(train(method, coefficient, seed, data))
        common.write_results(results, out)
    frontier(results).savefig(out / "digits.png", dpi=120)
    title = (
        f"Digits, {SAMPLES.value} training images, {EPOCHS.value} steps, mean (range) over seeds"
    )
    common.show_table(title, [row(seeds) for seeds in grouped(results).values()])
    print(f"results.json and digits.png are in {out}.")


if __name__ == "__main__":
    app.run(main)
