"""AutoAttack beside its reference in torch and beside ART's, on the same weights and images.

    python benchmarks/autoattack.py --python=/path/to/an/environment/with/torch/bin/python
    python benchmarks/autoattack.py --parts=ours

One thread each. `reference` runs benchmarks/autoattack_reference.py in the environment that
--python names; its results are committed, so that nothing else needs torch. A run that was finished
is not made again.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import dataclasses
import json
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import shared
import tensorflow as tf
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.attacks.staged_run import RESISTS

PARTS = ("ours", "reference", "art")
CHOSEN = flags.DEFINE_list("parts", list(PARTS), f"What to run, out of {', '.join(PARTS)}.")
NETWORKS = flags.DEFINE_list("networks", [], "Numbers of networks, from 0; by default, all.")
SAMPLES = flags.DEFINE_integer("samples", 500, "Test images.", 1)
PYTHON = flags.DEFINE_string("python", None, "Interpreter that has torch and torchattacks.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps the images.")
WEIGHTS = flags.DEFINE_string("weights", "results/autoattack", "Where trained weights are kept.")
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
OUT = flags.DEFINE_string("out", "docs/results/autoattack.json", "Where runs are kept.")

TRAINED_ON, BATCH, RATE = 12_000, 128, 0.002


@dataclasses.dataclass(frozen=True)
class Setting:
    """A trained network, and what it is attacked with.

    Attributes:
        data: The data set.
        norm: Norm of the attack.
        magnitude: Its magnitude.
        trained_at: Magnitude of adversarial training in that norm; 0: plain training.
        paper: Whether it is the paper's network, and not the small one.
    """

    data: str
    norm: str
    magnitude: float
    trained_at: float
    paper: bool = False

    def network(self) -> keras.Model:
        return shared.paper_network() if self.paper else shared.small_network()


SETTINGS = {
    "MNIST, small, plain, l2 1": Setting("mnist", "l2", 1.0, 0.0),
    "MNIST, small, l2 2": Setting("mnist", "l2", 2.0, 2.0),
    "MNIST, small, linf 0.3": Setting("mnist", "linf", 0.3, 0.3),
    "MNIST, paper's, plain, linf 0.1": Setting("mnist", "linf", 0.1, 0.0, paper=True),
    "Fashion-MNIST, small, l2 1": Setting("fashion_mnist", "l2", 1.0, 1.0),
}


def load(setting: Setting, split: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(lr.datasets, setting.data)(split, data_dir=DATA_DIR.value)


def trained(name: str, setting: Setting) -> keras.Model:
    """Trains a network, unless that was done."""
    epochs = 8 if setting.trained_at else 3
    settings = f"{TRAINED_ON} samples, {epochs} epochs, batch {BATCH}, rate {RATE}"
    file = pathlib.Path(WEIGHTS.value, settings, f"{name}.weights.h5")
    keras.utils.set_random_seed(0)
    network = setting.network()
    if file.exists():
        network.load_weights(file)
        return network
    attack = lr.attacks.PGD(setting.norm, steps=3)
    model = (
        lr.AdversarialTraining(
            network, attack, setting.trained_at, alpha=0.2, warm_start=lr.WarmStart()
        )
        if setting.trained_at
        else lr.Standard(network)
    )
    x, y = load(setting, f"train[:{TRAINED_ON}]")
    rate = keras.optimizers.schedules.CosineDecay(RATE, epochs * -(-len(x) // BATCH))
    model.compile(keras.optimizers.Adam(rate))
    model.fit(x, y, batch_size=BATCH, epochs=epochs)
    file.parent.mkdir(parents=True, exist_ok=True)
    network.save_weights(file)
    return network


class Counted:
    """A classifier that counts the samples it has seen."""

    def __init__(self, network: keras.Model) -> None:
        self.network = network
        self.seen = tf.Variable(0, dtype=tf.int64)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        self.seen.assign_add(tf.shape(x, out_type=tf.int64)[0])
        return self.network(x, training=False)


def ours(network: keras.Model, setting: Setting, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """This package's, after a first call that traces it."""
    classifier = Counted(network)
    attack = lr.attacks.AutoAttack(setting.norm, seed=0)
    begun = time.perf_counter()
    attack.search(classifier, x[:2], y[:2], [1e-3])
    first = time.perf_counter() - begun
    classifier.seen.assign(0)
    begun = time.perf_counter()
    found = attack.search(classifier, x, y, [setting.magnitude])
    seconds = time.perf_counter() - begun
    resists = (found.found_by[0] == RESISTS).astype(int)
    broken = np.bincount(found.found_by[0][found.found_by[0] >= 0], minlength=5).tolist()
    return {
        "resists": "".join(map(str, resists)),
        "seconds": round(seconds, 1),
        "first_call": round(first, 1),
        "passes": int(classifier.seen),
        "broken_by": broken,
    }


def reference(
    network: keras.Model, setting: Setting, x: np.ndarray, y: np.ndarray
) -> dict[str, Any]:
    """The reference, in a process of its own."""
    if PYTHON.value is None:
        raise app.UsageError("--python must name an interpreter that has torch and torchattacks.")
    with tempfile.TemporaryDirectory() as folder:
        inputs, result = pathlib.Path(folder, "network.npz"), pathlib.Path(folder, "result.json")
        weights = {f"weight_{i}": each for i, each in enumerate(network.get_weights())}
        logits = network.predict(x, verbose=0)
        np.savez(
            inputs,
            x=x,
            y=y,
            logits=logits,
            norm=setting.norm,
            magnitude=setting.magnitude,
            strided=not setting.paper,
            **weights,
        )
        script = pathlib.Path(__file__).with_name("autoattack_reference.py")
        subprocess.run([PYTHON.value, script, inputs, result], check=True)
        return json.loads(result.read_text(encoding="utf-8"))


def art(network: keras.Model, setting: Setting, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """ART's, with its own settings."""
    from art.attacks.evasion import AutoAttack
    from art.estimators.classification import TensorFlowV2Classifier

    classifier = Counted(network)
    estimator = TensorFlowV2Classifier(
        model=classifier,
        nb_classes=10,
        input_shape=x.shape[1:],
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )
    order = {"linf": np.inf, "l2": 2}[setting.norm]
    attack = AutoAttack(estimator, order, setting.magnitude, setting.magnitude / 3, batch_size=500)
    begun = time.perf_counter()
    x_adv = attack.generate(x, y)
    seconds = time.perf_counter() - begun
    passes = int(classifier.seen)
    resists = (network.predict(x_adv, verbose=0).argmax(axis=1) == y).astype(int)
    return {
        "resists": "".join(map(str, resists)),
        "seconds": round(seconds, 1),
        "passes": passes,
    }


RUN: dict[str, Callable[..., dict[str, Any]]] = {"ours": ours, "reference": reference, "art": art}


def table(runs: list[dict[str, Any]]) -> list[list[str]]:
    """One row a network and an AutoAttack."""
    rows = [
        ["network", "AutoAttack", "robust accuracy, %", "broken by it alone", "passes", "seconds"]
    ]
    for name in SETTINGS:
        own = {run["part"]: run for run in runs if run["network"] == name}
        bits = {part: np.array([*run["resists"]]) == "1" for part, run in own.items()}
        for part, run in own.items():
            others = [bits[each] for each in bits if each != part]
            alone = np.sum(~bits[part] & np.all(others, axis=0)) if others else 0
            seconds = f"{run['seconds']:.0f}"
            if "first_call" in run:
                seconds += f", first call {run['first_call']:.0f}"
            robust = f"{100 * np.mean(bits[part]):.1f}"
            rows.append([name, part, robust, str(alone), f"{run['passes']:,}", seconds])
    return rows


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    if unknown := set(CHOSEN.value) - set(PARTS):
        raise app.UsageError(f"No parts: {sorted(unknown)}.")
    results = shared.Results(pathlib.Path(OUT.value))
    for number, (name, setting) in enumerate(SETTINGS.items()):
        if NETWORKS.value and str(number) not in NETWORKS.value:
            continue
        for part in CHOSEN.value:
            settings = {"part": part, "network": name, "samples": SAMPLES.value}
            if results.is_due(settings):
                x, y = load(setting, f"test[:{SAMPLES.value}]")
                network = trained(name, setting)
                results.add({**settings, **RUN[part](network, setting, x, y)})
                print(results.runs[-1])
    rows = table(results.runs)
    shared.show("AutoAttack", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, "autoattack", rows)


if __name__ == "__main__":
    app.run(main)
