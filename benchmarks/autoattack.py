"""AutoAttack beside its reference in torch and beside ART's, on the same weights and images.

    python benchmarks/autoattack.py --python=/path/to/an/environment/with/torch/bin/python
    python benchmarks/autoattack.py --parts=ours --networks=2 --seeds=0,1,2
    python benchmarks/autoattack.py --parts=curve,apart --networks=2

One thread each, unless TF_NUM_INTRAOP_THREADS says otherwise. `reference` runs
benchmarks/autoattack_reference.py in the environment that --python names; its results are
committed, so that nothing else needs torch. `art` needs adversarial-robustness-toolbox 1.20.1 and
multiprocess on the path. `exhaustive` is ours with nothing left out, `curve` ours at eight
magnitudes in one search, `apart` in eight. A run that was finished is not made again.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import dataclasses
import itertools
import json
import pathlib
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import shared
import tensorflow as tf
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.attacks.staged_run import RESISTS

PARTS = ("ours", "reference", "art", "exhaustive", "curve", "apart")
CHOSEN = flags.DEFINE_list("parts", ["ours", "reference"], f"What to run, of {', '.join(PARTS)}.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the attacks; ART's has none.")
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
        weights_of: The setting whose weights it has, if not its own.
    """

    data: str
    norm: str
    magnitude: float
    trained_at: float
    paper: bool = False
    weights_of: str = ""

    def network(self) -> keras.Model:
        return shared.paper_network() if self.paper else shared.small_network()


SETTINGS = {
    "MNIST, small, plain, l2 1": Setting("mnist", "l2", 1.0, 0.0),
    "MNIST, small, l2 2": Setting("mnist", "l2", 2.0, 2.0),
    "MNIST, small, linf 0.3": Setting("mnist", "linf", 0.3, 0.3),
    "Fashion-MNIST, small, l2 1": Setting("fashion_mnist", "l2", 1.0, 1.0),
    "MNIST, paper's, plain, linf 0.1": Setting("mnist", "linf", 0.1, 0.0, paper=True),
    "MNIST, paper's, linf 0.3": Setting("mnist", "linf", 0.3, 0.3, paper=True),
    "MNIST, paper's, l2 2": Setting("mnist", "l2", 2.0, 2.0, paper=True),
    "MNIST, small, linf 0.3, l1 5": Setting(
        "mnist", "l1", 5.0, 0.0, weights_of="MNIST, small, linf 0.3"
    ),
    "MNIST, small, linf 0.3, l1 8": Setting(
        "mnist", "l1", 8.0, 0.0, weights_of="MNIST, small, linf 0.3"
    ),
}


def load(setting: Setting, split: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(lr.datasets, setting.data)(split, data_dir=DATA_DIR.value)


def trained(name: str, setting: Setting) -> keras.Model:
    """Trains a network, unless that was done."""
    if setting.weights_of:
        return trained(setting.weights_of, SETTINGS[setting.weights_of])
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

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        self.seen.assign_add(tf.shape(x, out_type=tf.int64)[0])
        return self.network(x, training=training)


@dataclasses.dataclass(frozen=True)
class Case:
    """What all parts attack.

    Attributes:
        network: The classifier.
        setting: How it was trained, and norm and magnitude of the attack.
        x: Test images.
        y: Their labels.
        seed: The attack's.
    """

    network: keras.Model
    setting: Setting
    x: np.ndarray
    y: np.ndarray
    seed: int

    def right(self, x_adv: Any) -> str:
        """One digit an image: 1 where it is classified as it should be."""
        found = self.network.predict(x_adv, batch_size=500, verbose=0).argmax(axis=1)
        return "".join(map(str, (found == self.y).astype(int)))


def search(case: Case, magnitudes: list[float], exhaustive: bool = False) -> dict[str, Any]:
    """This package's, after a first call that traces it; what resists the last magnitude."""
    classifier = Counted(case.network)
    attack = lr.attacks.AutoAttack(case.setting.norm, seed=case.seed, exhaustive=exhaustive)
    begun = time.perf_counter()
    attack.search(classifier, case.x[:2], case.y[:2], [1e-3])
    first = time.perf_counter() - begun
    classifier.seen.assign(0)
    begun = time.perf_counter()
    found = attack.search(classifier, case.x, case.y, magnitudes)
    seconds = time.perf_counter() - begun
    broken_by = found.found_by[-1]
    return {
        "resists": case.right(found.x_adv[-1]),
        "seconds": round(seconds, 1),
        "first_call": round(first, 1),
        "passes": int(classifier.seen),
        "broken_by": np.bincount(broken_by[broken_by >= 0], minlength=5).tolist(),
        "accuracy": np.mean(found.found_by == RESISTS, axis=1).tolist(),
    }


def ours(case: Case) -> dict[str, Any]:
    """This package's AutoAttack."""
    return search(case, [case.setting.magnitude])


def exhaustive(case: Case) -> dict[str, Any]:
    """The same, with nothing left out."""
    return search(case, [case.setting.magnitude], exhaustive=True)


def eight(setting: Setting) -> list[float]:
    """Magnitudes, the setting's own the fifth."""
    return [setting.magnitude * number / 5 for number in range(1, 9)]


def curve(case: Case) -> dict[str, Any]:
    """Eight magnitudes in one search."""
    magnitudes = eight(case.setting)
    return {"magnitudes": magnitudes, **search(case, magnitudes)}


def apart(case: Case) -> dict[str, Any]:
    """Eight magnitudes, one search each."""
    magnitudes = eight(case.setting)
    runs = [search(case, [magnitude]) for magnitude in magnitudes]
    return {
        "magnitudes": magnitudes,
        "resists": runs[-1]["resists"],
        "passes": sum(run["passes"] for run in runs),
        "seconds": round(sum(run["seconds"] for run in runs), 1),
        "accuracy": [run["accuracy"][0] for run in runs],
    }


def reference(case: Case) -> dict[str, Any]:
    """The reference, in a process of its own."""
    if PYTHON.value is None:
        raise app.UsageError("--python must name an interpreter that has torch and torchattacks.")
    with tempfile.TemporaryDirectory() as folder:
        inputs, result = pathlib.Path(folder, "network.npz"), pathlib.Path(folder, "result.json")
        weights = {f"weight_{i}": each for i, each in enumerate(case.network.get_weights())}
        np.savez(
            inputs,
            x=case.x,
            y=case.y,
            logits=case.network.predict(case.x, verbose=0),
            norm=case.setting.norm,
            magnitude=case.setting.magnitude,
            strided=not case.setting.paper,
            seed=case.seed,
            **weights,
        )
        script = pathlib.Path(__file__).with_name("autoattack_reference.py")
        subprocess.run([PYTHON.value, script, inputs, result], check=True)
        return json.loads(result.read_text(encoding="utf-8"))


def art(case: Case) -> dict[str, Any]:
    """ART's, with its own settings."""
    from art.attacks.evasion import AutoAttack
    from art.estimators.classification import TensorFlowV2Classifier

    classifier = Counted(case.network)
    estimator = TensorFlowV2Classifier(
        model=classifier,
        nb_classes=10,
        input_shape=case.x.shape[1:],
        loss_object=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        clip_values=(0.0, 1.0),
    )
    order = {"linf": np.inf, "l2": 2}[case.setting.norm]
    magnitude = case.setting.magnitude
    attack = AutoAttack(estimator, order, magnitude, magnitude / 3, batch_size=len(case.x))
    begun = time.perf_counter()
    x_adv = attack.generate(case.x, case.y)
    seconds = time.perf_counter() - begun
    lengths = lr.attacks.PGD(case.setting.norm).measure(tf.constant(x_adv - case.x)).numpy()
    too_far = lengths > magnitude * (1 + 1e-4)
    x_adv[too_far] = case.x[too_far]
    return {
        "resists": case.right(x_adv),
        "seconds": round(seconds, 1),
        "passes": int(classifier.seen),
        "versions": {"adversarial-robustness-toolbox": "1.20.1"},
    }


RUN: dict[str, Callable[[Case], dict[str, Any]]] = {
    each.__name__: each for each in (ours, reference, art, exhaustive, curve, apart)
}


def runs_on(network: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs on one network; an error if these were not on the same weights."""
    own = [run for run in runs if run["network"] == network]
    if len({run["weights"] for run in own}) > 1:
        raise ValueError(f"Runs on {network!r} are of several trainings.")
    return own


def resisting(run: dict[str, Any]) -> np.ndarray:
    """`[N]` bool: which images were left classified as they should be."""
    return np.array([*run["resists"]]) == "1"


def table(runs: list[dict[str, Any]]) -> list[list[str]]:
    """One row a network and an AutoAttack, by the first seed."""
    rows = [
        [
            "network",
            "AutoAttack",
            "images",
            "robust accuracy, %",
            "missed",
            "beyond",
            "passes",
            "seconds",
        ]
    ]
    for name in SETTINGS:
        own = {run["part"]: run for run in runs_on(name, runs) if run["seed"] == 0}
        for part in (each for each in PARTS if each in own and each not in ("curve", "apart")):
            run = own[part]
            left, missed, beyond = resisting(run), "", ""
            if part != "reference" and "reference" in own:
                theirs = resisting(own["reference"])[: len(left)]
                missed, beyond = str(np.sum(left & ~theirs)), str(np.sum(theirs & ~left))
            seconds = f"{run['seconds']:.0f}"
            if "first_call" in run:
                seconds += f", first call {run['first_call']:.0f}"
            robust = f"{100 * np.mean(left):.1f}"
            counts = [str(len(left)), robust, missed, beyond, f"{run['passes']:,}"]
            rows.append([name, {"art": "ART's"}.get(part, part), *counts, seconds])
    return rows


def seeds_table(runs: list[dict[str, Any]]) -> list[list[str]]:
    """What other seeds leave: one row a network and an AutoAttack that has several."""
    rows = [["network", "AutoAttack", "robust accuracy by seed, %", "missed of the reference's, %"]]
    for name in SETTINGS:
        for part in ("ours", "reference"):
            own, theirs = (
                [run for run in runs_on(name, runs) if run["part"] == each]
                for each in (part, "reference")
            )
            if len(own) < 2:
                continue
            missed = [
                np.mean(resisting(run) & ~resisting(other))
                for run in own
                for other in theirs
                if run is not other
            ]
            robust = ", ".join(f"{100 * np.mean(resisting(run)):.1f}" for run in own)
            span = f"{100 * min(missed):.1f} to {100 * max(missed):.1f}"
            rows.append([name, part, robust, f"{100 * np.mean(missed):.2f} ({span})"])
    return rows


def curve_table(runs: list[dict[str, Any]]) -> list[list[str]]:
    """What eight magnitudes cost in one search, beside one of them and beside eight searches."""
    rows = [["network", "beside", "passes", "of eight in one", "ratio", "ratio of seconds"]]
    for name in SETTINGS:
        own = {run["part"]: run for run in runs_on(name, runs) if run["seed"] == 0}
        for part, title in (("ours", "one of them"), ("apart", "eight searches")):
            if not {part, "curve"} <= own.keys():
                continue
            other, whole = own[part], own["curve"]
            ratios = (f"{whole[each] / other[each]:.2f}" for each in ("passes", "seconds"))
            rows.append([name, title, f"{other['passes']:,}", f"{whole['passes']:,}", *ratios])
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
        for seed, part in itertools.product(map(int, SEEDS.value), CHOSEN.value):
            settings = {"part": part, "network": name, "samples": SAMPLES.value, "seed": seed}
            if results.is_due(settings):
                x, y = load(setting, f"test[:{SAMPLES.value}]")
                case = Case(trained(name, setting), setting, x, y, seed)
                digest = zlib.crc32(b"".join(each.tobytes() for each in case.network.get_weights()))
                results.add({**settings, "weights": digest, **RUN[part](case)})
                print(results.runs[-1])
    tables = {
        "autoattack": table(results.runs),
        "seeds of autoattack": seeds_table(results.runs),
        "autoattack at eight magnitudes": curve_table(results.runs),
    }
    for title, rows in tables.items():
        if PAGE.value:
            shared.write_table(PAGE.value, title, rows)
        shared.show(title, rows)


if __name__ == "__main__":
    app.run(main)
