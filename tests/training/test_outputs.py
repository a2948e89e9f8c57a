"""Regularization as a rank of its own, and classifiers with several outputs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.keras_internals import activity_penalties_add_up
from tests.training.by_hand import (
    ATTACK,
    METHODS,
    compiled,
    cross_entropy,
    fit,
    gradient,
    loss_at,
    onestep,
    right_network,
    weights,
)

L2 = keras.regularizers.L2(0.05)
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
LOSSES = {"digit": CROSS_ENTROPY, "size": "mse"}
METRICS = {"digit": ["accuracy"], "size": ["mae"]}
ADD_UP = activity_penalties_add_up()
"""Whether this is a release of Keras that adds activity penalties up over a batch."""
WAYS = [{}, {"micro_batch_size": 5}, {"keep_gradients": False}]

LISTED = pytest.mark.parametrize(
    "listed",
    [pytest.param(False, id="dict"), pytest.param(True, id="list", marks=pytest.mark.release)],
)
"""Whether a classifier gives its outputs as a list."""


@pytest.fixture
def data():
    return lr.datasets.toy(20, seed=0)


def penalized_network(**options):
    """A classifier that is right, with regularizers and so with the need for larger weights."""
    classifier = right_network()
    penalized = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(8, **options),
            keras.layers.LeakyReLU(negative_slope=0.2),
            keras.layers.Dense(2),
        ]
    )
    penalized.set_weights(classifier.get_weights())
    return penalized


def penalty_at(classifier, x):
    """The sum of the classifier's own losses, as a function to differentiate."""

    def penalty():
        classifier(x, training=True)
        return tf.add_n(classifier.losses)

    return penalty


def rows_of_both(classifier, x, y):
    natural, loss = gradient(classifier, loss_at(classifier, x, y))
    penalty, value = gradient(classifier, penalty_at(classifier, x))
    return natural, penalty, loss, value


@pytest.mark.parametrize("ways", WAYS, ids=str)
@pytest.mark.parametrize(
    "options",
    [{"kernel_regularizer": L2}, {"activity_regularizer": L2}],
    ids=["kernel", "activity"],
)
def test_regularization_is_a_rank_of_its_own_and_counts_once(data, options, ways):
    classifier = penalized_network(**options)
    ranks = [lr.objectives.Natural(), lr.objectives.Regularization()]
    model = lr.LexicographicModel(classifier, ranks, metric="euclidean", **ways)
    if "micro_batch_size" in ways and "activity_regularizer" in options and ADD_UP:
        with pytest.raises(ValueError, match="activity regularizers"):
            compiled(model)
        return
    model = compiled(model)
    natural, penalty, loss, value = rows_of_both(classifier, *data)
    assert natural @ penalty < 0 < value
    before = weights(model)
    logs = fit(model, *data)
    step = onestep([natural, penalty], [0.5, 0.5])
    assert np.allclose(weights(model), before - 0.1 * step, atol=1e-6)
    assert logs["loss@natural"] == pytest.approx(loss, abs=1e-5)
    assert logs["loss@regularization"] == pytest.approx(value, abs=1e-5)
    assert logs["loss"] == pytest.approx((loss + value) / 2, abs=1e-5)
    assert "accuracy@regularization" not in logs


class Charged(keras.layers.Layer):
    """Adds a loss of its own, as a user's layer may."""

    def call(self, x):
        self.add_loss(0.3 * tf.reduce_mean(tf.abs(x)))
        return x


def charged_network(activity_regularizer=None if ADD_UP else L2):
    """Penalties of all kinds that Keras takes the mean of, in one classifier."""
    penalized = keras.layers.Dense(
        8, kernel_regularizer="l2", activity_regularizer=activity_regularizer
    )
    layers = [keras.Input((1,)), penalized, Charged(), keras.layers.Dense(2, bias_regularizer="l1")]
    return keras.Sequential(layers)


@pytest.mark.parametrize("options", [{}, {"micro_batch_size": 3}], ids=str)
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_what_is_measured_is_penalized_as_in_keras(data, options, run_eagerly):
    x, y = data
    classifier, weight = charged_network(), np.linspace(0, 2, 20)
    twin = keras.models.clone_model(classifier)
    twin.set_weights(classifier.get_weights())
    model = compiled(lr.Standard(classifier, **options), 0.0, run_eagerly=run_eagerly)
    compiled(twin, 0.0, loss=CROSS_ENTROPY, run_eagerly=run_eagerly)
    given = {"batch_size": 8, "sample_weight": weight, "verbose": 0}
    expected = twin.evaluate(x, y, **given)
    logs = model.evaluate(x, y, **given, return_dict=True)
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    assert logs["loss@natural"] < 0.95 * logs["loss"]
    single = [each.test_on_batch(x, y, return_dict=True)["loss"] for each in (model, twin)]
    assert single[0] == pytest.approx(single[1], rel=1e-5)
    both = [
        each.fit(x, y, **given, shuffle=False, validation_data=(x, y, weight)).history
        for each in (model, twin)
    ]
    for name in ("loss", "val_loss"):
        assert both[0][name] == pytest.approx(both[1][name], rel=1e-5)


@pytest.mark.parametrize("method", ["olsrc", "trades", "own rank", "adversarial first"])
def test_what_is_measured_is_penalized_as_in_training(data, method):
    classifier = penalized_network(kernel_regularizer=L2)
    ranks = [lr.objectives.Natural(), lr.objectives.Regularization()]
    make = {
        "own rank": lambda c: lr.LexicographicModel(c, ranks, [0.9, 0.1]),
        "adversarial first": lambda c: lr.LexicographicModel(
            c, [lr.objectives.Adversarial(ATTACK, 1.0), lr.objectives.Natural()], [0.9, 0.1]
        ),
    }
    # At rate 0 the weights that are measured are those that were trained on.
    model = compiled({**METHODS, **make}[method](classifier), 0.0, run_eagerly=True)
    trained = fit(model, *data)
    measured = model.evaluate(*data, verbose=0, return_dict=True)
    assert measured == pytest.approx({name: trained[name] for name in measured}, rel=1e-5)
    penalty = penalty_at(classifier, data[0])().numpy()
    plain = sum(
        alpha * measured[f"loss@{rank.name}"]
        for alpha, rank in zip(model.alphas, model.objectives, strict=True)
        if f"loss@{rank.name}" in measured
    )
    share = 0.0 if method == "own rank" else model.alphas[0]
    if method != "trades":
        assert measured["loss"] == pytest.approx(plain + share * penalty, rel=1e-5)


def test_two_replicas_measure_the_penalty_once(data, strategy):
    models = [compiled(lr.Standard(charged_network()))]
    with strategy.scope():
        models.append(compiled(lr.Standard(charged_network())))
    models[1].set_weights(models[0].get_weights())
    logs = [model.evaluate(*data, verbose=0, return_dict=True) for model in models]
    assert logs[0] == pytest.approx(logs[1], rel=1e-5)
    assert logs[0]["loss@natural"] < 0.95 * logs[0]["loss"]


def test_regularization_may_be_ranked_first_or_weighed(data):
    classifier = penalized_network(kernel_regularizer=L2)
    natural, penalty, _, _ = rows_of_both(classifier, *data)
    parts = [lr.objectives.Regularization("small"), lr.objectives.Natural()]
    both = [lr.objectives.WeightedSum(parts, [0.3, 1.0])]
    start = classifier.get_weights()
    for ranks, step in (
        (parts, onestep([penalty, natural], [0.5, 0.5])),
        (both, 0.3 * penalty + natural),
    ):
        classifier.set_weights(start)
        ranked = lr.LexicographicModel(classifier, ranks, metric="euclidean")
        model = compiled(ranked, metrics=["accuracy"])
        before = weights(model)
        logs = fit(model, *data)
        assert np.allclose(weights(model), before - 0.1 * step, atol=1e-6)
        assert logs["accuracy"] == logs["accuracy@natural"]


@pytest.mark.parametrize("own_rank", [False, True])
def test_regularization_is_that_of_the_clean_pass(data, own_rank):
    classifier = penalized_network(activity_regularizer=L2)
    parts = [lr.objectives.Natural(), lr.objectives.Adversarial(ATTACK, 4.0)]
    own = [lr.objectives.Regularization()] * own_rank
    both = lr.objectives.WeightedSum([*parts, *own], [1.0] * (2 + own_rank))
    model = compiled(lr.LexicographicModel(classifier, [both]))
    _, _, _, value = rows_of_both(classifier, *data)
    logs = fit(model, *data)
    penalty = logs["loss"] - logs["loss@natural"] - logs["loss@l2=4"]
    assert penalty == pytest.approx(value, abs=1e-5)


def test_regularization_of_a_classifier_without_any_is_zero(data):
    ranks = [lr.objectives.Natural(), lr.objectives.Regularization()]
    model = compiled(lr.LexicographicModel(right_network(), ranks))
    natural, _ = gradient(model.classifier, loss_at(model.classifier, *data))
    before = weights(model)
    assert fit(model, *data)["loss@regularization"] == 0
    assert np.allclose(weights(model), before - 0.05 * natural, atol=1e-6)


def test_metrics_see_clean_inputs_where_no_objective_does(data):
    objective = lr.objectives.Adversarial(ATTACK, 4.0)
    model = compiled(lr.LexicographicModel(right_network(), [objective]), 0.0, metrics=["accuracy"])
    logs = fit(model, *data)
    assert logs["accuracy"] == 1.0 > logs["accuracy@l2=4"]


class Silent(lr.objectives.Objective):
    """Mean square of all outputs; `gives` in place of logits."""

    gives_logits = False
    gives = None

    def loss(self, forward, batch, seen, score):
        return sum(tf.reduce_mean(t**2) for t in tf.nest.flatten(forward(seen))), self.gives

    def get_config(self):
        return {"name": self.name}


def test_objectives_without_logits_have_no_accuracy(data):
    ranks = [Silent("silent"), lr.objectives.Natural()]
    model = compiled(lr.LexicographicModel(right_network(), ranks), metrics=["accuracy"])
    logs = fit(model, *data)
    assert logs["accuracy@natural"] == logs["accuracy"] == 1.0
    assert "loss@silent" in logs
    assert "accuracy@silent" not in logs


@pytest.mark.parametrize(("promised", "given"), [(True, None), (False, 0.0)])
def test_objectives_give_logits_as_they_promise(data, promised, given):
    silent = Silent("silent")
    silent.gives_logits, silent.gives = promised, given
    model = compiled(lr.LexicographicModel(right_network(), [silent]))
    with pytest.raises(ValueError, match=r"objective 'silent' must give logits.*`gives_logits`"):
        fit(model, *data)


# Several outputs.

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 4)).astype(np.float32)
Y = {"digit": np.arange(12) % 3, "size": RNG.normal(size=(12, 1)).astype(np.float32)}
WEIGHTS = {"digit": np.linspace(0, 2, 12), "size": np.linspace(3, 1, 12)}
RANKS = (lr.objectives.Output("digit"), lr.objectives.Output("size"))


def shared(listed):
    """Two outputs on one hidden layer, as a list or a dict; always with the same weights."""
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    hidden = keras.layers.Dense(8, "tanh", kernel_regularizer=L2)(x)
    digit, size = keras.layers.Dense(3, name="digit"), keras.layers.Dense(1, name="size")
    outputs = {"digit": digit(hidden), "size": size(hidden)}
    return keras.Model(x, list(outputs.values()) if listed else outputs)


def listing(values, listed):
    """The values of both outputs as a user gives them."""
    return list(values.values()) if listed else values


def losses_by_hand(classifier, sample_weight=None):
    """Gradients and losses of both outputs."""
    sample_weight = sample_weight or {"digit": None, "size": None}
    scores = {"digit": CROSS_ENTROPY, "size": keras.losses.MeanSquaredError()}

    def loss_of(name):
        given = classifier(X, training=True)
        own = given[name] if isinstance(given, dict) else given[name == "size"]
        return scores[name](Y[name], own, sample_weight[name])

    both = [gradient(classifier, lambda name=name: loss_of(name)) for name in scores]
    return [row for row, _ in both], [value for _, value in both]


@LISTED
@pytest.mark.parametrize("weighted", [False, True])
def test_outputs_are_ranked_and_measured_as_keras_does(listed, weighted):
    ranks = [*RANKS, lr.objectives.Regularization()]
    alphas = [0.3, 0.7, 0.0]
    classifier = shared(listed)
    model = compiled(
        lr.LexicographicModel(classifier, ranks, alphas, metric="euclidean"),
        loss=listing(LOSSES, listed),
        metrics=listing(METRICS, listed),
    )
    sample_weight = WEIGHTS if weighted else None
    rows, values = losses_by_hand(classifier, sample_weight)
    keras_model = shared(listed)
    keras_model.compile("sgd", loss=listing(LOSSES, listed), metrics=listing(METRICS, listed))
    given = {"sample_weight": listing(WEIGHTS, listed)} if weighted else {}
    expected = keras_model.evaluate(X, listing(Y, listed), return_dict=True, verbose=0, **given)
    before = weights(model)
    logs = fit(model, X, listing(Y, listed), **given)
    step = onestep(rows, [0.3, 0.7])
    assert np.allclose(weights(model), before - 0.1 * step, atol=1e-6)
    assert [logs["loss@digit"], logs["loss@size"]] == pytest.approx(values, rel=1e-5)
    for name in ("digit_accuracy", "size_mae"):
        assert logs[name] == pytest.approx(expected[name], rel=1e-5)
    metrics = {name for name in logs if not name.startswith(("step_cosine@", "min_cosine"))}
    losses = {f"loss@{rank.name}" for rank in ranks}
    assert metrics == {"loss", "digit_accuracy", "size_mae", *losses}


def in_columns(values):
    return {name: weight[:, None] for name, weight in values.items()}


@LISTED
@pytest.mark.parametrize("one_for_all", [False, True])
@pytest.mark.parametrize("kind", ["arrays", "dataset"])
def test_weights_in_columns_are_weights_of_samples(kind, one_for_all, listed):
    class Halves(lr.objectives.Output):
        """Scores half of the samples alone."""

        def valid(self, x, seen):
            return tf.range(tf.shape(x)[0]) % 2 == 0

    results = []
    for columns in (False, True):
        ranks = [RANKS[0], Halves("size")]
        model = compiled(
            lr.LexicographicModel(shared(listed), ranks),
            loss=LOSSES,
            weighted_metrics={"digit": ["accuracy"], "size": ["mae"]},
            run_eagerly=True,
        )
        given = in_columns(WEIGHTS) if columns else WEIGHTS
        given = given["digit"] if one_for_all else listing(given, listed)
        y = listing(Y, listed)
        if kind == "dataset":
            y, given = (tuple(v) if isinstance(v, list) else v for v in (y, given))
            batches = tf.data.Dataset.from_tensor_slices((X, y, given)).batch(12)
            model.fit(batches, verbose=0)
            logs = model.evaluate(batches, verbose=0, return_dict=True)
        else:
            fit(model, X, y, sample_weight=given)
            logs = model.evaluate(X, y, sample_weight=given, verbose=0, return_dict=True)
        results.append((weights(model), logs))
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
    assert results[1][1] == pytest.approx(results[0][1], rel=1e-6)


def sequences():
    """One output a sample, and one for each of its three steps, as many as there are samples."""
    keras.utils.set_random_seed(0)
    x = keras.Input((3, 4))
    outputs = {
        "digit": keras.layers.Dense(3)(keras.layers.Flatten()(x)),
        "steps": keras.layers.Dense(2)(x),
    }
    return keras.Model(x, outputs)


@pytest.mark.parametrize(
    "weight",
    [
        np.array([1.0, 2.0, 4.0]),
        np.array([[1.0], [2.0], [4.0]]),
        np.arange(9.0).reshape(3, 3),
        np.arange(9.0).reshape(3, 3, 1),
    ],
    ids=lambda weight: str(weight.shape),
)
@pytest.mark.parametrize("loss", ["mse", keras.losses.SparseCategoricalCrossentropy(True)])
def test_weights_of_samples_weigh_all_their_steps(weight, loss):
    rng = np.random.default_rng(1)
    x, classifier = rng.normal(size=(3, 3, 4)).astype(np.float32), sequences()
    labels = np.arange(9).reshape(3, 3) % 2
    if loss == "mse":
        labels = rng.normal(size=(3, 3, 2))
    y = {"digit": np.arange(3), "steps": labels}
    ranks = [lr.objectives.Output("digit"), lr.objectives.Output("steps")]
    model = lr.LexicographicModel(classifier, ranks)
    model.compile("sgd", {"digit": CROSS_ENTROPY, "steps": loss}, run_eagerly=True)
    digit = np.array([3.0, 2.0, 1.0])
    logs = model.evaluate(
        x, y, sample_weight={"digit": digit, "steps": weight}, verbose=0, return_dict=True
    )
    outputs = classifier(x)
    if loss == "mse":
        values = np.mean((outputs["steps"] - labels) ** 2, axis=-1)
    else:
        logits = np.reshape(outputs["steps"], (9, 2))
        values = cross_entropy(logits, labels.ravel()).reshape(3, 3)
    by_step = np.broadcast_to(weight.reshape(3, -1), (3, 3))
    assert logs["loss@steps"] == pytest.approx(np.mean(values * by_step), rel=1e-5)
    expected = np.mean(cross_entropy(outputs["digit"], np.arange(3)) * digit)
    assert logs["loss@digit"] == pytest.approx(expected, rel=1e-5)


def test_weights_of_samples_weigh_a_loss_of_whole_sequences():
    """A loss that gives one number a sample, whatever axes the output has."""
    rng = np.random.default_rng(1)
    x, classifier = rng.normal(size=(3, 3, 4)).astype(np.float32), sequences()
    ranks = [lr.objectives.Output("steps")]
    model = lr.LexicographicModel(classifier, ranks)
    whole = lambda y, outputs: tf.reduce_sum(tf.square(y - outputs), axis=[1, 2])  # noqa: E731
    model.compile("sgd", {"digit": None, "steps": whole}, run_eagerly=True)
    y, weight = {"digit": np.zeros(3), "steps": np.zeros((3, 3, 2))}, np.array([1.0, 2.0, 4.0])
    logs = model.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)
    values = np.sum(np.square(classifier(x)["steps"]), axis=(1, 2))
    assert logs["loss@steps"] == pytest.approx(np.mean(values * weight), rel=1e-5)


@pytest.mark.parametrize("kind", ["arrays", "dataset"])
@pytest.mark.parametrize(
    ("weight", "match"),
    [
        (np.ones((12, 2)), r"`sample_weight` must be \[N\] or .* shape \(12, 2\)"),
        ({**WEIGHTS, "size": np.ones((12, 3))}, r"`sample_weight` of 'size' .* \(12, 3\)"),
        ({**WEIGHTS, "digit": np.full(12, np.nan)}, "`sample_weight` of 'digit' must be finite"),
        ({"digit": np.ones(12)}, "`sample_weight` must be a dict"),
    ],
)
def test_bad_weights_of_several_outputs_are_refused(weight, match, kind):
    model = compiled(lr.LexicographicModel(shared(False), RANKS), loss=LOSSES)
    batches = tf.data.Dataset.from_tensor_slices((X, Y, weight)).batch(12)
    given = {"x": batches} if kind == "dataset" else {"x": X, "y": Y, "sample_weight": weight}
    with pytest.raises(ValueError, match=match):
        model.fit(**given, verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_labels_come_in_any_form_keras_takes():
    arrays = [(X, Y), (X, list(Y.values())), (X, tuple(Y.values()))]
    batches = [
        (tf.data.Dataset.from_tensor_slices((X, labels)).batch(12),)
        for labels in (Y, tuple(Y.values()))
    ]
    results = []
    for given in [*arrays, *batches]:
        model = compiled(lr.LexicographicModel(shared(True), RANKS), loss=LOSSES, metrics=METRICS)
        logs = model.fit(*given, batch_size=None if len(given) == 1 else 12, verbose=0).history
        results.append((weights(model), logs))
    for vector, logs in results[1:]:
        assert np.allclose(vector, results[0][0], atol=1e-7)
        for name, value in logs.items():
            assert value == pytest.approx(results[0][1][name], abs=1e-5)


@pytest.mark.parametrize("ways", WAYS[1:], ids=str)
def test_memory_modes_change_nothing_with_several_outputs(ways):
    results = []
    for options in ({}, ways):
        model = lr.LexicographicModel(shared(False), [*RANKS, Silent("silent")], **options)
        model = compiled(model, loss=LOSSES, metrics=METRICS)
        logs = fit(model, X, Y, sample_weight=WEIGHTS)
        results.append((weights(model), logs))
    assert np.allclose(results[0][0], results[1][0], atol=1e-6)
    # Of recomputed gradients, rank 1's alone is at hand for `step_cosine@`.
    expected = {name: results[0][1][name] for name in results[1][1]}
    assert results[1][1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.release
def test_two_replicas_rank_outputs_and_regularization_as_one_device(strategy):
    ranks = [*RANKS, lr.objectives.Regularization()]

    def make():
        return compiled(lr.LexicographicModel(shared(True), ranks), loss=LOSSES, metrics=METRICS)

    alone = make()
    with strategy.scope():
        mirrored = make()
    before = weights(alone)
    logs = [fit(model, X, Y, epochs=2) for model in (alone, mirrored)]
    assert not np.allclose(weights(alone), before, atol=1e-3)
    assert np.allclose(weights(alone), weights(mirrored), atol=1e-6)
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)


@LISTED
def test_several_outputs_are_predicted_saved_and_exported(listed, tmp_path):
    model = lr.LexicographicModel(shared(listed), [*RANKS, lr.objectives.Regularization()])
    compiled(model, loss=listing(LOSSES, listed), metrics=listing(METRICS, listed))
    fit(model, X, listing(Y, listed))
    expected = tf.nest.flatten(model.classifier(X))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    for outputs in (model.predict(X, verbose=0), loaded.predict(X, verbose=0), served.serve(X)):
        assert isinstance(outputs, dict) != listed
        for own, other in zip(expected, tf.nest.flatten(outputs), strict=True):
            assert np.allclose(own, other, atol=1e-6)
    scores = [
        m.evaluate(X, listing(Y, listed), return_dict=True, verbose=0) for m in (model, loaded)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    fit(loaded, X, listing(Y, listed))
    assert int(loaded.optimizer.iterations) == 2


@keras.saving.register_keras_serializable(package="tests")
class Unbuilt(keras.Model):
    """Two outputs; builds its layers when it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.digit, self.size = keras.layers.Dense(3), keras.layers.Dense(1)

    def call(self, inputs):
        return {"digit": self.digit(inputs), "size": self.size(inputs)}


def test_unbuilt_classifiers_show_their_outputs_with_the_first_batch():
    def batches():
        while True:
            yield X, Y

    for given, options in (((X, Y), {}), ((batches(),), {"steps_per_epoch": 1})):
        model = compiled(lr.LexicographicModel(Unbuilt(), RANKS), loss=LOSSES, metrics=METRICS)
        assert "size_mae" in model.fit(*given, verbose=0, **options).history


@pytest.mark.parametrize(
    ("ranks", "match"),
    [
        ([lr.objectives.Natural()], "`objectives` must be Output.*'digit', 'size'.*'natural'"),
        ([lr.objectives.Adversarial(ATTACK, 1.0)], "`objectives` must be Output.*'l2=1'"),
        ([lr.objectives.Output("digt")], r"`output` must be one of \['digit', 'size'\].*'digt'"),
        ([lr.objectives.Output("other")], "`loss` must hold a loss for each ranked.*'other'"),
    ],
)
def test_objectives_that_do_not_fit_several_outputs_are_refused(ranks, match):
    x = keras.Input((4,))
    names = ["digit", "size"] + ["other"] * ("loss" in match)
    outputs = {name: keras.layers.Dense(2)(x) for name in names}
    with pytest.raises(ValueError, match=match):
        compiled(lr.LexicographicModel(keras.Model(x, outputs), ranks), loss=LOSSES)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"loss": {"digit": "mse", "sise": "mse"}}, "`loss` must be a dict.*'sise'"),
        ({"loss": ["mse", "mse"]}, "`loss` must be a dict with.*a list of 2"),
        ({"loss": LOSSES, "loss_weights": {"size": 2.0}}, "`loss_weights` must be None.*2.0"),
    ],
)
def test_losses_that_do_not_fit_several_outputs_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        compiled(lr.LexicographicModel(shared(False), RANKS), **options)


def test_one_output_has_one_loss_and_no_name():
    with pytest.raises(ValueError, match=r"`output` names one of several outputs.*'dense'"):
        compiled(lr.LexicographicModel(right_network(), [lr.objectives.Output("dense")]))
    with pytest.raises(ValueError, match=r"`loss` must be one loss for .*one output"):
        compiled(lr.Standard(right_network()), loss=[CROSS_ENTROPY])


def test_outputs_without_names_are_refused():
    class Pair(Unbuilt):
        def call(self, inputs):
            return list(super().call(inputs).values())

    model = compiled(lr.LexicographicModel(Pair(), RANKS), loss=LOSSES)
    with pytest.raises(ValueError, match=r"`classifier` must give .*`output_names`"):
        model.fit(X, Y, verbose=0)


def with_label(name, value):
    changed = {key: labels.copy() for key, labels in Y.items()}
    changed[name] = value(changed[name])
    return changed


BAD = {
    "missing": ({"digit": Y["digit"]}, ValueError, r"`y` must be a dict.*a dict with \['digit'\]"),
    "unnamed": (Y["digit"], ValueError, "`y` must be a dict with.*ndarray"),
    "short": (with_label("size", lambda y: y[:-1]), ValueError, r"`y` of 'size'.*12.*\(11, 1\)"),
    "nan": (with_label("size", lambda y: y * np.nan), ValueError, "`y` of 'size' must be finite"),
    "text": (with_label("digit", lambda y: y.astype(str)), TypeError, "`y` of 'digit'.*numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_labels_of_several_outputs_are_refused(case):
    y, error, match = BAD[case]
    model = compiled(lr.LexicographicModel(shared(False), RANKS), loss=LOSSES)
    with pytest.raises(error, match=match):
        model.fit(X, y, verbose=0)
    if case != "short":
        with pytest.raises(error, match=match.replace("ndarray", ".*Tensor")):
            model.fit(tf.data.Dataset.from_tensor_slices((X, y)).batch(12), verbose=0)
    assert int(model.optimizer.iterations) == 0


def test_a_bad_second_batch_of_several_outputs_is_refused_before_its_step():
    y = with_label("size", lambda y: np.where(np.arange(12)[:, None] < 6, y, np.nan))
    model = compiled(lr.LexicographicModel(shared(False), RANKS), loss=LOSSES)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"`y` of 'size' must be finite"):
        model.fit(tf.data.Dataset.from_tensor_slices((X, y)).batch(6), verbose=0)
    twin = compiled(lr.LexicographicModel(shared(False), RANKS), loss=LOSSES)
    fit(twin, X[:6], {name: labels[:6] for name, labels in Y.items()})
    assert np.allclose(weights(model), weights(twin), atol=1e-7)
