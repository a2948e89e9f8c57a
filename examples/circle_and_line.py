"""The paper's Figure 3, trained: how near each method's boundary comes to the best one.

    python examples/circle_and_line.py --out=results/circle_and_line
    python examples/circle_and_line.py --methods=nearest,olsrc --seeds=0,1,2,3,4

A circle lies on a line. The boundary of the optimal genuinely robust classifier is the parabola
that is equally far from both; `--out` gets results.json, to which later runs add, and figure3.png.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import common
import keras
import numpy as np
import tqdm
from absl import app, flags, logging
from matplotlib.figure import Figure
from scipy import spatial

import lexirobust as lr

POINTS = 200  # Half of them on the circle.
MAGNITUDES = (0.25, 0.5, 1.0, 1.5, 2.0)
ATTACK = lr.attacks.PGD(norm="l2", steps=5, restarts=2, bounds=None)
COLUMNS = np.linspace(-3.0, 3.0, 61)  # Where boundaries are looked for, from bottom to top.
HEIGHTS = np.linspace(-2.0, 4.0, 2401)

METHODS: dict[str, Callable[[keras.Model], lr.LexicographicModel]] = {
    "nearest": lambda network: lr.OLGRC(network, ATTACK, MAGNITUDES, explored="nearest"),
    "discriminator": lambda network: lr.OLGRC(network, ATTACK, MAGNITUDES),
    "olsrc": lambda network: lr.OLSRC(network, ATTACK, MAGNITUDES),
    "adversarial": lambda network: lr.MultiPerturbationTraining(
        network, [ATTACK] * len(MAGNITUDES), MAGNITUDES, "avg"
    ),
}
TITLES = {
    "nearest": "OLGRC, explored region known",
    "discriminator": "OLGRC, discriminator",
    "olsrc": "OLSRC",
    "adversarial": "adversarial training",
    "neighbor": "1-nearest-neighbor",
}

METHOD_NAMES = flags.DEFINE_list("methods", list(METHODS), "Methods to train.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds of the data and the weights.")
EPOCHS = flags.DEFINE_integer("epochs", 1500, "Full-batch steps.", lower_bound=1)
OUT = flags.DEFINE_string("out", "results/circle_and_line", "Folder for results and picture.")

flags.register_validator(
    "methods",
    lambda names: bool(names) and set(names) <= set(METHODS),
    message=f"out of {', '.join(METHODS)}",
)
flags.register_validator(
    "seeds",
    lambda seeds: bool(seeds) and all(seed.isdigit() for seed in seeds),
    message="integers of at least 0",
)


def network() -> keras.Model:
    """Two hidden layers of 128."""
    layers = keras.layers
    hidden = [layers.Dense(128, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((2,)), *hidden, layers.Dense(2)])


def crossings(classify: Callable[[np.ndarray], np.ndarray]) -> list[list[float]]:
    """Where a classifier changes its mind in each column.

    Args:
        classify: Maps inputs `[N, 2]` to logits `[N, 2]`.

    Returns:
        For each of `COLUMNS` the heights of all changes, between which logits are interpolated.
    """
    grid = np.stack(np.meshgrid(COLUMNS, HEIGHTS, indexing="ij"), axis=-1)
    logits = np.asarray(classify(grid.reshape(-1, 2).astype(np.float32)))
    scores = (logits[:, 0] - logits[:, 1]).reshape(len(COLUMNS), -1)
    found = []
    for column in scores:
        (below,) = np.nonzero((column[:-1] > 0) != (column[1:] > 0))
        share = column[below] / (column[below] - column[below + 1])
        heights = HEIGHTS[below] + share * (HEIGHTS[below + 1] - HEIGHTS[below])
        found.append(heights.round(4).tolist())
    return found


def measured(boundary: list[list[float]]) -> dict[str, Any]:
    """How far a boundary is from the parabola, straight up or down, where a column has just one."""
    distances = [
        abs(heights[0] - x**2 / 4)
        for x, heights in zip(COLUMNS, boundary, strict=True)
        if len(heights) == 1
    ]
    return {
        "mean_distance": float(np.mean(distances)) if distances else None,
        "largest_distance": float(np.max(distances)) if distances else None,
        "columns_without_one_crossing": len(COLUMNS) - len(distances),
        "boundary": boundary,
    }


def train(name: str, seed: int, epochs: int) -> dict[str, Any]:
    """Trains one method from one seed, and looks for its boundary."""
    keras.utils.set_random_seed(seed)
    x, y = lr.datasets.circle_and_line(POINTS, seed)
    model = METHODS[name](network())
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=True)
    start = time.perf_counter()
    with tqdm.tqdm(total=epochs, desc=f"{name}, seed {seed}", unit="epoch", disable=None) as bar:
        history = model.fit(
            x,
            y,
            batch_size=POINTS,
            epochs=epochs,
            shuffle=False,
            verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: bar.update())],
        ).history
    seconds = time.perf_counter() - start
    found = crossings(lambda points: model.classifier.predict(points, 4096, verbose=0))
    return {
        **measured(found),
        "training_accuracy": {
            name.removeprefix("accuracy@"): round(values[-1], 4)
            for name, values in history.items()
            if name.startswith("accuracy@")
        },
        "seconds": round(seconds, 1),
    }


def neighbor(seed: int) -> dict[str, Any]:
    """The boundary of the classifier that gives each point the label of the nearest sample."""
    x, y = lr.datasets.circle_and_line(POINTS, seed)
    trees = [spatial.KDTree(x[y == label]) for label in (0, 1)]
    return measured(
        crossings(lambda points: -np.stack([tree.query(points)[0] for tree in trees], axis=1))
    )


def draw(results: list[dict[str, Any]], seed: int) -> Figure:
    """One panel a method: the samples, the parabola and the boundary."""
    names = [name for name in TITLES if any(r["method"] == name for r in results)]
    figure = Figure(figsize=(9.0, 3.1 * -(-len(names) // 3)), layout="constrained")
    x, y = lr.datasets.circle_and_line(POINTS, seed)
    panels = figure.subplots(-(-len(names) // 3), 3, sharex=True, sharey=True).flat
    for axes in panels[len(names) :]:
        axes.remove()
    for axes, name in zip(panels, names, strict=False):
        result = next(r for r in results if r["method"] == name and r["seed"] == seed)
        for label, color, marker in ((0, "#0072B2", "o"), (1, "#D55E00", "s")):
            axes.plot(*x[y == label].T, marker, color=color, markersize=2.5, linestyle="none")
        axes.plot(COLUMNS, COLUMNS**2 / 4, color="0.6", linewidth=3, label="parabola x1²/4")
        places = [
            (column, height)
            for column, heights in zip(COLUMNS, result["boundary"], strict=True)
            for height in heights
        ]
        axes.plot(*np.transpose(places), "k.", markersize=4, label="boundary found")
        off = result["mean_distance"]
        told = "no column crossed once" if off is None else f"off by {off:.3f} on average"
        axes.set_title(f"{TITLES[name]}\n{told}", size=9)
        axes.set(xlabel="x1", ylabel="x2", xlim=(-3.1, 3.1), ylim=(-2.05, 3.05), aspect="equal")
    panels[0].legend(loc="lower left", fontsize=7, framealpha=0.9)
    return figure


def row(result: dict[str, Any]) -> dict[str, str]:
    """One result as a line of the table."""
    mean, largest = (
        "-" if result[name] is None else f"{result[name]:.3f}"
        for name in ("mean_distance", "largest_distance")
    )
    return {
        "method": TITLES[result["method"]],
        "seed": str(result["seed"]),
        "mean distance": mean,
        "largest": largest,
        f"not once in {len(COLUMNS)} columns": str(result["columns_without_one_crossing"]),
        "seconds": f"{result['seconds']:.0f}" if "seconds" in result else "-",
    }


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    out = pathlib.Path(OUT.value)
    kept = out / "results.json"
    results: list[dict[str, Any]] = []
    if kept.exists():
        results = json.loads(kept.read_text(encoding="utf-8"))
    shown = []
    for seed in map(int, SEEDS.value):
        for name in [*METHOD_NAMES.value, "neighbor"]:
            settings = {"method": name, "seed": seed}
            if name != "neighbor":
                settings["epochs"] = EPOCHS.value
            known = [result for result in results if settings.items() <= result.items()]
            if not known:
                done = neighbor(seed) if name == "neighbor" else train(name, seed, EPOCHS.value)
                known = [{**settings, **done}]
                results += known
                common.write_results(results, out)
            shown += known
    common.show_table("Distance of the boundary to the parabola", [row(r) for r in shown])
    first = int(SEEDS.value[0])
    draw([result for result in shown if result["seed"] == first], first).savefig(
        out / "figure3.png", dpi=130
    )
    print(f"Results and picture are in {out}.")


if __name__ == "__main__":
    app.run(main)
