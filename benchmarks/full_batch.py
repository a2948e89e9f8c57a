"""Memory of full-batch steps on all of MNIST with the paper's network, in micro-batches.

    python benchmarks/full_batch.py --out=docs/results/full_batch.json

Prints the most memory that the process has ever held, data and TensorFlow itself included.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import json
import pathlib
import resource
import time

import keras
import shared
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.atomic_files import write_json

SAMPLES = flags.DEFINE_integer("samples", 60_000, "Training images in one step.", 1, 60_000)
MICRO_BATCH_SIZE = flags.DEFINE_integer("micro_batch_size", 500, "Images in memory at a time.", 1)
STEPS = flags.DEFINE_integer("steps", 1, "Full-batch steps.", 1)
ATTACK_STEPS = flags.DEFINE_integer("attack_steps", 1, "Gradient steps of the attack.", 1)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
OUT = flags.DEFINE_string("out", None, "Where to write a small JSON, or nowhere.")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    keras.utils.set_random_seed(0)
    images, labels = lr.datasets.mnist("train", DATA_DIR.value)
    x, y = images[: SAMPLES.value], labels[: SAMPLES.value]
    model = lr.OLSRC(
        shared.paper_network(),
        lr.attacks.PGD(norm="l2", steps=ATTACK_STEPS.value),
        [4.0],
        micro_batch_size=MICRO_BATCH_SIZE.value,
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    start = time.perf_counter()
    history = model.fit(x, y, batch_size=len(x), epochs=STEPS.value, shuffle=False).history
    result = {
        "samples": len(x),
        "micro_batch_size": MICRO_BATCH_SIZE.value,
        "attack_steps": ATTACK_STEPS.value,
        "steps": STEPS.value,
        "seconds": time.perf_counter() - start,
        # In KiB on Linux.
        "most_resident_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "natural_loss": history["loss@natural"][-1],
    }
    print(json.dumps(result, indent=1))
    if OUT.value:
        write_json(pathlib.Path(OUT.value), result)


if __name__ == "__main__":
    app.run(main)
