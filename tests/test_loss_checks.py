import keras
import numpy as np
import pytest

from lexirobust.loss_checks import check_loss


def test_default_loss_is_cross_entropy_on_logits():
    loss = check_loss(None)
    assert loss(np.array([1]), np.zeros((1, 2))).numpy() == pytest.approx(np.log(2))


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        keras.losses.MeanSquaredError(),
        "mean_squared_error",
        lambda y, logits: logits[:, 0],
    ],
)
def test_losses_on_logits_pass(loss):
    assert check_loss(loss) is loss


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        "categorical_crossentropy",
        keras.losses.SparseCategoricalCrossentropy(),
        keras.losses.BinaryCrossentropy(),
        keras.losses.sparse_categorical_crossentropy,
    ],
)
def test_losses_on_probabilities_are_refused(loss):
    with pytest.raises(ValueError, match=r"`loss` must take logits.*from_logits=True.*Received: "):
        check_loss(loss)


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "sparse_categorical_crossentropy"])
@pytest.mark.parametrize("how", [str, keras.losses.get])
def test_the_loss_that_is_advised_is_for_the_same_labels(loss, how):
    kind = "Sparse" * loss.startswith("sparse") + "CategoricalCrossentropy"
    with pytest.raises(ValueError, match=rf"keras\.losses\.{kind}\(.*Received: '{loss}'"):
        check_loss(how(loss))


@pytest.mark.parametrize("reduction", ["none", None])
def test_losses_that_are_not_reduced_are_refused(reduction):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    match = f"`loss` must give one number.*'sparse_categorical_crossentropy'.*{reduction}"
    for given in (loss, {"one": "mse", "other": loss}, [None, loss]):
        with pytest.raises(ValueError, match=match):
            check_loss(given)
    for other in ("sum", "sum_over_batch_size"):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=other)
        assert check_loss(loss) is loss


def test_loss_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no_such_loss"):
        check_loss("no_such_loss")
