"""Trains the classifiers that come with the package, and measures them.

    python benchmarks/pretrained.py
    python benchmarks/pretrained.py --norun --page=docs/pretrained.md

An hour on two cores for `mnist_linf`, half of one for `mnist_l2`; what is stopped goes on where it
was. A classifier that is there is not trained again, and one that has its card is not measured
again.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import dataclasses
import functools
import json
import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import keras
import shared
import tqdm.keras
from absl import app, flags

import lexirobust as lr
from lexirobust.atomic_files import write_json, write_whole

NAMES = flags.DEFINE_list("names", [], "Which ones; by default, all.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps the images.")
FOLDER = flags.DEFINE_string(
    "folder", str(pathlib.Path(lr.pretrained.__file__).parent), "Where they are kept."
)
UNFINISHED = flags.DEFINE_string("unfinished", "results/pretrained", "Where trainings go on.")
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")

SAMPLES, BATCH = 55_000, 256
HELD_OUT = f"train[{SAMPLES}:]"
ATTACKED = 1000


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a classifier is trained on and for.

    Attributes:
        data: The data set.
        norm: Of the perturbations.
        magnitude: Of the perturbations.
        accuracy: The target, on held-out images.
        magnitudes: Where it is measured, too.
        network: Makes it.
        epochs: Of training.
        rate: The learning rate at the start.
    """

    data: str
    norm: str
    magnitude: float
    accuracy: float
    magnitudes: tuple[float, ...]
    network: Callable[[], keras.Model]
    epochs: int
    rate: float


SETTINGS = {
    "mnist_l2": Setting(
        data="mnist",
        norm="l2",
        magnitude=2.0,
        accuracy=0.993,
        magnitudes=(1.0, 2.0, 3.0),
        network=shared.trades_network,
        epochs=10,
        rate=0.001,
    ),
    "mnist_linf": Setting(
        data="mnist",
        norm="linf",
        magnitude=0.3,
        accuracy=0.99,
        magnitudes=(0.1, 0.2, 0.3),
        network=shared.trades_network,
        epochs=30,
        rate=0.001,
    ),
    "fashion_mnist_l2": Setting(
        data="fashion_mnist",
        norm="l2",
        magnitude=1.0,
        accuracy=0.87,
        magnitudes=(0.25, 0.5, 0.75, 1.0, 1.5),
        network=shared.small_network,
        epochs=10,
        rate=0.002,
    ),
}


def load(setting: Setting, split: str) -> Any:
    """`[N, 28, 28, 1]` images from 0 to 1, and their labels."""
    return getattr(lr.datasets, setting.data)(split, data_dir=DATA_DIR.value)


def trained(name: str, setting: Setting) -> keras.Model:
    """Trains a classifier, or goes on with it."""
    keras.utils.set_random_seed(0)
    model = lr.OLSRC(
        setting.network(),
        lr.attacks.PGD(setting.norm, steps=3, bounds=(0.0, 1.0)),
        [setting.magnitude],
        warm_start=lr.WarmStart(),
        memory=lr.RunningMean(),
        targets=[lr.Target(accuracy=setting.accuracy)],
    )
    steps = setting.epochs * -(-SAMPLES // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(setting.rate, steps)
    model.compile(keras.optimizers.Adam(schedule))
    callbacks = [
        lr.callbacks.HeldOutTargets(*load(setting, HELD_OUT)),
        tqdm.keras.TqdmCallback(verbose=0, desc=name),
        lr.callbacks.Backup(pathlib.Path(UNFINISHED.value, name)),
    ]
    x, y = load(setting, f"train[:{SAMPLES}]")
    model.fit(x, y, batch_size=BATCH, epochs=setting.epochs, verbose=0, callbacks=callbacks)
    return model.classifier


def save(network: keras.Model, path: pathlib.Path) -> None:
    """Writes a file that all supported releases of Keras read.

    A newer one writes settings that an older one does not know. They are `None`, as are all
    defaults of these layers: what is `None` is left out.
    """
    network.save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    given = json.loads(
        parts["config.json"],
        object_hook=lambda each: {name: each[name] for name in each if each[name] is not None},
    )
    parts["config.json"] = json.dumps(given).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def measured(name: str, setting: Setting, classifier: keras.Model) -> dict[str, Any]:
    """The card of a classifier: what it is, and how accurate."""
    x, y = load(setting, "test")
    right = classifier.predict(x, batch_size=1000, verbose=0).argmax(axis=1) == y
    attack = lr.attacks.AutoAttack(setting.norm, bounds=(0.0, 1.0), seed=0)
    curve = lr.evaluate_robustness(
        classifier,
        x[:ATTACKED],
        y[:ATTACKED],
        attack,
        setting.magnitudes,
        backup=pathlib.Path(UNFINISHED.value, f"{name}, measured"),
    )
    by_magnitude = dict(zip(curve.magnitudes, curve.accuracy, strict=True))
    return {
        "name": name,
        "data": setting.data,
        "inputs": "[N, 28, 28, 1] float32 from 0 to 1",
        "outputs": "[N, 10] float32 logits",
        "parameters": classifier.count_params(),
        "method": "OLSRC with memory",
        "trained_on": f"train[:{SAMPLES}]",
        "epochs": setting.epochs,
        "norm": setting.norm,
        "magnitude": setting.magnitude,
        "target": {"accuracy": setting.accuracy, "on": HELD_OUT},
        "seed": 0,
        "command": f"python benchmarks/pretrained.py --names={name}",
        "tested": len(y),
        "natural": round(float(right.mean()), 4),
        "attack": "AutoAttack (standard)",
        "attacked": ATTACKED,
        "robust": round(float(by_magnitude[setting.magnitude]), 4),
        "curve": {f"{each:g}": round(float(share), 4) for each, share in by_magnitude.items()},
        "warnings": [flag.name for flag in curve.flags],
        "license": "Apache-2.0; the images are their owners'",
        **shared.versions(),
    }


def share(value: float, samples: int) -> str:
    """A share in %, and its 95 % interval."""
    return shared.Share.of(round(value * samples), samples).percent_with_interval(digits=2)


def table(cards: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row a classifier."""
    head = ["name", "trained to resist", "parameters", "target"]
    rows = [[*head, "natural accuracy, %", "robust accuracy, %"]]
    for card in cards:
        rows.append(
            [
                f"`{card['name']}`",
                f"{card['norm']} {card['magnitude']:g}",
                f"{card['parameters']:,}",
                f"accuracy {card['target']['accuracy']:g}",
                share(card["natural"], card["tested"]),
                share(card["robust"], card["attacked"]),
            ]
        )
    return rows


def curves(cards: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row a classifier: robust accuracy in % by magnitude."""
    rows = [["name", "robust accuracy, %, by magnitude"]]
    for card in cards:
        points = [f"{each}: {100 * share:.1f}" for each, share in card["curve"].items()]
        rows.append([f"`{card['name']}`", ", ".join(points)])
    return rows


def main(_: list[str]) -> None:
    folder = pathlib.Path(FOLDER.value)
    cards = []
    for name in NAMES.value or SETTINGS:
        model, path = folder / f"{name}.keras", folder / f"{name}.json"
        if shared.RUN.value and not model.exists():
            write_whole(model, functools.partial(save, trained(name, SETTINGS[name])))
        if shared.RUN.value and not path.exists():
            classifier = keras.saving.load_model(model, compile=False)
            write_json(path, measured(name, SETTINGS[name], classifier))
        cards.append(json.loads(path.read_text(encoding="utf-8")))
    shared.show("Classifiers that come with the package", table(cards))
    if PAGE.value:
        shared.write_table(PAGE.value, "pretrained", table(cards))
        shared.write_table(PAGE.value, "pretrained, by magnitude", curves(cards))


if __name__ == "__main__":
    app.run(main)
