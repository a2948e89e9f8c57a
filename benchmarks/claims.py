"""What the paper and this project claim, beside what was measured: a table for docs/results.md.

    python benchmarks/claims.py --page=docs/results.md

Nothing is run: each row is computed from results that are kept, and names the command that makes
them. Intervals are Student's of 95 %, over seeds; differences are taken seed by seed.
"""

import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Before TensorFlow is imported.

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import paper
import shared
from absl import app, flags
from scipy import stats

import lexirobust as lr

PAGE = flags.DEFINE_string("page", None, "Page to write the table to, where it has it.")
RESULTS = pathlib.Path("docs/results")


class Claim(NamedTuple):
    """One row of the table.

    Attributes:
        text: What is claimed.
        source: Who claims it.
        measured: What was measured, in words.
        seeds: How many seeds that is over.
        holds: The verdict.
        command: What makes the results, of `benchmarks/` or `examples/`.
    """

    text: str
    source: str
    measured: str
    seeds: int
    holds: str
    command: str


def runs_in(file: str) -> list[dict[str, Any]]:
    """All runs of a file."""
    runs: list[dict[str, Any]] = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))
    return runs


def runs_of(file: str, **settings: Any) -> dict[int, dict[str, Any]]:
    """The runs of a file with these settings, by seed."""
    return {run["seed"]: run for run in runs_in(file) if settings.items() <= run.items()}


def differences(
    first: dict[int, dict[str, Any]],
    second: dict[int, dict[str, Any]],
    value: Callable[[dict[str, Any]], float],
) -> list[float]:
    """How much larger the first one's values are than the second one's, seed by seed."""
    return [value(first[seed]) - value(second[seed]) for seed in sorted(first.keys() & second)]


def points(values: Sequence[float]) -> str:
    """A mean difference of shares in points, and its interval."""
    mean = shared.Mean.of([100.0 * value for value in values])
    if len(values) == 1:
        return f"{mean.mean:+.1f}"
    return f"{mean.mean:+.1f} ({mean.mean - mean.half:+.1f} to {mean.mean + mean.half:+.1f})"


def told(values: Sequence[float], at_least: float = 0.0) -> str:
    """Whether values are larger than asked for, by their interval."""
    mean = shared.Mean.of(values)
    if len(values) == 1:
        return f"{'yes' if mean.mean >= at_least else 'no'}, by one seed"
    if mean.mean - mean.half >= at_least:
        return "yes"
    return "no" if mean.mean + mean.half < at_least else "not told apart"


def all_told(parts: Sequence[Sequence[float]], at_least: float = 0.0) -> str:
    """The verdict on several groups of values, each of which is asked for as much."""
    verdicts = {told(values, at_least) for values in parts}
    return next(verdict for verdict in ("no", "not told apart", "yes") if verdict in verdicts)


def natural(run: dict[str, Any]) -> float:
    """The share of clean test images that are classified rightly."""
    return run["natural"]


def robust(run: dict[str, Any]) -> float:
    """The share that resists at the magnitude that was trained for."""
    return run["robust"][-1]


def compared(experiment: str, way: str, other: str) -> tuple[list[float], list[float], str]:
    """How much better one way of training is than another one, in natural and in robust accuracy.

    Returns:
        Both differences, seed by seed, and what they come to in words.
    """
    first = runs_of("targets", experiment=experiment, way=way)
    second = runs_of("targets", experiment=experiment, way=other)
    kept, gained = differences(first, second, natural), differences(first, second, robust)
    return kept, gained, f"natural {points(kept)} points, robust {points(gained)}"


TITLES = {"fashion_mnist": "Fashion-MNIST, l2 1", "mnist": "MNIST, l2 2"}


def ranking_is_free(experiment: str) -> Claim:
    kept, _, measured = compared(experiment, "ranked with memory 0.5", "plain")
    return Claim(
        "Ranking with memory costs less than 0.2 points of natural accuracy against plain training "
        f"({TITLES[experiment]})",
        "ours",
        measured,
        len(kept),
        told(kept, -0.002),
        "targets.py",
    )


def ranking_beats_a_weight(experiment: str) -> Claim:
    kept, gained, measured = compared(experiment, "ranked with memory 0.5", "weighted sum 0.8")
    return Claim(
        "It has less natural error than the weighted sum of 0.8, and is at most 3 points less "
        f"robust ({TITLES[experiment]})",
        "ours",
        measured,
        len(kept),
        told(kept) if told(gained, -0.03) == "yes" else told(gained, -0.03),
        "targets.py",
    )


def target_beats_a_weight(experiment: str, target: float, weight: float) -> Claim:
    kept, gained, measured = compared(
        experiment, f"target loss {target:g}", f"weighted sum {weight:g}"
    )
    return Claim(
        "A target is ahead of the weighted sum that ends with the same natural loss, in natural "
        f"accuracy or in robustness, and behind in neither ({TITLES[experiment]})",
        "ours",
        measured,
        len(kept),
        _both(told(kept), told(gained)),
        "targets.py",
    )


def missed_target_is_free() -> Claim:
    kept, gained, measured = compared("mnist", "target accuracy 0.985", "ranked with memory 0.5")
    return Claim(
        "A target that is missed on held-out data costs no robustness against a strict ranking "
        f"(accuracy 0.985, {TITLES['mnist']})",
        "ours",
        measured,
        len(kept),
        told(gained),
        "targets.py",
    )


def _both(first: str, second: str) -> str:
    """Ahead in one of two values, and behind in neither."""
    if "no" in (first, second):
        return "no"
    return "yes" if "yes" in (first, second) else "not told apart"


def target_at_plain_loss(experiment: str, loss: float, network: str) -> Claim:
    target = runs_of("targets", experiment=experiment, way=f"target loss {loss:g}")
    kept, gained, measured = compared(experiment, f"target loss {loss:g}", "plain")
    ends = np.mean([run["logs"]["loss@natural"] for run in target.values()])
    return Claim(
        "At plain training's natural loss a target costs half a point at most and brings 25 points "
        f"of robust accuracy, with {network} ({TITLES['fashion_mnist']})",
        "ours",
        f"{measured}; natural loss {ends:.2f} for {loss:g}",
        len(kept),
        told(kept, -0.005) if told(gained, 0.25).startswith("yes") else told(gained, 0.25),
        "targets.py" if experiment == "fashion_mnist" else f"targets.py --experiments={experiment}",
    )


def targets_are_met(images: str, count: int, accuracy: Callable[[dict[str, Any]], float]) -> Claim:
    runs = runs_in("targets")
    runs = [run for run in runs if run["way"].startswith("target accuracy")]
    asked = np.array([float(run["way"].split()[-1]) for run in runs])
    short = asked - [accuracy(run) for run in runs]
    highest = [
        stats.binomtest(round(accuracy(run) * count), count).proportion_ci(method="wilson").high
        for run in runs
    ]
    within = np.array(highest) >= asked
    missed = (
        f"; the others miss by {100 * short[short > 0].min():.2f} to {100 * short.max():.2f} points"
        if short.max() > 0
        else ""
    )
    return Claim(
        f"Targets of accuracy, held on 4,000 images, are missed on {images} by no more than the "
        "interval of these",
        "ours",
        f"{(short <= 0).sum()} of {len(runs)} trainings reach them, {within.sum()} within the "
        f"interval{missed}",
        len({run["seed"] for run in runs}),
        "yes" if within.all() else "no",
        "targets.py",
    )


def wrong_labels() -> Claim:
    target = runs_of("targets", experiment="label_noise", way="target loss 1")
    strict = runs_of("targets", experiment="label_noise", way="ranked with memory 0.5")
    gained = differences(target, strict, robust)
    return Claim(
        "Under label noise strict ranking starves robustness: a target has 10 points more",
        "paper, section 8; ours",
        f"robust {points(gained)} points, natural {points(differences(target, strict, natural))}",
        len(gained),
        told(gained, 0.1),
        "targets.py --experiments=label_noise",
    )


def auto_attack(l1: bool) -> Claim:
    parts = {(run["part"], run["network"], run["seed"]): run for run in runs_in("autoattack")}
    pairs = [
        (run, parts["reference", name, seed])
        for (part, name, seed), run in parts.items()
        if part == "ours" and ("reference", name, seed) in parts and ("l1" in name) == l1
    ]
    apart = [
        (own["resists"].count("1") - other["resists"].count("1")) / own["samples"]
        for own, other in pairs
    ]
    shares = [own["seconds"] / other["seconds"] for own, other in pairs]
    networks = len({own["network"] for own, _ in pairs})
    met = max(apart) <= 0 and (l1 or max(shares) <= 0.5)
    return Claim(
        "In l1, AutoAttack leaves at most what the reference's gradient attacks leave"
        if l1
        else "AutoAttack leaves at most what its reference leaves, in half of the time",
        "ours",
        f"{100 * min(apart):+.1f} to {100 * max(apart):+.1f} points on {networks} networks, "
        f"in {min(shares):.2f} to {max(shares):.2f} of the time",
        len({own["seed"] for own, _ in pairs}),
        "yes" if met else "no",
        "autoattack.py",
    )


def broken_by_the_reference() -> Claim:
    bits = [(run, np.array([*run["resists"]]) == "1") for run in runs_in("autoattack")]
    missed = {
        part: [
            float(np.mean(left & ~theirs))
            for run, left in bits
            for other, theirs in bits
            if run is not other
            and run["network"] == other["network"]
            and (run["part"], other["part"]) == (part, "reference")
        ]
        for part in ("ours", "reference")
    }
    own, theirs = (100 * np.array(missed[part]) for part in ("ours", "reference"))
    return Claim(
        "AutoAttack misses at most 0.5 % of the images, of those that its reference breaks",
        "ours",
        f"{own.mean():.2f} % in the mean, at most {own.max():.1f} %; the reference with another "
        f"seed misses {theirs.mean():.2f} %, at most {theirs.max():.1f} %",
        len({run["seed"] for run, _ in bits}),
        "yes" if own.max() <= 0.5 else "no",
        "autoattack.py --seeds=0,1,2",
    )


def human_like(way: str, title: str) -> Claim:
    humans = np.array(runs_of_way("human_labels", "humans")["humans"])
    plain, robust_one = runs_of("human_labels", way="plain"), runs_of("human_labels", way=way)
    agreement = differences(
        robust_one, plain, lambda run: float(np.mean(np.array(run["classes"]) == humans))
    )
    return Claim(
        f"Genuinely robust classifiers see what humans see: more so than plain ones ({title})"
        if "OLGRC" in way
        else f"Robustness beyond what humans see makes classifiers less human-like ({title})",
        "paper",
        f"agreement {points(agreement)} points",
        len(agreement),
        told(agreement) if "OLGRC" in way else told([-value for value in agreement]),
        "human_labels.py",
    )


def runs_of_way(file: str, way: str) -> dict[str, Any]:
    """The only run of a way that has no seed."""
    return next(run for run in runs_in(file) if run["way"] == way)


def ahead_in_genuine_accuracy(way: str, other: str, magnitude: int) -> list[float]:
    """By how much a way's genuine accuracy on test images is above another's, seed by seed."""

    def right(run: dict[str, Any]) -> float:
        return run["right"][magnitude].count("1") / run["counted"][magnitude].count("1")

    first, second = (
        runs_of("genuine_accuracy", way=each, samples="test", norm="exactly")
        for each in (way, other)
    )
    return differences(first, second, right)


def genuine(magnitude: int) -> Claim:
    ways = "OLGRC (discriminator) at l2 2 and 4", "adversarial training at l2 2"
    ahead = ahead_in_genuine_accuracy(*ways, magnitude)
    return Claim(
        f"`OLGRC` is ahead of adversarial training in genuine accuracy (MNIST, l2 {magnitude})",
        "paper",
        f"{points(ahead)} points",
        len(ahead),
        told(ahead),
        "genuine_accuracy.py",
    )


def as_good_as_nearest() -> Claim:
    ways = "OLGRC (discriminator) at l2 2 and 4", "OLGRC (nearest) at l2 2 and 4"
    ahead = [ahead_in_genuine_accuracy(*ways, magnitude) for magnitude in (1, 2, 3, 4)]
    return Claim(
        'With a discriminator, `OLGRC` is at most a point behind `explored="nearest"` in genuine '
        "accuracy (MNIST, l2 1, 2, 3, 4)",
        "ours",
        ", ".join(points(each) for each in ahead) + " points",
        len(ahead[0]),
        all_told(ahead, at_least=-0.01),
        "genuine_accuracy.py",
    )


def papers_table() -> Claim:
    runs = runs_in("mnist_ranked_h200")
    run = next(r for r in runs if r["method"] == "olsrc" and r["magnitudes"] == [4.0])
    right, robust = paper.TABLE["OLSRC"]
    reached = run["natural_accuracy"] >= right and run["accuracy"]["4"] >= robust
    return Claim(
        f"`OLSRC` trained for l2 4 on 2000 images: {100 * right:.2f} % natural, "
        f"{100 * robust:.2f} % at l2 4",
        "paper, its table of l2 attacks",
        f"{100 * run['natural_accuracy']:.2f} and {100 * run['accuracy']['4']:.1f} %, under PGD of "
        "100 steps and 5 starts, an attack of ours",
        1,
        "yes, by one seed" if reached else "no, by one seed",
        "../examples/mnist.py --method=olsrc --epochs=800",
    )


def papers_best() -> Claim:
    best = paper.TABLE["OLGRC"]
    runs = runs_of("paper_table", way="OLSRC at natural loss 0.06", epochs=30)
    plain = runs_of("paper_table", way="standard", epochs=30)
    likely = [paper.left_by(paper.likely_attack(plain[seed]), run) for seed, run in runs.items()]
    strong = [paper.left_by("margin, 5 starts", run) for run in runs.values()]
    clean = [natural(run) for run in runs.values()]
    kept = [share - best.natural for share in clean]
    gained = [share - best.robust for share in likely]
    return Claim(
        "With shifted images and a target, 270 passes in place of 84,000 reach the paper's best on "
        f"2000 images, {100 * best.natural:.2f} % natural and {100 * best.robust:.2f} % at l2 "
        "4, under an attack that leaves of plain training what the paper's did",
        "ours",
        f"{100 * np.mean(clean):.2f} and {100 * np.mean(likely):.1f} %: natural {points(kept)} "
        f"points, robust {points(gained)}; under a strong attack {100 * np.mean(strong):.1f} %",
        len(runs),
        all_told([kept, gained]),
        "paper_table.py",
    )


def published(name: str, natural: float, robust: float, whose: str) -> Claim:
    """A classifier that comes with the package, beside what others publish for its data set."""
    card = lr.pretrained.card(name)
    right = shared.Share.of(round(card["natural"] * card["tested"]), card["tested"])
    resist = shared.Share.of(round(card["robust"] * card["attacked"]), card["attacked"])
    ends = [(*right.interval, natural), (*resist.interval, robust)]
    if all(low >= asked for low, _, asked in ends):
        verdict = "yes, by one seed"
    else:
        missed = any(high < asked for _, high, asked in ends)
        verdict = "no, by one seed" if missed else "not told apart"
    return Claim(
        f"On MNIST, {5 * card['epochs']} passes of 55,000 images with a target are enough for "
        f"{100 * natural:.1f} % natural and {100 * robust:.1f} % under AutoAttack at "
        f"{card['norm']} {card['magnitude']:g}: {whose}",
        "ours",
        f"{right.percent_with_interval(2)} and {resist.percent_with_interval()} %, of "
        f"{card['tested']:,} and {card['attacked']:,} images",
        1,
        verdict,
        f"pretrained.py --names={name}",
    )


def toy() -> Claim:
    found = runs_of("toy", experiment=1, method="olgrc")
    right = [
        len(run["boundaries"]) == 1 and abs(run["boundaries"][0]) <= 0.25 for run in found.values()
    ]
    return Claim(
        "`OLGRC` finds the boundary that is as far from both classes (toy problem, within 0.25; so "
        "does plain training)",
        "paper, section 6",
        f"{sum(right)} of {len(right)} seeds",
        len(right),
        "yes" if all(right) else "no",
        "../examples/toy.py",
    )


def parabola(method: str, title: str) -> Claim:
    distances = [run["mean_distance"] for run in runs_of("circle_and_line", method=method).values()]
    return Claim(
        f"`OLGRC` ({title}) finds the parabola between a circle and a line, within 0.05",
        "paper, figure 3",
        f"mean distance {min(distances):.3f} to {max(distances):.3f}",
        len(distances),
        "yes" if max(distances) <= 0.05 else "no",
        "../examples/circle_and_line.py",
    )


def equation() -> Claim:
    def errors(**settings: Any) -> list[float]:
        return [run["error"] for run in runs_of("physics_informed", **settings).values()]

    def spread(values: list[float]) -> str:
        return f"{stats.gmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    ranked = errors(method="ranked", steps=10_000)
    weights = [10.0**power for power in range(6)]
    swept = {w: errors(method="weighted", weight=w, steps=10_000) for w in weights}
    best = min(swept, key=lambda weight: float(stats.gmean(swept[weight])))
    return Claim(
        "A boundary ranked above the equation needs no weight (Helmholtz, equal steps)",
        "ours",
        f"error {spread(ranked)}; best of six weights {spread(swept[best])}",
        len(ranked),
        "yes" if max(ranked) < min(swept[best]) else "not told apart",
        "../examples/physics_informed.py",
    )


def fairness() -> Claim:
    targets = (0.03, 0.02, 0.01, 0.005)
    groups = [list(runs_of("fairness", method="target", value=t).values()) for t in targets]

    def gap(group: list[dict[str, Any]], part: str) -> float:
        return 100.0 * float(np.mean([run[part]["gap_of_probabilities"] for run in group]))

    trained, tested = ([gap(group, part) for group in groups] for part in ("training", "test"))
    asked = [100.0 * target for target in targets]
    return Claim(
        "A fairness gap is held to what is asked for (3, 2, 1 and 0.5 points, on training data)",
        "ours",
        ", ".join(f"{value:.1f}" for value in trained)
        + " points; on test data "
        + ", ".join(f"{value:.1f}" for value in tested),
        len(groups[0]),
        "yes" if all(np.array(trained) <= np.array(asked)) else "no",
        "../examples/fairness.py",
    )


def claims() -> list[Claim]:
    """All of them, those that do not hold included."""
    return [
        *(ranking_is_free(experiment) for experiment in TITLES),
        *(ranking_beats_a_weight(experiment) for experiment in TITLES),
        targets_are_met("these images", 4000, lambda run: run["logs"]["held_out@natural"]),
        targets_are_met("10,000 test images", 10_000, natural),
        target_at_plain_loss("fashion_mnist", 0.27, "a network of two convolutions"),
        target_at_plain_loss("augmented", 0.36, "batch normalization, dropout and augmentation"),
        target_beats_a_weight("fashion_mnist", 0.36, 0.5),
        target_beats_a_weight("mnist", 0.05, 0.8),
        missed_target_is_free(),
        wrong_labels(),
        auto_attack(l1=False),
        auto_attack(l1=True),
        broken_by_the_reference(),
        equation(),
        fairness(),
        toy(),
        parabola("nearest", 'explored="nearest"'),
        parabola("discriminator", "discriminator"),
        papers_table(),
        papers_best(),
        published("mnist_linf", 0.99, 0.928, "as robust as TRADES is published to be"),
        published("mnist_l2", 0.992, 0.692, "as good as adversarial training is published to be"),
        genuine(2),
        as_good_as_nearest(),
        human_like("adversarial training at linf 0.3", "linf 0.3"),
        human_like("OLGRC (discriminator) at l2 2 and 4", "`OLGRC`"),
    ]


def table() -> list[list[str]]:
    """One row a claim."""
    rows = [["claim", "by", "measured (95 % interval)", "seeds", "holds", "command"]]
    for each in claims():
        path = f"benchmarks/{each.command}".replace("benchmarks/../", "")
        rows.append([*map(str, each[:-1]), f"`python {path}`"])
    return rows


def main(_: list[str]) -> None:
    rows = table()
    shared.show("Claims", rows)
    if PAGE.value:
        shared.write_table(PAGE.value, "claims", rows)


if __name__ == "__main__":
    app.run(main)
