import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from tests.training.by_hand import (
    ATTACK,
    METHODS,
    adversarial,
    compiled,
    cosine,
    cross_entropy,
    fit,
    gradient,
    loss_at,
    network,
    onestep,
    right_network,
    stochastic_network,
    weights,
)

RANKED = ["olsrc", "olgrc"]
HOST_CALLBACKS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


@pytest.fixture
def data():
    return lr.datasets.toy(20, seed=0)


def ranked_gradients(classifier, x, y, magnitudes):
    seen = [x, *(adversarial(classifier, x, y, magnitude) for magnitude in magnitudes)]
    return [gradient(classifier, loss_at(classifier, inputs, y))[0] for inputs in seen]


@pytest.mark.parametrize("alphas", [None, (0.2, 0.5, 0.3), (0.0, 0.0, 1.0)])
def test_step_is_gradient_descent_along_the_onestep_mix(data, alphas):
    model = compiled(lr.OLSRC(right_network(), ATTACK, [2.5, 4.0], alphas=alphas), rate=0.1)
    gradients = ranked_gradients(model.classifier, *data, [2.5, 4.0])
    before = weights(model)
    logs = fit(model, *data)
    shares = alphas or (0.5, 0.25, 0.25)
    assert np.allclose(weights(model), before - 0.1 * onestep(gradients, shares), atol=1e-6)
    assert logs["min_cosine"] == pytest.approx(
        min(cosine(gradients[s], gradients[t]) for s, t in [(0, 1), (0, 2), (1, 2)]), abs=1e-5
    )
    for name, row in zip(("natural", "l2=2_5", "l2=4"), gradients, strict=True):
        taken = cosine(before - weights(model), row)
        assert logs[f"step_cosine@{name}"] == pytest.approx(taken, abs=1e-4)
    # Without the projection the step would be another one.
    plain = sum(share * row for share, row in zip(shares, gradients, strict=True))
    assert not np.allclose(weights(model), before - 0.1 * plain, atol=1e-3)


def test_margin_pulls_lower_ranks_toward_higher_ones_even_where_they_agree(data):
    ranks = [lr.objectives.Natural(), lr.objectives.Adversarial(ATTACK, 0.1)]
    model = compiled(lr.LexicographicModel(right_network(), ranks, margin=0.7), rate=0.1)
    first, second = ranked_gradients(model.classifier, *data, [0.1])
    assert first @ second > 0
    before = weights(model)
    fit(model, *data)
    # The bound is active: the multiplier is the margin itself.
    mix = 0.5 * first + 0.5 * (second + 0.7 * first)
    assert np.allclose(weights(model), before - 0.1 * mix, atol=1e-6)


def losses_of_rank_1(model, data):
    history = model.fit(*data, batch_size=20, shuffle=False, epochs=30, verbose=0).history
    return history["loss@natural"]


def test_rank_1_never_rises_where_a_weighted_sum_spends_it(data):
    ranked, mixed = (
        losses_of_rank_1(compiled(model, rate=0.01, run_eagerly=False), data)
        for model in (
            lr.OLSRC(right_network(), ATTACK, [4.0]),
            lr.AdversarialTraining(right_network(), ATTACK, 4.0),
        )
    )
    assert ranked[0] == pytest.approx(mixed[0])
    assert np.all(np.diff(ranked) < 0)
    assert np.max(np.diff(mixed)) > 1e-4


def test_logs_are_means_over_the_epoch_and_metrics_see_clean_inputs(data):
    x, y = data
    y = np.where(np.arange(20) < 3, 1 - y, y)  # Some are wrong.
    sample_weight = np.linspace(0, 3, 20)
    # At rate 0 nothing moves, and the epoch's means are those of all data.
    model = compiled(lr.OLSRC(right_network(), ATTACK, [2.0, 4.0]), 0.0, metrics=["accuracy"])
    logs = fit(model, x, y, batch_size=8, epochs=2, sample_weight=sample_weight)
    seen = {"natural": x}
    seen |= {f"l2={d}": adversarial(model.classifier, x, y, d) for d in (2, 4)}
    expected = {}
    for name, inputs in seen.items():
        logits = np.asarray(model.classifier(inputs))
        right = np.argmax(logits, axis=1) == y
        expected[f"loss@{name}"] = np.mean(sample_weight * cross_entropy(logits, y))
        # A share of samples: those that count count alike, and one of weight 0 does not.
        expected[f"accuracy@{name}"] = np.mean(right[sample_weight > 0])
    expected["loss"] = np.dot([0.5, 0.25, 0.25], [expected[f"loss@{name}"] for name in seen])
    expected["accuracy"] = np.mean(np.argmax(model.classifier(x), axis=1) == y)
    assert expected["accuracy@natural"] > expected["accuracy@l2=4"]
    assert abs(expected["accuracy@natural"] - expected["accuracy"]) > 0.001
    minima = []
    for batch in (slice(0, 8), slice(8, 16), slice(16, 20)):
        rows = [
            gradient(
                model.classifier,
                loss_at(model.classifier, inputs[batch], y[batch], sample_weight[batch]),
            )[0]
            for inputs in seen.values()
        ]
        pairs = [(0, 1), (0, 2), (1, 2)]
        minima.append(min(cosine(rows[s], rows[t]) for s, t in pairs))
    training_only = {"min_cosine": np.average(minima, weights=[8, 8, 4])}
    training_only |= {f"step_cosine@{name}": 0.0 for name in seen}
    assert logs == pytest.approx(expected | training_only, abs=1e-5)

    evaluated = model.evaluate(
        x, y, batch_size=8, sample_weight=sample_weight, verbose=0, return_dict=True
    )
    assert evaluated == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", ["standard", "olgrc"])
def test_evaluation_knows_nothing_of_training(data, method):
    model = compiled(METHODS[method](network()), metrics=["accuracy"])
    logs = fit(model, *data, epochs=2, validation_data=data)
    training = {name for name in logs if not name.startswith("val_")}
    validation = {name.removeprefix("val_") for name in logs if name.startswith("val_")}
    steps = {f"step_cosine@{name}" for name in ("natural", "l2=1", "l2=4")}
    ranked = {"min_cosine", *steps} if method in RANKED else set()
    learned = {"loss@discriminator"} if method == "olgrc" else set()
    assert training - validation == ranked | learned
    assert validation <= training
    assert set(model.evaluate(*data, verbose=0, return_dict=True)) == validation
    assert set(fit(model, *data)) == training


def test_evaluation_changes_no_weights_and_no_statistics(data):
    model = compiled(METHODS["olgrc"](network(keras.layers.BatchNormalization())))
    before = [v.numpy() for v in [*model.classifier.variables, *model.discriminator.variables]]
    model.evaluate(*data, verbose=0)
    after = [*model.classifier.variables, *model.discriminator.variables]
    assert all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))


def test_evaluation_calls_the_classifier_as_in_use(data):
    x, y = data
    model = compiled(METHODS["standard"](stochastic_network()))
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    expected = np.mean(cross_entropy(model.classifier(x, training=False), y))
    assert logs["loss@natural"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"kernel_regularizer": keras.regularizers.L2(0.1)}, {"activity_regularizer": "l2"}],
    ids=["kernel", "activity"],
)
def test_regularization_belongs_to_rank_1(data, options):
    x, y = data
    # The last rank alone is applied, projected against the first: without its penalty, rank 1
    # would point elsewhere.
    model = compiled(lr.OLSRC(network(**options), ATTACK, [4.0], alphas=[0.5, 0.5]))
    classifier = model.classifier
    natural = loss_at(classifier, x, y)
    seen = adversarial(classifier, x, y, 4.0)

    def penalized():
        value = natural()
        return value + tf.add_n(classifier.losses)

    first, total = gradient(classifier, penalized)
    second, other = gradient(classifier, loss_at(classifier, seen, y))
    before = weights(model)
    plain = float(natural())
    logs = fit(model, x, y)
    assert total > plain + 1e-3
    assert np.allclose(
        weights(model), before - 0.1 * onestep([first, second], [0.5, 0.5]), atol=1e-6
    )
    assert logs["loss@natural"] == pytest.approx(plain, abs=1e-5)
    assert logs["loss"] == pytest.approx((total + other) / 2, abs=1e-5)


@pytest.mark.parametrize("method", RANKED)
def test_batch_normalization_learns_from_the_clean_pass_alone(data, method):
    x, y = data
    model = compiled(METHODS[method](network(keras.layers.BatchNormalization())))
    twin = keras.models.clone_model(model.classifier)
    twin.set_weights(model.classifier.get_weights())
    twin(x, training=True)
    expected = [v.numpy() for v in twin.non_trainable_variables]
    start = [v.numpy() for v in model.classifier.non_trainable_variables]
    fit(model, x, y)
    moved = model.classifier.non_trainable_variables
    assert all(np.allclose(a, b, atol=1e-6) for a, b in zip(expected, moved, strict=True))
    assert not np.allclose(np.concatenate(start), np.concatenate(expected), atol=1e-3)


class SpyDropout(keras.layers.Dropout):
    """Notes how it was called; run eagerly."""

    def __init__(self, rate):
        super().__init__(rate)
        self.masks = []
        self.other_calls = 0

    def call(self, inputs, training=False):
        outputs = super().call(inputs, training=training)
        if training:
            self.masks.append(np.asarray(outputs) != 0)
        else:
            self.other_calls += 1
        return outputs


def test_ranks_share_one_dropout_mask_and_attacks_see_none(data):
    spy = SpyDropout(0.5)
    model = compiled(METHODS["olsrc"](network(spy)), run_eagerly=True)
    state = spy.seed_generator.state
    start = state.numpy()
    spy.masks.clear()
    for step in (1, 2):
        fit(model, *data)
        assert np.array_equal(state, [start[0], step])
    first, second = spy.masks[:3], spy.masks[3:]
    assert len(second) == 3
    for masks in (first, second):
        assert all(np.array_equal(masks[0], mask) for mask in masks)
        assert 0.2 < np.mean(masks[0]) < 0.8
    assert not np.array_equal(first[0], second[0])
    assert spy.other_calls > 0


@keras.saving.register_keras_serializable(package="tests")
class Counting(keras.Model):
    """Counts how often Python runs it: once a pass while tracing, never after."""

    def __init__(self):
        super().__init__()
        self.hidden, self.last = keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)
        self.calls = 0

    def call(self, inputs):
        self.calls += 1
        return self.last(self.hidden(inputs))


def small_discriminator():
    return keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])


def test_one_trace_serves_all_steps(data):
    model = compiled(lr.OLSRC(Counting(), ATTACK, [1.0, 4.0]), run_eagerly=False)
    fit(model, *data, batch_size=5)
    traced = model.classifier.calls
    fit(model, *data, batch_size=5, epochs=4)
    assert model.classifier.calls == traced > 0


def by_generator(model, x, y):
    def batches():
        while True:
            yield x, y

    model.fit(batches(), steps_per_epoch=1, verbose=0)


@pytest.mark.parametrize("train", [by_generator, keras.Model.train_on_batch])
def test_unbuilt_models_are_built_by_their_first_batch(data, train):
    model = lr.OLGRC(Counting(), ATTACK, [4.0], discriminator=small_discriminator())
    compiled(model, optimizer=keras.optimizers.Adam())
    train(model, *data)
    assert int(model.optimizer.iterations) == int(model.discriminator_optimizer.iterations) == 1
    slots = [v.shape for v in model.optimizer.variables if v.path.endswith("momentum")]
    assert slots == [v.shape for v in model.classifier.trainable_variables]


def all_ops(concrete):
    """The operations of a function and of every function in its library."""
    graph = concrete.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    return {node.op for node in nodes}


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(
            name, marks=[pytest.mark.release] * (name not in ("olsrc", "olgrc", "nearest"))
        )
        for name in METHODS
    ],
)
@pytest.mark.parametrize("step", ["train_step", "test_step"])
def test_no_step_calls_back_to_the_host(data, method, step):
    model = compiled(METHODS[method](network()))
    if method == "nearest":
        model.adapt(data[0])  # `fit` would, before it traces a step.
    ops = all_ops(tf.function(getattr(model, step), autograph=False).get_concrete_function(data))
    assert not ops & HOST_CALLBACKS
    assert "MatMul" in ops
    assert not any("Py" in op for op in ops)


@pytest.mark.parametrize("hidden", [tf.numpy_function, tf.py_function])
def test_a_callback_inside_a_loop_would_be_found(hidden):
    @tf.function
    def inner(x):
        return tf.ensure_shape(hidden(lambda v: v, [x], tf.float32), [])

    @tf.function
    def outer(x):
        return tf.while_loop(lambda v: v < 3.0, lambda v: (inner(v) + 1.0,), (x,))

    assert all_ops(outer.get_concrete_function(tf.constant(0.0))) & HOST_CALLBACKS


@pytest.mark.parametrize(
    "method", [pytest.param("adversarial", marks=pytest.mark.release), "olgrc"]
)
def test_not_a_number_passes_through_and_the_weights_before_it_are_kept(data, method, tmp_path):
    factor = tf.Variable(1.0, trainable=False)
    exact = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled(
        METHODS[method](network()), loss=lambda y, logits: factor * exact.call(y, logits)
    )
    before = []

    def spoil(epoch, logs):
        if epoch == 2:
            before.append(weights(model))
            factor.assign(np.nan)

    callbacks = [
        keras.callbacks.LambdaCallback(on_epoch_begin=spoil),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
    ]
    logs = fit(model, *data, epochs=6, callbacks=callbacks)
    assert int(model.optimizer.iterations) == 3
    assert np.isnan(logs["loss"])
    assert np.isnan(model.classifier.layers[-1].kernel).all()
    # From weights that are no numbers, training goes on to nothing: it ends all the same.
    assert np.isnan(fit(model, *data, epochs=2)["loss"])
    model.load_weights(tmp_path / "2.weights.h5")
    assert np.array_equal(weights(model), before[0])


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_attacks_on_weights_that_are_no_numbers_end(norm):
    x = np.random.default_rng(0).uniform(size=(6, 3)).astype(np.float32)
    y = np.arange(6) % 2
    classifier = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model = compiled(lr.OLGRC(classifier, lr.attacks.PGD(norm=norm, steps=3), [0.2, 0.4]))
    classifier.layers[-1].kernel.assign(np.full((3, 2), np.nan))
    assert np.isnan(fit(model, x, y)["loss@natural"])
    assert int(model.optimizer.iterations) == 1


def test_weights_of_samples_and_classes_reach_every_rank(data):
    x, y = data
    sample_weight = np.linspace(0.1, 2, 20)
    class_weight = {0: 0.5, 1: 3.0}
    for options, given in (
        ({"sample_weight": sample_weight}, sample_weight),
        ({"class_weight": class_weight}, np.where(y == 1, 3.0, 0.5)),
    ):
        model = compiled(lr.OLSRC(right_network(), ATTACK, [4.0]))
        seen = [x, adversarial(model.classifier, x, y, 4.0)]
        rows = [gradient(model.classifier, loss_at(model.classifier, s, y, given))[0] for s in seen]
        before = weights(model)
        fit(model, x, y, **options)
        assert np.allclose(weights(model), before - 0.1 * onestep(rows, [0.5, 0.5]), atol=1e-6)


def generated(x, y, weight):
    """Batches of which nothing is known before they come."""
    specs = [tf.TensorSpec([None] * a.ndim, a.dtype) for a in (x, y, weight)]
    specs[0] = tf.TensorSpec([None, 1])
    return tf.data.Dataset.from_generator(
        lambda: iter([(x[:12], y[:12], weight[:12]), (x[12:], y[12:], weight[12:])]),
        output_signature=tuple(specs),
    )


def batched(x, y, weight):
    return tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(12)


def yielded(x, y, weight):
    """A generator of Python's, of which nothing is checked."""
    yield from [(x[:12], y[:12], weight[:12]), (x[12:], y[12:], weight[12:])]


COLUMNS = {
    "arrays": lambda x, y, w: {"x": x, "y": y, "sample_weight": w, "batch_size": 12},
    "dataset": lambda x, y, w: {"x": batched(x, y[:, None], w)},
    "shapes unknown": lambda x, y, w: {"x": generated(x, y[:, None], w)},
    "generator": lambda x, y, w: {"x": yielded(x, y, w)},
}


def measured(name, x, y, weight, way, **options):
    """What `evaluate` tells of a classifier that is right."""
    model = compiled(
        METHODS[name](right_network(), **options),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("weighted")],
        run_eagerly=True,
    )
    if name == "nearest":
        model.adapt(x)
    return model.evaluate(**COLUMNS[way](x, y, weight), verbose=0, return_dict=True)


@pytest.mark.parametrize("way", COLUMNS)
@pytest.mark.parametrize("name", ["olsrc", pytest.param("trades", marks=pytest.mark.release)])
def test_weights_of_samples_in_a_column_are_measured_by(data, name, way):
    x, y = data
    weight = np.linspace(0, 3, 20).astype(np.float32)
    expected = measured(name, x, y, weight, "arrays")
    assert measured(name, x, y, weight[:, None], way) == pytest.approx(expected, rel=1e-5)
    assert max(value for name, value in expected.items() if "accuracy" in name) <= 1


@pytest.mark.parametrize(("name", "size"), [("nearest", None), ("olsrc", 8)])
def test_weights_of_samples_in_a_column_are_trained_by(data, name, size):
    x, y = data
    weight = np.linspace(0, 3, 20)
    results = []
    for given in (weight, weight[:, None]):
        model = METHODS[name](right_network(), micro_batch_size=size)
        model = compiled(model, run_eagerly=True, metrics=["accuracy"])
        results.append((fit(model, x, y, sample_weight=given), weights(model)))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-5)
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-5)


def test_weights_in_a_column_may_come_batch_by_batch(data):
    x, y = data
    weight = np.linspace(0.5, 3, 20)
    results = []
    for given in (weight, weight[:, None]):
        model = compiled(METHODS["olsrc"](right_network()), run_eagerly=True)
        for step in (model.train_on_batch, model.test_on_batch):
            logs = step(x, y, given, return_dict=True)
            results.append({name: float(value) for name, value in logs.items()})
    assert results[2] == pytest.approx(results[0])
    assert results[3] == pytest.approx(results[1])


def test_the_form_of_the_labels_changes_nothing(data):
    x, y = data
    one_hot = keras.losses.CategoricalCrossentropy(from_logits=True)
    forms = [(y, None), (y.astype(np.uint8)[:, None], None), (np.eye(2)[y], one_hot)]
    results = []
    for labels, loss in forms:
        keras.utils.set_random_seed(1)
        model = compiled(
            METHODS["olsrc"](network()), loss=loss, metrics=["accuracy"], run_eagerly=True
        )
        logs = fit(model, x, labels)
        results.append((weights(model), logs))
    for vector, logs in results[1:]:
        assert np.allclose(vector, results[0][0], rtol=1e-5, atol=1e-6)
        assert logs == pytest.approx(results[0][1], abs=1e-5)


def test_inputs_of_other_types_are_trained_on_as_keras_floats():
    x = np.arange(0, 200, 10)[:, None]
    y = (x[:, 0] > 90).astype(np.int32)
    attack = lr.attacks.PGD(norm="linf", steps=1, restarts=2, bounds=(0, 255))
    results = []
    for kind in (np.float32, np.float64, np.uint8):
        keras.utils.set_random_seed(1)
        classifier = keras.Sequential(
            [keras.Input((1,)), keras.layers.Rescaling(1 / 255), keras.layers.Dense(2)]
        )
        model = compiled(lr.OLGRC(classifier, attack, [0.5, 2.0]), run_eagerly=True)
        history = model.fit(tf.data.Dataset.from_tensors((x.astype(kind), y)), verbose=0).history
        results.append((history, weights(model)))
    for history, vector in results[1:]:
        np.testing.assert_equal(history, results[0][0])
        assert np.array_equal(vector, results[0][1])


@pytest.mark.release
def test_half_precision_projects_as_full_precision_does(data):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        classifier = right_network()
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.1), initial_scale=256.0
        )
        model = compiled(lr.OLSRC(classifier, ATTACK, [4.0]), optimizer=optimizer)
        gradients = ranked_gradients(classifier, *data, [4.0])
        before = weights(model)
        fit(model, *data)
    finally:
        keras.config.set_dtype_policy("float32")
    step = onestep(gradients, [0.5, 0.5])
    assert np.allclose((before - weights(model)) / 0.1, step, atol=0.01 * np.abs(step).max())


def test_user_defined_losses_can_be_ranked(data):
    x, y = data

    class Small(lr.objectives.Objective):
        """Mean square of the logits."""

        def loss(self, forward, batch, seen, score):
            logits = forward(seen)
            return tf.reduce_mean(tf.square(logits)), logits

        def get_config(self):
            return {"name": self.name}

    model = compiled(
        lr.LexicographicModel(right_network(), [Small("small"), lr.objectives.Natural()])
    )
    classifier = model.classifier
    small, value = gradient(
        classifier, lambda: tf.reduce_mean(tf.square(classifier(x, training=True)))
    )
    natural, _ = gradient(classifier, loss_at(classifier, x, y))
    assert small @ natural < 0
    before = weights(model)
    logs = fit(model, x, y)
    assert np.allclose(
        weights(model), before - 0.1 * onestep([small, natural], [0.5, 0.5]), atol=1e-6
    )
    assert logs["loss@small"] == pytest.approx(value)


def test_predictions_are_the_classifiers_logits(data):
    model = compiled(METHODS["olgrc"](network()))
    assert np.allclose(model.predict(data[0], verbose=0), model.classifier(data[0]), atol=1e-6)
    assert np.array_equal(model(data[0]), model.classifier(data[0]))


def test_gradients_on_a_data_set_are_those_of_one_batch_and_leave_no_trace():
    x, y = lr.datasets.toy(20, seed=0)
    keras.utils.set_random_seed(0)
    dropout = keras.layers.Dropout(0.5)
    model = compiled(lr.OLSRC(network(dropout), ATTACK, [4.0]))
    before = [np.array(variable) for variable in model.variables]
    model.gradients(x, y)
    for variable, value in zip(model.variables, before, strict=True):
        assert np.array_equal(variable, value)
    model = compiled(lr.OLSRC(network(), ATTACK, [4.0]))
    moved = adversarial(model.classifier, x, y, 4.0)
    for row, seen in zip(model.gradients(x, y, batch_size=7), (x, moved), strict=True):
        expected, _ = gradient(model.classifier, loss_at(model.classifier, seen, y))
        np.testing.assert_allclose(np.concatenate([np.ravel(g) for g in row]), expected, atol=1e-6)
    assert model.mean_gradients == []
    with pytest.raises(ValueError, match="`batch_size` must be an integer"):
        model.gradients(x, y, batch_size=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.classifier.layers[0], "trainable", False),
        lambda model: setattr(model.classifier.layers[0], "activation", keras.activations.tanh),
        lambda model: setattr(model.objectives[1].attack, "steps", 4),
        lambda model: compiled(model, loss=lambda y, logits: tf.norm(logits, axis=-1)),
    ],
    ids=["trainable", "activation", "attack", "loss"],
)
def test_gradients_are_of_the_model_as_it_is(change, data):
    attack = {"norm": "l2", "steps": 1, "step_size": 0.5, "constraint": "maximum", "bounds": None}

    def made():
        classifier = right_network()
        return compiled(lr.OLSRC(classifier, lr.attacks.BIM(**attack), [2.0]))

    def gradients(model):
        return [[None if g is None else g.numpy() for g in r] for r in model.gradients(*data)]

    model, fresh = made(), made()
    before = gradients(model)
    change(model)
    change(fresh)
    after = gradients(model)
    np.testing.assert_equal(after, gradients(fresh))
    assert str(after) != str(before)


def test_logits_that_are_not_numbers_are_never_right(data):
    x, _ = data
    model = compiled(lr.OLSRC(network(), ATTACK, [4.0]))
    model.classifier.layers[-1].bias.assign([np.nan, 0.0])
    for y in (np.zeros(20, int), np.ones(20, int)):
        logs = model.evaluate(x, y, verbose=0, return_dict=True)
        assert [logs["accuracy@natural"], logs["accuracy@l2=4"]] == [0.0, 0.0]


def test_gradients_of_what_is_no_mean_are_taken_of_one_batch_alone():
    x, y = lr.datasets.toy(20, seed=0)
    total = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    model = compiled(lr.Standard(network()), loss=total)
    mean = compiled(lr.Standard(model.classifier))
    (whole,), (expected,) = model.gradients(x, y, batch_size=20), mean.gradients(x, y, batch_size=7)
    for own, other in zip(whole, expected, strict=True):
        np.testing.assert_allclose(own, 20 * other, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="must be a mean over samples where data are more"):
        model.gradients(x, y, batch_size=7)
    mixed = compiled(lr.MixTrain(network(), ATTACK, 1.0))
    mixed.gradients(x, y, batch_size=20)
    with pytest.raises(ValueError, match=r"`batch_size` must hold all samples .* 7 of 20"):
        mixed.gradients(x, y, batch_size=7)


def test_measuring_leaves_training_as_it_is():
    x, y = lr.datasets.toy(20, seed=0)
    # Little more than a random point: another draw is another point.
    attack = lr.attacks.PGD(norm="l2", steps=1, step_size=0.01, bounds=None)
    trained = []
    for measures in (False, True):
        keras.utils.set_random_seed(0)
        model = compiled(lr.OLSRC(network(), attack, [1.0]), run_eagerly=True)
        for _ in range(2):
            model.train_on_batch(x, y)
            if measures:
                model.test_on_batch(x, y)
        trained.append(model.classifier.get_weights())
    for one, other in zip(*trained, strict=True):
        np.testing.assert_array_equal(one, other)


def test_losses_are_weighed_by_alphas_alone():
    for given in (0.5, [0.5], {"natural": 0.5}):
        with pytest.raises(ValueError, match="`loss_weights` must be None"):
            lr.Standard(network()).compile("sgd", None, given)


@pytest.mark.parametrize("loss", ["kl_divergence", keras.losses.Dice(), keras.losses.poisson])
def test_losses_of_probabilities_are_refused(loss):
    with pytest.raises(ValueError, match=r"`loss` must take logits.*which takes probabilities"):
        lr.Standard(network()).compile("sgd", loss)


@pytest.mark.parametrize("name", ["safeguard", "keep_gradients", "detailed_logs"])
@pytest.mark.parametrize("value", ["False", 0, None])
def test_what_is_true_or_false_is_not_guessed(name, value):
    with pytest.raises(TypeError, match=f"`{name}` must be a bool. Received: {value!r}"):
        lr.OLSRC(network(), ATTACK, [1.0], **{name: value})
