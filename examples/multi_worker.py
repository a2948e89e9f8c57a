"""Trains on several workers: the same script on each, and TF_CONFIG that says who is who.

    python examples/multi_worker.py --workers=2 --out=results/multi_worker

starts two on this machine, which find each other at 127.0.0.1. If one dies, all are started again,
and go on from the last backup. On a cluster, set TF_CONFIG on each machine as TensorFlow documents
it, leave `--workers` out, and name a folder that all of them see.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.atomic_files import write_json

WORKERS = flags.DEFINE_integer("workers", None, "Workers to start on this machine.", lower_bound=1)
RESTARTS = flags.DEFINE_integer("restarts", 2, "How often workers may die.", lower_bound=0)
METHOD = flags.DEFINE_enum("method", "olsrc", ["olsrc", "olgrc"], "How to train.")
EPOCHS = flags.DEFINE_integer("epochs", 10, "Full-batch steps on the toy problem.", lower_bound=1)
OUT = flags.DEFINE_string("out", "results/multi_worker", "Folder for backups and weights.")


def network() -> keras.Model:
    layers = keras.layers
    hidden = [layers.Dense(32, activation="relu"), layers.Dense(32, activation="relu")]
    return keras.Sequential([keras.Input((1,)), *hidden, layers.Dense(2)])


def train(out: pathlib.Path) -> None:
    """What every worker does, and what one process without others would do."""
    task = json.loads(os.environ["TF_CONFIG"])["task"]["index"] if "TF_CONFIG" in os.environ else 0
    # Before anything else is made: that is when workers find each other.
    strategy = (
        tf.distribute.MultiWorkerMirroredStrategy()
        if "TF_CONFIG" in os.environ
        else tf.distribute.get_strategy()
    )
    keras.utils.set_random_seed(0)
    x, y = lr.datasets.toy(100, seed=0)
    attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    with strategy.scope():
        method = {"olsrc": lr.OLSRC, "olgrc": lr.OLGRC}[METHOD.value]
        model = method(network(), attack, magnitudes=[1.0, 2.0, 3.0])
        model.compile(keras.optimizers.Adam(0.01), metrics=["accuracy"])
    backup = lr.callbacks.Backup(out / "backup")
    history = model.fit(
        x, y, batch_size=100, epochs=EPOCHS.value, shuffle=False, verbose=0, callbacks=[backup]
    ).history
    np.savez(out / f"weights-{task}.npz", *model.get_weights())
    last = {name: values[-1] for name, values in history.items()}
    write_json(out / f"logs-{task}.json", last)
    print(f"worker {task}: loss {last['loss']:.4f}")


def free_addresses(count: int) -> list[str]:
    """Addresses on this machine where nothing listens."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def run_all(workers: int) -> bool:
    """Starts workers on this machine; stops all as soon as one fails, and says whether none did."""
    addresses = free_addresses(workers)
    settings = [f"--{name}={flags.FLAGS[name].value}" for name in ("method", "epochs", "out")]
    processes = []
    for index in range(workers):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        command = [sys.executable, __file__, *settings]
        processes.append(subprocess.Popen(command, env=environment))
        print(f"worker {index} is process {processes[-1].pid}", flush=True)
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes):
                return False
            time.sleep(0.1)
        return not any(process.returncode for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start(workers: int) -> None:
    """Has workers train on this machine, again where one has died.

    Raises:
        SystemExit: If they fail too often.
    """
    for _ in range(1 + RESTARTS.value):
        if run_all(workers):
            return
        print("a worker has died: starting all again", flush=True)
    raise SystemExit(f"Workers died {1 + RESTARTS.value} times. The same command goes on.")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    out = pathlib.Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    if WORKERS.value is None:
        train(out)
    else:
        start(WORKERS.value)


if __name__ == "__main__":
    app.run(main)
