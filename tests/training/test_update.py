"""What reaches the weights: in which metric it is ranked, and that rank 1 does not pay for it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.training.step.preconditioners import preconditioner
from tests.training.by_hand import (
    ATTACK,
    METHODS,
    OPTIMIZERS,
    adversarial,
    compiled,
    fit,
    gradient,
    loss_at,
    network,
    onestep,
    right_network,
    stochastic_network,
    weights,
)


@pytest.fixture
def data():
    return lr.datasets.toy(20, seed=0)


def seen_by(classifier, x, y, magnitudes):
    return [x, *(adversarial(classifier, x, y, magnitude) for magnitude in magnitudes)]


def rank_gradients(classifier, x, y, magnitudes):
    inputs = seen_by(classifier, x, y, magnitudes)
    return [gradient(classifier, loss_at(classifier, moved, y))[0] for moved in inputs]


def slopes_of_rank_1(model, data, epochs):
    """By how much each step changes rank 1's loss to first order, in float64, and the cosines."""
    slopes, cosines = [], []
    for _ in range(epochs):
        first = gradient(model.classifier, loss_at(model.classifier, *data))[0]
        before = weights(model).astype(np.float64)
        model.reset_metrics()
        # Not `fit`: at its end Keras puts an optimizer's averages of weights in their place.
        logs = model.train_on_batch(*data, return_dict=True)
        step = weights(model) - before
        slopes.append(step @ first)
        cosines.append(logs["step_cosine@natural"])
        expected = -step @ first / np.linalg.norm(step) / np.linalg.norm(first)
        assert cosines[-1] == pytest.approx(expected, abs=1e-3)
    return np.array(slopes)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_applied_step_raises_rank_1_to_first_order(data, name):
    """The rows of the table in docs/guarantees.md."""
    model = compiled(
        lr.OLSRC(right_network(), ATTACK, [2.5, 4.0], alphas=(0.1, 0.45, 0.45)),
        optimizer=OPTIMIZERS[name](),
    )
    assert np.max(slopes_of_rank_1(model, data, epochs=4)) <= 1e-9


@pytest.mark.parametrize("name", ["SGD with momentum", "Adam", "Adam with clipvalue", "Lion"])
def test_without_the_metric_some_step_does(data, name):
    """What the test above would miss if it could not fail."""
    model = compiled(
        lr.OLSRC(right_network(), ATTACK, [2.5, 4.0], alphas=(0.1, 0.45, 0.45), metric="euclidean"),
        optimizer=OPTIMIZERS[name](),
    )
    assert np.max(slopes_of_rank_1(model, data, epochs=4)) > 1e-5


def test_ranks_are_compared_in_the_metric_that_is_applied(data):
    """Adam without momentum, after some steps: the step is the mix projected in its metric."""
    optimizer = keras.optimizers.Adam(0.01, beta_1=0.0, beta_2=0.9)
    model = compiled(
        lr.OLSRC(right_network(), ATTACK, [2.5, 4.0], update="onestep"), optimizer=optimizer
    )
    fit(model, *data, epochs=5)
    rows = rank_gradients(model.classifier, *data, [2.5, 4.0])
    alphas = [0.5, 0.25, 0.25]

    def in_metric(diagonal):
        # With rows scaled by the root, the metric's projection is the Euclidean one.
        root = np.sqrt(diagonal)
        return onestep([root * row for row in rows], alphas) / root

    def metric(update):
        cut = np.split(update, np.cumsum([v.numpy().size for v in model.trainable_variables])[:-1])
        parts = [
            tf.constant(part.reshape(v.shape), tf.float32)
            for part, v in zip(cut, model.trainable_variables, strict=True)
        ]
        return np.concatenate([np.ravel(d) for d in preconditioner(optimizer)(parts)])

    plain = sum(alpha * row for alpha, row in zip(alphas, rows, strict=True))
    update = in_metric(metric(in_metric(metric(plain))))
    velocity = np.concatenate([np.ravel(v) for v in optimizer._velocities])
    iterations = int(optimizer.iterations) + 1
    velocity = 0.9 * velocity + 0.1 * update**2
    expected = 0.01 * np.sqrt(1 - 0.9**iterations) * update / (np.sqrt(velocity) + 1e-7)
    assert np.max(np.abs(onestep(rows, alphas) - update)) > 1e-3
    before = weights(model)
    fit(model, *data)
    np.testing.assert_allclose(before - weights(model), expected, atol=2e-5)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_correction_is_the_smallest_one_in_the_metric(data, adaptive):
    """Against a quadratic program: the step nearest to the optimizer's own that is allowed."""
    make = {
        False: lambda: keras.optimizers.SGD(0.05, momentum=0.95),
        True: lambda: keras.optimizers.Adam(0.02, beta_1=0.95, beta_2=0.9),
    }[adaptive]
    model = compiled(lr.OLSRC(right_network(), ATTACK, [4.0], alphas=(0.1, 0.9)), optimizer=make())
    compared = 0
    for _ in range(8):
        before = weights(model).astype(np.float64)
        # What Keras alone would make of the same update.
        twin = right_network()
        optimizer = make()
        optimizer.build(twin.trainable_variables)
        for own, other in zip(optimizer.variables, model.optimizer.variables, strict=True):
            own.assign(other)
        twin.set_weights(model.classifier.get_weights())
        rows = rank_gradients(twin, *data, [4.0])
        logs = fit(model, *data)
        taken = weights(model) - before

        shapes = [v.shape for v in twin.trainable_variables]
        cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

        def parts(vector, shapes=shapes, cuts=cuts):
            pieces = np.split(vector, cuts)
            return [
                tf.constant(piece.reshape(shape), tf.float32)
                for piece, shape in zip(pieces, shapes, strict=True)
            ]

        def projected(diagonal, rows=rows):
            root = np.sqrt(diagonal)
            return onestep([root * row for row in rows], [0.1, 0.9]) / root

        metric_of = preconditioner(optimizer)
        diagonal = np.ones_like(before)
        if metric_of is not None:
            for update in (0.1 * rows[0] + 0.9 * rows[1], None):
                update = projected(diagonal) if update is None else update
                diagonal = np.concatenate([np.ravel(d) for d in metric_of(parts(update))])
        optimizer.apply(parts(projected(diagonal)), twin.trainable_variables)
        proposed = weights(twin) - before
        slope = proposed @ rows[0]
        allowed = proposed - max(slope, 0) * diagonal * rows[0] / (rows[0] @ (diagonal * rows[0]))
        np.testing.assert_allclose(taken, allowed, atol=3e-5 * np.linalg.norm(allowed))
        compared += slope > 1e-4 * np.linalg.norm(proposed) * np.linalg.norm(rows[0])
        assert logs["step_cosine@natural"] >= 0
    assert compared >= 2


def test_per_rank_steps_are_projected_at_the_weights_the_last_one_left(data):
    rate = 0.1
    model = compiled(lr.OLSRC(right_network(), ATTACK, [2.5, 4.0], update="per_rank"), rate=rate)
    before = weights(model)
    twin = right_network()
    seen = seen_by(twin, *data, [2.5, 4.0])
    for rank, alpha in enumerate((0.5, 0.25, 0.25)):
        rows = [gradient(twin, loss_at(twin, x, data[1]))[0] for x in seen[: rank + 1]]
        alphas = [0.0] * rank + [1.0]
        update = rate * alpha * onestep(rows, alphas)
        start = 0
        for variable in twin.trainable_variables:
            size = variable.numpy().size
            piece = update[start : start + size].reshape(variable.shape)
            variable.assign_sub(tf.constant(piece, tf.float32))
            start += size
    fit(model, *data)
    assert np.max(np.abs(weights(model) - before)) > 1e-3
    np.testing.assert_allclose(weights(model), weights(twin), atol=1e-6)


def losses(model, data, epochs):
    history = model.fit(*data, batch_size=20, shuffle=False, epochs=epochs, verbose=0).history
    return np.array(history["loss@natural"])


@pytest.mark.release  # Of each step: below.
def test_the_safeguard_keeps_rank_1_from_rising_in_fact(data):
    rises = {}
    for safeguard in (False, True):
        model = compiled(
            lr.OLSRC(right_network(), ATTACK, [4.0], alphas=(0.1, 0.9), safeguard=safeguard),
            optimizer=keras.optimizers.Adam(0.03),
            run_eagerly=False,
        )
        rises[safeguard] = np.mean(np.diff(losses(model, data, 50)) > 0)
    assert rises[False] > 0.1
    assert rises[True] <= 0.02


def test_a_step_that_rises_at_half_its_length_too_is_not_taken(data):
    rises = {}
    for safeguard in (False, True):
        model = compiled(
            lr.OLSRC(right_network(), ATTACK, [4.0], alphas=(0.1, 0.9), safeguard=safeguard),
            optimizer=keras.optimizers.Adam(3.0),
        )
        rises[safeguard] = np.diff(losses(model, data, 4))
    assert rises[False].max() > 0.1
    assert rises[True].max() <= 0
    assert np.any(rises[True] == 0)


def test_the_safeguard_leaves_a_good_step_alone(data):
    """Where every rank agrees, and steps are small, no step is shortened."""
    runs = []
    for safeguard in (False, True):
        model = compiled(lr.OLSRC(right_network(), ATTACK, [0.1], safeguard=safeguard), rate=0.01)
        assert np.all(np.diff(losses(model, data, 5)) < 0)
        runs.append(weights(model))
    np.testing.assert_array_equal(*runs)


@pytest.mark.release
@pytest.mark.parametrize("make", [right_network, stochastic_network])
@pytest.mark.parametrize(
    "options",
    [{"update": "onestep"}, {"update": "per_rank"}],
    ids=str,
)
def test_kept_and_recomputed_gradients_give_one_result(data, options, make):
    models = []
    for keep in (True, False):
        keras.utils.set_random_seed(0)
        magnitudes = [1.0, 2.5, 4.0]
        model = lr.OLSRC(make(), ATTACK, magnitudes, keep_gradients=keep, **options)
        # Not Adam: a bias before batch normalization has a gradient of rounding alone.
        models.append(compiled(model, optimizer=keras.optimizers.SGD(0.05, momentum=0.9)))
    models[1].set_weights(models[0].get_weights())
    kept, recomputed = (fit(model, *data, epochs=3) for model in models)
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
    # Which ranks' steps are reported depends on whose gradients are at hand.
    assert set(kept) - set(recomputed) == {f"step_cosine@l2={d}" for d in ("1", "2_5", "4")}
    assert recomputed == pytest.approx({name: kept[name] for name in recomputed}, abs=1e-4)


# Every method in parts that do not divide the batch, and every way to cut it up for some.
@pytest.mark.parametrize(
    ("method", "size", "keep"),
    [
        ("olsrc", 7, True),
        ("olgrc", 7, True),
        ("nearest", 7, True),
        ("olsrc", 7, False),
        *(
            pytest.param(*case, marks=pytest.mark.release)
            for case in [
                *((name, 7, True) for name in METHODS if name not in ("olsrc", "olgrc", "nearest")),
                ("olgrc", 7, False),
                ("olsrc", 1, True),
                ("olsrc", 1, False),
                ("olsrc", 20, False),
                ("olgrc", 20, True),
                ("nearest", 7, False),
            ]
        ),
    ],
)
def test_micro_batches_take_the_step_of_the_whole_batch(data, method, size, keep):
    models = []
    for options in ({}, {"micro_batch_size": size, "keep_gradients": keep}):
        keras.utils.set_random_seed(0)
        model = METHODS[method](right_network(), **options)
        models.append(compiled(model, rate=0.1, metrics=["accuracy"]))
    sample_weight = np.linspace(0, 2, 20)
    whole, parts = (fit(model, *data, sample_weight=sample_weight) for model in models)
    np.testing.assert_allclose(*(weights(model) for model in models), atol=1e-6)
    assert parts == pytest.approx({name: whole[name] for name in parts}, abs=1e-4)


@pytest.mark.parametrize("update", ["onestep", "per_rank"])
def test_the_metric_is_of_the_update_that_is_applied(data, monkeypatch, update):
    measured, applied = [], []

    def metric_of(gradient):
        measured.append(gradient)
        return [tf.ones_like(g) for g in gradient]

    class Watched(keras.optimizers.SGD):
        def apply(self, grads, trainable_variables=None):
            applied.append(grads)
            super().apply(grads, trainable_variables)

    monkeypatch.setattr("lexirobust.training.step.update.preconditioner", lambda _: metric_of)
    model = lr.OLSRC(right_network(), ATTACK, [4.0], alphas=(0.2, 0.8), update=update)
    fit(compiled(model, optimizer=Watched(0.1), run_eagerly=True), *data)
    assert len(applied) == (1 if update == "onestep" else 2)
    # The second of two substitutions decides.
    for one, other in zip(measured[1::2], applied, strict=True):
        for expected, found in zip(other, one, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.release
@pytest.mark.parametrize("safeguard", [False, True])
def test_mixed_precision_keeps_the_promise_and_a_skipped_step_stays_skipped(data, safeguard):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(
            lr.OLSRC(network(), ATTACK, [2.5, 4.0], safeguard=safeguard),
            optimizer=keras.optimizers.LossScaleOptimizer(
                keras.optimizers.Adam(0.01), initial_scale=2.0**30
            ),
            run_eagerly=False,
        )
        before, skipped, cosines = weights(model), 0, []
        for _ in range(40):
            iterations = int(model.optimizer.iterations)
            logs = fit(model, *data)
            if int(model.optimizer.iterations) == iterations:
                skipped += 1
                np.testing.assert_array_equal(weights(model), before)
            else:
                cosines.append(logs["step_cosine@natural"])
            before = weights(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert 0 < skipped < 30
    assert np.min(cosines) >= 0
    assert np.all(np.isfinite(before))


@pytest.mark.parametrize("safeguard", [False, True])
def test_a_step_that_loss_scaling_skips_leaves_the_weights(data, safeguard):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(
            lr.OLSRC(network(), ATTACK, [4.0], safeguard=safeguard),
            optimizer=keras.optimizers.LossScaleOptimizer(
                keras.optimizers.Adam(0.01), initial_scale=2.0**30
            ),
        )
        before = weights(model)
        fit(model, *data)
    finally:
        keras.config.set_dtype_policy("float32")
    assert int(model.optimizer.iterations) == 0
    np.testing.assert_array_equal(weights(model), before)


def test_a_scaled_loss_takes_the_same_steps(data):
    """Not of Adam, whose steps no scale changes."""
    ends = []
    for optimizer in (
        keras.optimizers.SGD(0.1),
        keras.optimizers.SGD(0.1, loss_scale_factor=64.0),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**10),
    ):
        model = compiled(lr.OLSRC(right_network(), ATTACK, [2.5]), optimizer=optimizer)
        fit(model, *data)
        ends.append(weights(model))
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-6)
    np.testing.assert_allclose(ends[2], ends[0], atol=1e-6)


def test_constraints_hold_after_the_correction(data):
    classifier = network(kernel_constraint=keras.constraints.MaxNorm(0.5, axis=1))
    model = compiled(
        lr.OLSRC(classifier, ATTACK, [4.0], alphas=(0.1, 0.9), safeguard=True),
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
    )
    for _ in range(5):
        fit(model, *data)
        assert np.linalg.norm(classifier.layers[0].kernel) <= 0.5 + 1e-6


def test_the_report_is_what_the_gradients_say(data):
    model = compiled(lr.OLSRC(right_network(), ATTACK, [2.5, 4.0], detailed_logs=True), rate=0.1)
    rows = rank_gradients(model.classifier, *data, [2.5, 4.0])
    solution = lr.gem.solve_dual(lr.gem.gramian(np.array(rows)))
    logs = fit(model, *data)
    names = ["natural", "l2=2_5", "l2=4"]
    assert logs["violation"] == pytest.approx(0, abs=1e-6)
    assert logs["kkt_residual"] == pytest.approx(0, abs=1e-6)
    assert np.any(solution.active)
    for rank, name in enumerate(names):
        assert logs[f"norm@{name}"] == pytest.approx(np.linalg.norm(rows[rank]), rel=1e-4)
        for higher in range(rank):
            pair = f"{names[higher]},{name}"
            multiplier = float(solution.multipliers[rank, higher])
            assert logs[f"multiplier@{pair}"] == pytest.approx(multiplier, rel=1e-3, abs=1e-5)
            assert logs[f"active@{pair}"] == float(solution.active[rank, higher])
            angle = (
                rows[rank]
                @ rows[higher]
                / np.prod([np.linalg.norm(rows[index]) for index in (rank, higher)])
            )
            assert logs[f"cosine@{pair}"] == pytest.approx(angle, abs=1e-4)


def test_options_come_back_with_the_model(tmp_path, data):
    options = {
        "margin": 0.5,
        "metric": "optimizer",
        "update": "per_rank",
        "micro_batch_size": 7,
        "keep_gradients": False,
        "safeguard": True,
        "detailed_logs": True,
    }
    model = compiled(METHODS["olsrc"](network(), **options))
    fit(model, *data)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert {name: getattr(loaded.settings, name) for name in options} == options
    assert fit(loaded, *data) == pytest.approx(fit(model, *data), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "adam"}, "`metric` must be one of .* Received: 'adam'"),
        ({"update": "twostep"}, "`update` must be one of .* Received: 'twostep'"),
        ({"micro_batch_size": 0}, "`micro_batch_size` must be .* Received: 0"),
        ({"micro_batch_size": 2.5}, "`micro_batch_size` must be .* Received: 2.5"),
        ({"margin": float("inf")}, "`margin` must be a finite number of at least 0. Received: inf"),
        ({"safeguard": True, "metric": "euclidean"}, "`safeguard` needs metric='optimizer'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        lr.OLSRC(network(), ATTACK, [1.0], **options)


def test_a_loss_that_is_no_mean_is_refused_in_micro_batches():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    with pytest.raises(ValueError, match=r"`loss` must be a mean .* Received: reduction 'sum'"):
        compiled(lr.OLSRC(network(), ATTACK, [1.0], micro_batch_size=5), loss=loss)
    compiled(lr.OLSRC(network(), ATTACK, [1.0]), loss=loss)


@pytest.mark.parametrize(
    "make",
    [lambda: keras.optimizers.SGD(0.3, momentum=0.9), lambda: keras.optimizers.Adam(0.3)],
    ids=["SGD with momentum", "Adam"],
)
def test_one_rank_is_left_to_the_optimizer(data, make):
    """A baseline is what Keras alone trains: its one loss may rise."""
    x, y = data
    y = np.where(np.arange(20) < 6, 1 - y, y)  # Not separable.
    model, twin = compiled(lr.Standard(network())), network()
    twin.set_weights(model.classifier.get_weights())
    model.compile(make(), run_eagerly=True)
    twin.compile(make(), model.loss, run_eagerly=True)
    options = {"batch_size": 20, "epochs": 12, "verbose": 0}
    _, history = (each.fit(x, y, **options).history for each in (model, twin))
    assert np.any(np.diff(history["loss"]) > 0)
    np.testing.assert_allclose(weights(model), weights(twin), rtol=1e-4, atol=1e-6)


def test_an_optimizer_that_knows_frozen_layers_measures_by_the_moments_of_the_others(data):
    """As one that was built on what is trained now, with the same moments."""

    def frozen(classifier, optimizer):
        next(layer for layer in classifier.layers if layer.weights).trainable = False
        return compiled(lr.OLSRC(classifier, ATTACK, [4.0]), optimizer=optimizer)

    first = compiled(
        lr.OLSRC(right_network(), ATTACK, [4.0]), optimizer=keras.optimizers.Adam(0.02)
    )
    fit(first, *data, epochs=3)
    classifier, optimizer = right_network(), keras.optimizers.Adam(0.02)
    classifier.set_weights(first.classifier.get_weights())
    second = frozen(classifier, optimizer)
    optimizer.build(classifier.trainable_variables)
    first = frozen(first.classifier, first.optimizer)
    left = len(classifier.trainable_variables)
    optimizer.iterations.assign(first.optimizer.iterations)
    for slot in ("_momentums", "_velocities"):
        own, known = getattr(optimizer, slot), getattr(first.optimizer, slot)
        for variable, value in zip(own, known[-left:], strict=True):
            variable.assign(value)
    before = weights(second)
    for model in (first, second):
        fit(model, *data)
    np.testing.assert_allclose(weights(first), weights(second), atol=1e-6)
    assert np.max(np.abs(weights(second) - before)) > 1e-3
