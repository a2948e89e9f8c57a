"""From TensorFlow Datasets to a served attack, and back: four stages in two processes.

    python examples/pipeline.py --data_dir=~/tensorflow_datasets --out=results/pipeline

1. Trains a ranked classifier on MNIST, and measures it under an attack as a stage of `tf.data`.
2. Exports it with the attack, as a SavedModel.
3. Another process, which reads only that (`pipeline_stranger.py`), perturbs the test images in a
   `tf.data` pipeline and writes them to a TFRecord file.
4. Reads that file, asks the SavedModel about the serialized examples and the trained classifier
   about the images, and holds both against what the other process counted.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import json
import pathlib
import subprocess
import sys

import common
import keras
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm
import tqdm.keras
from absl import app, flags, logging

import lexirobust as lr

DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder that holds mnist/3.0.1.")
TRAINED = flags.DEFINE_integer("trained", 2000, "Training images.", lower_bound=1)
SAMPLES = flags.DEFINE_integer("samples", 500, "Test images.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 20, "Passes over the training images.", lower_bound=1)
MAGNITUDE = flags.DEFINE_float("magnitude", 2.0, "Norm of the perturbations.", lower_bound=0.0)
OUT = flags.DEFINE_string("out", "results/pipeline", "Folder for the SavedModel and the records.")

SHAPE = (28, 28, 1)


def images(split: str) -> tf.data.Dataset:
    """Batches of images in [0, 1] and labels, from TensorFlow Datasets."""
    rows = tfds.load("mnist", split=split, data_dir=DATA_DIR.value, as_supervised=True)
    return rows.map(lambda image, label: (tf.cast(image, tf.float32) / 255, label)).batch(100)


def trained() -> keras.Model:
    """A small network, its natural loss ranked above its loss under attack."""
    layers = keras.layers
    classifier = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(16, 5, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    attack = lr.attacks.PGD(norm="l2", steps=3)
    model = lr.OLSRC(classifier, attack, magnitudes=[MAGNITUDE.value])
    model.compile("adam")
    bar = tqdm.keras.TqdmCallback(verbose=0, desc="training")
    data = images(f"train[:{TRAINED.value}]").cache()
    model.fit(data, epochs=EPOCHS.value, shuffle=False, verbose=0, callbacks=[bar])
    return model


def right(logits: tf.Tensor, labels: tf.Tensor) -> int:
    """How many samples are classified right."""
    return int(tf.reduce_sum(tf.cast(tf.argmax(logits, axis=1) == labels, tf.int32)))


def asked_elsewhere(saved_model: pathlib.Path, records: pathlib.Path) -> int:
    """Has another process perturb the test images, write them, and count."""
    script = pathlib.Path(__file__).with_name("pipeline_stranger.py")
    settings = (saved_model, DATA_DIR.value or "", SAMPLES.value, MAGNITUDE.value, records)
    command = [sys.executable, str(script), *map(str, settings)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(told.stdout.splitlines()[-1])["right"]


def parsed(examples: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Images and labels of serialized examples `[N]`."""
    features = {
        "inputs": tf.io.FixedLenFeature(SHAPE, tf.float32),
        "label": tf.io.FixedLenFeature((), tf.int64),
    }
    found = tf.io.parse_example(examples, features)
    return found["inputs"], found["label"]


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    keras.utils.set_random_seed(0)
    out = pathlib.Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    model = trained()
    attack = lr.attacks.PGD(norm="l2", steps=20, seed=0)
    tested = images(f"test[:{SAMPLES.value}]")
    here = lr.datasets.perturb(tested, model.classifier, attack, MAGNITUDE.value)
    counted = {
        name: sum(
            right(model.classifier(x, training=False), y) for x, y in tqdm.tqdm(dataset, name)
        )
        for name, dataset in [("not attacked", tested), ("attacked here", here)]
    }

    lr.export(model, out / "1", attack)
    counted["attacked elsewhere, counted there"] = asked_elsewhere(
        out / "1", out / "moved.tfrecord"
    )

    served = tf.saved_model.load(out / "1")
    batches = list(tf.data.TFRecordDataset(str(out / "moved.tfrecord")).batch(100))
    counted["its records, by the trained classifier"] = sum(
        right(model.classifier(x, training=False), y) for x, y in map(parsed, batches)
    )
    counted["its records, by the SavedModel from serialized examples"] = sum(
        right(served.serve_examples(batch)["logits"], parsed(batch)[1]) for batch in batches
    )
    common.write_results([{"samples": SAMPLES.value, "right": counted}], out)
    rows = [{"who": who, "right": str(number)} for who, number in counted.items()]
    common.show_table(f"{SAMPLES.value} test images, l2 {MAGNITUDE.value:g}", rows)
    if len(set(list(counted.values())[2:])) > 1:
        raise SystemExit("The last three should be the same number.")


if __name__ == "__main__":
    app.run(main)
