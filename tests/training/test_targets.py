"""Targets: a rank that is good enough lets the ranks below it spend what is left."""

import warnings

import cvxopt
import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust import gem
from lexirobust.training.objectives import Batch
from lexirobust.training.state import target_progress
from lexirobust.training.state.target_estimates import DIRECTION, FREE, PACE, bound_of
from lexirobust.training.targets import Target, shared_alphas
from tests.helpers import mirrored_strategy
from tests.training.by_hand import ATTACK, compiled, network, weights

X, Y = lr.datasets.toy(40, seed=0)


@keras.saving.register_keras_serializable(package="test_targets")
class Quadratic(lr.objectives.Objective):
    """Half the squared distance of the weights from a center, each axis with its own curvature."""

    gives_logits = False

    def __init__(self, name, center, curvature, least=0.0):
        super().__init__(name)
        self.center, self.curvature, self.least = list(center), list(curvature), least

    def loss(self, forward, batch, inputs, score):
        # The kernel of a dense layer with one unit that matters, seen through unit vectors.
        w = forward(tf.eye(2))[:, 0]
        squares = tf.constant(self.curvature) * tf.square(w - self.center)
        return self.least + 0.5 * tf.reduce_sum(squares), None

    def value(self, w):
        return 0.5 * np.sum(np.array(self.curvature) * np.square(w - np.array(self.center)))


ONE = Quadratic("one", [1.0, 0.0], [1.0, 2.0])
TWO = Quadratic("two", [-1.0, 1.0], [1.0, 1.0])
THREE = Quadratic("three", [-1.0, -3.0], [1.0, 0.5])


def minimum(objective, constraints):
    """The constrained optimum, by cvxopt: `constraints` are pairs of an objective and its bound."""

    def function(x=None, z=None):
        if x is None:
            return len(constraints), cvxopt.matrix([1.0, 0.0])
        w, every = np.array(x).ravel(), [objective, *(each for each, _ in constraints)]
        bounds = [0.0, *(bound for _, bound in constraints)]
        values = [each.value(w) - bound for each, bound in zip(every, bounds, strict=True)]
        rows = [np.array(each.curvature) * (w - np.array(each.center)) for each in every]
        value, row = cvxopt.matrix(values), cvxopt.matrix(np.stack(rows))
        if z is None:
            return value, row
        hessian = sum(z[i] * np.diag(each.curvature) for i, each in enumerate(every))
        return value, row, cvxopt.matrix(hessian)

    solution = cvxopt.solvers.cp(function, options={"show_progress": False, "feastol": 1e-10})
    return objective.value(np.array(solution["x"]).ravel())


def schedule(rate, steps):
    return keras.optimizers.schedules.CosineDecay(rate, steps)


def solved(objectives, targets, optimizer, steps, run_eagerly=False, **options):
    """The weights after so many steps."""
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    model = lr.LexicographicModel(classifier, objectives, targets=targets, **options)
    model.compile(optimizer, run_eagerly=run_eagerly)
    x, y = np.zeros((steps, 2), np.float32), np.zeros(steps, np.int32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The mean over all steps has not met its target.
        model.fit(x, y, batch_size=1, verbose=0)
    return classifier.get_weights()[0][:, 0].astype(float)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (lambda: keras.optimizers.SGD(schedule(0.1, 400)), {}),
        (lambda: keras.optimizers.Adam(schedule(0.05, 400)), {"memory": lr.RunningMean()}),
        (lambda: keras.optimizers.SGD(schedule(0.1, 400)), {"metric": "euclidean"}),
        *(
            pytest.param(make, {}, marks=pytest.mark.release)
            for make in (
                lambda: keras.optimizers.SGD(schedule(0.02, 400), momentum=0.9),
                lambda: keras.optimizers.Adam(schedule(0.05, 400)),
            )
        ),
    ],
    ids=["SGD", "Adam with memory", "euclidean", "momentum", "Adam"],
)
def test_a_target_is_met_at_the_constrained_optimum(optimizer, options):
    w = solved([ONE, TWO], [0.25], optimizer(), 400, **options)
    assert ONE.value(w) == pytest.approx(0.25, abs=1e-3)
    assert TWO.value(w) == pytest.approx(minimum(TWO, [(ONE, 0.25)]), abs=1e-3)


def logistic(x, y, magnitude):
    """The mean loss of a linear classifier of two classes, with its derivatives, at `[w, b]`.

    Under the worst l2 perturbation of this magnitude every margin is less by it times |w|.
    """
    signed = np.where(y == 1, 1.0, -1.0)[:, None] * np.column_stack([x, np.ones(len(x))])

    def at(v):
        w, length = v[:-1], np.linalg.norm(v[:-1])
        unit, bend = np.zeros(len(v)), np.zeros((len(v), len(v)))
        unit[:-1] = w / length
        bend[:-1, :-1] = (np.eye(len(w)) - np.outer(w, w) / length**2) / length
        margin, rows = signed @ v - magnitude * length, signed - magnitude * unit
        wrong = 1 / (1 + np.exp(margin))
        hessian = (rows * (wrong * (1 - wrong))[:, None]).T @ rows
        hessian += magnitude * wrong.sum() * bend
        loss = np.logaddexp(0, -margin).mean()
        return loss, -(wrong[:, None] * rows).mean(axis=0), hessian / len(x)

    return at


def test_of_logistic_regression_the_target_is_met_at_the_constrained_optimum():
    """With an attack that finds the worst perturbation of a linear classifier in one step."""
    generator = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = (generator.normal(size=(60, 3)) + [1.5, 0.6, 0.0] * (2 * y[:, None] - 1)).astype(np.float32)
    natural, attacked = logistic(x, y, 0.0), logistic(x, y, 1.0)

    def function(v=None, z=None):
        if v is None:
            return 1, cvxopt.matrix([1.0, 1.0, 1.0, 0.0])
        (worst, slope, bend), (clean, *others) = (
            f(np.array(v).ravel()) for f in (attacked, natural)
        )
        value = cvxopt.matrix([worst, clean - asked])
        rows = cvxopt.matrix(np.stack([slope, others[0]]))
        if z is None:
            return value, rows
        return value, rows, cvxopt.matrix(z[0] * bend + z[1] * others[1])

    asked = 0.24
    solution = cvxopt.solvers.cp(function, options={"show_progress": False})
    best = np.array(solution["x"]).ravel()
    assert natural(best)[0] == pytest.approx(asked, abs=1e-6)
    assert solution["znl"][0] > 0.1  # The target is in the way of the rank below.

    keras.utils.set_random_seed(0)
    classifier = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    attack = lr.attacks.FGSM("l2", bounds=None)
    model = lr.OLSRC(classifier, attack, [1.0], targets=[asked])
    model.compile(keras.optimizers.Adam(schedule(0.05, 600)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(tf.data.Dataset.from_tensors((x, y)).repeat(600), verbose=0)
    kernel, bias = (each.astype(float) for each in classifier.get_weights())
    found = np.append(kernel[:, 1] - kernel[:, 0], bias[1] - bias[0])
    assert natural(found)[0] == pytest.approx(asked, abs=1e-3)
    assert attacked(found)[0] == pytest.approx(attacked(best)[0], abs=1e-3)


@pytest.mark.release
@pytest.mark.parametrize("reach", [0.25, 0.0])
def test_two_targets_of_three_ranks_are_met(reach):
    """Rank 2's is met too, and one out of reach is at its best within rank 1's."""
    second = minimum(TWO, [(ONE, 0.25)]) + reach
    targets = [0.25, second if reach else 0.5]
    w = solved([ONE, TWO, THREE], targets, keras.optimizers.Adam(schedule(0.05, 1500)), 1500)
    assert ONE.value(w) == pytest.approx(0.25, abs=1e-3)
    assert TWO.value(w) == pytest.approx(second, abs=1e-3)
    if reach:
        expected = minimum(THREE, [(ONE, 0.25), (TWO, second)])
        assert THREE.value(w) == pytest.approx(expected, abs=1e-3)


def test_a_target_out_of_reach_does_not_hold_up_what_it_has_nothing_to_do_with():
    """Each rank has an axis of its own; the first is at its best, and misses its target there."""
    floor = Quadratic("one", [1.0, 0.0], [1.0, 0.0], least=1.0)
    second = Quadratic("two", [0.0, 1.0], [0.0, 1.0])
    w = solved([floor, second], [0.5], keras.optimizers.SGD(schedule(0.2, 400)), 400)
    np.testing.assert_allclose(w, [1.0, 1.0], atol=2e-2)


def test_a_target_that_does_not_bind_leaves_the_last_rank_alone():
    w = solved([ONE, TWO], [10.0], keras.optimizers.SGD(schedule(0.2, 200)), 200)
    np.testing.assert_allclose(w, TWO.center, atol=1e-3)


def test_bounds_demand_descent_above_the_target_and_free_the_rank_far_below():
    excess = tf.constant([1.0, 0.3, 0.0, -0.5, -0.75, -1.0], tf.float64)
    expected = [0.5, 0.15, 0.0, -1.0, -3.0, FREE]
    np.testing.assert_allclose(bound_of(excess, tf.constant(0.5, tf.float64)), expected)


@pytest.mark.parametrize("steps", [20, 200])
def test_the_rate_is_what_losses_fell_by_of_late(steps):
    """Of an even fall it is what a step falls by; of none, nothing."""
    estimates = model_of([Target(loss=1.0)])._targets
    for step in range(1, steps + 1):
        estimates.progress.taken.assign([step] * 3)
        values = tf.constant([5.0 - 0.01 * step, 1.0, 0.0], tf.float64)
        rate = estimates.progress.rate(values, tf.constant([True] * 3))
    # The first steps are as many as make up a recent mean.
    expected = [0.01 * (steps - 4) / steps, 0.0, 0.0]
    np.testing.assert_allclose(rate, expected, rtol=0.1, atol=1e-12)


def test_steps_that_count_for_nothing_change_no_rate():
    rates = []
    for every in (1, 10):
        estimates = model_of([Target(loss=1.0)])._targets
        for step in range(every, 401, every):
            estimates.progress.taken.assign([step // every] * 3)
            for counted in [False] * (every - 1) + [True]:
                values = tf.constant([5.0 - 0.01 * step, 1.0, 0.0], tf.float64)
                found = estimates.progress.rate(values, tf.constant([counted] * 3))
        rates.append(float(found[0]))
    assert rates[1] == pytest.approx(10 * rates[0], rel=0.2)


@pytest.mark.parametrize("times", [0.0, 3.0])
def test_a_rank_that_is_late_asks_for_all_of_its_speed_and_most_of_the_step(times):
    """One that makes no progress is late, too."""
    model = model_of([Target(loss=1e-3)], keras.optimizers.SGD(0.0))
    logs = train(model, batch_size=len(X), epochs=10)
    loss = logs["loss@natural"][-1]
    # Five times what it has fallen by of late, in as many steps as there were, is what it misses.
    model._targets.progress._slow_means.assign(
        [loss * (1 + times / 5.0 * 11 / 10 / (1 - 4 / 11)), 0.0, 0.0]
    )
    model._targets.progress.expect(11)
    asked = model._targets.update(*seen(model))
    np.testing.assert_allclose(asked.bounds, [1, 0, 0])
    np.testing.assert_allclose(asked.directions, [DIRECTION, 0, 0])


@pytest.mark.parametrize(("loss", "direction"), [(10.0, 0.0), (1e-3, DIRECTION)])
def test_a_rank_that_only_held_out_data_miss_asks_for_no_direction(loss, direction):
    """What is left to learn of the training data would not help it."""
    model = model_of([Target(loss=loss)], keras.optimizers.SGD(0.0))
    train(model, batch_size=len(X), epochs=10)
    estimate = float(model._targets._means[0]) + 20.0
    model._targets._offsets.assign([20.0, 0.0, 0.0])
    model._targets.progress._slow_means.assign(
        [2.0 * estimate, 0.0, 0.0]
    )  # It has fallen by as much.
    model._targets.progress.expect(11)
    asked = model._targets.update(*seen(model))
    np.testing.assert_allclose(asked.bounds, [1, 0, 0])
    np.testing.assert_allclose(asked.directions, [direction, 0, 0])


def test_a_rank_on_its_way_asks_for_half_of_its_speed_and_no_direction():
    model = model_of([Target(loss=1e-3)], keras.optimizers.SGD(0.0))
    train(model, batch_size=len(X), epochs=10)
    model._targets.progress._slow_means.assign([1e9, 0.0, 0.0])  # It has fallen by as much.
    model._targets.progress.expect(100)
    asked = model._targets.update(*seen(model))
    np.testing.assert_allclose(asked.bounds, [PACE, 0, 0])
    np.testing.assert_allclose(asked.directions, [0, 0, 0])


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_how_many_steps_are_left_is_counted_to_the_end_of_fit(known):
    """Of data of unknown length, from its second epoch on; before, as many as there were."""
    model, left = model_of(), []
    note = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: left.append(
            model._targets.progress.steps_left().numpy()[0]
        )
    )
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    if not known:
        data = data.filter(lambda x, y: True)
    steps = len(X) // 10
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(data, epochs=3, verbose=0, callbacks=[note])
        model.fit(data, epochs=7, initial_epoch=5, verbose=0, callbacks=[note])
    first, again = ([3, 2, 1], [2, 1]) if known else ([0, 2, 1], [3, 1])
    assert left == [steps * each for each in first + again]


def test_after_fit_as_many_steps_are_taken_to_be_left_as_there_were():
    model = model_of()
    train(model, epochs=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train_on_batch(X, Y)
    steps = model._targets.progress.steps
    assert model._targets.progress.steps_left().numpy()[0] == steps == 2 * len(X) // 10 + 1


def test_a_resumed_training_expects_the_steps_that_it_did_before(tmp_path):
    """Also of data of unknown length, and in its first epoch."""
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10).filter(lambda x, y: True)
    whole, begun = model_of(), model_of()
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(begun, "stop_training", epoch == 2)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole.fit(data, epochs=5, verbose=0)
        begun.fit(data, epochs=5, verbose=0, callbacks=[stop])
        begun.save(tmp_path / "model.keras")
        resumed = keras.models.load_model(tmp_path / "model.keras")
        resumed.fit(data, epochs=5, initial_epoch=3, verbose=0)
    np.testing.assert_array_equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("optimizer", ["Adam", "RMSprop", "SGD"])
def test_steps_whose_length_is_normalized_go_the_way_of_a_rank_that_is_late(optimizer, monkeypatch):
    """In the optimizer's metric; others descend it as fast as it would alone by their length."""
    steps, onestep = [], gem.onestep

    def noted(gram, alphas, margin, bounds, directions):
        step = onestep(gram, alphas, margin, bounds, directions)
        steps.append((step, 0.0 if directions is None else float(directions[0])))
        return step

    monkeypatch.setattr(gem, "onestep", noted)
    monkeypatch.setattr(target_progress, "LATE", 1e9)  # Whatever progress it makes, it is late.
    monkeypatch.setattr(target_progress, "ON_TIME", 2e9)
    solved([ONE, TWO], [0.25], getattr(keras.optimizers, optimizer)(0.01), 60, run_eagerly=True)
    for step, asked in steps:
        weights, gram = step.weights.numpy(), step.gramian.numpy()
        cosine = (gram @ weights)[0] / np.sqrt(gram[0, 0] * weights @ gram @ weights)
        assert asked == 0 or cosine >= asked - 1e-6
        assert asked == 0 or step.descent[0] >= PACE * asked - 1e-6
    assert len(steps) == 60
    assert (max(asked for _, asked in steps) > 0.9) == (optimizer != "SGD")


def test_far_above_its_target_a_rank_keeps_its_weight():
    """Of twice the target on all of it, of one and a half times half, below it nothing."""
    model = model_of([Target(loss=1.0)], keras.optimizers.SGD(0.0))
    losses, scores = seen(model)
    measured = float(scores[0].data_loss)
    for times, kept in ((3.0, 1.0), (2.0, 1.0), (1.5, 0.5), (1.1, 0.1), (0.9, 0.0)):
        model._targets.targets[0] = Target(loss=measured / times)
        np.testing.assert_allclose(model._targets.update(losses, scores).kept[0], kept, atol=1e-6)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]),
        ([1.0, 1.0, 0.0, 0.0], [0.4, 0.2, 0.2, 0.2]),
        ([0.5, 1.0, 0.0, 0.0], [0.2, 0.2 + 0.2 / 3, 0.2 + 0.2 / 3, 0.2 + 0.2 / 3]),
        ([0.0, 0.5, 0.0, 0.0], [0.0, 1 / 6, 5 / 12, 5 / 12]),
    ],
)
def test_what_a_rank_does_not_keep_is_shared_below_it(kept, expected):
    wanted = [Target(loss=1.0), Target(loss=1.0), None, None]
    found = shared_alphas([0.4, 0.2, 0.2, 0.2], wanted, kept)
    assert found == pytest.approx(expected)
    assert shared_alphas([1.0, 0.0, 0.0], wanted[1:], [0.0] * 3) == [0.0, 0.5, 0.5]


def seen(model):
    """What the estimates are updated by: one batch and every rank's scores on it."""
    step = model._training_step
    batch = Batch(tf.constant(X), tf.constant(Y))
    losses = step.losses(batch, step.perturb(batch, tf.zeros([2], tf.int32)), training=False)
    return losses, [losses.scores(rank, training=False) for rank in range(len(step.objectives))]


NATURAL = [Target(accuracy=0.7)]


def model_of(targets=NATURAL, optimizer=None, **options):
    settings = {
        name: options.pop(name)
        for name in ("memory", "micro_batch_size", "warm_start", "detailed_logs", "metric")
        if name in options
    }
    keras.utils.set_random_seed(1)
    model = lr.OLSRC(network(), ATTACK, [1.0, 4.0], targets=list(targets), **settings)
    return compiled(model, optimizer=optimizer or keras.optimizers.Adam(0.03), **options)


def fit(model, batch_size=10, epochs=1, callbacks=None):
    options = {"batch_size": batch_size, "epochs": epochs, "callbacks": callbacks}
    return model.fit(X, Y, shuffle=False, verbose=0, **options).history


def train(model, batch_size=10, epochs=2, callbacks=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(model, batch_size, epochs, callbacks)


def test_the_estimate_is_the_logged_loss_and_the_share_of_errors():
    """With one batch an epoch and weights that stand still, from the first step on."""
    for target, name in ((Target(loss=0.1), "loss"), (Target(accuracy=0.99), "accuracy")):
        model = model_of([target], keras.optimizers.SGD(0.0))
        logs = train(model, batch_size=len(X))
        assert logs["estimate@natural"] == pytest.approx(logs[f"{name}@natural"], abs=1e-6)
        assert logs["target@natural"] == pytest.approx([target.value] * 2)
        missed = abs(target.value - logs["estimate@natural"][-1])
        assert logs["violation@natural"][-1] == pytest.approx(missed, abs=1e-6)


def test_an_accuracy_is_of_samples_whatever_they_weigh():
    """As what `evaluate` and `HeldOutTargets` measure."""
    model = model_of([Target(accuracy=0.99)], keras.optimizers.SGD(0.0))
    y = np.where(np.arange(len(Y)) % 3, Y, 1 - Y)
    right = np.argmax(model.classifier(X), axis=1) == y
    sample_weight = np.where(right, 1.0, 9.0)
    sample_weight[:2] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logs = model.fit(X, y, len(X), sample_weight=sample_weight, verbose=0).history
    assert logs["estimate@natural"] == pytest.approx([np.mean(right[2:])])
    assert logs["accuracy@natural"] == pytest.approx([np.mean(right[2:])])
    assert 0 < np.mean(right[2:]) < 1


def test_regularization_is_no_part_of_a_target():
    keras.utils.set_random_seed(1)
    classifier = network(kernel_regularizer=keras.regularizers.L2(1.0))
    model = lr.OLSRC(classifier, ATTACK, [1.0], targets=[0.5])
    logs = train(compiled(model, optimizer=keras.optimizers.SGD(0.0)), batch_size=len(X))
    assert logs["estimate@natural"] == pytest.approx(logs["loss@natural"], abs=1e-6)
    assert logs["loss"][0] > logs["loss@natural"][0] + 0.1


@pytest.mark.parametrize(
    "options",
    [
        {"micro_batch_size": 4},
        pytest.param({"run_eagerly": False}, marks=pytest.mark.release),
        pytest.param({"jit_compile": True}, marks=pytest.mark.release),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "target",
    [
        pytest.param(Target(accuracy=0.7), marks=pytest.mark.release, id="accuracy"),
        pytest.param(Target(loss=0.5), id="loss"),
    ],
)
def test_however_it_runs_the_result_is_the_same(options, target):
    memory = lr.RunningMean()
    model, other = model_of([target], memory=memory), model_of([target], memory=memory, **options)
    logs, other_logs = train(model), train(other)
    np.testing.assert_allclose(weights(other), weights(model), atol=1e-5)
    for name, values in logs.items():
        assert other_logs[name] == pytest.approx(values, abs=1e-3), name


@pytest.mark.release
def test_two_replicas_take_the_step_of_one_device():
    model = model_of()
    train(model)
    with mirrored_strategy().scope():
        mirrored = model_of()
    train(mirrored)
    np.testing.assert_allclose(weights(mirrored), weights(model), atol=1e-5)
    for one, other in zip(model._targets.variables, mirrored._targets.variables, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_what_was_saved_goes_on_as_it_would_have(tmp_path):
    model = model_of([0.4, Target(loss=2.0)], memory=lr.RunningMean())
    train(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found = [target and target.get_config() for target in loaded.settings.targets]
    assert found == [{"loss": 0.4, "accuracy": None}, {"loss": 2.0, "accuracy": None}, None]
    assert train(loaded) == train(model)
    np.testing.assert_array_equal(weights(loaded), weights(model))


@pytest.fixture
def in_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("in_mixed_precision")
def test_a_loss_that_is_no_number_is_not_estimated():
    """Loss scaling skips the step, and the estimates stay as they are."""
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.03), initial_scale=16.0)
    model = model_of([Target(loss=0.5)], scaled)
    train(model, batch_size=len(X), epochs=2)
    assert int(scaled.iterations) == 2
    before, trained = [v.numpy() for v in model._targets.variables], weights(model)
    too_large = np.full_like(X, 7e4)  # For float16.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logs = model.train_on_batch(too_large, Y, return_dict=True)
    assert not np.isfinite(logs["loss@natural"])
    assert int(scaled.iterations) == 2
    np.testing.assert_array_equal(weights(model), trained)
    for variable, old in zip(model._targets.variables, before, strict=True):
        assert variable.numpy()[0] == old[0]  # Of the rank that has one.


@pytest.mark.release
@pytest.mark.usefixtures("in_mixed_precision")
def test_of_steps_that_loss_scaling_skips_the_estimate_is_the_loss_at_the_weights_that_stay():
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.03), initial_scale=2.0**30)
    model = model_of([Target(loss=0.5)], scaled, run_eagerly=False)
    before, skipped, estimates = weights(model), 0, []
    for _ in range(24):
        taken = int(scaled.iterations)
        estimates.append(train(model, batch_size=len(X), epochs=1)["estimate@natural"][0])
        if int(scaled.iterations) == taken:
            skipped += 1
            np.testing.assert_array_equal(weights(model), before)
            assert estimates[-1] == pytest.approx(estimates[0], abs=1e-6)
        before = weights(model)
    assert 0 < skipped < 20
    assert np.isfinite(before).all()
    assert estimates[-1] < estimates[0]


def test_a_target_that_is_missed_is_told_at_the_end_of_fit():
    with pytest.warns(
        UserWarning, match="target of 'natural' was not reached: loss .* asked 1e-05"
    ):
        fit(model_of([1e-5]))
    with pytest.warns(UserWarning, match="'natural' asks for nothing: a loss of 99.*Target.acc"):
        model = model_of([99])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model)


def test_a_target_that_held_out_data_miss_is_told_by_what_they_said():
    model = model_of([Target(loss=0.6)], keras.optimizers.SGD(0.0))
    losses = [
        float(model.evaluate(X, y, verbose=0, return_dict=True)["loss@natural"]) for y in (Y, 1 - Y)
    ]
    model = model_of([Target(loss=sum(losses) / 2)], keras.optimizers.SGD(0.0))
    held_out, worse = (Y, 1 - Y) if losses[0] < losses[1] else (1 - Y, Y)
    for y, missed in ((held_out, False), (worse, True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(X, Y, verbose=0, callbacks=[lr.callbacks.HeldOutTargets(X, y)])
        messages = [str(each.message) for each in caught if "not reached" in str(each.message)]
        assert len(messages) == missed
    assert f"loss {max(losses):.4g} (`held_out@natural`)" in messages[0]


def test_held_out_data_move_the_estimates():
    model = model_of([Target(accuracy=0.7), Target(loss=1.0)], keras.optimizers.SGD(0.0))
    # All of them labeled wrongly: as bad on held-out data as it is good on others.
    held_out = lr.callbacks.HeldOutTargets(X, 1 - Y)
    logs = train(model, batch_size=len(X), callbacks=[held_out])
    accuracy = logs["accuracy@natural"][0]
    assert logs["held_out@natural"] == pytest.approx([1 - accuracy] * 2)
    assert logs["estimate@natural"] == pytest.approx([accuracy, 1 - accuracy])
    assert logs["estimate@l2=1"][1] == pytest.approx(logs["held_out@l2=1"][0], rel=1e-5)


def test_without_the_callback_a_later_fit_holds_targets_on_training_data():
    model = model_of(optimizer=keras.optimizers.SGD(0.0))
    held_out = lr.callbacks.HeldOutTargets(X, 1 - Y)
    for _ in range(2):
        moved = train(model, batch_size=len(X), epochs=1, callbacks=[held_out])
    later = train(model, batch_size=len(X), epochs=1)
    accuracy = moved["accuracy@natural"][0]
    assert moved["estimate@natural"] == pytest.approx([1 - accuracy])
    assert later["estimate@natural"] == pytest.approx([accuracy])


def test_held_out_losses_weigh_as_in_training():
    """The same data say the same, in a sum whose weights are shares of losses, too."""
    both = lr.objectives.BalancedSum(
        [lr.objectives.Natural(), lr.objectives.Adversarial(ATTACK, 4.0)]
    )
    ranks = [both, lr.objectives.Adversarial(ATTACK, 1.0)]
    model = lr.LexicographicModel(network(), ranks, targets=[1.0])
    compiled(model, optimizer=keras.optimizers.SGD(0.0))
    held_out = lr.callbacks.HeldOutTargets(X, Y)
    logs = train(model, batch_size=len(X), epochs=3, callbacks=[held_out])
    name = f"estimate@{both.name}"
    assert logs[name][-1] == pytest.approx(logs[name][0], rel=1e-3)
    assert logs[f"held_out@{both.name}"][-1] == pytest.approx(logs[name][0], rel=1e-3)


def test_held_out_losses_weigh_samples_as_fit_does():
    """The same data with the same weights say the same; without weights they would not."""
    weights = np.linspace(0.0, 2.0, len(X), dtype=np.float32)
    batches = tf.data.Dataset.from_tensor_slices((X, Y, weights)).batch(20)
    for given in ({"x": X, "y": Y, "sample_weight": weights}, {"x": batches, "y": None}):
        model = model_of([Target(loss=0.1)], optimizer=keras.optimizers.SGD(0.0))
        held_out = lr.callbacks.HeldOutTargets(**given)
        logs = model.fit(X, Y, len(X), sample_weight=weights, verbose=0, callbacks=[held_out])
        (trained,) = logs.history["loss@natural"]
        assert logs.history["held_out@natural"] == pytest.approx([trained], rel=1e-5)
        plain = model.evaluate(X, Y, verbose=0, return_dict=True)["loss@natural"]
        assert abs(plain - trained) > 0.01 * trained


@pytest.mark.parametrize("late", [0.3, -0.3])
def test_held_out_data_are_compared_with_the_less_of_an_epoch_and_its_end(late):
    """What the last steps measure may be above the epoch, or, while much is learned, below."""
    model = model_of([Target(loss=1.0)])
    estimates = model._targets
    zeros = tf.zeros([3], tf.float64)
    for value in (*[1.0] * 60, *[1.0 + late] * 60):
        estimates._smoothed(zeros + value)
    mean, end = 1.0 + late / 2, 1.0 + late
    estimates.hold_to({"loss@natural": 2.0})
    assert float(estimates._offsets[0]) == pytest.approx(2.0 - min(mean, end), abs=0.01)
    # The next epoch is compared anew.
    for _ in range(60):
        estimates._smoothed(zeros + 5.0)
    estimates.hold_to({"loss@natural": 5.5})
    assert float(estimates._offsets[0]) == pytest.approx(0.5, abs=0.02)


def test_targets_that_are_held_to_training_data_again_are_as_late_as_before():
    """What held-out data added to the estimates is no progress when it is taken away."""
    model = model_of([Target(loss=1e-3)], keras.optimizers.SGD(0.0))
    train(model, batch_size=len(X), epochs=10)
    estimates, asked = model._targets, []
    estimates._offsets.assign([20.0, 0.0, 0.0])
    estimates.progress.shift(tf.constant([20.0, 0.0, 0.0], tf.float64))
    for _ in range(2):
        estimates.progress.expect(100)
        asked.append(estimates.update(*seen(model)).bounds.numpy())
        estimates.hold_to_training()
    np.testing.assert_allclose(asked[0], [1, 0, 0])
    np.testing.assert_allclose(asked[1], asked[0])


def test_held_out_data_need_targets():
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0]))
    with pytest.raises(ValueError, match="`HeldOutTargets` needs"):
        fit(model, callbacks=[lr.callbacks.HeldOutTargets(X, Y)])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Target(), ValueError, "`loss` or `accuracy` must be given"),
        (lambda: Target(loss=0.1, accuracy=0.9), ValueError, "and not both"),
        (lambda: Target(loss=-0.1), ValueError, "`loss` must be finite and above 0"),
        (lambda: Target(loss=np.inf), ValueError, "`loss` must be finite"),
        (lambda: Target(loss=np.nan), ValueError, "`loss` must be finite"),
        (lambda: Target(accuracy=1.1), ValueError, "`accuracy` must lie between 0 and 1"),
        (lambda: Target(accuracy=np.nan), ValueError, "`accuracy` must lie between 0 and 1"),
        (lambda: model_of([-0.5]), ValueError, "`loss` must be finite and above 0"),
        (lambda: model_of(["0.5"]), TypeError, "`targets` must hold Target, numbers"),
        (lambda: lr.OLSRC(network(), ATTACK, [1.0], targets=0.5), TypeError, "must be a list"),
        (lambda: model_of([0.1, 0.2, 0.3]), ValueError, "must leave the last rank without one"),
        (lambda: model_of([None] * 4), ValueError, "must leave the last rank without one"),
        (lambda: lr.TRADES(network(), ATTACK, 1.0, targets=[0.1]), ValueError, "two ranks"),
        (
            lambda: lr.LexicographicModel(
                network(),
                [lr.objectives.Regularization(), lr.objectives.Natural()],
                targets=[Target(accuracy=0.9)],
            ),
            ValueError,
            "of accuracy for ranks of one objective with logits",
        ),
        (
            lambda: lr.OLSRC(network(), ATTACK, [1.0], targets=[0.1], update="per_rank"),
            ValueError,
            "`targets` need update='onestep'",
        ),
        (
            lambda: lr.OLSRC(network(), ATTACK, [1.0], targets=[0.1], margin=0.5),
            ValueError,
            "`targets` need .* margin=0",
        ),
    ],
)
def test_bad_targets_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
