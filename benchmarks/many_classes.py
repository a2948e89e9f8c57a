"""Times attacks that look at the boundary to every class, by the number of classes.

    python benchmarks/many_classes.py

Each attack runs in a process of its own, whose largest memory is kept: the first call, which
traces, and one more. The classifier is the small network of the benchmarks with as many outputs.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import multiprocessing
import pathlib
import resource
import time
from typing import Any

import keras
import shared
import tensorflow as tf
import tqdm
from absl import app, flags

import lexirobust as lr

CLASSES = flags.DEFINE_list("classes", ["10", "100", "1000"], "Numbers of classes.")
SAMPLES = flags.DEFINE_integer("samples", 16, "Images in a batch.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 10, "Steps of each attack.", lower_bound=1)
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
OUT = flags.DEFINE_string("out", "docs/results/many_classes.json", "Where runs are kept.")

ATTACKS = ("PGD", "DeepFool", "DeepFool, all", "FAB", "FAB, all", "AutoAttack")
"""PGD needs one gradient a step, whatever the classes: it is the floor."""


def attack_of(name: str, classes: int, steps: int) -> Any:
    """An attack with the same number of steps; by default they look at the ten likeliest classes.

    "all" in a name: at all of them.
    """
    kind, _, every = name.partition(", ")
    settings: dict[str, Any] = {"norm": "l2", "steps": steps}
    if every:
        settings["candidates"] = classes
    if kind == "AutoAttack":
        settings["max_queries"] = 10 * steps
    return getattr(lr.attacks, kind)(**settings)


def measure(name: str, classes: int, samples: int, steps: int) -> dict[str, float]:
    """Seconds of two calls, and gigabytes, of a process that does nothing else."""
    keras.utils.set_random_seed(0)
    *hidden, _ = shared.small_network().layers
    classifier = keras.Sequential([keras.Input((28, 28, 1)), *hidden, keras.layers.Dense(classes)])
    x = keras.random.uniform((samples, 28, 28, 1), seed=0)
    y = tf.argmax(classifier(x), axis=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    attack = attack_of(name, classes, steps)
    # So small that all samples resist, and every stage has its work.
    magnitude = [] if isinstance(attack, lr.attacks.MinimumNormAttack) else [1e-6]
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        attack(classifier, x, y, *magnitude)
        seconds.append(time.perf_counter() - begun)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "first call": round(seconds[0], 2),
        "next call": round(seconds[1], 2),
        "gigabytes": round(grown / 2**20, 2),
    }


def main(argv: list[str]) -> None:
    del argv
    results = shared.Results(pathlib.Path(OUT.value))
    wanted = [
        {"attack": name, "classes": int(classes), "samples": SAMPLES.value, "steps": STEPS.value}
        for name in ATTACKS
        for classes in CLASSES.value
    ]
    # A process that has run TensorFlow may not fork.
    for settings in tqdm.tqdm([*filter(results.is_due, wanted)], "attacks", disable=None):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            name, *others = settings.values()
            results.add({**settings, **pool.apply(measure, (name, *others))})
    known = [run for run in map(results.get, wanted) if run is not None]
    rows = [["attack", "classes", "first call, s", "next call, s", "memory, GB"]]
    for run in known:
        times = [f"{run[name]:.1f}" for name in ("first call", "next call")]
        rows.append([run["attack"], str(run["classes"]), *times, f"{run['gigabytes']:.2f}"])
    shared.show("by the number of classes", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, "many classes", rows)


if __name__ == "__main__":
    app.run(main)
