"""Ranked training by mini-batches of a whole data set: what it gives, and what a step costs.

    python benchmarks/mini_batch.py --part=train
    python benchmarks/mini_batch.py --part=time,epoch

All of MNIST's 60,000 training images in batches of 256, the paper's network, warm starts with three
steps of each visit; `epoch` is of the free step, `time` of both. A run that was finished is not
made again, one that was interrupted begins again.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import matplotlib.pyplot as plt
import memories
import numpy as np
import shared
import tensorflow as tf
import tqdm.keras
from absl import app, flags, logging

import lexirobust as lr
from lexirobust.plotting.style import label_points, series_styles

PARTS = ("train", "time", "epoch")
PART = flags.DEFINE_list("part", ["train"], f"What to run, out of {', '.join(PARTS)}.")
MAGNITUDES = flags.DEFINE_list("magnitudes", ["2.0", "4.0"], "l2 magnitudes to train for.")
EPOCHS = flags.DEFINE_integer("epochs", 5, "Epochs.", 1)
SAMPLES = flags.DEFINE_integer("samples", 60_000, "Training images.", 1)
BATCH = flags.DEFINE_integer("batch", 256, "Batch size.", 1)
TURNS = flags.DEFINE_integer("turns", 10, "Paired turns after the first, untimed one.", 1)
CHOSEN = flags.DEFINE_list("ways", [], "Ways of training; by default, all that the package has.")
NETWORK = flags.DEFINE_enum("network", "paper", ["paper", "small"], "The network.")
ATTACK_STEPS = flags.DEFINE_integer("attack_steps", 3, "Of each visit; 0: the free step alone.", 0)
PRECISION = flags.DEFINE_string("precision", "float32", "Keras's dtype policy to train in.")
SEED = flags.DEFINE_integer("seed", 0, "Of weights, order and perturbations.", 0)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps MNIST.")
PAGE = flags.DEFINE_string("page", None, "Page to write the tables to, where it has them.")
FIGURE = flags.DEFINE_string("figure", None, "Where the frontier is drawn.")
OUT = flags.DEFINE_string("out", "docs/results/mini_batch.json", "Where runs are kept.")

# Steps whose effect on the loss of fixed training images is looked at: every so many.
LOOKED_AT, FIXED = 25, 10_000
TESTED, TEST_STEPS, TEST_RESTARTS = 2000, 100, 5
RATE = 1e-3
TIMED = 16  # Steps in a turn.

NETWORKS = {"paper": shared.paper_network, "small": shared.small_network}
Make = Callable[..., lr.LexicographicModel]


def weighted(alpha: float) -> Make:
    return lambda classifier, attack, magnitude, start: lr.AdversarialTraining(
        classifier, attack, magnitude, alpha=alpha, warm_start=start
    )


def trades(beta: float) -> Make:
    return lambda classifier, attack, magnitude, start: lr.TRADES(
        classifier, attack, magnitude, beta=beta, warm_start=start
    )


def ranked(
    alpha: float, memory: lr.RunningMean | None = None, kind: type[lr.OLSRC] = lr.OLSRC
) -> Make:
    return lambda classifier, attack, magnitude, start: kind(
        classifier, attack, [magnitude], [alpha, 1 - alpha], warm_start=start, memory=memory
    )


METHODS: dict[str, Make] = {
    # What the others give up, or do not: plain training.
    "natural alone": lambda classifier, attack, magnitude, start: lr.Standard(classifier),
    **{f"weighted {alpha:g}": weighted(alpha) for alpha in (0.5, 0.8, 0.9, 0.95)},
    "TRADES 1": trades(1.0),
    "ranked 0.5": ranked(0.5),
    **{f"memory {alpha:g}": ranked(alpha, lr.RunningMean()) for alpha in (0.2, 0.5)},
}
# Longer and shorter means, and steps that are projected onto a mean: memories.py.
OTHERS: dict[str, Make] = {
    **{f"memory/{steps} 0.5": ranked(0.5, lr.RunningMean(steps=steps)) for steps in (5, 80)},
    "row/20 0.5": ranked(0.5, lr.RunningMean(steps=20), memories.Projected),
}
ANCHORS, VARIATES = "anchors/20 0.5", "control variates 0.5"
RENEWED = 20  # After how many steps the gradient on the anchors is.
WAYS = [*METHODS, *OTHERS, ANCHORS, VARIATES]


def common() -> dict[str, Any]:
    """The settings that all runs of a call share, the way and the magnitude aside."""
    return {
        "samples": SAMPLES.value,
        "batch": BATCH.value,
        "epochs": EPOCHS.value,
        "network": NETWORK.value,
        "attack_steps": ATTACK_STEPS.value,
        "precision": PRECISION.value,
        "seed": SEED.value,
    }


def network_of(settings: dict[str, Any]) -> keras.Model:
    """A classifier in the settings' precision."""
    keras.config.set_dtype_policy(settings["precision"])
    network = NETWORKS[settings["network"]]()
    keras.config.set_dtype_policy("float32")
    return network


def model_of(settings: dict[str, Any], x: np.ndarray, y: np.ndarray) -> tuple[Any, list[Any]]:
    """A compiled model, and the callbacks that it needs."""
    keras.utils.set_random_seed(settings["seed"])
    steps, way = settings["attack_steps"], settings["way"]
    attack = lr.attacks.PGD(norm="l2", steps=max(1, steps))
    # Those two put a memory of their own in the place of this one.
    held = ranked(0.5, lr.RunningMean(steps=1), memories.Projected)
    make = {**METHODS, **OTHERS}.get(way, held)
    start = lr.WarmStart(free=not steps)
    model = make(network_of(settings), attack, settings["magnitude"], start)
    callbacks = []
    if way == ANCHORS:
        model._memory = memories.Anchors(model, x, y, RENEWED)
    if way == VARIATES:
        model._memory = memories.ControlVariates(model, x, y, lambda: network_of(settings))
        renew = keras.callbacks.LambdaCallback(lambda epoch, logs: model._memory.renew())
        callbacks.append(renew)
    model.compile(keras.optimizers.Adam(RATE))
    return model, callbacks


class Rises(keras.callbacks.Callback):
    """Counts steps after which the natural loss of fixed images is higher than before.

    Args:
        x: The images.
        y: Their labels.
        every: One step in so many is looked at.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, every: int) -> None:
        super().__init__()
        self.risen: list[bool] = []
        self.seconds = 0.0
        self._data = (x, y)
        self._every = every
        self._before = 0.0
        self._steps = 0

    def loss(self) -> float:
        x, y = self._data
        logits = self.model.classifier.predict(x, batch_size=1000, verbose=0)
        return float(np.mean(keras.losses.sparse_categorical_crossentropy(y, logits, True)))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._steps % self._every == 0:
            self._before = self._timed()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self._steps % self._every == 0:
            self.risen.append(self._timed() > self._before)
        self._steps += 1

    def _timed(self) -> float:
        start = time.perf_counter()
        loss = self.loss()
        self.seconds += time.perf_counter() - start
        return loss


class Annealed(keras.callbacks.Callback):
    """Lowers the learning rate to 0 along half a cosine.

    Args:
        steps: Of the training.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps = steps
        self._taken = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        rate = 0.5 * RATE * (1 + math.cos(math.pi * self._taken / self._steps))
        self.model.optimizer.learning_rate = rate
        self._taken += 1


def share(right: np.ndarray) -> dict[str, Any]:
    """A share and its interval, as they are kept."""
    return dataclasses.asdict(shared.Share.of(int(right.sum()), right.size))


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Trains once, and measures what came of it."""
    x, y = lr.datasets.mnist("train", DATA_DIR.value)
    x, y = lr.datasets.subset(x, y, settings["samples"], seed=0)
    rises = Rises(x[:FIXED], y[:FIXED], LOOKED_AT)
    model, callbacks = model_of(settings, x, y)
    title = f"{settings['way']}, l2 {settings['magnitude']:g}"
    epochs, size = settings["epochs"], settings["batch"]
    steps = epochs * -(-len(x) // size)
    callbacks += [tqdm.keras.TqdmCallback(verbose=0, desc=title), Annealed(steps), rises]
    start = time.perf_counter()
    logs = model.fit(x, y, batch_size=size, epochs=epochs, verbose=0, callbacks=callbacks).history
    seconds = time.perf_counter() - start - rises.seconds
    return {
        **settings,
        **measured(model.classifier, settings),
        "risen": share(np.array(rises.risen)) if rises.risen else None,
        "seconds": seconds,
        "steps": steps,
        "logs": {name: [round(v, 5) for v in values[-1:]] for name, values in logs.items()},
    }


def measured(trained: keras.Model, settings: dict[str, Any]) -> dict[str, Any]:
    """Accuracy on test images, in float32 whatever it was trained in: nothing hides in rounding."""
    classifier = network_of({**settings, "precision": "float32"})
    classifier.set_weights(trained.get_weights())
    x, y = lr.datasets.mnist("test", DATA_DIR.value)
    natural = classifier.predict(x, batch_size=1000, verbose=0).argmax(axis=1) == y
    attack = lr.attacks.PGD(
        norm="l2", steps=TEST_STEPS, restarts=TEST_RESTARTS, early_stop=True, seed=0
    )
    magnitudes = [settings["magnitude"]]
    curve = lr.evaluate_robustness(
        classifier, x[:TESTED], y[:TESTED], attack, magnitudes, checks=False
    )
    return {"natural": share(natural), "adversarial": share(curve.correct[0])}


def timed(part: str, attack_steps: int) -> dict[str, Any]:
    """The settings that decide how long a step or an epoch takes."""
    settings = {
        "part": part,
        "attack_steps": attack_steps,
        "precision": PRECISION.value,
        "batch": BATCH.value,
        "network": NETWORK.value,
    }
    return settings | ({"samples": SAMPLES.value} if part == "epoch" else {})


def time_steps(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Medians of a step's seconds, in turns, and ratios to a weighted sum's.

    Those of the processors too: what other programs on the machine do shows there the least.
    """
    ways = ["weighted 0.5", "ranked 0.5", "memory 0.5"]
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(TIMED * BATCH.value, 28, 28, 1)).astype(np.float32)
    y = rng.integers(10, size=len(x))
    trained = {**common(), **settings, "magnitude": 2.0}
    models = {way: model_of({**trained, "way": way}, x, y)[0] for way in ways}
    clocks = {"wall": time.perf_counter, "processors": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {way: {c: [] for c in clocks} for way in ways}
    for turn in tqdm.trange(
        TURNS.value + 1, desc=f"{settings['attack_steps']} attack steps", disable=None
    ):
        for way in ways if turn % 2 else reversed(ways):
            starts = {clock: read() for clock, read in clocks.items()}
            models[way].fit(x, y, batch_size=BATCH.value, shuffle=False, verbose=0)
            for clock, read in clocks.items() if turn else ():
                seconds[way][clock].append((read() - starts[clock]) / TIMED)
    return [
        {
            **settings,
            "way": way,
            "remembered": sum(
                v.size for mean in models[way].mean_gradients for v in map(np.asarray, mean)
            ),
            **{
                clock: {
                    "seconds": float(np.median(times)),
                    "ratio_quartiles": np.quantile(
                        np.array(times) / seconds[ways[0]][clock], [0.25, 0.5, 0.75]
                    ).tolist(),
                }
                for clock, times in by_clock.items()
            },
        }
        for way, by_clock in seconds.items()
    ]


def show_times(runs: Sequence[dict[str, Any]]) -> None:
    """Prints one row a way, and has it in the page that --page names."""
    clocks = ("processors", "wall")
    head = ["attack steps", "way", "numbers remembered"]
    rows = [head + [f"{clock}: {what}" for clock in clocks for what in ("ms a step", "ratio")]]
    for run in runs:
        row = [str(run["attack_steps"] or "free"), run["way"], f"{run['remembered']:,}"]
        for clock in clocks:
            ratio = shared.ratio_with_quartiles(run[clock]["ratio_quartiles"])
            row += [f"{1e3 * run[clock]['seconds']:.0f}", ratio]
        rows.append(row)
    shared.show("Time", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, "time", rows)


def time_epochs(settings: dict[str, Any]) -> dict[str, Any]:
    """An epoch of two ranks with the free step, two plain ones, and a pass back to the inputs."""
    x, y = lr.datasets.mnist("train", DATA_DIR.value)
    x, y = x[: SAMPLES.value], y[: SAMPLES.value]
    plain = network_of(settings)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    plain.compile(keras.optimizers.Adam(RATE), loss)
    trained = {**common(), **settings, "way": "memory 0.5", "magnitude": 2.0}
    model, _ = model_of(trained, x, y)

    @tf.function(autograph=False)
    def back(x: Any, y: Any) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = loss(y, plain(x))
        return tape.gradient(value, x)

    def once(trained: keras.Model, **options: Any) -> None:
        trained.fit(x, y, batch_size=BATCH.value, verbose=0, **options)

    def back_once() -> None:
        for inputs, labels in tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH.value):
            back(inputs, labels).numpy()

    once(plain, steps_per_epoch=1)
    once(model, steps_per_epoch=1)
    back(x[: BATCH.value], y[: BATCH.value])
    seconds = {}
    jobs = {"plain": lambda: once(plain), "inputs": back_once, "ranked": lambda: once(model)}
    for name, job in jobs.items():
        start = time.perf_counter()
        job()
        seconds[name] = time.perf_counter() - start
    parts = 2 * seconds["plain"] + seconds["inputs"]
    return {**settings, **seconds, "ratio": seconds["ranked"] / parts}


def show_epoch(run: dict[str, Any]) -> None:
    """Prints what an epoch takes, and what it consists of."""
    parts = {
        "ranked, free step": run["ranked"],
        "plain": run["plain"],
        "back to the inputs": run["inputs"],
    }
    rows = [("epoch", "seconds"), *((name, f"{seconds:.1f}") for name, seconds in parts.items())]
    rows.append(("ranked / (2 plain + back)", f"{run['ratio']:.2f}"))
    shared.show("Epoch", rows)


def show_trained(runs: Sequence[dict[str, Any]]) -> None:
    """Prints one row a run, and has it in the page that --page names."""
    head = ("l2", "way", "natural error %", "adversarial accuracy %", "steps that raise rank 1 %")
    rows = [(*head, "seconds")]
    for run in runs:
        rows.append(
            (
                f"{run['magnitude']:g}",
                run["way"],
                percent(run["natural"], wrong=True),
                percent(run["adversarial"]),
                percent(run["risen"]) if run["risen"] else "",
                f"{run['seconds']:.0f}",
            )
        )
    shared.show("Trained", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, f"{NETWORK.value} network", rows)


def percent(measured: dict[str, Any], wrong: bool = False) -> str:
    """A share and its interval, or those of the rest."""
    share = shared.Share(**measured)
    return (share.rest() if wrong else share).percent_with_interval(2, 2)


FAMILIES = {
    "natural": "standard training",
    "weighted": "adversarial training",
    "ranked": "OLSRC, batch alone",
    "memory": "OLSRC, running means",
    "row": "mean as one more gradient",
    "anchors": "gradients on anchors",
}


def in_words(family: str) -> str:
    """The name of a family in pictures: "row/20" is of means over 20 steps."""
    name, _, steps = family.partition("/")
    words = FAMILIES.get(name, name)
    return f"{words}, {steps} steps" if steps else words


def draw(runs: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Natural error against adversarial accuracy on test data: one line a family of ways."""
    magnitudes = sorted({run["magnitude"] for run in runs})
    # In the order of their first runs.
    families = list(dict.fromkeys(run["way"].rsplit(maxsplit=1)[0] for run in runs))
    styles = series_styles(map(in_words, families))
    panels = []
    size = (5.2 * len(magnitudes), 4.4)
    figure, axes = plt.subplots(
        1, len(magnitudes), figsize=size, layout="constrained", squeeze=False
    )
    for magnitude, panel in zip(magnitudes, axes[0], strict=True):
        labels: list[tuple[str, float, float, str]] = []
        for (name, style), family in zip(styles.items(), families, strict=True):
            points = [
                run
                for run in sorted(runs, key=lambda run: run["way"])
                if run["magnitude"] == magnitude and run["way"].rsplit(maxsplit=1)[0] == family
            ]
            if points:
                labels += draw_family(panel, name, style, points)
        panel.set_title(f"l2 {magnitude:g}")
        panel.set_xlabel("natural test error, %")
        panel.set_ylabel("accuracy under attack, %")
        panel.grid(alpha=0.3)
        panels.append((panel, labels))
    drawn = {
        label: handle
        for panel in axes[0]
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        drawn.values(), drawn.keys(), loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    for panel, labels in panels:  # Now that the legend has its room.
        label_points(figure, panel, labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_family(
    axes: Any, family: str, style: dict[str, Any], points: Sequence[dict[str, Any]]
) -> list[tuple[str, float, float, str]]:
    """Points with their intervals; returns the number that each was trained with, as labels."""
    natural = 100 - 100 * np.array([run["natural"]["share"] for run in points])
    adversarial = 100 * np.array([run["adversarial"]["share"] for run in points])
    low, high = 100 * np.array([run["natural"]["interval"] for run in points]).T
    worst, best = 100 * np.array([run["adversarial"]["interval"] for run in points]).T
    axes.errorbar(
        natural,
        adversarial,
        xerr=[high - 100 + natural, 100 - natural - low],
        yerr=[adversarial - worst, best - adversarial],
        label=family,
        markersize=5,
        linewidth=1.2,
        elinewidth=0.5,
        **style,
    )
    texts = [run["way"].split()[-1] for run in points]
    colors = [style["color"]] * len(points)
    return list(zip(texts, natural.tolist(), adversarial.tolist(), colors, strict=True))


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    unknown = set(PART.value) - set(PARTS) | (set(CHOSEN.value or METHODS) - set(WAYS))
    if unknown:
        raise app.UsageError(f"Neither parts nor ways: {sorted(unknown)}.")
    results = shared.Results(pathlib.Path(OUT.value))
    if "epoch" in PART.value:
        settings = timed("epoch", 0)
        if results.is_due(settings):
            results.add(time_epochs(settings))
        if (epoch := results.get(settings)) is not None:
            show_epoch(epoch)
    if "time" in PART.value:
        both = [timed("time", steps) for steps in (0, ATTACK_STEPS.value)]
        for settings in filter(results.is_due, both):
            for run in time_steps(settings):
                results.add(run)
        show_times([r for r in results.runs if any(each.items() <= r.items() for each in both)])
    if "train" not in PART.value:
        return
    runs: list[dict[str, Any]] = []
    for magnitude in map(float, MAGNITUDES.value):
        for way in CHOSEN.value or METHODS:
            settings = {"part": "train", "way": way, "magnitude": magnitude, **common()}
            if results.is_due(settings):
                results.add(train(settings))
            if (known := results.get(settings)) is not None:
                runs.append(known)
    show_trained(runs)
    if FIGURE.value:
        draw(runs, pathlib.Path(FIGURE.value))


if __name__ == "__main__":
    app.run(main)
