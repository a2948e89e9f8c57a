"""Times the ranked step, Gramian to combined gradient, against its floor and the known ways.

    python benchmarks/gem.py
    python benchmarks/gem.py --norun --page=docs/guarantees.md

Every cell of the table compares medians of paired runs: in one process, in turns, one after the
other. The floors are one product G G' and one weighted sum of the rows of G, and nothing else.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import json
import pathlib
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import cvxopt
import numpy as np
import shared
import tensorflow as tf
import tqdm
from absl import app, flags

from lexirobust import gem
from lexirobust.atomic_files import write_json

# The paper's network: two convolutions and two dense layers.
SHAPES = ((5, 5, 1, 32), (32,), (5, 5, 32, 64), (64,), (3136, 1024), (1024,), (1024, 10), (10,))
SIZES = ((2, 3_300_000), (7, 3_300_000), (20, 3_300_000), (7, 1000))
GEM_EPS = 1e-3  # What the original adds to the diagonal.
REFERENCE = "ours"

REPEATS = flags.DEFINE_integer("repeats", 15, "Timed runs of each way.", lower_bound=15)
PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
OUT = flags.DEFINE_string("out", "docs/results/gem.json", "Where results are kept.")

Way = Callable[[], Any]


def alphas_of(ranks: int) -> list[float]:
    """Half for rank 1, the rest shared."""
    return [0.5] + [0.5 / (ranks - 1)] * (ranks - 1)


def gradients_of(ranks: int, size: int) -> tf.Tensor:
    """`[T, p]` float32 random gradients, each of which conflicts with rank 1."""
    random = tf.random.Generator.from_seed(0)
    first = random.normal((size,))
    return tf.stack([first, *(random.normal((size,)) - 0.3 * first for _ in range(1, ranks))])


def ways_of(ranks: int, size: int) -> dict[str, Way]:
    """Everything that is timed at one size, by name. Each returns what it has to wait for."""
    matrix = gradients_of(ranks, size)
    alphas = alphas_of(ranks)
    weights = tf.constant(alphas)

    @tf.function
    def ours() -> Any:
        return gem.combine(matrix, gem.onestep_weights(gem.gramian(matrix), alphas))

    @tf.function
    def report() -> Any:
        step = gem.onestep(gem.gramian(matrix), alphas)
        return gem.combine(matrix, step.weights), step

    @tf.function
    def floor() -> Any:
        product = tf.matmul(matrix, matrix, transpose_b=True)
        return product, tf.linalg.matvec(matrix, weights, transpose_a=True)

    @tf.function
    def floor64() -> Any:
        wide = tf.cast(matrix, tf.float64)
        product = tf.matmul(wide, wide, transpose_b=True)
        return product, tf.linalg.matvec(matrix, weights, transpose_a=True)

    ways: dict[str, Way] = {
        REFERENCE: ours,
        "ours, with its report": report,
        "floor in float32": floor,
        "floor in float64": floor64,
        "quadprog per loss": lambda: per_loss(matrix, alphas, solve_quadprog, np.float64),
        "quadprog, float32 products": lambda: per_loss(matrix, alphas, solve_quadprog, np.float32),
        "cvxopt per loss": lambda: per_loss(matrix, alphas, solve_cvxopt, np.float64),
    }
    if size > 1000:
        lists = [cut(row) for row in tf.unstack(matrix)]
        metric = [tf.ones(shape) for shape in SHAPES]
        ways["ours, list per variable"] = tf.function(
            lambda: gem.combine(lists, gem.onestep_weights(gem.gramian(lists), alphas))
        )
        ways["ours, list and metric"] = tf.function(
            lambda: gem.combine(lists, gem.onestep_weights(gem.gramian(lists, metric), alphas))
        )
    return ways


def cut(row: tf.Tensor) -> list[tf.Tensor]:
    """One gradient as the paper's network has it; the few elements too many are left out."""
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    parts = tf.split(row, [*sizes, len(row) - sum(sizes)])
    return [tf.reshape(part, shape) for part, shape in zip(parts, SHAPES, strict=False)]


def per_loss(
    gradients: tf.Tensor, alphas: list[float], solve: Callable[..., Any], dtype: Any
) -> tf.Tensor:
    """As the original GEM does: to the host, one quadratic program a loss, the mean back.

    The original converts the gradients of the higher losses and the loss's own to float64 for each
    loss anew (`project2cone2` in facebookresearch/GradientEpisodicMemory); float32 is kinder.
    """
    rows = gradients.numpy()
    update = alphas[0] * rows[0].astype(dtype)
    for rank in range(1, len(rows)):
        higher, own = rows[:rank].astype(dtype, copy=False), rows[rank].astype(dtype, copy=False)
        product = (higher @ higher.T).astype(np.float64)
        multipliers = solve(
            product + GEM_EPS * np.eye(rank), (higher @ own).astype(np.float64)
        ).astype(dtype)
        update += alphas[rank] * (own + multipliers @ higher)
    return tf.constant(update.astype(np.float32))


def solve_quadprog(product: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Minimizes v P v / 2 + q v over v >= 0."""
    import quadprog  # Drawing the table does not need it.

    return quadprog.solve_qp(product, -linear, np.eye(len(linear)), np.zeros(len(linear)))[0]


def solve_cvxopt(product: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """The same by cvxopt."""
    bound = cvxopt.matrix(-np.eye(len(linear))), cvxopt.matrix(np.zeros(len(linear)))
    quadratic = cvxopt.matrix(product), cvxopt.matrix(linear)
    return np.ravel(cvxopt.solvers.qp(*quadratic, *bound, options={"show_progress": False})["x"])


def seconds(way: Way) -> float:
    """One run, until its results are there."""
    start = time.perf_counter()
    tf.nest.map_structure(lambda result: result[..., :1].numpy(), [r for r in flat(way())])
    return time.perf_counter() - start


def flat(results: Any) -> list[tf.Tensor]:
    return [result for result in tf.nest.flatten(results) if result.shape.rank]


def measure(ways: dict[str, Way], repeats: int, title: str) -> list[dict[str, Any]]:
    """Medians, and quartiles of ours' time as a share of each other way's, run by run."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        seconds(way), seconds(way)  # Tracing, then memory.
    for turn in tqdm.trange(repeats, desc=title, unit="turn", disable=None):
        for name in ways if turn % 2 else reversed(ways):
            times[name].append(seconds(ways[name]))
    results = []
    for name, measured in times.items():
        ratios = np.array(times[REFERENCE]) / np.array(measured)
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        results.append(
            {
                "way": name,
                "milliseconds": 1e3 * float(np.median(measured)),
                "ours_to_it": float(middle),
                "quartiles": [float(low), float(high)],
            }
        )
    return results


def table(sizes: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row a way, one column a size: median milliseconds, and ours as a share of them."""
    columns = {
        f"T = {each['ranks']}, p = {each['size']:,}": {r["way"]: r for r in each["results"]}
        for each in sizes
    }
    ways = dict.fromkeys(way for column in columns.values() for way in column)
    return [
        ["way", *columns],
        *([way, *(cell(column.get(way)) for column in columns.values())] for way in ways),
    ]


def cell(result: dict[str, Any] | None) -> str:
    """What a way takes; nothing where it was not timed."""
    if result is None:
        return ""
    return f"{result['milliseconds']:.1f} ({result['ours_to_it']:.2f})"


def main(_: list[str]) -> None:
    path = pathlib.Path(OUT.value)
    if shared.RUN.value:
        report: dict[str, Any] = {
            "settings": {"repeats": REPEATS.value, "gem_eps": GEM_EPS, "shapes": SHAPES},
            **shared.versions("numpy", "quadprog", "cvxopt"),
            "machine": {"cores": os.cpu_count(), "platform": platform.platform()},
            "sizes": [],
        }
        for ranks, size in SIZES:
            results = measure(ways_of(ranks, size), REPEATS.value, f"T = {ranks}, p = {size:,}")
            report["sizes"].append({"ranks": ranks, "size": size, "results": results})
        write_json(path, report)
    rows = table(json.loads(path.read_text(encoding="utf-8"))["sizes"])
    shared.show("From gradients to their combination: ms, and ours as a share of it", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, "gem", rows)


if __name__ == "__main__":
    app.run(main)
