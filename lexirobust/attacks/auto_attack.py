"""AutoAttack: several attacks in turn, each on the samples that still resist."""

from collections.abc import Hashable, Sequence
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

from lexirobust.attacks.base import Attack
from lexirobust.attacks.classifier import Classifier, logits_of
from lexirobust.attacks.gradient.pgd import PGD
from lexirobust.attacks.gradient.targeted import TargetedPGD
from lexirobust.attacks.inputs import batches, scales_of
from lexirobust.attacks.losses import most_likely
from lexirobust.attacks.minimum_norm.fab import FAB
from lexirobust.attacks.minimum_norm.within_magnitude import WithinMagnitude
from lexirobust.attacks.square import Square
from lexirobust.attacks.staged_run import CLEAN, RESISTS, Found, Stage, attack_for, run_stages
from lexirobust.checks import check_count, check_flag, check_magnitudes
from lexirobust.tensors import choose, classes_of, of_dtype, spread

VERSIONS: Final = ("standard", "plus", "rand")
# Starts of the versions that take several; pairs of them for l1; draws of randomized classifiers;
# halvings of the way back from what was found to the clean input; passes in which FAB does that, at
# most.
_RESTARTS, _ROUNDS, _DRAWS, _HALVINGS, _REFINEMENT = 5, 3, 20, 10, 90


@keras.saving.register_keras_serializable(package="lexirobust")
class AutoAttack(Attack):
    """Several attacks in turn, each on what still resists: what published figures stand on.

    `"standard"`: `PGD` on the cross entropy; `TargetedPGD` toward each of the most likely wrong
    classes; targeted `FAB` toward the same; `Square`. For l1 the first two have six starts.
    `"plus"` adds, before the targeted ones, five starts of `PGD` on cross entropy and DLR loss and
    of `FAB`. `"rand"`, for randomized classifiers: `PGD` on cross entropy and DLR loss, each
    gradient a mean over 20 draws. What an attack brought near the boundary is attacked by it twice
    again, from other starts. A norm is the most that is added; misclassified inputs are left as
    they are.

    `sweep`, and so an accuracy curve, looks for the smallest of several magnitudes at which a
    sample is misclassified: from the largest down, each time below what was found. A sample that
    resists at one magnitude is said to resist at all smaller ones.

    With two classes the DLR loss is the margin of logits, with three its spread is the largest
    logit less the smallest. Inside a graph nothing is repeated, and all samples stay until the
    slowest is done: call it, where it matters.

    Args:
        norm: Norm of the perturbation: `"linf"`, `"l2"` or `"l1"`.
        version: `"standard"`, `"plus"` or `"rand"`.
        bounds: Lowest and highest value of an input, or `None`.
        seed: Integer seed of an attack called on its own.
        steps: Steps of each gradient attack.
        max_queries: Queries of `Square`.
        targets: How many wrong classes are aimed at; `None`: 9, for l1 5.
        exhaustive: Whether to attack where there is no prospect, too, as the original does: all of
            a targeted attack toward classes that a quarter of it did not come near, and all of a
            random search where a part of it was far from the boundary.

    Raises:
        ValueError: If a setting is not one of those above.

    Example: a linear classifier's boundary is at a linf distance of 1.

    >>> classifier = lambda x: (
    ...     x @ tf.constant([[0.5, -0.5], [0.5, -0.5]]) + tf.constant([1.0, -1.0])
    ... )
    >>> attack = AutoAttack("linf", bounds=None, steps=10, max_queries=50, seed=0)
    >>> found = attack.search(classifier, tf.zeros((1, 2)), tf.constant([0]), [0.9, 1.1])
    >>> found.found_by.tolist(), [stage.name for stage in attack.stages][0]
    ([[-1], [1]], 'PGD, cross entropy')

    Reference:
        Croce and Hein, arXiv 2003.01690; arXiv 2103.01208 for l1.
    """

    constraint = "maximum"

    def __init__(
        self,
        norm: str = "linf",
        version: str = "standard",
        bounds: tuple[float, float] | None = (0.0, 1.0),
        seed: int | None = None,
        steps: int = 100,
        max_queries: int = 5000,
        targets: int | None = None,
        exhaustive: bool = False,
    ) -> None:
        super().__init__(norm=norm, bounds=bounds, seed=seed)
        if version not in VERSIONS:
            raise ValueError(f"`version` must be one of {VERSIONS}. Received: {version!r}.")
        check_count("steps", steps)
        check_count("max_queries", max_queries)
        check_count("targets", targets, optional=True)
        self.version = version
        self.steps = int(steps)
        self.max_queries = int(max_queries)
        self.targets = None if targets is None else int(targets)
        self.exhaustive = check_flag("exhaustive", exhaustive)

    @property
    def stages(self) -> list[Stage]:
        """The attacks, in their order."""
        norm, steps = self.norm, self.steps
        limits: dict[str, Any] = {"norm": norm, "bounds": self.bounds}
        targets = self.targets or (5 if norm == "l1" else 9)

        def pgd(loss: str, restarts: int = 1, draws: int = 1) -> Stage:
            attack = PGD(
                steps=steps,
                constraint="maximum",
                restarts=restarts,
                loss=loss,
                early_stop=True,
                eot_samples=draws,
                **limits,
            )
            name = {"cross_entropy": "cross entropy", "dlr": "DLR loss"}[loss]
            return Stage(f"PGD, {name}", attack, 0, restarts * (draws * (steps + 1) + 1))

        def fab(restarts: int, toward: int) -> Stage:
            rank = 1 if toward else None
            attack = FAB(steps=steps, restarts=restarts, target_rank=rank, **limits)
            name = "FAB, targeted" if toward else "FAB"
            return Stage(name, WithinMagnitude(attack), toward, 2 * restarts * steps + _REFINEMENT)

        # On an l1 ball of a pair of starts one is far out.
        starts, rounds = (2, _ROUNDS) if norm == "l1" else (1, 1)
        aimed = TargetedPGD(
            steps=steps, constraint="maximum", restarts=starts, early_stop=True, **limits
        )
        toward = [
            Stage("PGD, targeted DLR loss", aimed, targets, starts * (steps + 1) + 2, rounds),
            fab(1, targets),
        ]
        search = Square(
            max_queries=self.max_queries, constraint="maximum", early_stop=True, **limits
        )
        square = Stage("Square", search, 0, self.max_queries)
        if self.version == "rand":
            return [pgd(loss, draws=_DRAWS) for loss in ("cross_entropy", "dlr")]
        if self.version == "plus":
            first = [pgd(loss, _RESTARTS) for loss in ("cross_entropy", "dlr")]
            return [*first, fab(_RESTARTS, 0), square, *toward]
        return [pgd("cross_entropy", starts * rounds), *toward, square]

    def perturb(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: Any, seed: tf.Tensor
    ) -> tf.Tensor:
        """Perturbs a batch inside a graph; see `Attack.perturb`."""
        labels, seed = most_likely(y), tf.cast(seed, tf.int32)
        magnitude = tf.broadcast_to(of_dtype(magnitude, x.dtype), tf.shape(x)[:1])
        logits = logits_of(classifier, x)

        def run(number: int, stage: Stage, state: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
            last = min(stage.targets, logits.shape[-1] - 1) if stage.targets else 1

            def going(turn: tf.Tensor, x_adv: tf.Tensor, wrong: tf.Tensor) -> tf.Tensor:
                del x_adv
                return (turn <= last * stage.rounds) & ~tf.reduce_all(wrong)

            def attack(turn: tf.Tensor, x_adv: tf.Tensor, wrong: tf.Tensor) -> tuple[Any, ...]:
                own = tf.random.experimental.stateless_fold_in(seed, 100 * number + turn)
                aimed = attack_for(stage, logits.shape[-1], (turn - 1) % last + 1)
                tried = aimed.perturb(classifier, x, y, magnitude, own)
                success = classes_of(logits_of(classifier, tried)) != labels
                taken = ~wrong & (success | (number == 0))
                return turn + 1, choose(taken, tried, x_adv), wrong | success

            return tf.while_loop(going, attack, (tf.constant(1), *state))[1:]

        state: Sequence[tf.Tensor] = x, classes_of(logits) != labels
        for number, stage in enumerate(self.stages):
            state = run(number, stage, state)
        return tf.stop_gradient(state[0])

    def structure(self) -> Hashable:
        """All settings but the seed; see `Attack.structure`."""
        return self._settings()

    def sweep(
        self,
        classifier: Classifier,
        x: Any,
        y: Any,
        magnitudes: Sequence[float] | tf.Tensor,
        batch_size: int | None = None,
        scale: Any | None = None,
    ) -> tf.Tensor:
        """Perturbs the same inputs by several magnitudes; see `Attack.sweep`."""
        if not tf.executing_eagerly():
            return super().sweep(classifier, x, y, magnitudes, batch_size, scale)
        return self.search(classifier, x, y, magnitudes, batch_size, scale).x_adv

    def search(
        self,
        classifier: Classifier,
        x: Any,
        y: Any,
        magnitudes: Sequence[float],
        batch_size: int | None = None,
        scale: Any | None = None,
    ) -> Found:
        """Does what `sweep` does, and tells which stage found what.

        Args:
            classifier: Maps inputs to logits.
            x: `[N, ...]` float array or tensor, inside the bounds.
            y: `[N]` integer labels, or `[N, C]` probabilities, of which the largest counts.
            magnitudes: `[K]` norms.
            batch_size: Number of samples perturbed at a time. `None`: all.
            scale: `[N]` factors of the magnitudes, above 0, one a sample; `None`: all are 1.

        Returns:
            The perturbed inputs, who found them, and what it cost.

        Raises:
            ValueError: As for a call.
        """
        x, y = self._checked(classifier, x, y, batch_size)
        scale = scales_of(scale, x)
        ascending, order = np.unique(check_magnitudes(magnitudes, False), return_inverse=True)
        parts = batches(batch_size, x, y, scale)
        found = [
            self._search(classifier, own, labels, factors, ascending)
            for own, labels, factors in parts
        ]
        return Found(
            tf.convert_to_tensor(np.concatenate([each.x_adv for each in found], axis=1)[order]),
            np.concatenate([each.found_by for each in found], axis=1)[order],
            np.sum([each.passes for each in found], axis=0),
        )

    def _search(
        self,
        classifier: Classifier,
        x: tf.Tensor,
        y: tf.Tensor,
        scale: tf.Tensor,
        ascending: np.ndarray,
    ) -> Found:
        """Descends from the largest magnitude, each sample until it resists.

        A sample's level is the place of the smallest magnitude at which it is misclassified.
        """
        sizes = scale.numpy()[:, None] * ascending.astype(scale.dtype.as_numpy_dtype)
        clean = _wrong(classifier, x, y)
        lowest = int(ascending[0] == 0)  # By 0 nothing is moved: what is right resists.
        level = np.where(clean, 0, len(ascending))
        found_by = np.full(len(level), CLEAN)
        nearest, resisted = x.numpy(), x.numpy()
        passes, descending = np.zeros(len(self.stages), np.int64), ~clean
        while (rows := np.flatnonzero(descending & (level > lowest))).size:
            here = level[rows] - 1
            own, labels = tf.gather(x, rows), tf.gather(y, rows)
            tried = self._attack(classifier, own, labels, tf.constant(sizes[rows, here]))
            passes += tried.passes
            broken = tried.found_by > 0
            x_adv = tried.x_adv.numpy()
            descending[rows[~broken]], resisted[rows[~broken]] = False, x_adv[~broken]
            level[rows[broken]] = here[broken]
            found_by[rows[broken]], nearest[rows[broken]] = tried.found_by[broken], x_adv[broken]
            again = np.flatnonzero(broken & (here > lowest))
            if again.size:
                near = self._drawn_back(
                    classifier, tf.gather(own, again), tf.gather(labels, again), x_adv[again]
                )
                distance = self.measure(near - tf.gather(own, again)).numpy()
                reached = np.sum(sizes[rows[again]] < distance[:, None], axis=1)
                level[rows[again]] = np.minimum(here[again], reached)
                nearest[rows[again]] = near.numpy()
        columns = np.arange(len(ascending))[:, None]
        misclassified, last = columns >= level, columns == level - 1
        wide = (..., *[None] * (x.shape.rank - 1))
        x_adv = np.where(misclassified[wide], nearest, np.where(last[wide], resisted, x.numpy()))
        return Found(x_adv, np.where(misclassified, found_by, RESISTS), passes)

    def _drawn_back(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, x_adv: np.ndarray
    ) -> tf.Tensor:
        """Misclassified points as near to the inputs as halving the segment finds them."""
        near = tf.constant(x_adv, x.dtype)
        low, high = tf.zeros(tf.shape(x)[:1], x.dtype), tf.ones(tf.shape(x)[:1], x.dtype)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            point = x + spread(middle, x) * (x_adv - x)
            if self.bounds is not None:  # Adding rounds.
                point = tf.clip_by_value(point, *self.bounds)
            wrong = _wrong(classifier, point, y)
            near = choose(wrong, point, near)
            low, high = tf.where(wrong, low, middle), tf.where(wrong, middle, high)
        return near

    def _run(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: tf.Tensor
    ) -> tf.Tensor:
        if not tf.executing_eagerly():
            return super()._run(classifier, x, y, magnitude)
        return self._attack(classifier, x, y, magnitude).x_adv

    def _attack(
        self, classifier: Classifier, x: tf.Tensor, y: tf.Tensor, magnitude: tf.Tensor
    ) -> Found:
        """All stages at one magnitude a sample, each on what resists; `found_by` is `[N]`."""
        seed = self._next_seed().numpy().tolist()
        return run_stages(self.stages, classifier, x, y, magnitude, seed, self.exhaustive)


def _wrong(classifier: Classifier, x: tf.Tensor, y: tf.Tensor) -> np.ndarray:
    """`[N]` bool: which inputs are misclassified."""
    return (classes_of(logits_of(classifier, x)) != most_likely(y)).numpy()
