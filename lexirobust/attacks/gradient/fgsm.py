"""The fast gradient sign method."""

import keras

from lexirobust.attacks.gradient.pgd import PGD


@keras.saving.register_keras_serializable(package="lexirobust")
class FGSM(PGD):
    """Fast gradient sign method: `PGD` of one full step from the input itself.

    Args:
        norm: Norm of the perturbation. `"linf"` takes the gradient's sign, `"l2"` its direction;
            `"l1"` projects the gradient, which falls short of the steepest single coordinate.
        constraint: `"exact"`: the perturbation's norm is the magnitude. `"maximum"`: at most.
        goal: `"maximize"` the loss or `"minimize"` it.
        bounds: Lowest and highest value of an input, or `None`.

    Example:

    >>> import tensorflow as tf
    >>> attack = FGSM(bounds=(-1.0, 1.0))
    >>> x = attack(lambda x: x * [[1.0, -1.0]], tf.zeros((1, 2)), tf.constant([0]), 0.5)
    >>> x.numpy().tolist()
    [[-0.5, -0.5]]

    Reference:
        Goodfellow et al., arXiv 1412.6572; section 1.0.1 of the paper.
    """

    def __init__(
        self,
        norm: str = "linf",
        constraint: str = "exact",
        goal: str = "maximize",
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        # The projection cuts the first adaptive step, of two magnitudes, to one that is full.
        super().__init__(
            norm=norm,
            steps=1,
            constraint=constraint,
            goal=goal,
            bounds=bounds,
            random_start=False,
        )
