"""Further starts for samples that resist, and sweeps that start from the magnitude below."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import tensorflow as tf

from lexirobust.tensors import choose

# From the magnitude below on, an attack that succeeded there needs one in so many of its steps.
CHAINED_SHARE: Final = 8


class AttackResult(NamedTuple):
    """The result of an attack.

    Attributes:
        x_adv: `[N, ...]` the perturbed inputs.
        is_adversarial: `[N]` bool: whether the attack succeeds; false if that was not asked.
        value: `[N]` what the attack raises, there; 0 if that was not asked.
    """

    x_adv: tf.Tensor
    is_adversarial: tf.Tensor
    value: tf.Tensor


class RunAttack(Protocol):
    """A function that attacks a batch."""

    def __call__(
        self, x: tf.Tensor, y: tf.Tensor, magnitude: tf.Tensor, **given: Any
    ) -> AttackResult:
        """Attacks with other `steps`, `restarts` or an `initial_perturbation` if given."""


def starts_at_once(restarts: int, early_stop: bool) -> list[int]:
    """The numbers of restarts that are run together: in pairs, if the first success is enough.

    Args:
        restarts: Number of starts.
        early_stop: Whether the first success is enough.

    Returns:
        Numbers that add up to `restarts`.

    Example:

    >>> starts_at_once(5, early_stop=True), starts_at_once(5, early_stop=False)
    ([2, 2, 1], [5])
    """
    if not early_stop:
        return [restarts]
    return [min(2, restarts - done) for done in range(0, restarts, 2)]


def retry_failures(
    attack: RunAttack,
    x: tf.Tensor,
    y: tf.Tensor,
    magnitude: tf.Tensor,
    result: AttackResult,
    starts: Sequence[int],
) -> AttackResult:
    """Starts afresh, with all steps, for samples that still resist.

    Args:
        attack: Attacks a batch.
        x: `[N, ...]` inputs.
        y: `[N]` integer labels, or `[N, C]` probabilities.
        magnitude: `[N]` norms.
        result: What was found so far.
        starts: Numbers of restarts, one for each time.

    Returns:
        The better of what was found before and now, sample by sample.
    """
    for restarts in starts:
        rows = tf.where(~result.is_adversarial)
        if not len(rows):
            break
        old = AttackResult(*(tf.gather_nd(tensor, rows) for tensor in result))
        own = [tf.gather_nd(tensor, rows) for tensor in (x, y, magnitude)]
        new = attack(*own, restarts=restarts)
        kept = choose(new.is_adversarial | (new.value >= old.value), new, old)
        pairs = zip(result, kept, strict=True)
        result = AttackResult(
            *(tf.tensor_scatter_nd_update(whole, rows, some) for whole, some in pairs)
        )
    return result


def chained_sweep(
    attack: RunAttack,
    x: tf.Tensor,
    y: tf.Tensor,
    scale: tf.Tensor,
    magnitudes: Sequence[float],
    starts: Sequence[int],
    steps: int,
    exact: bool,
) -> Iterator[tf.Tensor]:
    """Starts each magnitude from the one below, which leaves few steps where that succeeds.

    Samples that resist are attacked afresh. Inside a maximum norm, success is never lost again.

    Args:
        attack: Attacks a batch.
        x: `[N, ...]` inputs.
        y: `[N]` integer labels, or `[N, C]` probabilities.
        scale: `[N]` factors of the magnitudes.
        magnitudes: Ascending norms.
        starts: Numbers of restarts that are run together.
        steps: Number of steps of the attack.
        exact: Whether the norm is the magnitude, or at most the magnitude.

    Yields:
        The inputs perturbed by each magnitude, shaped like `x`.
    """
    zeros = tf.zeros(tf.shape(x)[:1], x.dtype)
    result, below = AttackResult(x, tf.zeros_like(zeros, tf.bool), zeros), 0.0
    if not exact:  # If the input itself is misclassified, it stays an answer.
        result = attack(x, y, zeros, steps=1, restarts=1)._replace(x_adv=x)
    for magnitude in magnitudes:
        if magnitude:
            last, initial_perturbation = result, result.x_adv - x
            if exact and below:
                initial_perturbation *= magnitude / below
            given: dict[str, Any] = {"initial_perturbation": initial_perturbation}
            first, *more = starts
            if below:  # What has succeeded there needs little; the rest has all starts again.
                given["steps"], more = -(-steps // CHAINED_SHARE), [first, *more]
            norms = magnitude * scale
            result = attack(x, y, norms, restarts=first, **given)
            result = retry_failures(attack, x, y, norms, result, more)
            if not exact:
                kept = last.is_adversarial & ~result.is_adversarial
                result = choose(kept, last, result)
        below = magnitude
        yield result.x_adv
