"""Data of a form that nothing can be done with are refused at every door, before anything runs."""

import warnings

import keras
import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

import lexirobust as lr
from tests.training.by_hand import compiled, network, weights

L = keras.layers
X, Y = lr.datasets.toy(8, seed=0)
X = X.astype(np.float32)
ONE_HOT = np.eye(2, dtype=np.float32)[Y]
IMAGES = np.random.default_rng(0).uniform(size=(8, 5, 5, 3)).astype(np.float32)
ATTACK = lr.attacks.PGD(norm="l2", steps=1, bounds=None, seed=0)
FAB = lr.attacks.FAB(bounds=None, steps=1, seed=0)


def trainer(classifier=None, **options):
    return compiled(lr.AdversarialTraining(classifier or network(), ATTACK, 1.0), **options)


def images_network(*head):
    return keras.Sequential([*head, L.Conv2D(2, 3), L.GlobalAveragePooling2D(), L.Dense(2)])


DOORS = {
    "fit": lambda x, y: trainer().fit(x, y, verbose=0),
    "validation": lambda x, y: trainer().fit(X, Y, validation_data=(x, y), verbose=0),
    "evaluate": lambda x, y: trainer().evaluate(x, y, verbose=0),
    "train_on_batch": lambda x, y: trainer().train_on_batch(x, y),
    "test_on_batch": lambda x, y: trainer().test_on_batch(x, y),
    "gradients": lambda x, y: trainer().gradients(x, y),
    "attack": lambda x, y: ATTACK(network(), x, y, 1.0),
    "sweep": lambda x, y: ATTACK.sweep(network(), x, y, [1.0]),
    "images": lambda x, y: lr.attacks.Spatial()(network(), x, y, 1.0),
    "minimal": lambda x, y: FAB(network(), x, y),
    "evaluate_robustness": lambda x, y: lr.evaluate_robustness(network(), x, y, ATTACK, [1.0]),
    "curve": lambda x, y: lr.callbacks.RobustnessCurve(x, y, ATTACK, [1.0]),
    "check": lambda x, y: lr.callbacks.AttackCheck(x, y),
    "distances": lr.class_distances,
    "subset": lambda x, y: lr.datasets.subset(x, y, 2, seed=0),
}
OF_INPUTS = {
    "boundary": lambda x: lr.nearest_boundary(network(), x, FAB),
    "remover": lambda x: lr.negative_adversarial_remover(network(), x, FAB),
    "index": lr.datasets.with_index,
    "adapt": lambda x: lr.OLGRC(network(), ATTACK, [1.0], explored="nearest").adapt(x),
}
THIN = {
    "sparse": (tf.sparse.from_dense, r"SparseTensor; .*to_dense"),
    "SciPy's": (scipy.sparse.csr_array, r"csr_array; .*toarray"),
    "ragged": (tf.RaggedTensor.from_tensor, r"RaggedTensor; .*to_tensor"),
}


@pytest.mark.parametrize(("make", "match"), THIN.values(), ids=THIN)
@pytest.mark.parametrize("door", DOORS)
def test_only_dense_arrays_are_taken(door, make, match):
    with pytest.raises(TypeError, match=f"`x` must be one dense array.*Received: {match}"):
        DOORS[door](make(X), Y)
    if door != "subset":
        with pytest.raises(TypeError, match=f"`y` must be one dense array.*Received: {match}"):
            DOORS[door](IMAGES if door == "images" else X, make(ONE_HOT))


@pytest.mark.parametrize(("make", "match"), THIN.values(), ids=THIN)
@pytest.mark.parametrize("door", OF_INPUTS)
def test_only_dense_inputs_are_taken(door, make, match):
    with pytest.raises(TypeError, match=f"`x` must be one dense array.*Received: {match}"):
        OF_INPUTS[door](make(X))


class Batches(keras.utils.PyDataset):
    """Data in a form that only training takes, where it is read once at most."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        pytest.fail("read")


@pytest.mark.parametrize(
    "door", ["attack", "sweep", "images", "minimal", "evaluate_robustness", "curve", "boundary"]
)
def test_a_data_set_of_keras_is_named(door):
    def open_door(x):
        return OF_INPUTS[door](x) if door in OF_INPUTS else DOORS[door](x, None)

    message = "`x` must be an array, or .* tf.data.Dataset. Received: a PyDataset, Batches"
    with pytest.raises(TypeError, match=message):
        open_door(Batches())


@pytest.mark.parametrize("x", [[[0.0, 1.0], [0.5]], None, (i for i in range(2))])
@pytest.mark.parametrize("door", ["attack", "evaluate_robustness"])
def test_what_is_no_array_of_numbers_is_named(door, x):
    message = f"`x` must be .*real numbers. Received: {type(x).__name__}"
    with pytest.raises(TypeError, match=message):
        DOORS[door](x, Y[:2])


@pytest.mark.parametrize("kind", ["sparse", "ragged"])
def test_only_dense_datasets_are_taken(kind):
    make, match = THIN[kind]
    match = match.replace("Tensor;", "Tensor(Spec)?;")
    for x, y in ((make(X), Y), (X, make(ONE_HOT))):
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        for use in (
            lambda batches=batches: trainer().fit(batches, verbose=0),
            lambda batches=batches: trainer().evaluate(batches, verbose=0),
            lambda batches=batches: lr.datasets.perturb(batches, network(), ATTACK, 1.0),
        ):
            with pytest.raises(TypeError, match=f"must be one dense array.*{match}"):
                use()


@pytest.mark.parametrize("door", [door for door in DOORS if door != "images"])
def test_inputs_may_be_the_one_value_of_a_dict_at_every_door(door):
    if door in ("train_on_batch", "attack", "curve", "check", "distances", "subset"):  # Fast ones.
        DOORS[door]({"image": X}, Y)
    with pytest.raises(ValueError, match=r"`x` must be one array.*Received: \['left', 'right'\]"):
        DOORS[door]({"left": X, "right": X}, Y)


def test_datasets_of_dicts_are_measured():
    batches = tf.data.Dataset.from_tensor_slices(({"image": X}, Y)).batch(4)
    curve = lr.evaluate_robustness(network(), batches, None, ATTACK, [1.0], checks=False)
    assert curve.correct.shape == (1, 8)
    two = tf.data.Dataset.from_tensor_slices(((X, X), Y)).batch(4)
    with pytest.raises(ValueError, match="`x` must be one array"):
        lr.evaluate_robustness(network(), two, None, ATTACK, [1.0])


def two_inputs():
    given = [keras.Input((1,), name=name) for name in ("left", "right")]
    return keras.Model(given, L.Dense(2)(L.Concatenate()(given)))


BATCHES = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
CLASSIFIED = {
    "fit": lr.Standard,
    "attack": lambda c: ATTACK(c, X, Y, 1.0),
    "evaluate_robustness": lambda c: lr.evaluate_robustness(c, X, Y, ATTACK, [1.0]),
    "boundary": lambda c: lr.nearest_boundary(c, X, FAB),
    "perturb": lambda c: lr.datasets.perturb(BATCHES, c, ATTACK, 1.0),
}


@pytest.mark.parametrize("door", CLASSIFIED)
def test_classifiers_of_several_inputs_are_refused(door):
    match = r"`classifier` must have one input.*Received: inputs \['left', 'right'\]"
    with pytest.raises(ValueError, match=match):
        CLASSIFIED[door](two_inputs())


@pytest.mark.parametrize("wrong", [None, "path", tf.Module()], ids=["None", "text", "module"])
def test_what_cannot_be_called_is_no_classifier(wrong):
    for door in ("attack", "evaluate_robustness", "boundary"):
        with pytest.raises(TypeError, match="`classifier` must be a Keras model or another call"):
            CLASSIFIED[door](wrong)


def test_logits_are_what_is_advised_of_several_outputs():
    with pytest.raises(TypeError, match=r"lambda x: classifier\(x\)\['logits'\]"):
        ATTACK(lambda x: {"probabilities": x, "logits": x}, X, Y, 1.0)


def test_a_list_of_one_output_is_that_output():
    given = keras.Input((1,))
    model = trainer(keras.Model(given, [L.Dense(2)(given)]))
    assert "accuracy@natural" in model.fit(X, Y, verbose=0).history
    with pytest.raises(ValueError, match=r"gives a dict of outputs, \['logits'\].*that tensor alo"):
        trainer(keras.Model(given, {"logits": L.Dense(2)(given)})).fit(X, Y)


LOSSES = {
    "default": (None, ONE_HOT, r"\[N\] integer labels.*\(\w+, 2\).*CategoricalCrossentropy"),
    "probabilities": (None, 0.5 + 0 * ONE_HOT, r"\[N\] integer labels.*\(\w+, 2\)"),
    "categorical": (
        keras.losses.CategoricalCrossentropy(from_logits=True),
        Y,
        r"\[N, classes\] probabilities.*\(\w+,\).*SparseCategoricalCrossentropy",
    ),
    "column": (keras.losses.CategoricalHinge(), Y[:, None], r"\[N, classes\] prob.*\(\w+,( 1)?\)"),
    "name": ("mse", Y, r"\[N, classes\] probabilities for the loss 'mean_squared_error'"),
}


@pytest.mark.parametrize("case", LOSSES)
def test_labels_of_another_form_than_the_loss_are_refused(case):
    loss, y, match = LOSSES[case]
    model = trainer(loss=loss)
    before = weights(model)
    batches = tf.data.Dataset.from_tensor_slices((X, y)).batch(4)
    good = ONE_HOT if loss else Y
    for use in (
        lambda: model.fit(X, y, verbose=0),
        lambda: model.fit(batches, verbose=0),
        lambda: model.fit(((X, y) for _ in range(2)), steps_per_epoch=1, verbose=0),
        lambda: model.fit(X, good, validation_data=(X, y), verbose=0),
        lambda: model.fit(X, good, validation_data=batches, verbose=0),
        lambda: model.evaluate(X, y, verbose=0),
        lambda: model.train_on_batch(X, y),
        lambda: model.test_on_batch(X, y),
        lambda: model.gradients(X, y),
    ):
        with pytest.raises(ValueError, match=f"`y` must be {match}"):
            use()
    assert np.array_equal(weights(model), before)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (keras.losses.CategoricalCrossentropy(from_logits=True), 0.8 * ONE_HOT + 0.1),
        (keras.losses.CategoricalHinge(), ONE_HOT.astype(int)),
        (lambda y, logits: tf.reduce_sum(logits, 1) * tf.cast(y, logits.dtype), Y),
        (None, Y[:, None]),
    ],
    ids=["probabilities", "one-hot", "a function of the user's", "column"],
)
def test_labels_that_fit_the_loss_train(loss, y):
    assert np.isfinite(trainer(loss=loss).fit(X, y, verbose=0).history["loss"]).all()


def test_callbacks_refuse_labels_before_the_first_step():
    for callback in (lr.callbacks.AttackCheck, lambda x, y: lr.callbacks.ConflictMonitor(x=x, y=y)):
        model = compiled(lr.OLSRC(network(), ATTACK, [1.0], detailed_logs=True))
        before = weights(model)
        with pytest.raises(ValueError, match=r"`y` must be \[N\].*np.argmax"):
            model.fit(X, Y, verbose=0, callbacks=[callback(X, ONE_HOT)])
        assert np.array_equal(weights(model), before)
    history = trainer().fit(
        X, Y, verbose=0, callbacks=[lr.callbacks.RobustnessCurve(X, Y[:, None], ATTACK, [1.0])]
    )
    assert "val_accuracy@l2=1" in history.history


FROZEN = {
    "all": (lambda: network(), {}),
    "unbuilt": (lambda: keras.Sequential([L.Dense(2)]), {}),
    "memory": (lambda: network(), {"memory": lr.RunningMean()}),
}


@pytest.mark.parametrize("case", FROZEN)
def test_a_classifier_with_nothing_to_train_is_refused(case):
    make, options = FROZEN[case]
    classifier = make()
    classifier.trainable = False
    model = compiled(lr.OLSRC(classifier, ATTACK, [1.0], **options))
    match = "`classifier` must have trainable weights. Received: none"
    for train in (lambda: model.fit(X, Y, verbose=0), lambda: model.train_on_batch(X, Y)):
        with pytest.raises(ValueError, match=match):
            train()
    model.evaluate(X, Y, verbose=0)
    assert int(model.optimizer.iterations) == 0


def unknown(shape, *sizes):
    """Batches of images whose shapes `tf.data` does not know."""

    def batches():
        for size in sizes or (5, 5):
            yield IMAGES[:4, :size], Y[:4]

    spec = tf.TensorSpec(shape), tf.TensorSpec(None, tf.int32)
    return tf.data.Dataset.from_generator(batches, output_signature=spec)


@pytest.mark.parametrize(("shape", "built"), [(None, False), ([None, None, None, 3], True)])
def test_sizes_that_a_dataset_does_not_know_are_those_of_its_data(shape, built):
    head = [keras.Input((None, None, 3))] if built else []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*no gradient")
        model = trainer(images_network(*head))
        model.fit(unknown(shape), validation_data=unknown(shape), steps_per_epoch=2, verbose=0)
    assert int(model.optimizer.iterations) == 2
    rows = lr.datasets.with_index(unknown(shape).unbatch()).batch(4)
    starts = lr.WarmStart(samples=8)
    warm = lr.AdversarialTraining(images_network(*head), ATTACK, 1.0, warm_start=starts)
    compiled(warm).fit(rows, verbose=0)
    assert int(warm.optimizer.iterations) == 2


def test_a_graph_knows_the_sizes_of_its_data():
    model = trainer(images_network(keras.Input((None, None, 3))), run_eagerly=False)
    model.fit(unknown([None, None, None, 3]), steps_per_epoch=2, verbose=0)
    assert int(model.optimizer.iterations) == 2


def test_sizes_that_change_are_refused_where_attacks_are_compiled_for_them():
    shape = [None, None, None, 3]
    measured = images_network(keras.Input((None, None, 3)))
    with pytest.raises(tf.errors.InvalidArgumentError, match="`x` must be of one size in all"):
        lr.evaluate_robustness(measured, unknown(shape, 5, 4), None, ATTACK, [1.0], 4)
    eager = trainer(images_network(keras.Input((None, None, 3))))
    eager.fit(unknown(shape, 5, 4), steps_per_epoch=2, verbose=0)
    assert int(eager.optimizer.iterations) == 2
    for spec in (None, shape):
        signature = tf.TensorSpec(spec), tf.TensorSpec([None], tf.int32)
        for run in (lambda x, y: ATTACK(measured, x, y, 1.0), lambda x, y: FAB(measured, x, y)):
            with pytest.raises(ValueError, match="`x` must be of known sizes"):
                tf.function(run, autograph=False).get_concrete_function(*signature)


W = tf.constant([[1.0, -1.0]])
CUT = {
    "numpy_function": lambda x: tf.ensure_shape(
        tf.numpy_function(lambda v: v @ W.numpy(), [x], tf.float32), [None, 2]
    ),
    "round": lambda x: tf.round(x) @ W,
    "argmax": lambda x: 9.0 * tf.one_hot(tf.argmax(x @ W, -1), 2),
    "stop": lambda x: tf.stop_gradient(x) @ W,
}
FOLLOWING = {
    "PGD": ATTACK,
    "FAB": FAB,
    "DeepFool": lr.attacks.DeepFool(bounds=None, steps=1),
    "WorstCase": lr.attacks.WorstCase(
        [lr.attacks.Square(max_queries=2, bounds=None), ATTACK], [1.0, 1.0]
    ),
}
OTHERS = {"Square": lr.attacks.Square(max_queries=2, bounds=None)}


def attacked(attack, classifier):
    magnitude = () if isinstance(attack, lr.attacks.MinimumNormAttack) else (1.0,)
    return attack(classifier, X, Y, *magnitude)


def cut_off(kind):
    """A callable that no attack has seen."""
    return lambda x: CUT[kind](x)


@pytest.mark.parametrize(
    ("kind", "attack"),
    [
        *((kind, "PGD") for kind in CUT),
        *(
            pytest.param("round", attack, marks=[pytest.mark.release] * (attack != "FAB"))
            for attack in FOLLOWING
        ),
    ],
)
def test_an_attack_that_finds_no_gradient_says_so_once(kind, attack):
    classifier = cut_off(kind)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            attacked(FOLLOWING[attack], classifier)
    (mine,) = [each for each in told if "no gradient by its inputs" in str(each.message)]
    assert "Square" in str(mine.message)
    assert mine.filename == __file__


def test_flows_and_stages_of_pipelines_say_so_too():
    flow = lr.attacks.Flow(steps=1, bounds=None)
    with pytest.warns(UserWarning, match="no gradient by its inputs"):
        flow(lambda x: tf.round(tf.reduce_mean(x, (1, 2)))[:, :2], IMAGES, Y, 1.0)
    with pytest.warns(UserWarning, match="no gradient by its inputs"):
        lr.datasets.perturb(BATCHES, CUT["round"], ATTACK, 1.0)


def partly(x):
    return tf.concat([tf.round(x), x], axis=1)


@pytest.mark.parametrize(
    ("attack", "classifier"),
    [
        *((attack, partly) for attack in ("PGD", "DeepFool", "WorstCase")),
        ("PGD", network()),
        ("Square", CUT["round"]),
    ],
)
def test_an_attack_that_finds_a_gradient_or_needs_none_is_silent(attack, classifier, recwarn):
    attacked({**FOLLOWING, **OTHERS}[attack], classifier)
    assert not [each for each in recwarn if each.category is UserWarning]


def test_a_function_of_eager_tensors_has_gradients():
    hidden = lambda x: tf.ensure_shape(tf.py_function(lambda v: v @ W, [x], x.dtype), [None, 2])  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        moved = ATTACK(hidden, X, Y, 1.0)
    np.testing.assert_allclose(moved, ATTACK(lambda x: x @ W, X, Y, 1.0))


@pytest.mark.parametrize(
    ("wrong", "dtype"),
    [(np.nan, "float32"), (7, "float32"), (-0.5, "float64"), (7, "int64"), (-1, "int64")],
)
def test_probabilities_of_every_batch_are_looked_at(wrong, dtype):
    x, y = np.zeros((4, 1), np.float32), np.tile([[0, 1]], (4, 1)).astype(dtype)
    y[3, 0] = wrong
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(2)
    classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    model = lr.Standard(classifier)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    with pytest.raises(tf.errors.InvalidArgumentError, match="`y` must hold probabilities"):
        model.fit(dataset, verbose=0)


SINGLE = tf.data.Dataset.from_tensor_slices


@pytest.mark.parametrize("labels", [Y[:, None], np.eye(10)[Y]], ids=["[1]", "one-hot"])
def test_single_samples_are_not_taken_for_batches(labels):
    samples = SINGLE((IMAGES, labels))
    match = rf"`x` must yield batches.*\(5, 5, 3\).*\({labels.shape[1]},\).*`dataset\.batch\(100\)"
    for use in (
        lambda: trainer(images_network()).fit(samples, verbose=0),
        lambda: trainer(images_network()).evaluate(samples, verbose=0),
        lambda: lr.evaluate_robustness(images_network(), samples, None, ATTACK, [1.0]),
    ):
        with pytest.raises(ValueError, match=match):
            use()


def test_batches_of_one_size_are_batches():
    batches = SINGLE((X, Y[:, None])).batch(4, drop_remainder=True)
    trainer().fit(batches, verbose=0)
    curve = lr.evaluate_robustness(network(), batches, None, ATTACK, [1.0], checks=False)
    assert curve.correct.shape == (1, 8)
