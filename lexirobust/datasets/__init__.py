"""Data: the paper's toy problem in closed form, MNIST, and what is made of data sets."""

from lexirobust.datasets.mnist import fashion_mnist, mnist
from lexirobust.datasets.perturbed import perturb
from lexirobust.datasets.samples import subset, with_index
from lexirobust.datasets.toy import (
    TOY_INTERVALS,
    Interval,
    ToyClassifier,
    circle_and_line,
    decision_boundaries,
    toy,
    toy_accuracy,
    toy_classifier,
)

__all__ = [
    "TOY_INTERVALS",
    "Interval",
    "ToyClassifier",
    "circle_and_line",
    "decision_boundaries",
    "fashion_mnist",
    "mnist",
    "perturb",
    "subset",
    "toy",
    "toy_accuracy",
    "toy_classifier",
    "with_index",
]
