"""A check that the training attack is as strong as the logged accuracy suggests."""

import copy
import math
from typing import Any, Final

import keras
import tensorflow as tf

from lexirobust.attacks import BIM, FGSM, PGD
from lexirobust.attacks.classifier import classifier_of, logits_of
from lexirobust.callbacks.board import Periodic
from lexirobust.checks import check_count
from lexirobust.configs import arguments_of
from lexirobust.data_checks import check_data
from lexirobust.data_forms import one_array
from lexirobust.evaluation import evaluate_robustness
from lexirobust.evaluation.batches import check_one_label
from lexirobust.training.objectives import Divergence
from lexirobust.warn import warn

_MARGIN: Final = 0.1
"""The drop in accuracy under the stronger attack that needs no warning, chance aside."""


class AttackCheck(Periodic):
    """Warns where the attack that trains is much weaker than the accuracy under it looks.

    After an epoch, some training samples are attacked afresh, by a PGD of the same norm and
    magnitude with more steps and a random start. Where far fewer of them resist than
    `accuracy@NAME` says, training fools itself: perturbations do not fit the images (augmentation
    after the attack), gradients vanish, or there are too few steps. The logs, and with them
    `history`, hold `fresh_accuracy@NAME`, as `fresh_accuracy@l2=1`.

    `objectives.Divergence`, as in TRADES, is left out: its attack moves a prediction away from the
    clean one, right or wrong, so that accuracy under it tells nothing of how strong it is.

    Accuracies in the logs are means over an epoch, in training mode: batch normalization by the
    batch's own statistics and dropout are part of the difference.

    Args:
        x: `[N, ...]` training inputs, some hundreds.
        y: `[N]` their labels.
        steps: Of the attack that starts afresh.
        every: Checks after every so many epochs, and after the first.
        batch_size: Number of samples perturbed at a time.

    Raises:
        ValueError: If an argument is not as above, or in `fit`, if the model does not train by the
            inputs that a PGD has perturbed.
        TypeError: If inputs are no numbers or labels no integers.

    Example:

    >>> import keras, lexirobust as lr
    >>> x, y = lr.datasets.toy(20, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, bounds=None)
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> model = lr.OLSRC(classifier, attack, [0.5])
    >>> model.compile("adam")
    >>> check = AttackCheck(x, y)
    >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[check]).history
    >>> len(history["fresh_accuracy@l2=0_5"])
    2

    Reference:
        The gap between training's attack and a stronger one is how Wong et al., arXiv 2001.03994,
        see adversarial training fail.
    """

    def __init__(
        self, x: Any, y: Any, steps: int = 20, every: int = 1, batch_size: int = 500
    ) -> None:
        super().__init__(every, None)
        x = one_array(x)
        check_data(x, y)
        check_one_label(y)
        check_count("steps", steps)
        check_count("batch_size", batch_size)
        self.x, self.y = x, y
        self.steps, self.batch_size = int(steps), batch_size
        self._warned: set[str] = set()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that there is an attack to be checked."""
        super().on_train_begin(logs)
        self._warned = set()
        if not self._attacked():
            raise ValueError(
                "`AttackCheck` needs a model that trains by what a PGD has perturbed to raise the "
                f"loss of its labels. Received: {self.model!r}."
            )
        classifier = classifier_of(self.model)
        x = tf.cast(self.x[:1], keras.config.floatx())
        classes = logits_of(classifier, x).shape[-1]
        check_data(self.x, self.y, self.model.bounds, classes)

    @property
    def names(self) -> list[str]:
        """The log names of the accuracies under the attack from a random start."""
        return [f"fresh_accuracy@{name}" for name in self._attacked()]

    def _attacked(self) -> dict[str, tuple[PGD, float]]:
        """The attack and the magnitude of every objective that has them, by name."""
        terms = [term for rank in getattr(self.model, "objectives", ()) for _, term in rank.terms]
        return {
            term.name: (term.attack, term.magnitude)
            for term in terms
            if isinstance(term.attack, PGD)
            and term.gives_logits
            and not isinstance(term, Divergence)
        }

    def on_epoch(self, epoch: int, logs: dict[str, Any]) -> None:
        """Attacks afresh, and compares."""
        del epoch
        for name, (attack, magnitude) in self._attacked().items():
            stronger = _stronger(attack, self.steps)
            curve = evaluate_robustness(
                classifier_of(self.model),
                self.x,
                self.y,
                stronger,
                [magnitude],
                self.batch_size,
                checks=False,
            )
            fresh, logged = float(curve.accuracy[0]), float(logs[f"accuracy@{name}"])
            logs[f"fresh_accuracy@{name}"] = fresh
            chance = 2.0 * math.sqrt(logged * (1.0 - logged) / len(self.x))
            if logged - fresh > _MARGIN + chance and name not in self._warned:
                self._warned.add(name)
                warn(
                    f"The attack that trains is weaker than it looks: accuracy@{name} is "
                    f"{logged:.2f}, and {fresh:.2f} under {self.steps} steps that begin afresh. "
                    "Look for augmentation behind the attack, gradients that vanish, and too few "
                    "steps."
                )


def _stronger(attack: PGD, steps: int) -> PGD:
    """The attack from a random start, of at least so many steps."""
    if isinstance(attack, FGSM | BIM):  # Their settings leave no start to choose.
        attack = PGD(**arguments_of(attack, PGD))
    stronger = copy.copy(attack)
    stronger.steps, stronger.step_size = max(steps, attack.steps), None
    stronger.random_start = True
    # A seed of its own, so that checking changes nothing in training.
    stronger.seed, stronger._generator = 0, None
    return stronger
