"""The attack that keeps nearer to its own sample than to any other of a data set."""

import copy
from typing import Any

import tensorflow as tf

from lexirobust.attacks.classifier import Classifier
from lexirobust.attacks.gradient.gradient_ascent import AllowedRegion
from lexirobust.attacks.gradient.region import RegionPGD
from lexirobust.geometry.voronoi_cells import VoronoiCells


class VoronoiPGD(RegionPGD):
    """`PGD` inside the Voronoi cells of a data set: genuine adversarial samples.

    A perturbed input counts where no other point of the data set is nearer to it than its own
    sample is. The attack first gets there, by ranked gradients and by being led out of other
    points' balls after every step, and only then raises the loss. With an exact norm some samples
    have no such input at all; they do not count (`valid`).

    Args:
        cells: The cells, of points that the clean inputs are among as a rule, in the attack's norm.
        **settings: As of `PGD`. Use an even number of `restarts`, so that both sides are tried.

    Raises:
        ValueError: If the norms differ, or `early_stop` is asked for.

    Example: 1.5 is nearer to 2 than to 0, so only the left side counts at norm 1.5.

    >>> import numpy as np
    >>> cells = VoronoiCells(np.array([[0.0], [2.0]]))
    >>> attack = VoronoiPGD(cells, norm="l2", steps=3, restarts=2, bounds=None)
    >>> x, y = tf.constant([[0.0]]), tf.constant([0])
    >>> x_adv = attack(lambda x: tf.concat([-x, x], 1), x, y, 1.5)
    >>> x_adv.numpy().tolist(), attack.valid(x, x_adv, 1.5).numpy().tolist()
    ([[-1.5]], [True])

    Reference:
        Definition 5 of the paper, for finite data; Khoury and Hadfield-Menell, arXiv 1905.01019,
        and Kim et al., arXiv 2005.02540, for the maximum norm.
    """

    def __init__(self, cells: VoronoiCells, **settings: Any) -> None:
        super().__init__(**settings)
        if cells.norm != self.norm:
            raise ValueError(
                f"`norm` must be that of the cells. Received: {self.norm!r}, cells of "
                f"{cells.norm!r}."
            )
        self.cells = cells

    def allowed_region(self, x: tf.Tensor, magnitude: tf.Tensor) -> AllowedRegion:
        """Each input's own cell; see `PGD.allowed_region`."""
        del magnitude
        own = self.cells.own(x)
        move = self.cells.move_inside if self.constraint == "exact" else self.cells.back_in
        return AllowedRegion(
            depth=lambda x_adv: self.cells.depth(x, x_adv, own),
            move=lambda perturbation: move(x, perturbation, own),
            holds=lambda x_adv: self.cells.holds(x, x_adv, own),
        )

    def perturb(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        magnitude: Any,
        seed: tf.Tensor,
        initial_perturbation: tf.Tensor | None = None,
        near: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Perturbs a batch inside a graph; see `PGD.perturb`.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` float tensor.
            y: `[N]` integer labels, or `[N, C]` probabilities.
            magnitude: Scalar or `[N]` tensor.
            seed: `[2]` integer tensor.
            initial_perturbation: Perturbation to start from, shaped like `x`, in place of the first
                random one.
            near: `[m]` numbers of the points that are near enough to matter; `None`: all.

        Returns:
            The perturbed inputs, shaped like `x`.
        """
        if near is None:
            return super().perturb(classifier, x, y, magnitude, seed, initial_perturbation)
        inside = copy.copy(self)
        inside.cells = self.cells.among(near)
        return inside.perturb(classifier, x, y, magnitude, seed, initial_perturbation)

    def _compiled(self, classifier: Classifier, **given: Any) -> Any:
        """Looks for the points that matter once, and not in every step."""
        near = self.cells.near(given["x"], given["magnitude"])
        return super()._compiled(classifier, near=near, **given)
