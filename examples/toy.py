"""Trains the paper's toy problem with every method, prints a table and draws the figures.

    python examples/toy.py --out=results/toy
    python examples/toy.py --experiment=all --seeds=0,1,2
    python examples/toy.py --experiment=2 --methods=olsrc,olgrc --seeds=0,1,2

Reference: section 6.1 of "Finding a human-like classifier".
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import dataclasses
import math
import pathlib
import time
from typing import Any

import common
import keras
import numpy as np
import tensorflow as tf
import tqdm
from absl import app, flags, logging

import lexirobust as lr
from lexirobust import plotting

# In one dimension the sphere is two points: two opposite starts see it all.
ATTACK = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
MEASURED = np.arange(0, 33) / 4  # Magnitudes of the accuracy curves.
STEPS = 20  # Full-batch steps that run as one, if their number allows.


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What one of the paper's two experiments trains, and at which magnitudes."""

    title: str
    figure: str  # The paper's picture of its classifiers.
    magnitudes: tuple[float, ...]
    methods: tuple[str, ...]


EXPERIMENTS = {
    "1": Experiment(
        "Experiment 1: magnitude 4",
        "figure10",
        (4.0,),
        ("standard", "adversarial", "trades", "olsrc", "olgrc"),
    ),
    # Adversarial training and TRADES know one magnitude: they have no place here.
    "2": Experiment(
        "Experiment 2: magnitudes 1 to 6",
        "figure12",
        (1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
        ("standard", "olsrc", "olgrc"),
    ),
}
METHODS = {
    "standard": lambda classifier, _: lr.Standard(classifier),
    "adversarial": lambda classifier, d: lr.AdversarialTraining(classifier, ATTACK, d[0]),
    "trades": lambda classifier, d: lr.TRADES(classifier, ATTACK, d[0]),
    "olsrc": lambda classifier, d: lr.OLSRC(classifier, attack=ATTACK, magnitudes=d),
    "olgrc": lambda classifier, d: lr.OLGRC(classifier, attack=ATTACK, magnitudes=d),
}

TITLES = {
    "standard": "standard training",
    "adversarial": "adversarial training",
    "trades": "TRADES",
    "olsrc": "OLSRC",
    "olgrc": "OLGRC",
}

EXPERIMENT = flags.DEFINE_enum("experiment", "1", [*EXPERIMENTS, "all"], "Which experiment.")
METHOD_NAMES = flags.DEFINE_list("methods", list(METHODS), "Methods to train.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the data and the weights.")
EPOCHS = flags.DEFINE_integer("epochs", 1000, "Full-batch steps.", lower_bound=1)
OUT = flags.DEFINE_string("out", "results/toy", "Folder for results.json and the figures.")

flags.register_validator(
    "methods",
    lambda names: bool(names) and set(names) <= set(METHODS),
    message=f"out of {', '.join(METHODS)}",
)
flags.register_validator(
    "seeds",
    lambda seeds: bool(seeds) and all(seed.isdigit() for seed in seeds),
    message="integers of at least 0",
)


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained model with its record."""

    model: lr.LexicographicModel
    history: dict[str, list[float]]
    curves: dict[str, lr.AccuracyCurve]
    result: dict[str, Any]


def network() -> keras.Model:
    """One hidden layer of 256, leaky ReLU 0.2, as in the paper."""
    hidden = keras.layers.Dense(
        256,
        # As wide as the kernel's (Glorot): the kinks of the units lie spread over the inputs. With
        # biases of zero they would all start at 0.
        bias_initializer=keras.initializers.RandomUniform(-0.15, 0.15),
    )
    return keras.Sequential(
        [
            keras.Input((1,)),
            hidden,
            keras.layers.LeakyReLU(negative_slope=0.2),
            keras.layers.Dense(2),
        ]
    )


def full_batches(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    """One batch of everything, again and again: an epoch costs no pipeline of its own."""
    return tf.data.Dataset.from_tensors((x, y)).repeat()


def by_epoch(history: dict[str, list[float]], steps: int) -> dict[str, list[float]]:
    """A mean of several steps stands for each of them; test data were measured after all."""
    return {
        name: values if name.startswith("val_") else np.repeat(values, steps).tolist()
        for name, values in history.items()
    }


def train(name: str, experiment: Experiment, seed: int, epochs: int) -> Run:
    """Trains one method from one seed and measures it on test data."""
    keras.utils.set_random_seed(seed)
    train_data = lr.datasets.toy(100, seed=2 * seed)
    test_data = lr.datasets.toy(100, seed=2 * seed + 1)
    model = METHODS[name](network(), experiment.magnitudes)
    # Steps are so short that what Keras does between them would take most of the time.
    steps = math.gcd(epochs, STEPS)
    model.compile(optimizer=keras.optimizers.SGD(0.015), steps_per_execution=steps)

    times = common.EpochTimes(time.perf_counter)
    start = time.perf_counter()
    with tqdm.tqdm(total=epochs, desc=f"{name}, seed {seed}", unit="epoch", disable=None) as bar:
        history = model.fit(
            full_batches(*train_data),
            steps_per_epoch=steps,
            epochs=epochs // steps,
            shuffle=False,
            verbose=0,
            validation_data=test_data if experiment.figure == "figure10" else None,
            validation_batch_size=len(test_data[0]),
            callbacks=[
                times,
                keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: bar.update(steps)),
            ],
        ).history
    seconds = time.perf_counter() - start

    curves = {
        split: lr.evaluate_robustness(model.classifier, *data, ATTACK, MEASURED, checks=False)
        for split, data in (("train", train_data), ("test", test_data))
    }
    whole = {
        f"{magnitude:g}": float(accuracy)
        for magnitude, accuracy in zip(MEASURED, curves["test"].accuracy, strict=True)
        if magnitude == int(magnitude)
    }
    result = {
        "method": name,
        "seed": seed,
        "epochs": epochs,
        "natural_accuracy": float(curves["test"].accuracy[0]),
        "natural_loss": float(curves["test"].losses[0].mean()),
        "natural_training_loss": float(curves["train"].losses[0].mean()),
        "accuracy": whole,
        "boundaries": lr.datasets.decision_boundaries(model.classifier),
        "seconds": seconds,
        "compilation_seconds": times.ends[0] - start,
    }
    return Run(model, by_epoch(history, steps), curves, result)


def draw(experiment: Experiment, runs: dict[str, Run], out: pathlib.Path) -> None:
    """Draws one experiment's figures, named as in the paper."""
    pictures = {
        experiment.figure: plotting.classifiers_and_curves(
            {TITLES[name]: (run.model.classifier, run.curves) for name, run in runs.items()}
        )
    }
    if experiment.figure == "figure10":
        histories = {TITLES[name]: run.history for name, run in runs.items()}
        # Test data were measured after as many steps as `by_epoch` has repeated.
        every = math.gcd(next(iter(runs.values())).result["epochs"], STEPS)
        pictures["figure9"] = plotting.training_curves(histories, validation_freq=every)
    elif "olgrc" in runs:
        pictures["figure11"] = discriminator_figure(runs["olgrc"])
    for name, figure in pictures.items():
        figure.savefig(out / f"{name}.png", dpi=150)


def discriminator_figure(run: Run) -> Any:
    """What the discriminator holds for unexplored, and where the guided samples went."""
    model = run.model
    assert isinstance(model, lr.OLGRC)
    x, y = lr.datasets.toy(100, seed=2 * run.result["seed"])
    guided = model.guided_attack
    samples = {
        magnitude: (guided(model.classifier, x, y, magnitude).numpy(), y)
        for magnitude in model.magnitudes
    }
    return plotting.discriminator_estimate(
        lambda x, magnitude: np.exp(model.log_unexplored(x, magnitude)), model.magnitudes, samples
    )


def row(result: dict[str, Any]) -> dict[str, str]:
    """One result as a line of the table."""
    magnitudes = [f"{magnitude:g}" for magnitude in result["magnitudes"]]
    return {
        "method": result["method"],
        "seed": str(result["seed"]),
        "natural": f"{result['natural_accuracy']:.2f}",
        f"at {' '.join(magnitudes)}": " ".join(f"{result['accuracy'][d]:.2f}" for d in magnitudes),
        "training loss": f"{result['natural_training_loss']:.4f}",
        "boundaries": " ".join(f"{place:.2f}" for place in result["boundaries"]),
        "seconds": f"{result['seconds']:.0f}",
    }


def summary(results: list[dict[str, Any]]) -> dict[str, str]:
    """All seeds of one method as a line of a table."""
    accuracies = [result["natural_accuracy"] for result in results]
    losses = [result["natural_training_loss"] for result in results]
    alone = [result["boundaries"] for result in results if len(result["boundaries"]) == 1]
    return {
        "method": results[0]["method"],
        "seeds": str(len(results)),
        "natural accuracy": f"{min(accuracies):.2f} to {max(accuracies):.2f}",
        "training loss": f"{min(losses):.1e} to {max(losses):.1e}",
        "one boundary": str(len(alone)),
        "within 0.25 of 0": str(sum(abs(place) <= 0.25 for (place,) in alone)),
    }


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    asked = {
        number: [name for name in experiment.methods if name in METHOD_NAMES.value]
        for number, experiment in EXPERIMENTS.items()
        if EXPERIMENT.value in (number, "all")
    }
    if not any(asked.values()):
        raise app.UsageError(f"No experiment asked for trains {', '.join(METHOD_NAMES.value)}.")
    out = pathlib.Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    plotting.toy_closed_forms().savefig(out / "figures5to8.png", dpi=150)
    results: list[dict[str, Any]] = []
    standard: dict[int, Run] = {}  # By seed: it knows no magnitudes, and is the same in both.
    for number, names in asked.items():
        if not names:
            continue
        experiment = EXPERIMENTS[number]
        finished: list[dict[str, Any]] = []
        for seed in map(int, SEEDS.value):
            runs: dict[str, Run] = {}
            for name in names:
                known = standard.get(seed) if name == "standard" else None
                runs[name] = known or train(name, experiment, seed, EPOCHS.value)
                if name == "standard":
                    standard[seed] = runs[name]
                magnitudes = {"magnitudes": list(experiment.magnitudes)}
                finished.append({"experiment": int(number), **runs[name].result, **magnitudes})
                common.write_results(results + finished, out)
            if seed == int(SEEDS.value[0]):
                draw(experiment, runs, out)
        results += finished
        common.show_table(f"{experiment.title}, test accuracy", [row(r) for r in finished])
        if len(SEEDS.value) > 1:
            by_method = [[r for r in finished if r["method"] == name] for name in names]
            common.show_table(f"{experiment.title}, all seeds", [summary(r) for r in by_method])
    print(f"Results and figures are in {out}.")


if __name__ == "__main__":
    app.run(main)
