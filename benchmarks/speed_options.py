"""Keras's options for speed: how fast `fit` is by each, and how far from plain its weights end.

    python benchmarks/speed_options.py --page=docs/scaling.md

Turns alternate in one process; ratios are medians of the pairs', with quartiles.
"""

import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import time
from typing import Any

import keras
import numpy as np
import shared
import tqdm
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.atomic_files import write_json

TURNS = flags.DEFINE_integer("turns", 7, "Paired turns after the first, untimed one.", 1)
STEPS = flags.DEFINE_integer("steps", 8, "Training steps in a turn.", 1)
BATCH = flags.DEFINE_integer("batch", 128, "Batch size.", 1)
OUT = flags.DEFINE_string("out", "docs/results/speed_options.json", "Where results are kept.")
PAGE = flags.DEFINE_string("page", None, "The page whose table is written anew, or none.")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "jit_compile=True": {"jit_compile": True},
    "steps_per_execution=8": {"steps_per_execution": 8},
    "mixed_bfloat16": {"policy": "mixed_bfloat16"},
    "mixed_float16": {"policy": "mixed_float16"},
    "run_eagerly=True": {"run_eagerly": True},
}


def dense_network() -> keras.Model:
    """Two dense layers: a step is mostly what it takes to get it going."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


NETWORKS = {"dense, 51 thousand weights": dense_network, "the paper's": shared.paper_network}


def make(network: str, policy: str | None = None, **options: Any) -> keras.Model:
    """A compiled model, the same for all options."""
    keras.mixed_precision.set_dtype_policy(policy or "float32")
    keras.utils.set_random_seed(0)
    attack = lr.attacks.PGD(norm="l2", steps=3, random_start=False)
    model = lr.OLSRC(NETWORKS[network](), attack, [2.0])
    model.compile(optimizer=keras.optimizers.Adam(1e-4), **options)
    keras.mixed_precision.set_dtype_policy("float32")
    return model


def flat(model: keras.Model) -> np.ndarray:
    return np.concatenate([np.ravel(v).astype(np.float64) for v in model.classifier.weights])


def measure(network: str) -> list[dict[str, Any]]:
    """Seconds of a step by each option, and where the first turn's steps end."""
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(BATCH.value * STEPS.value, 28, 28, 1)).astype(np.float32)
    y = np.argmax(x.reshape(len(x), -1) @ rng.normal(size=(784, 10)), axis=1)
    models = {name: make(network, **options) for name, options in OPTIONS.items()}
    start = flat(models["plain"])
    seconds: dict[str, list[float]] = {name: [] for name in OPTIONS}
    ends: dict[str, np.ndarray] = {}
    for turn in tqdm.trange(TURNS.value + 1, desc=network, leave=False, disable=None):
        for name in list(OPTIONS) if turn % 2 else reversed(OPTIONS):
            begun = time.perf_counter()
            models[name].fit(x, y, batch_size=BATCH.value, shuffle=False, verbose=0)
            if turn:
                seconds[name].append((time.perf_counter() - begun) / STEPS.value)
            else:
                ends[name] = flat(models[name])
    way = np.linalg.norm(ends["plain"] - start)
    return [
        {
            "network": network,
            "option": name,
            "median_seconds": float(np.median(seconds[name])),
            "ratio_quartiles": np.quantile(
                np.array(seconds[name]) / seconds["plain"], [0.25, 0.5, 0.75]
            ).tolist(),
            # In units of the way that the plain model's weights have gone.
            "apart": float(np.linalg.norm(ends[name] - ends["plain"]) / way),
        }
        for name in OPTIONS
    ]


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if shared.RUN.value:
        results = [result for network in NETWORKS for result in measure(network)]
    else:
        results = json.loads(pathlib.Path(OUT.value).read_text(encoding="utf-8"))["options"]
    rows = [("network", "option", "ms a step", "ratio to plain (quartiles)", "weights apart")]
    for result in results:
        rows.append(
            (
                result["network"],
                f"`{result['option']}`" if result["option"] != "plain" else "plain",
                f"{1e3 * result['median_seconds']:.1f}",
                shared.ratio_with_quartiles(result["ratio_quartiles"]),
                f"{100 * result['apart']:.2g} %",
            )
        )
    shared.show("Options for speed", rows)
    settings = {"batch": BATCH.value, "steps": STEPS.value, "turns": TURNS.value}
    if shared.RUN.value:
        write_json(pathlib.Path(OUT.value), {**shared.versions(), **settings, "options": results})
    if PAGE.value:
        shared.write_table(PAGE.value, "speed_options", rows)


if __name__ == "__main__":
    app.run(main)
