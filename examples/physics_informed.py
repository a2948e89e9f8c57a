"""Solves a partial differential equation by a network: its boundary ranks above its inside.

    python examples/physics_informed.py --out=results/physics_informed
    python examples/physics_informed.py --methods=ranked --seeds=0 --steps=2000

Helmholtz's equation on a square: the solution is zero on the boundary, and inside, it and its
second derivatives add up to what is given. As a sum of two losses, all depends on the weight of the
boundary, which has to be found by trying (Wang et al., arXiv 2001.04536). Ranked, none is tuned.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import pathlib
import time
from typing import Any

import common
import keras
import numpy as np
import tensorflow as tf
import tqdm
from absl import app, flags, logging
from matplotlib.figure import Figure

import lexirobust as lr
from lexirobust import plotting

SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and points.")
METHOD_NAMES = flags.DEFINE_list("methods", ["weighted", "ranked"], "Methods.")
WEIGHTS = flags.DEFINE_list(
    "weights", ["1", "10", "100", "1e3", "1e4", "1e5"], "The boundary's in the sum, ascending."
)
STEPS = flags.DEFINE_integer("steps", 10_000, "Steps; a multiple of 20.", lower_bound=20)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 2e-3, "Adam's first learning rate.", 0.0)
OUT = flags.DEFINE_string("out", "results/physics_informed", "Folder for results and pictures.")

INSIDE, ON_EACH_SIDE, AT_A_TIME = 128, 64, 20
WAVES = np.array([1.0, 4.0])
"""Waves of the solution in each direction."""


flags.register_validator(
    "weights",
    lambda values: bool(values) and all(common.is_positive(value) for value in values),
    message="numbers above 0",
)
flags.register_validator(
    "methods",
    lambda names: bool(names) and set(names) <= {"weighted", "ranked"},
    message="out of weighted, ranked",
)
flags.register_validator(
    "seeds",
    common.are_seeds,
    message="integers of at least 0",
)
flags.register_validator(
    "steps", lambda steps: steps % AT_A_TIME == 0, message=f"a multiple of {AT_A_TIME}"
)

Results = list[dict[str, Any]]


def solution(points: np.ndarray) -> np.ndarray:
    """`[N]` values of the solution at `[N, 2]` points."""
    return np.sin(np.pi * WAVES * points).prod(axis=1)


def given(points: np.ndarray) -> np.ndarray:
    """`[N]` what the solution and its second derivatives add up to at `[N, 2]` points."""
    return (1 - np.sum((np.pi * WAVES) ** 2)) * solution(points)


class Boundary(lr.objectives.Objective):
    """Mean square of what ought to be zero, on points of the four sides.

    Args:
        name: What the logs call it.
        seed: Draws the points.
    """

    gives_logits = False

    def __init__(self, name: str = "boundary", seed: int = 0) -> None:
        super().__init__(name)
        self.seed = seed
        along = np.random.default_rng(seed).uniform(-1, 1, (4, ON_EACH_SIDE))
        end = np.ones(ON_EACH_SIDE)
        sides = [(along[0], -end), (along[1], end), (-end, along[2]), (end, along[3])]
        points = np.concatenate([np.stack(side, axis=1) for side in sides])
        self.points = tf.constant(points, tf.float32)

    def loss(
        self,
        forward: lr.objectives.Forward,
        batch: lr.objectives.Batch,
        inputs: tf.Tensor,
        score: Any,
    ) -> tuple[tf.Tensor, None]:
        """Asks the network at points of its own: those of the batch lie inside."""
        del batch, inputs, score
        return tf.reduce_mean(tf.square(forward(self.points)["u"])), None


class Residual(lr.objectives.Objective):
    """Mean square of what the equation misses, at the points of the batch.

    Args:
        name: What the logs call it.
    """

    gives_logits = False

    def __init__(self, name: str = "residual") -> None:
        super().__init__(name)

    def loss(
        self,
        forward: lr.objectives.Forward,
        batch: lr.objectives.Batch,
        inputs: tf.Tensor,
        score: Any,
    ) -> tuple[tf.Tensor, None]:
        """Differentiates the network twice by its inputs."""
        del score
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as outer:
            outer.watch(inputs)
            with tf.GradientTape(watch_accessed_variables=False) as inner:
                inner.watch(inputs)
                u = forward(inputs)["u"]
            slopes = tf.unstack(inner.gradient(u, inputs), axis=1)
        curvatures = [outer.gradient(slope, inputs)[:, i] for i, slope in enumerate(slopes)]
        missed = tf.add_n([*curvatures, u[:, 0]]) - batch.y["u"][:, 0]
        return tf.reduce_mean(tf.square(missed)), None


def network() -> keras.Model:
    """Maps `[N, 2]` points to `[N, 1]` values, named `u`."""
    inputs = keras.Input((2,))
    hidden = inputs
    for _ in range(3):
        hidden = keras.layers.Dense(50, activation="tanh")(hidden)
    return keras.Model(inputs, {"u": keras.layers.Dense(1)(hidden)})


def train(method: str, weight: float | None, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """Trains one method from one seed, and measures it.

    Args:
        method: `"weighted"` or `"ranked"`.
        weight: That of the boundary in a weighted sum, or `None`.
        seed: Of weights and points.

    Returns:
        The result, and how far the network is from the solution, `[101, 101]`.
    """
    keras.utils.set_random_seed(seed)
    classifier = network()
    losses = [Boundary(seed=seed), Residual()]
    ranks: list[lr.objectives.Rank] = [*losses]
    if weight is not None:
        ranks = [lr.objectives.WeightedSum(losses, [weight, 1.0])]
    model = lr.LexicographicModel(classifier, ranks)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE.value, STEPS.value)
    model.compile(keras.optimizers.Adam(rate), loss={"u": "mse"}, steps_per_execution=AT_A_TIME)
    points = np.random.default_rng(seed).uniform(-1, 1, (INSIDE * STEPS.value, 2))
    right_side = {"u": given(points)[:, None].astype(np.float32)}
    start = time.perf_counter()
    model.fit(points.astype(np.float32), right_side, INSIDE, shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    line = np.linspace(-1, 1, 101)
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    truth = solution(grid)
    found = classifier.predict(grid.astype(np.float32), batch_size=len(grid), verbose=0)["u"][:, 0]
    result = {
        "method": method,
        "weight": weight,
        "seed": seed,
        "steps": STEPS.value,
        "error": float(np.linalg.norm(found - truth) / np.linalg.norm(truth)),
        "seconds": seconds,
    }
    return result, np.abs(found - truth).reshape(101, 101)


def grouped(results: Results) -> dict[tuple[str, float | None], list[float]]:
    """The errors of all seeds, by method and weight."""
    groups: dict[tuple[str, float | None], list[float]] = {}
    for result in results:
        groups.setdefault((result["method"], result["weight"]), []).append(result["error"])
    return groups


def draw(results: Results, maps: dict[str, np.ndarray]) -> Figure:
    """Draws the errors by weight, and where the first seed's lie."""
    figure = Figure(figsize=(4.2 + 3.0 * len(maps), 3.4), layout="constrained")
    widths = [1.35, *[1.0] * len(maps)]
    axes, *places = np.atleast_1d(figure.subplots(1, 1 + len(maps), width_ratios=widths))
    groups = grouped(results)
    weighted = {weight: errors for (_, weight), errors in groups.items() if weight is not None}
    if weighted:
        means = [np.exp(np.mean(np.log(errors))) for errors in weighted.values()]
        axes.plot([*weighted], means, color=plotting.RED, marker="o", label="weighted sum")
        for weight, errors in weighted.items():
            axes.plot([weight] * len(errors), errors, "o", color=plotting.RED, ms=4, alpha=0.35)
    if ("ranked", None) in groups:
        errors = groups["ranked", None]
        mean = np.exp(np.mean(np.log(errors)))
        axes.axhline(mean, color=plotting.BLUE, label="ranked, no weight tuned")
        axes.axhspan(min(errors), max(errors), color=plotting.BLUE, alpha=0.15, lw=0)
    axes.set(xscale="log", yscale="log", title="How far from the solution?")
    axes.set(xlabel="weight of the boundary in the sum", ylabel="relative error (l2)")
    axes.grid(alpha=0.25)
    axes.legend()
    highest = max(values.max() for values in maps.values())
    for place, (name, values) in zip(places, maps.items(), strict=True):
        image = place.imshow(
            values, origin="lower", extent=(-1, 1, -1, 1), cmap="magma_r", vmin=0, vmax=highest
        )
        place.set_title(name)
    figure.colorbar(image, ax=places, label="distance from the solution")
    return figure


def row(method: str, weight: float | None, errors: list[float]) -> dict[str, str]:
    """All seeds of one method as a line of the table."""
    return {
        "method": method,
        "weight of the boundary": "" if weight is None else f"{weight:g}",
        "relative error": f"{np.exp(np.mean(np.log(errors))):.3f}",
        "range over seeds": f"{min(errors):.3f} to {max(errors):.3f}",
    }


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # Each run traces one graph: no cause for warnings.
    out = pathlib.Path(OUT.value)
    runs = [
        (method, weight, int(seed))
        for method in METHOD_NAMES.value
        for weight in (map(float, WEIGHTS.value) if method == "weighted" else [None])
        for seed in SEEDS.value
    ]
    results: Results = []
    maps: dict[str, np.ndarray] = {}
    for method, weight, seed in tqdm.tqdm(runs, unit="run", disable=None):
        result, distances = train(method, weight, seed)
        results.append(result)
        common.write_results(results, out)
        maps.setdefault(method if weight is None else f"weight {weight:g}", distances)
    shown = [*maps][:1] + [*maps][-1:]  # The smallest weight, and the last method.
    figure = draw(results, {name: maps[name] for name in shown})
    figure.savefig(out / "physics_informed.png", dpi=120)
    title = f"Helmholtz's equation, {STEPS.value} steps, geometric mean over seeds"
    common.show_table(title, [row(*key, errors) for key, errors in grouped(results).items()])
    print(f"results.json and physics_informed.png are in {out}.")


if __name__ == "__main__":
    app.run(main)
