"""A callback that has targets hold on held-out data."""

from typing import Any

import keras

from lexirobust.checks import check_count
from lexirobust.training.model import LexicographicModel


class HeldOutTargets(keras.callbacks.Callback):
    """Has the targets of a model hold on held-out data, and not on those that it is trained on.

    At the end of each epoch every objective is measured on the data, perturbed as in training. In
    the epochs after it, the model's running estimates are moved by the difference between that and
    the training data: by about how much worse the model generalizes. In a `fit` without this
    callback they hold on its training data, also after one with it.

    The logs hold `held_out@NAME` for each rank with a target: its loss, or its accuracy. A `Backup`
    comes after this callback in the list of `fit`, so that it holds what this one has changed.

    Args:
        x: `[N, ...]` inputs inside the attacks' bounds, or a `tf.data.Dataset` of
            `(inputs, labels)` batches, as of the model's `evaluate`.
        y: `[N]` integer labels, or `[N, classes]` probabilities; `None` where `x` is a dataset.
        batch_size: Number of samples in memory at a time; a dataset has its own.
        sample_weight: `[N]` weights of samples in losses, as of `fit`; accuracies count all alike.
            `None`: losses do, too, or batches of a dataset hold weights.

    Raises:
        ValueError: If `batch_size` is no integer of at least 1; in `fit`, if the model has no
            targets, or the data are not as above.

    Example:

    >>> import lexirobust as lr
    >>> x, y = lr.datasets.toy(100, seed=0)
    >>> attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    >>> classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    >>> model = lr.OLSRC(classifier, attack, [4.0], targets=[lr.Target(accuracy=0.5)])
    >>> model.compile("adam")
    >>> held_out = lr.callbacks.HeldOutTargets(x[:20], y[:20])
    >>> logs = model.fit(x[20:], y[20:], verbose=0, callbacks=[held_out]).history
    >>> 0 <= logs["held_out@natural"][0] <= 1
    True

    Reference:
        Constraints on held-out data: Cotter et al., "Training well-generalizing classifiers for
        fairness metrics and other data-dependent constraints", arXiv 1807.00028.
    """

    moves_targets = True  # What a model looks for among the callbacks of `fit`.

    def __init__(
        self, x: Any, y: Any, batch_size: int = 500, sample_weight: Any | None = None
    ) -> None:
        super().__init__()
        check_count("batch_size", batch_size)
        self.data = {"x": x, "y": y, "sample_weight": sample_weight}
        self.batch_size = int(batch_size)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that there is something to hold."""
        del logs
        if not isinstance(self.model, LexicographicModel) or not self.model.targets:
            raise ValueError(
                "`HeldOutTargets` needs a LexicographicModel with `targets`. Received: "
                f"{self.model!r}."
            )
        self.model.check_data(**self.data)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures the ranks, and moves the model's estimates."""
        del epoch
        results = self.model.evaluate(
            **self.data, batch_size=self.batch_size, verbose=0, return_dict=True
        )
        measured = self.model.hold_targets_to(results)
        if logs is not None:
            logs.update({f"held_out@{name}": value for name, value in measured.items()})
