"""Makes a page with a table and curves out of the results that examples/mnist.py has written.

    python examples/mnist_page.py --results=docs/results/mnist_h200.json --out=docs/mnist_h200.md

The pictures go to `figures/` beside the page.
"""

import json
import pathlib
from typing import Any

import tabulate
from absl import app, flags
from matplotlib.figure import Figure
from scipy import stats

RESULTS = flags.DEFINE_string("results", None, "A list of runs, JSON.", required=True)
OUT = flags.DEFINE_string("out", None, "The page, Markdown.", required=True)

# Okabe and Ito's colors, which color-blind readers tell apart, with a marker each.
STYLES = {
    "standard": ("black", "o"),
    "adversarial": ("#D55E00", "s"),
    "trades": ("#E69F00", "D"),
    "average": ("#56B4E9", "X"),
    "olsrc": ("#0072B2", "^"),
    "olgrc": ("#009E73", "v"),
    "olgrc_nearest": ("#CC79A7", "P"),
}
NAMES = {
    "standard": "standard",
    "adversarial": "adversarial training",
    "trades": "TRADES",
    "average": "average of losses",
    "olsrc": "OLSRC",
    "olgrc": "OLGRC",
    "olgrc_nearest": "OLGRC, nearest points",
}
UNITS = {"l1": "l1 norm", "l2": "l2 norm", "linf": "linf norm"}


def share(outcomes: str) -> str:
    """A share of ones in per cent, with Wilson's 95 % interval."""
    interval = stats.binomtest(outcomes.count("1"), len(outcomes)).proportion_ci(method="wilson")
    accuracy = outcomes.count("1") / len(outcomes)
    return f"{100 * accuracy:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def trained_for(run: dict[str, Any]) -> str:
    """The magnitudes that a run was trained for."""
    return ", ".join(f"{magnitude:g}" for magnitude in run["magnitudes"])


def curve_of(run: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Exact norms and the accuracies in per cent there: a run's curve, or what else is known."""
    curve = run["curves"].get("exact")
    if curve is None:
        magnitudes = [0.0, *map(float, run["accuracy"])]
        accuracies = [run["natural_accuracy"], *run["accuracy"].values()]
    else:
        magnitudes, accuracies = curve["magnitudes"], curve["accuracy"]
    return magnitudes, [100 * accuracy for accuracy in accuracies]


def name_of(run: dict[str, Any]) -> str:
    """The method, and what sets runs of it apart. Older results know one batch alone."""
    size = run.get("batch_size")
    batches = f", batches of {size}" if size else ""
    return NAMES[run["method"]] + batches + (", memory" if run.get("memory") else "")


def rows(runs: list[dict[str, Any]]) -> list[dict[str, str]]:
    """One row a run and magnitude."""
    return [
        {
            "norm": run["norm"],
            "method": name_of(run),
            "trained for": trained_for(run),
            "epochs": str(run["epochs"]),
            "natural accuracy, %": f"{100 * run['natural_accuracy']:.2f}",
            "natural loss, nats": f"{run['natural_loss']:.3f}",
            "magnitude": magnitude,
            "accuracy there, % (95 % interval)": share(run["outcomes"][magnitude]),
            "loss there, nats": f"{run['loss'][magnitude]:.2f}",
            "training, s": f"{run['seconds']:.0f}",
        }
        for run in runs
        for magnitude in run["accuracy"]
    ]


def draw(runs: list[dict[str, Any]]) -> Figure:
    """Accuracy over the exact norm, one axes for each norm."""
    norms = list(dict.fromkeys(run["norm"] for run in runs))
    figure = Figure(figsize=(4.6 * len(norms), 3.6), layout="constrained")
    grid = figure.subplots(1, len(norms), sharey=True, squeeze=False)[0]
    for axes, norm in zip(grid, norms, strict=True):
        chosen = [run for run in runs if run["norm"] == norm]
        trained = {magnitude for run in chosen for magnitude in run["magnitudes"]}
        alike = len({trained_for(run) for run in chosen}) == 1
        for run in chosen:
            color, marker = STYLES[run["method"]]
            label = name_of(run) if alike else f"{name_of(run)}, {trained_for(run)}"
            line = ":" if run.get("memory") else "-" if len(run["magnitudes"]) == 1 else "--"
            axes.plot(*curve_of(run), line, color=color, marker=marker, ms=4, label=label)
        for magnitude in sorted(trained):
            axes.axvline(magnitude, color="0.6", linestyle=":", zorder=0)
        axes.set(xlabel=f"exact {UNITS[norm]} of the perturbation", ylim=(-2, 102))
        axes.grid(alpha=0.25)
    grid[0].set_ylabel("test accuracy, %")
    grid[0].legend()
    return figure


def main(_: list[str]) -> None:
    source, page = pathlib.Path(RESULTS.value), pathlib.Path(OUT.value)
    try:
        runs = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{source} cannot be read: {error} (--results)") from None
    first = runs[0]
    picture = pathlib.Path("figures") / f"{page.stem}.png"
    if any(run["curves"] for run in runs):
        drawn = [run for run in runs if run["curves"]]
        caption = f"Curves, of {drawn[0]['curve_samples']} test images; dotted: norms trained for."
    else:
        drawn = [run for run in runs if len(run["accuracy"]) > 1]
        caption = "The table's accuracies; dotted: norms trained for."
    curves = ""
    if drawn:
        (page.parent / picture).parent.mkdir(parents=True, exist_ok=True)
        draw(drawn).savefig(page.parent / picture, dpi=130)
        curves = f"""
{caption}

![Test accuracy over the norm of the perturbation, by method]({picture})
"""
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    warm = "from warm starts"
    if first.get("reset_every"):
        warm += f" that are random again every {first['reset_every']}th epoch"
    start = {"none": "from random starts", "steps": warm, "free": "as free steps"}
    table = tabulate.tabulate(rows(runs), headers="keys", tablefmt="github", disable_numparse=True)
    box = "inside [0, 1]" if first["box"] else "not held inside [0, 1]"
    test = f"{first['test_steps']} steps from each of {first['test_restarts']} starts"
    rate, steps = f"{first['learning_rate']:g}", first["attack_steps"]
    text = f"""# MNIST: {source.stem}

Written by `examples/mnist_page.py` from `{source}`, which also holds every sample's outcome.

- Data: {first["samples"]} training images, as one batch unless said otherwise; all 10,000 test
  images for natural accuracy, {first["test_samples"]} of them under attack. Perturbed pixels are
  {box}.
- Training: Adam at {rate}, seed {first["seed"]}; attacks of {steps} steps an epoch
  {start[first["warm_start"]]}.
- The attack, at the exact norms of the table: PGD with an adaptive step, {test}, the worst
  of all points visited. Intervals are Wilson's.
- Made on: {first["device"]}; {versions}.

{table}
{curves}"""
    page.write_text(text, encoding="utf-8")
    print(f"Wrote {page}" + (f" and {page.parent / picture}." if curves else "."))


if __name__ == "__main__":
    app.run(main)
