"""What several workers send each other in a training step, counted, and what it costs many of them.

    python benchmarks/distribution.py --out=docs/results/distribution.json --page=docs/scaling.md

Two workers on this machine meet at 127.0.0.1; what they send is read off the loopback device, which
nothing else should use meanwhile. How it goes on for many workers is arithmetic.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import itertools
import json
import pathlib
import socket
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import shared
import tensorflow as tf
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.atomic_files import write_json

WEIGHTS = flags.DEFINE_list("hidden", ["100", "1000"], "Widths of the hidden layer.")
RANKS = flags.DEFINE_list("ranks", ["1", "2", "3", "5"], "Numbers of ranks.")
STEPS = flags.DEFINE_integer("steps", 20, "Training steps that are counted.", 1)
PORTS = flags.DEFINE_list("ports", None, "The workers' ports; by default, free ones.")
OUT = flags.DEFINE_string("out", None, "Where to write a small JSON.", required=True)
PAGE = flags.DEFINE_string("page", None, "The page whose tables are written anew, or none.")

# Replicas, and what each of them sends in a second: 100 Gbit/s, as between machines of a cluster.
REPLICAS = (2, 8, 32, 256)
BYTES_PER_SECOND = 12.5e9
MODELS = {"the paper's network": 3_274_634, "a ResNet-50": 25_557_032}


def reductions(ranks: int, kept: bool) -> int:
    """How many vectors as long as the weights are summed over replicas, in the optimizer's metric.

    Where gradients are kept, each is summed once, and the update by Keras once more, though it is
    the same everywhere. Where they are not, each is summed whenever it is computed: for two
    Gramians and three weighted sums.
    """
    if kept or ranks == 1:
        return ranks + 1
    return 1 + 2 * (ranks * (ranks + 1) // 2 - 1) + 3 * (ranks - 1) + 1


def sent() -> int:
    """Bytes that went over the loopback device so far."""
    lines = pathlib.Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[9]) for line in lines if line.strip().startswith("lo:"))


def network(hidden: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(hidden, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def count(strategy: tf.distribute.Strategy, hidden: int, ranks: int, kept: bool) -> dict[str, Any]:
    """Bytes that a worker sends in a step."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).uniform(size=(64 * STEPS.value, 784)).astype(np.float32)
    y = np.zeros(len(x), np.int32)
    attack = lr.attacks.PGD(norm="l2", steps=1)
    magnitudes = np.linspace(0.5, 2.0, ranks - 1).tolist()
    with strategy.scope():
        objectives = [
            lr.objectives.Natural(),
            *(lr.objectives.Adversarial(attack, m) for m in magnitudes),
        ]
        model = lr.LexicographicModel(network(hidden), objectives, keep_gradients=kept)
        model.compile(keras.optimizers.Adam(1e-4))

    def fit(steps: int) -> int:
        before = sent()
        model.fit(x[: 64 * steps], y[: 64 * steps], batch_size=64, shuffle=False, verbose=0)
        return sent() - before

    fit(1)
    # What an epoch takes beside its steps is in both.
    extra = STEPS.value - 2
    workers = strategy.num_replicas_in_sync
    return {
        "weights": model.classifier.count_params(),
        "ranks": ranks,
        "kept": kept,
        "bytes": (-fit(2) + fit(STEPS.value)) / extra / workers,
    }


def work() -> None:
    """What both workers do; the first one writes down what was counted."""
    task = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    cases = itertools.product(map(int, WEIGHTS.value), map(int, RANKS.value), (True, False))
    counted = []
    for hidden, ranks, kept in cases:
        if ranks == 1 and not kept:
            continue
        counted.append(count(strategy, hidden, ranks, kept))
        if not task:
            print(counted[-1], flush=True)
    if not task:
        write_json(pathlib.Path(OUT.value), {**shared.versions(), "counted": counted})


def start() -> None:
    """Starts both workers, and waits for them."""
    ports = PORTS.value or []
    while len(ports) < 2:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports = list({*ports, str(free.getsockname()[1])})
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes = []
    for index in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        processes.append(subprocess.Popen([sys.executable, *sys.argv], env=environment))
    if any([process.wait() for process in processes]):
        raise SystemExit("A worker failed.")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if "TF_CONFIG" in os.environ:
        work()
        return
    if shared.RUN.value:
        start()
    counted = json.loads(pathlib.Path(OUT.value).read_text(encoding="utf-8"))["counted"]
    rows = [("weights p", "ranks T", "gradients", "bytes sent a step", "in 4 p", "expected")]
    for case in counted:
        size = 4 * case["weights"]
        rows.append(
            (
                f"{case['weights']:,}",
                str(case["ranks"]),
                "kept" if case["kept"] else "computed anew",
                f"{case['bytes']:,.0f}",
                f"{case['bytes'] / size:.2f}",
                str(reductions(case["ranks"], case["kept"])),
            )
        )
    shared.show("What a worker of two sends", rows)
    ahead = [("network", "ranks T", *(f"{count} replicas" for count in REPLICAS))]
    for (name, weights), ranks in itertools.product(MODELS.items(), (2, 3, 8)):
        # A ring: each sends its share twice to all others.
        sizes = [
            2 * (count - 1) / count * reductions(ranks, True) * 4 * weights for count in REPLICAS
        ]
        seconds = (
            f"{1e-6 * size:,.0f} MB, {1e3 * size / BYTES_PER_SECOND:.1f} ms" for size in sizes
        )
        ahead.append((name, str(ranks), *seconds))
    shared.show("What each of many would send in a step", ahead)
    if PAGE.value:
        shared.write_table(PAGE.value, "distribution", rows)
        shared.write_table(PAGE.value, "many_replicas", ahead)


if __name__ == "__main__":
    app.run(main)
