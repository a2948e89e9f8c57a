"""The basic iterative method."""

import keras

from lexirobust.attacks.gradient.pgd import PGD


@keras.saving.register_keras_serializable(package="lexirobust")
class BIM(PGD):
    """Basic iterative method: `PGD` that starts at the input itself.

    Args:
        norm: Norm of the perturbation: `"l1"`, `"l2"` or `"linf"`.
        steps: Number of gradient steps.
        step_size: Size of one step, or `None`; see `PGD`.
        constraint: `"exact"`: the perturbation's norm is the magnitude. `"maximum"`: at most.
        goal: `"maximize"` the loss or `"minimize"` it.
        bounds: Lowest and highest value of an input, or `None`.

    Example:

    >>> import tensorflow as tf
    >>> attack = BIM(norm="linf", steps=3, bounds=None)
    >>> x = attack(lambda x: x * [[1.0, -1.0]], tf.zeros((1, 2)), tf.constant([0]), 0.5)
    >>> x.numpy().tolist()
    [[-0.5, -0.5]]

    Reference:
        Kurakin et al., arXiv 1607.02533; section 1.0.1 of the paper.
    """

    def __init__(
        self,
        norm: str = "linf",
        steps: int = 40,
        step_size: float | None = None,
        constraint: str = "exact",
        goal: str = "maximize",
        bounds: tuple[float, float] | None = (0.0, 1.0),
    ) -> None:
        super().__init__(
            norm=norm,
            steps=steps,
            step_size=step_size,
            constraint=constraint,
            goal=goal,
            bounds=bounds,
            random_start=False,
        )
