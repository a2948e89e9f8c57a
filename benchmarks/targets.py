"""Targets beside weights, strict ranking and other ways to hold one loss while another falls.

    python benchmarks/targets.py
    python benchmarks/targets.py --experiments=counterexample

Training runs of some minutes each; a run that was finished is not made again, and of one that was
trained the weights are kept, so that only the attacks are run again. With --figure the frontiers
are drawn, with --page the tables are written to a page.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import collections
import dataclasses
import functools
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import matplotlib.pyplot as plt
import multipliers
import numpy as np
import shared
import tqdm.keras
from absl import app, flags, logging
from scipy import stats

import lexirobust as lr
from lexirobust.atomic_files import write_json
from lexirobust.plotting.style import label_points, series_styles

CHOSEN = flags.DEFINE_list("experiments", ["mnist", "fashion_mnist"], "What to run.")
CHOSEN_WAYS = flags.DEFINE_list("ways", [], "Ways of training; by default, all of an experiment.")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights, order and perturbations.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TensorFlow Datasets keeps the images.")
WEIGHTS = flags.DEFINE_string("weights", "results/targets", "Where trained weights are kept.")
PAGE = flags.DEFINE_string("page", None, "Page to write the tables to, where it has them.")
FIGURE = flags.DEFINE_string("figure", None, "Where the frontiers are drawn.")
OUT = flags.DEFINE_string("out", "docs/results/targets.json", "Where runs are kept.")

RATE = 0.002
# Of the training data's end, which no experiment trains on.
HELD_OUT = "train[50000:54000]"
TESTED = 2000
ALL_TESTED = 10_000  # Without an attack: the test images of either data set.
CLOSE = 0.1  # Points of natural error at which a search over weights ends.
# What of the logs is kept.
LOGGED = ("loss", "accuracy", "held_out", "estimate", "min_cosine", "descent")

Make = Callable[..., lr.LexicographicModel]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Data, a network and a schedule, on which several ways are compared.

    Attributes:
        data: The data set.
        network: Makes a classifier.
        magnitudes: l2 magnitudes to measure at; the last one is trained for.
        losses: Targets of the natural loss.
        accuracies: Targets of accuracy on held-out data.
        samples: Training images.
        batch: Batch size.
        epochs: Epochs of training.
        scale: Inputs are from 0 to this.
        reset_every: After how many visits a sample's perturbation begins at random again.
        noise: The share of training labels that are replaced by another class, any one.
    """

    data: str
    network: Callable[[], keras.Model]
    magnitudes: tuple[float, ...]
    losses: tuple[float, ...]
    accuracies: tuple[float, ...] = ()
    samples: int = 12_000
    batch: int = 256
    epochs: int = 15
    scale: float = 1.0
    reset_every: int | None = None
    noise: float = 0.0

    @property
    def ways(self) -> dict[str, Make]:
        """Ways of training, by names whose last word is their number."""
        # Two losses are enough to see where the others end.
        some = self.losses[2::2]
        return {
            "plain": lambda c, a, m, s: lr.Standard(c),
            **{f"weighted sum {w:g}": weighted(w) for w in (0.5, 0.8, 0.2, 0.9, 0.95)},
            **{f"TRADES {w:g}": trades(w) for w in (0.3, 1.0, 3.0, 6.0)},
            "ranked 0.5": ranked(None),
            "ranked with memory 0.5": ranked(lr.RunningMean()),
            **{f"target loss {c:g}": target(lr.Target(loss=c)) for c in self.losses},
            **{f"target accuracy {p:g}": target(lr.Target(accuracy=p)) for p in self.accuracies},
            **{f"target loss over TRADES {c:g}": divergence(c) for c in some},
            **{
                f"{name} {c:g}": multiplied(rule, c)
                for name, rule in MULTIPLIERS.items()
                for c in some
            },
            **{f"Bloop {w:g}": bloop(w) for w in (0.5, 0.8)},
            **({"without issues: memory 0.5": ranked(lr.RunningMean())} if self.noise else {}),
        }


def weighted(alpha: float) -> Make:
    return lambda c, a, m, s: lr.AdversarialTraining(c, a, m, alpha=alpha, warm_start=s)


def trades(weight: float) -> Make:
    return lambda c, a, m, s: lr.TRADES(c, a, m, beta=weight, warm_start=s)


def ranked(memory: lr.RunningMean | None) -> Make:
    return lambda c, a, m, s: lr.OLSRC(c, a, [m], warm_start=s, memory=memory)


def target(wanted: lr.Target) -> Make:
    return lambda c, a, m, s: lr.OLSRC(
        c, a, [m], warm_start=s, memory=lr.RunningMean(), targets=[wanted]
    )


def divergence(loss: float) -> Make:
    return lambda c, a, m, s: lr.LexicographicModel(
        c,
        [lr.objectives.Natural(), lr.objectives.Divergence(a, m)],
        warm_start=s,
        memory=lr.RunningMean(),
        targets=[loss],
    )


def multiplied(rule: Any, loss: float) -> Make:
    return lambda c, a, m, s: multipliers.Multiplied(rule, c, a, [m], warm_start=s, targets=[loss])


def bloop(alpha: float) -> Make:
    return lambda c, a, m, s: multipliers.Bloop(
        c, a, [m], [alpha, 1 - alpha], warm_start=s, memory=lr.RunningMean()
    )


MULTIPLIERS = {
    "dual ascent": multipliers.DualAscent,
    "PI control": multipliers.PIControl,
    "switching": multipliers.Switching,
}
_mnist = Experiment(
    "mnist",
    shared.small_network,
    (2.0,),
    losses=(0.02, 0.03, 0.05, 0.07, 0.1),
    accuracies=(0.97, 0.98, 0.985),
)
_fashion = Experiment(
    "fashion_mnist",
    shared.small_network,
    (1.0,),
    losses=(0.27, 0.33, 0.36, 0.4, 0.45),
    accuracies=(0.83, 0.845, 0.86),
)
_rescaled = dataclasses.replace(
    _fashion, network=shared.normalized_network, scale=255.0, accuracies=()
)
EXPERIMENTS = {
    "mnist": _mnist,
    "fashion_mnist": _fashion,
    # Batch normalization, dropout and augmentation, as networks have them.
    "augmented": dataclasses.replace(
        _rescaled, network=functools.partial(shared.normalized_network, 0.035, 0.015, 0.2)
    ),
    # Where a weighted sum was ahead of ranking.
    "counterexample": dataclasses.replace(
        _rescaled,
        magnitudes=(0.75, 1.5),
        samples=6000,
        batch=128,
        epochs=12,
        reset_every=10,
    ),
    # A fifth of the labels are wrong: no natural loss is below their entropy, 0.94, but by heart.
    "label_noise": dataclasses.replace(_mnist, losses=(0.95, 1.0, 1.05), accuracies=(), noise=0.2),
}


TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}


def load(experiment: Experiment, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images from 0 to the experiment's scale, and labels."""
    x, y = getattr(lr.datasets, experiment.data)(split, data_dir=DATA_DIR.value)
    return experiment.scale * x, y


def noisy(y: np.ndarray, share: float) -> np.ndarray:
    """Labels of which a share is replaced by another of ten classes, each as likely."""
    generator = np.random.default_rng(0)
    wrong = generator.random(len(y)) < share
    return np.where(wrong, (y + generator.integers(1, 10, len(y))) % 10, y)


def without_issues(
    experiment: Experiment, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Leaves out samples whose labels cleanlab takes for wrong (confident learning).

    It is given what classifiers say that were trained plainly on the other two thirds.
    """
    from cleanlab.filter import find_label_issues

    probabilities = np.zeros((len(x), 10))
    for part in range(3):
        held_out = np.arange(len(x)) % 3 == part
        classifier = experiment.network()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        classifier.compile(keras.optimizers.Adam(RATE), loss=loss)
        classifier.fit(x[~held_out], y[~held_out], batch_size=experiment.batch, epochs=5, verbose=0)
        logits = classifier.predict(x[held_out], batch_size=1000, verbose=0)
        probabilities[held_out] = keras.ops.softmax(logits)
    kept = ~find_label_issues(y, probabilities)
    logging.info("%d of %d samples are kept.", kept.sum(), len(kept))
    return x[kept], y[kept]


def trained(
    experiment: Experiment, settings: dict[str, Any]
) -> tuple[keras.Model, dict[str, list[float]], float]:
    """Trains a classifier.

    Returns:
        The classifier, the logs of each epoch, and the seconds it took.
    """
    keras.utils.set_random_seed(settings["seed"])
    attack = lr.attacks.PGD(norm="l2", steps=3, bounds=(0.0, experiment.scale))
    start = lr.WarmStart(reset_every=experiment.reset_every)
    magnitude = experiment.scale * experiment.magnitudes[-1]
    way = settings["way"]
    model = experiment.ways[way](experiment.network(), attack, magnitude, start)
    x, y = load(experiment, f"train[:{experiment.samples}]")
    y = noisy(y, experiment.noise)
    if way.startswith("without issues"):
        x, y = without_issues(experiment, x, y)
    steps = experiment.epochs * -(-len(x) // experiment.batch)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)))
    title = f"{settings['experiment']}, {way}, {settings['seed']}"
    callbacks = [tqdm.keras.TqdmCallback(verbose=0, desc=title)]
    if way.startswith("target accuracy"):
        callbacks.append(lr.callbacks.HeldOutTargets(*load(experiment, HELD_OUT)))
    begun = time.perf_counter()
    logs = model.fit(
        x,
        y,
        batch_size=experiment.batch,
        epochs=experiment.epochs,
        verbose=0,
        callbacks=callbacks,
    ).history
    return model.classifier, logs, time.perf_counter() - begun


def attack(experiment: Experiment) -> lr.attacks.Attack:
    """AutoAttack at a part of its budget, which costs as much as training does."""
    return lr.attacks.AutoAttack(
        "l2", bounds=(0.0, experiment.scale), seed=0, steps=50, max_queries=500
    )


def run(settings: dict[str, Any]) -> dict[str, Any]:
    """Trains once, if that was not done, and measures."""
    experiment = EXPERIMENTS[settings["experiment"]]
    name = "-".join(map(str, settings.values())).replace(" ", "_")
    weights = pathlib.Path(WEIGHTS.value, f"{name}.weights.h5")
    training = weights.with_suffix(".json")
    if training.exists():
        classifier = experiment.network()
        classifier.load_weights(weights)
    else:
        classifier, logs, seconds = trained(experiment, settings)
        weights.parent.mkdir(parents=True, exist_ok=True)
        classifier.save_weights(weights)
        write_json(training, {"seconds": seconds, "logs": logs})
    known = json.loads(training.read_text(encoding="utf-8"))
    x, y = load(experiment, "test")
    right = classifier.predict(x, batch_size=1000, verbose=0).argmax(axis=1) == y
    begun = time.perf_counter()
    curve = lr.evaluate_robustness(
        classifier,
        x[:TESTED],
        y[:TESTED],
        attack(experiment),
        [experiment.scale * magnitude for magnitude in experiment.magnitudes],
        checks=False,
    )
    return {
        **settings,
        "natural": float(right.mean()),
        "robust": [float(share) for share in curve.accuracy],
        "seconds": round(known["seconds"]),
        "seconds_of_attacks": round(time.perf_counter() - begun),
        "logs": {
            name: round(values[-1], 5)
            for name, values in known["logs"].items()
            if name.split("@")[0] in LOGGED
        },
    }


def by_way(runs: Sequence[dict[str, Any]], experiment: str) -> dict[str, list[dict[str, Any]]]:
    """The runs of an experiment, by ways in the order in which it names them."""
    own = [each for each in runs if each["experiment"] == experiment]
    named = {way: [r for r in own if r["way"] == way] for way in EXPERIMENTS[experiment].ways}
    return {way: group for way, group in named.items() if group}


def error(group: Sequence[dict[str, Any]]) -> shared.Mean:
    """Natural error in %."""
    return shared.Mean.of([100 - 100 * each["natural"] for each in group])


def robust(group: Sequence[dict[str, Any]], magnitude: int = -1) -> shared.Mean:
    """Robust accuracy in %."""
    return shared.Mean.of([100 * each["robust"][magnitude] for each in group])


def met(group: Sequence[dict[str, Any]]) -> str:
    """What the target was of, in the last epoch, and for accuracies on test images."""
    way = group[0]["way"]
    if way.startswith("target accuracy"):
        wanted = float(way.split()[-1])
        within = [
            stats.binomtest(round(each["natural"] * ALL_TESTED), ALL_TESTED)
            .proportion_ci(method="wilson")
            .high
            >= wanted
            for each in group
        ]
        reached = sum(each["natural"] >= wanted for each in group)
        return f"reached by {reached} of {len(group)}, {sum(within)} within the interval"
    logged = [each["logs"].get("loss@natural") for each in group]
    if None in logged:
        return ""
    return f"{np.mean(logged):.3f} ({min(logged):.3f} to {max(logged):.3f})"


def table(runs: Sequence[dict[str, Any]], experiment: str) -> list[list[str]]:
    """One row a way."""
    magnitudes = EXPERIMENTS[experiment].magnitudes
    head = ["way", "seeds", "natural error, %"]
    head += [f"robust accuracy, %, l2 {magnitude:g}" for magnitude in magnitudes]
    rows = [[*head, "natural loss, or target met"]]
    for way, group in by_way(runs, experiment).items():
        cells = [way, str(len(group)), str(error(group))]
        cells += [str(robust(group, index)) for index in range(len(magnitudes))]
        rows.append([*cells, met(group)])
    return rows


def sweep(runs: Sequence[dict[str, Any]], experiment: str) -> list[list[str]]:
    """How often a weighted sum is trained by bisection to end at the natural error of a target.

    The error between weights that were run is interpolated; plain training has a weight of 1.
    """
    groups = by_way(runs, experiment)
    known = sorted(
        (1.0 if way == "plain" else float(way.split()[-1]), error(group).mean)
        for way, group in groups.items()
        if way == "plain" or way.startswith("weighted sum")
    )
    rows = [["target", "natural error, %", f"trainings by bisection to within {CLOSE}"]]
    if not known:
        return rows
    weights, errors = map(np.array, zip(*known, strict=True))
    for way, group in groups.items():
        if way.startswith("target"):
            wanted = error(group).mean
            count = trainings(lambda weight: float(np.interp(weight, weights, errors)), wanted)
            beyond = not errors.min() - CLOSE <= wanted <= errors.max() + CLOSE
            cell = "beyond the weights that were run" if beyond else str(count or "never")
            rows.append([way, f"{wanted:.2f}", cell])
    return rows


def trainings(error_at: Callable[[float], float], wanted: float) -> int | None:
    """After how many bisections of a weight an error is as close as `CLOSE` to what is wanted."""
    low, high = 0.0, 1.0
    for count in range(1, 20):
        weight = (low + high) / 2
        there = error_at(weight)
        if abs(there - wanted) <= CLOSE:
            return count
        low, high = (weight, high) if there > wanted else (low, weight)
    return None


def draw(runs: Sequence[dict[str, Any]], chosen: Sequence[str], path: pathlib.Path) -> None:
    """Natural error against robust accuracy: a panel an experiment, a line a family of ways."""
    # Plain training is far below: it would take all of the scale. What targets are compared with is
    # in the tables alone: there are more ways than colors that can be told apart.
    left_out = {"plain", "Bloop", *MULTIPLIERS}
    families = {
        way.rsplit(maxsplit=1)[0]: None
        for experiment in chosen
        for way in by_way(runs, experiment)
        if way.rsplit(maxsplit=1)[0] not in left_out
    }
    styles = series_styles(families)
    labels: dict[Any, list[tuple[str, float, float, str]]] = collections.defaultdict(list)
    figure, axes = plt.subplots(
        1, len(chosen), figsize=(5.6 * len(chosen), 5.0), layout="constrained", squeeze=False
    )
    for experiment, panel in zip(chosen, axes[0], strict=True):
        groups = by_way(runs, experiment)
        seeds = max(map(len, groups.values()))  # Of fewer, intervals would fill the picture.
        for family, style in styles.items():
            members = {
                way.split()[-1]: group
                for way, group in groups.items()
                if way.rsplit(maxsplit=1)[0] == family and len(group) == seeds
            }
            if not members:
                continue
            points = sorted((error(g), robust(g), name) for name, g in members.items())
            x, y, names = zip(*points, strict=True)
            labels[panel] += [
                (name, a.mean, b.mean, style["color"])
                for a, b, name in zip(x, y, names, strict=True)
            ]
            panel.errorbar(
                [value.mean for value in x],
                [value.mean for value in y],
                xerr=[value.half for value in x],
                yerr=[value.half for value in y],
                label=family,
                markersize=5,
                linewidth=1.2,
                elinewidth=0.5,
                **style,
            )
        magnitude = EXPERIMENTS[experiment].magnitudes[-1]
        panel.set_title(TITLES.get(experiment, experiment))
        panel.set_xlabel("natural test error, %")
        panel.set_ylabel(f"robust accuracy at l2 {magnitude:g}, %")
        panel.grid(alpha=0.3)
    handles = {
        label: handle
        for panel in axes[0]
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False
    )
    for panel, texts in labels.items():
        label_points(figure, panel, texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    chosen = CHOSEN.value
    if unknown := set(chosen) - set(EXPERIMENTS):
        raise app.UsageError(f"No experiments: {sorted(unknown)}. There are {[*EXPERIMENTS]}.")
    results = shared.Results(pathlib.Path(OUT.value))
    for seed, experiment in itertools.product(map(int, SEEDS.value), chosen):
        ways = EXPERIMENTS[experiment].ways
        for way in CHOSEN_WAYS.value or ways:
            settings = {"experiment": experiment, "way": way, "seed": seed}
            if way in ways and results.is_due(settings):
                results.add(run(settings))
    runs = [run for run in results.runs if run["way"] in (CHOSEN_WAYS.value or [run["way"]])]
    for experiment in chosen:
        for name, rows in (
            (experiment, table(runs, experiment)),
            (f"{experiment}, sweep", sweep(runs, experiment)),
        ):
            shared.show(name, rows)
            if PAGE.value and f"<!-- {name} -->" in pathlib.Path(PAGE.value).read_text("utf-8"):
                shared.write_table(PAGE.value, name, rows)
    if FIGURE.value:
        draw(runs, chosen, pathlib.Path(FIGURE.value))


if __name__ == "__main__":
    app.run(main)
