"""What is wrong is said before any step runs: which argument, what came, what is allowed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from tests.training.by_hand import ATTACK, METHODS, compiled, fit, network, weights

BOXED = lr.attacks.PGD(norm="linf", steps=1, bounds=(-2.0, 2.0))
X, Y = lr.datasets.toy(20, seed=0)


def changed(array, value, index=-1):
    """A copy with one entry changed."""
    copy = array.copy()
    copy[index] = value
    return copy


BAD = {
    "nan": (changed(X, np.nan), Y, ValueError, "`x` must be finite.*NaN"),
    "infinite": (changed(X, np.inf), Y, ValueError, "`x` must be finite"),
    "outside": (changed(X, 2.5), Y, ValueError, r"`x`.*`bounds` \(-2.0, 2.0\).* to 2.5"),
    "below": (changed(X, -3.5), Y, ValueError, r"`x`.*`bounds` \(-2.0, 2.0\).* from -3.5"),
    "label too large": (X, changed(Y, 2), ValueError, "`y`.* from 0 to 1.*0 to 2"),
    "label below 0": (X, changed(Y, -1), ValueError, "`y`.* from 0 to 1.*-1 to 1"),
    "labels between": (X, Y + 0.5, TypeError, "`y`.*integer.*float64 labels with fractions"),
    "complex labels": (X, Y.astype(complex), TypeError, "`y`.*integer.*complex128"),
    "bool labels": (X, Y > 0, TypeError, "`y`.*integer.*bool"),
    "other classes": (X, np.eye(3)[Y], ValueError, r"`y`.*\[N, 2\].*\(20, 3\)"),
    "no probabilities": (X, 2 * np.eye(2)[Y], ValueError, "`y`.*probabilities"),
    "empty": (X[:0], Y[:0], ValueError, r"`x` must hold at least one sample.*\(0, 1\)"),
    "too few labels": (X, Y[:-1], ValueError, r"`y`.*one label a sample.*20.*\(19,\)"),
    "no labels": (X, None, ValueError, "`y` must hold one label"),
}
BAD_WEIGHTS = {
    "two": (np.ones((20, 2)), ValueError, r"\[N\] or \[N, 1\].*\(20, 2\)"),
    "all pairs": (np.ones((20, 20)), ValueError, r"\[N\] or \[N, 1\].*\(20, 20\)"),
    "deeper": (np.ones((20, 1, 1)), ValueError, r"\[N\] or \[N, 1\].*\(20, 1, 1\)"),
    "nan": (changed(np.ones(20), np.nan), ValueError, "must be finite.*NaN"),
    "text": (np.array(["a"] * 20), TypeError, "must be real numbers"),
}
# A dataset knows neither how many samples come nor a batch without labels of its own length.
IN_DATASETS = {name: BAD[name] for name in BAD if name not in ("too few labels", "no labels")}


@pytest.fixture
def model():
    return compiled(lr.OLSRC(network(), BOXED, [1.0, 2.0]))


def assert_refused(model, error, match, train):
    before = weights(model)
    with pytest.raises(error, match=match):
        train()
    assert int(model.optimizer.iterations) == 0
    assert np.array_equal(weights(model), before)


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_refused(model, case):
    x, y, error, match = BAD[case]
    assert_refused(model, error, match, lambda: model.fit(x, y, verbose=0))


@pytest.mark.parametrize("case", IN_DATASETS)
def test_a_bad_first_batch_is_refused(model, case):
    x, y, error, match = BAD[case]
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
    match = "`x` must hold at least one sample.*empty dataset" if case == "empty" else match
    assert_refused(model, error, match, lambda: model.fit(batches, verbose=0))


@pytest.mark.parametrize("case", ["nan", "outside", "below", "label too large", "label below 0"])
def test_a_bad_second_batch_is_refused_before_its_step(model, case):
    x, y, _, match = BAD[case]
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(10)
    twin = compiled(lr.OLSRC(network(), BOXED, [1.0, 2.0]))
    twin.set_weights(model.get_weights())
    fit(twin, X[:10], Y[:10])
    with pytest.raises(tf.errors.InvalidArgumentError, match=match.split(".*")[0]):
        model.fit(batches, verbose=0)
    assert np.allclose(weights(model), weights(twin), atol=1e-7)


@pytest.mark.parametrize(
    ("data", "dtype"),
    [("arrays", "uint8"), ("arrays", "uint32"), *(("dataset", f"{s}int8") for s in ("", "u"))],
)
def test_labels_of_any_integer_type_train_alike(data, dtype):
    classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(256)])
    last = 127 if dtype == "int8" else 255
    labels = np.where(Y == 1, last, 3)
    states = []
    for y in (labels, labels.astype(dtype)):
        twin = keras.models.clone_model(classifier)
        twin.set_weights(classifier.get_weights())
        model = compiled(lr.OLSRC(twin, BOXED, [1.0]), run_eagerly=True, metrics=["accuracy"])
        batches = [tf.data.Dataset.from_tensor_slices((X, y)).batch(20)]
        model.fit(*(batches if data == "dataset" else (X, y[:, None])), batch_size=20, verbose=0)
        states.append(weights(model))
    assert np.array_equal(*states)


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_are_refused_wherever_they_are_given(model, case):
    x, y, error, match = BAD[case]
    for use in (model.evaluate, model.train_on_batch, model.test_on_batch, model.gradients):
        assert_refused(model, error, match, lambda use=use: use(x, y))
    assert_refused(model, error, match, lambda: model.evaluate(x=x, y=y, verbose=0))
    if case == "outside":
        assert_refused(model, error, match, lambda: model.evaluate({"image": x}, y, verbose=0))


@pytest.mark.parametrize("case", IN_DATASETS)
def test_a_bad_batch_is_not_measured(model, case):
    x, y, error, match = BAD[case]
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
    match = "`x` must hold at least one sample.*empty dataset" if case == "empty" else match
    assert_refused(model, error, match, lambda: model.evaluate(batches, verbose=0))


@pytest.mark.parametrize("case", ["nan", "outside", "label too large"])
def test_a_bad_second_batch_is_not_measured(model, case):
    x, y, _, match = BAD[case]
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(10)
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=match.split(".*")[0]):
        model.evaluate(batches, verbose=0)


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights_of_samples_are_refused_wherever_they_are_given(model, case):
    weight, error, match = BAD_WEIGHTS[case]
    batches = tf.data.Dataset.from_tensor_slices((X, Y, weight)).batch(20)
    for use in (
        lambda: model.evaluate(X, Y, sample_weight=weight, verbose=0),
        lambda: model.evaluate(X, Y, 20, 0, weight),
        lambda: model.evaluate(batches, verbose=0),
        lambda: model.train_on_batch(X, Y, weight),
        lambda: model.test_on_batch(X, Y, sample_weight=weight),
    ):
        assert_refused(model, error, match, use)


def test_good_data_are_measured_in_every_form(model):
    model.compile("sgd", run_eagerly=True)
    expected = model.evaluate(X, Y, verbose=0, return_dict=True)
    weight, batches = np.ones(20), tf.data.Dataset.from_tensor_slices((X, Y)).batch(20)
    for logs in (
        model.evaluate(X, Y, 20, 0, weight, None, None, True),
        model.evaluate(batches, verbose=0, return_dict=True),
        model.evaluate(batches.repeat(), verbose=0, steps=1, return_dict=True),
        model.evaluate(((X, Y) for _ in range(1)), verbose=0, return_dict=True),
        model.test_on_batch(X, Y, weight, True),
    ):
        assert logs == pytest.approx(expected, rel=1e-5)
    fresh = lr.OLSRC(keras.Sequential([keras.layers.Dense(2)]), BOXED, [1.0])
    with pytest.raises(ValueError, match="compile"):
        fresh.evaluate(X, Y)
    compiled(fresh, run_eagerly=True)
    assert len(fresh.evaluate(X, Y, verbose=0, return_dict=True)) == 5


@pytest.mark.parametrize("case", BAD)
def test_bad_validation_data_is_refused(model, case):
    x, y, error, match = BAD[case]
    assert_refused(model, error, match, lambda: model.fit(X, Y, validation_data=(x, y), verbose=0))


def test_bad_validation_data_is_refused_wherever_it_stands(model):
    x, y, error, match = BAD["nan"]
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(20)
    for validation in ((x, y), [x, y], (x, y, np.ones(20)), batches):
        assert_refused(
            model, error, match, lambda v=validation: model.fit(X, Y, validation_data=v, verbose=0)
        )
    # The eighth argument, as in Keras.
    assert_refused(model, error, match, lambda: model.fit(X, Y, 20, 1, 0, None, 0.0, (x, y)))


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights_of_samples_are_refused(model, case):
    weight, error, match = BAD_WEIGHTS[case]
    match = f"`sample_weight` {match if match.startswith('must') else 'must be ' + match}"
    batches = tf.data.Dataset.from_tensor_slices((X, Y, weight)).batch(20)
    for train in (
        lambda: model.fit(X, Y, sample_weight=weight, verbose=0),
        lambda: model.fit(batches, verbose=0),
        lambda: model.fit(X, Y, validation_data=(X, Y, weight), verbose=0),
        lambda: model.fit(X, Y, validation_data=batches, verbose=0),
    ):
        assert_refused(model, error, match, train)


@pytest.mark.parametrize(
    "weight",
    [1.0, np.ones(19), np.ones(1), np.ones((1, 20))],
    ids=lambda weight: str(np.shape(weight)),
)
def test_weights_of_another_count_are_refused(model, weight):
    match = r"`sample_weight` must be \[N\] or \[N, 1\] weights, one for each of 20 samples"
    assert_refused(model, ValueError, match, lambda: model.fit(X, Y, sample_weight=weight))


def test_what_no_check_has_seen_is_refused_before_its_step(model):
    """Of what generators give, shapes are known when the step is traced."""
    batches = ((X, Y, np.ones((20, 2))) for _ in range(2))
    assert_refused(
        model,
        ValueError,
        r"`sample_weight` must be \[N\] or \[N, 1\] weights. Received: shape \(.*2\)",
        lambda: model.fit(batches, steps_per_epoch=1, verbose=0),
    )


def test_bad_weights_of_a_later_batch_are_refused_before_its_step(model):
    weight = changed(np.ones(20), np.inf)
    batches = tf.data.Dataset.from_tensor_slices((X, Y, weight)).batch(10)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`sample_weight` must be finite"):
        model.fit(batches, verbose=0)
    assert np.all(np.isfinite(weights(model)))


def test_validation_data_may_come_from_a_generator(model):
    def batches():
        while True:
            yield X, Y

    assert "val_loss@natural" in fit(model, X, Y, validation_data=batches(), validation_steps=1)


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_unbuilt_classifiers_learn_what_is_wrong_too(kind):
    for case in ("nan", "label too large"):
        x, y, error, match = BAD[case]
        data = (x, y)
        if kind == "dataset":
            data = (tf.data.Dataset.from_tensor_slices((x, y)).batch(20),)
        model = compiled(lr.OLSRC(keras.Sequential([keras.layers.Dense(2)]), BOXED, [1.0]))
        with pytest.raises(error, match=match):
            model.fit(*data, verbose=0)
        assert int(model.optimizer.iterations) == 0


def test_no_optimizer_is_refused(model):
    with pytest.raises(ValueError, match="`optimizer` must be"):
        model.compile(optimizer=None)


@pytest.mark.parametrize("x", [None, [None], {"image": None}])
def test_no_data_are_refused(model, x):
    assert_refused(model, ValueError, "`x`.*Received: None", lambda: model.fit(x, Y, verbose=0))


@pytest.mark.parametrize("x", [{"left": X, "right": X}, [X, X], {}])
def test_several_inputs_are_refused(model, x):
    assert_refused(model, ValueError, "`x` must be one array", lambda: model.fit(x, Y, verbose=0))


def test_data_without_labels_are_refused(model):
    assert_refused(model, ValueError, "`y` must hold one label", lambda: model.train_on_batch(X))
    batches = tf.data.Dataset.from_tensor_slices(X).batch(20)
    assert_refused(model, ValueError, "`x` must yield", lambda: model.fit(batches, verbose=0))


def test_the_tightest_box_of_all_attacks_counts():
    wide = lr.attacks.PGD(norm="linf", steps=1, bounds=(-3.0, 1.9))
    ranks = [lr.objectives.Adversarial(BOXED, 1.0), lr.objectives.Adversarial(wide, 2.0)]
    model = lr.LexicographicModel(network(), ranks)
    assert model.bounds == (-2.0, 1.9)
    assert lr.Standard(network()).bounds is None
    assert METHODS["olsrc"](network()).bounds is None


@pytest.mark.parametrize("make", [lr.OLSRC, lr.OLGRC])
@pytest.mark.parametrize(
    ("magnitudes", "match"),
    [
        ([2.0, 1.0], "ascending.*2.0, 1.0"),
        ([1.0, 1.0], "ascending.*1.0, 1.0"),
        ([-1.0, 1.0], "at least 0.*-1.0, 1.0"),
        ([0.0, 1.0], "above 0.*0.0, 1.0"),
        ([1.0, np.nan], "finite.*nan"),
        ([1.0, np.inf], "finite.*inf"),
        ([], "sequence of numbers"),
        ([[1.0], [2.0]], "sequence of numbers"),
    ],
)
def test_bad_magnitudes_are_refused(make, magnitudes, match):
    with pytest.raises(ValueError, match=f"`magnitudes` must be .*{match}"):
        make(network(), ATTACK, magnitudes)


@pytest.mark.parametrize("make", [lr.AdversarialTraining, lr.TRADES, lr.MixTrain])
@pytest.mark.parametrize("magnitude", [0.0, -1.0, np.nan, np.inf])
def test_a_bad_magnitude_is_refused(make, magnitude):
    with pytest.raises(ValueError, match=f"must be one number, finite and above 0.*{magnitude}"):
        make(network(), ATTACK, magnitude)


@pytest.mark.parametrize("make", [lr.AdversarialTraining, lr.TRADES, lr.MixTrain])
@pytest.mark.parametrize("magnitude", [[1.0, 2.0], "1.0", None])
def test_magnitudes_that_are_no_number_are_refused_by_name(make, magnitude):
    with pytest.raises(ValueError, match="`magnitude` must be one number"):
        make(network(), ATTACK, magnitude)


@pytest.mark.parametrize(
    ("norm", "longest"), [("linf", 255.0), ("l2", 255.0 * 2**0.5), ("l1", 510.0)]
)
def test_magnitudes_that_no_box_can_hold_are_refused(norm, longest):
    """As those that were meant for pixels of another scale."""
    attack = lr.attacks.PGD(norm, steps=1, bounds=(0.0, 255.0))
    classifier = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    lr.OLSRC(classifier, attack, [longest]).compile("sgd")
    with pytest.raises(ValueError, match=f"at most {longest:g}"):
        lr.OLSRC(classifier, attack, [1.01 * longest]).compile("sgd")


def test_a_classifier_that_was_compiled_in_the_models_place_is_named():
    classifier = network()
    model = lr.Standard(classifier)
    classifier.compile("adam")
    for method in (model.fit, model.evaluate, model.train_on_batch, model.gradients):
        with pytest.raises(ValueError, match=f"before `{method.__name__}`.*a classifier that is"):
            method(X, Y)


@pytest.mark.parametrize("make", [lr.OLSRC, lr.OLGRC])
@pytest.mark.parametrize(
    ("alphas", "match"),
    [
        ([0.5, 0.5], "one weight for each of 3 ranks.*0.5, 0.5"),
        ([0.5, 0.3, 0.1, 0.1], "one weight for each of 3 ranks"),
        ([1.2, -0.1, -0.1], "at least 0 and sum to 1.*-0.1"),
        ([0.5, 0.3, 0.3], "sum to 1.*0.3, 0.3"),
        ([0.5, np.nan, 0.5], "at least 0 and sum to 1.*nan"),
        (0.5, "one weight for each of 3 ranks"),
    ],
)
def test_bad_alphas_are_refused(make, alphas, match):
    with pytest.raises(ValueError, match=f"`alphas` must .*{match}"):
        make(network(), ATTACK, [1.0, 2.0], alphas=alphas)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda c: lr.AdversarialTraining(c, ATTACK, 1.0, alpha=1.1), "`alpha`.*0 to 1.*1.1"),
        (lambda c: lr.AdversarialTraining(c, ATTACK, 1.0, alpha=np.nan), "`alpha`.*nan"),
        (lambda c: lr.TRADES(c, ATTACK, 1.0, beta=-1.0), "`beta`.*-1.0"),
        (lambda c: lr.TRADES(c, ATTACK, 1.0, beta=np.inf), "`beta`.*inf"),
        (lambda c: lr.LexicographicModel(c, []), "`objectives`.*non-empty"),
        (lambda c: lr.LexicographicModel(c, ["natural"]), "`objectives`.*'natural'"),
        (
            lambda c: lr.LexicographicModel(c, [lr.objectives.Natural()] * 2),
            "`objectives`.*different names.*'natural', 'natural'",
        ),
        (lambda c: lr.OLSRC(c, ATTACK, [1.0], margin=-0.1), "`margin`.*-0.1"),
        (lambda c: lr.OLSRC(c, lr.attacks.PGD(norm="l3"), [1.0]), "`norm`.*l1.*l2.*linf.*l3"),
    ],
)
def test_bad_settings_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make(network())


@pytest.mark.parametrize(
    "make", [lr.Standard, METHODS["olsrc"], lambda c: lr.LexicographicModel(c, [])]
)
def test_what_is_no_model_is_refused(make):
    with pytest.raises(TypeError, match=r"`classifier` must be a Keras model.*function"):
        make(lambda x: x)


@pytest.mark.parametrize(
    ("classifier", "shape"),
    [
        ([keras.Input((1,)), keras.layers.Dense(1)], (None, 1)),
        ([keras.Input((3, 1)), keras.layers.Dense(2)], (None, 3, 2)),
        ([keras.Input((2,)), keras.layers.Reshape((1, 2))], (None, 1, 2)),
    ],
)
def test_classifiers_that_give_no_logits_are_refused(classifier, shape):
    model = lr.Standard(keras.Sequential(classifier))
    with pytest.raises(ValueError, match=r"`classifier` must map .*\[N, classes\]") as caught:
        compiled(model)
    assert str(shape) in str(caught.value)


def test_unbuilt_classifiers_that_give_no_logits_are_refused():
    model = compiled(lr.OLSRC(keras.Sequential([keras.layers.Dense(1)]), ATTACK, [1.0]))
    with pytest.raises(ValueError, match=r"`classifier` must map .*\[N, classes\].*\(None, 1\)"):
        model.fit(X, Y, verbose=0)
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(gradient_accumulation_steps=2),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(gradient_accumulation_steps=2)),
    ],
    ids=["plain", "loss scale"],
)
def test_accumulated_gradients_are_refused(optimizer):
    with pytest.raises(ValueError, match=r"`gradient_accumulation_steps` must be None.* 2"):
        METHODS["olsrc"](network()).compile(optimizer)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        keras.losses.CategoricalCrossentropy(),
        keras.losses.categorical_crossentropy,
    ],
)
def test_losses_on_probabilities_are_refused(loss):
    with pytest.raises(ValueError, match=r"`loss` must take logits.*from_logits=True"):
        METHODS["olsrc"](network()).compile("sgd", loss=loss)


def test_fit_before_compile_says_so():
    with pytest.raises(ValueError, match="compile"):
        METHODS["olsrc"](network()).fit(X, Y)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("dataset", "float32"),
        pytest.param("array", "float16", marks=pytest.mark.release),
        pytest.param("column", "float64", marks=pytest.mark.release),
    ],
)
def test_whole_numbers_of_a_floating_type_are_labels(kind, dtype):
    models = []
    for y in (Y, Y.astype(dtype)):
        keras.utils.set_random_seed(0)
        model = compiled(METHODS["olsrc"](network()))
        y = y[:, None] if kind == "column" else y
        if kind == "dataset":
            model.fit(tf.data.Dataset.from_tensor_slices((X, y)).batch(10), verbose=0)
        else:
            model.fit(X, y, batch_size=10, shuffle=False, verbose=0)
        models.append(model)
    np.testing.assert_array_equal(*map(weights, models))
    attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None, seed=0)
    moved = [attack(models[0].classifier, X, y, 1.0) for y in (Y, Y.astype(dtype))]
    np.testing.assert_array_equal(*moved)


def test_labels_between_classes_are_refused_in_a_pipeline_and_by_attacks():
    model = compiled(METHODS["adversarial"](network()))
    between = np.where(np.arange(20) == 15, 0.5, Y)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`y` must hold labels from 0 to 1"):
        model.fit(tf.data.Dataset.from_tensor_slices((X, between)).batch(10), verbose=0)
    with pytest.raises(TypeError, match="labels with fractions"):
        lr.attacks.PGD(bounds=None)(model.classifier, X, between, 1.0)


class Pages(keras.utils.PyDataset):
    """One batch again and again."""

    def __init__(self, *batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.batch


@pytest.mark.parametrize("case", [case for case in IN_DATASETS if case != "empty"])
def test_the_first_batch_of_a_py_dataset_is_checked(model, case):
    x, y, error, match = BAD[case]
    for use in (
        lambda: model.fit(Pages(x, y), verbose=0),
        lambda: model.evaluate(Pages(x, y), verbose=0),
        lambda: model.fit(X, Y, validation_data=Pages(x, y), verbose=0),
        lambda: model.fit(Pages(X, Y), validation_data=Pages(x, y), verbose=0),
    ):
        assert_refused(model, error, match, use)


def test_a_good_py_dataset_is_trained_on():
    model = compiled(lr.OLSRC(keras.Sequential([keras.layers.Dense(2)]), BOXED, [1.0]))
    logs = fit(model, X, Y, epochs=1)
    again = model.fit(Pages(X, Y), validation_data=Pages(X, Y, np.ones(20)), verbose=0).history
    assert {*again} > {*logs}
    assert int(model.optimizer.iterations) == 3


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda c: lr.AdversarialTraining(c, ATTACK, 1.0, alpha=None), "`alpha`.*None"),
        (lambda c: lr.TRADES(c, ATTACK, 1.0, beta="6"), "`beta`.*'6'"),
        (lambda c: lr.OLSRC(c, ATTACK, [1.0], margin=None), "`margin`.*None"),
        (lambda c: lr.OLSRC(c, ATTACK, [1.0, 1.0000001]), "`magnitudes`.*six digits.*1.0000001"),
    ],
)
def test_settings_that_are_no_such_numbers_are_refused_by_name(make, match):
    with pytest.raises(ValueError, match=match):
        make(network())


def test_attacks_that_keep_to_no_magnitude_are_told_what_does():
    attacks = [lr.attacks.FAB("l2"), ATTACK]
    for strategy in ("max", "avg"):
        with pytest.raises(TypeError, match=r"WithinMagnitude\(FAB"):
            lr.MultiPerturbationTraining(network(), attacks, [1.0, 1.0], strategy)


def test_a_layer_is_told_how_to_become_a_model():
    with pytest.raises(TypeError, match=r"a Keras model.*Dense.*keras\.Sequential\(\[layer\]\)"):
        lr.OLSRC(keras.layers.Dense(2), ATTACK, [1.0])


def test_one_logit_is_told_how_to_become_two():
    classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match=r"\[N, classes\].*Dense\(2\) gives two"):
        lr.OLSRC(classifier, ATTACK, [1.0]).compile("sgd", loss)
