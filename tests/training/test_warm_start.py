"""Attacks in training that begin where they left each sample the last time."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.training.objectives import Batch
from tests.training.by_hand import compiled, fit, network, right_network, weights

# One step from a given start, far from the worst point: where it began shows in where it ends.
ATTACK = lr.attacks.PGD(norm="l2", steps=1, step_size=0.3, bounds=None)
DIMENSIONS = 3


def plane_network():
    return keras.Sequential(
        [
            keras.Input((DIMENSIONS,)),
            keras.layers.Dense(16, activation="tanh"),
            keras.layers.Dense(2),
        ]
    )


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, DIMENSIONS)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int32)


def warm(
    magnitudes=(0.5, 2.0), classifier=None, attack=ATTACK, rate=0.0, make=lr.OLSRC, **settings
):
    options = {
        name: settings.pop(name) for name in ("free", "reset_every", "samples") if name in settings
    }
    start = lr.WarmStart(**options)
    model = make(
        classifier or plane_network(), attack, list(magnitudes), warm_start=start, **settings
    )
    return compiled(model, rate=rate)


def kept(model):
    """`[terms, N, ...]` the perturbations that the next visit starts from."""
    return np.stack([v.numpy() for v in model._starts.variables[:-2]])


def one_step(classifier, x, y, perturbation, magnitude, length):
    """A step of normalized gradient from a perturbation, back onto the l2 sphere, in NumPy."""
    moved = tf.constant(x + perturbation)
    with tf.GradientTape() as tape:
        tape.watch(moved)
        loss = keras.losses.sparse_categorical_crossentropy(y, classifier(moved), from_logits=True)
    gradient = tape.gradient(loss, moved).numpy()
    onward = perturbation + length * gradient / np.linalg.norm(gradient, axis=1, keepdims=True)
    return magnitude * onward / np.linalg.norm(onward, axis=1, keepdims=True)


def losses(classifier, x, y):
    logits = classifier(x)
    return keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True).numpy()


# Every two settings meet before a commit, all three before a release.
@pytest.mark.parametrize(
    ("free", "keep_gradients", "micro_batch_size"),
    [
        (False, False, 7),
        (True, True, None),
        pytest.param(False, True, None, marks=pytest.mark.release),
        pytest.param(True, True, 7, marks=pytest.mark.release),
        pytest.param(True, False, None, marks=pytest.mark.release),
        pytest.param(False, True, 7, marks=pytest.mark.release),
        pytest.param(False, False, None, marks=pytest.mark.release),
        pytest.param(True, False, 7, marks=pytest.mark.release),
    ],
)
def test_a_visit_begins_where_the_last_one_ended(data, free, keep_gradients, micro_batch_size):
    x, y = data
    model = warm(free=free, keep_gradients=keep_gradients, micro_batch_size=micro_batch_size)
    fit(model, x, y)
    for _ in range(3):
        before = kept(model)
        fit(model, x, y)
        after = kept(model)
        for magnitude, old, new in zip((0.5, 2.0), before, after, strict=True):
            np.testing.assert_allclose(np.linalg.norm(new, axis=1), magnitude, rtol=1e-5)
            # The weights stand still, so the gradients can be worked out here.
            expected = one_step(model.classifier, x, y, old, magnitude, 0.3)
            better = losses(model.classifier, x + expected, y) >= losses(
                model.classifier, x + old, y
            )
            # An attack's own step is kept where it is the better point.
            expected = expected if free else np.where(better[:, None], expected, old)
            np.testing.assert_allclose(new, expected, atol=2e-5)


def test_a_free_step_is_seen_one_visit_later(data):
    model = warm(free=True)
    fit(model, *data)
    start = kept(model)
    logs = fit(model, *data)
    for name, perturbation in zip(("l2=0_5", "l2=2"), start, strict=True):
        expected = losses(model.classifier, data[0] + perturbation, data[1]).mean()
        assert logs[f"loss@{name}"] == pytest.approx(expected, rel=1e-5)


def passes_of_one_step(model, x, y):
    """How often a training step calls the classifier, counted while it is traced."""
    calls = []
    layer = model.classifier.layers[-1]
    layer.call = lambda *args, inner=layer.call, **kwargs: calls.append(1) or inner(*args, **kwargs)
    model.make_train_function(force=True)
    fit(model, x, y)
    return len(calls)


def test_the_free_step_costs_no_pass(data):
    # One pass a rank, and Keras's own symbolic one at most.
    free = passes_of_one_step(warm(free=True), *data)
    stepped = passes_of_one_step(warm(), *data)
    assert free <= 4 < stepped


@pytest.mark.parametrize("free", [False, True])
def test_shuffled_batches_find_their_samples(data, free):
    """With weights that stand still, the order of the samples changes nothing."""
    x, y = data
    models = [warm(free=free) for _ in range(3)]
    for model in models[1:]:
        model.set_weights(models[0].get_weights())
    fit(models[0], x, y)
    for model in models[1:]:
        fit(model, x, y)
        for own, other in zip(model._starts.variables, models[0]._starts.variables, strict=True):
            own.assign(other)
    before = kept(models[0])
    dataset = lr.datasets.with_index(tf.data.Dataset.from_tensor_slices((x, y)))
    models[0].fit(x, y, batch_size=20, shuffle=False, epochs=2, verbose=0)
    models[1].fit(x, y, batch_size=8, shuffle=True, epochs=2, verbose=0)
    models[2].fit(dataset.shuffle(20).batch(8), epochs=2, verbose=0)
    # Every sample has moved: else what was not visited would look right.
    assert np.linalg.norm(kept(models[0]) - before, axis=-1).min() > 1e-3
    for model in models[1:]:
        np.testing.assert_allclose(kept(model), kept(models[0]), atol=1e-5)


def test_samples_start_at_random_again_after_so_many_visits(data):
    model = warm(free=True, reset_every=3)
    x, y = data
    for visit in range(1, 7):
        before = kept(model) if visit > 1 else None
        fit(model, x, y)
        expected = None if before is None else one_step(model.classifier, x, y, before[1], 2.0, 0.3)
        continued = before is not None and np.allclose(kept(model)[1], expected, atol=1e-4)
        assert continued == (visit not in (1, 4))


@pytest.mark.parametrize(
    ("free", "micro_batch_size"),
    [
        (False, None),
        pytest.param(True, 7, marks=pytest.mark.release),
        pytest.param(False, 7, marks=pytest.mark.release),
        pytest.param(True, None, marks=pytest.mark.release),
    ],
)
def test_what_a_discriminator_is_shown_begins_where_it_ended(data, free, micro_batch_size):
    x, y = data
    model = warm(make=lr.OLGRC, free=free, micro_batch_size=micro_batch_size)
    fit(model, x, y)
    for _ in range(2):
        before = kept(model)[2:]
        fit(model, x, y)
        after = kept(model)[2:]
        # Toward a larger loss at both magnitudes, then toward a smaller one.
        for (sign, magnitude), old, new in zip(
            [(1, 0.5), (1, 2.0), (-1, 0.5), (-1, 2.0)], before, after, strict=True
        ):
            stepped = one_step(model.classifier, x, y, old, magnitude, sign * 0.3)
            started, ended = (sign * losses(model.classifier, x + d, y) for d in (old, stepped))
            expected = np.where((ended >= started)[:, None], stepped, old)
            np.testing.assert_allclose(new, expected, atol=1e-4)


@pytest.mark.parametrize("make", [lr.OLSRC, lr.OLGRC])
def test_perturbations_are_saved_with_the_model(tmp_path, data, make):
    model = warm(free=True, rate=0.05, reset_every=9, make=make)
    fit(model, *data, epochs=2)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    other = warm(free=True, rate=0.05, reset_every=9, make=make)
    other.load_weights(tmp_path / "model.weights.h5")
    assert loaded.settings.warm_start.get_config() == model.settings.warm_start.get_config()
    for again in (loaded, other):
        for one, two in zip(again._starts.variables, model._starts.variables, strict=True):
            np.testing.assert_array_equal(one, two)
    expected = fit(model, *data)
    assert fit(loaded, *data) == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(weights(loaded), weights(model), atol=1e-6)


def test_perturbations_of_other_attacks_are_refused(tmp_path, data):
    model = warm()
    fit(model, *data)
    model.save_weights(tmp_path / "model.weights.h5")
    other = warm(magnitudes=(0.5, 1.0, 2.0))
    other.build((None, DIMENSIONS))
    with pytest.raises(ValueError, match="2 in the file, 3 in the model"):
        other.load_weights(tmp_path / "model.weights.h5")


@pytest.mark.release
@pytest.mark.parametrize("free", [True, False])
def test_two_replicas_keep_what_one_device_does(strategy, free):
    x, y = lr.datasets.toy(24, seed=0)
    attack = lr.attacks.PGD(norm="l2", steps=1, restarts=2, bounds=None)
    alone = warm([1.0, 4.0], right_network(), attack, rate=0.1, free=free)
    with strategy.scope():
        mirrored = warm([1.0, 4.0], right_network(), attack, rate=0.1, free=free)
    start = np.where(np.arange(24) % 2, 1.0, -1.0)[:, None] * np.array([[[1.0]], [[4.0]]])
    given = Batch(tf.constant(x), y, index=tf.range(24, dtype=tf.int64))
    alone._starts.build(x.shape, len(x))
    alone._starts.write(given, [*tf.constant(start, tf.float32)])
    mirrored._starts.build(x.shape, len(x))
    for variable, value in zip(mirrored._starts.variables, alone._starts.variables, strict=True):
        variable.assign(value)
    for model in (alone, mirrored):
        fit(model, x, y, epochs=3)
    np.testing.assert_allclose(weights(mirrored), weights(alone), atol=1e-5)
    np.testing.assert_allclose(kept(mirrored), kept(alone), atol=1e-5)
    for variable in mirrored._starts.variables:
        first, second = strategy.experimental_local_results(variable)
        np.testing.assert_array_equal(first, second)


@pytest.mark.release
def test_replicas_start_warm_from_a_dataset(strategy):
    x, y = lr.datasets.toy(24, seed=0)
    with strategy.scope():
        model = warm([1.0], right_network(), free=True, samples=24)
    dataset = lr.datasets.with_index(tf.data.Dataset.from_tensor_slices((x, y)))
    model.fit(dataset.shuffle(24).batch(8), epochs=2, verbose=0)
    assert model._starts.variables[-2].numpy().tolist() == [2] * 24
    np.testing.assert_allclose(np.abs(kept(model)), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("arrays", "int16"), ("dataset", "uint8"), ("dataset", "uint32")]
)
def test_indices_may_be_of_any_integer_type(data, kind, dtype):
    models = []
    for index in (np.arange(20), np.arange(20, dtype=dtype)):
        keras.utils.set_random_seed(0)
        model = warm(samples=300)  # More than the smallest of the types can count.
        x = {"inputs": data[0], "index": index}
        batches = (tf.data.Dataset.from_tensor_slices((x, data[1])).batch(20),)
        compiled(model, run_eagerly=True)
        model.fit(*(batches if kind == "dataset" else (x, data[1])), verbose=0, batch_size=20)
        models.append(model)
    for one, other in zip(*(model._starts.variables for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("free", "how"),
    [
        (False, {"run_eagerly": False}),
        pytest.param(True, {"run_eagerly": False}, marks=pytest.mark.release),
        pytest.param(True, {"jit_compile": True}, marks=pytest.mark.release),
        pytest.param(False, {"jit_compile": True}, marks=pytest.mark.release),
    ],
    ids=str,
)
def test_however_it_runs_the_result_is_the_same(data, free, how):
    models = []
    for options in ({}, how):
        model = warm(free=free)
        compiled(model, rate=0.05, **options)
        if models:
            model.set_weights(models[0].get_weights())
        # XLA draws other random numbers: start from what is given.
        model._starts.build(data[0].shape, 20)
        given = Batch(tf.constant(data[0], tf.float32), data[1], index=tf.range(20, dtype=tf.int64))
        corners = np.eye(DIMENSIONS)[np.arange(20) % 3]
        model._starts.write(given, [tf.constant(m * corners) for m in (0.5, 2.0)])
        models.append(model)
    for model in models:
        fit(model, *data, epochs=3)
    np.testing.assert_allclose(weights(models[1]), weights(models[0]), atol=1e-5)
    np.testing.assert_allclose(kept(models[1]), kept(models[0]), atol=1e-4)


@pytest.mark.parametrize("make", [lr.AdversarialTraining, lr.TRADES])
@pytest.mark.parametrize("free", [False, True])
def test_weighted_sums_start_warm_too(data, make, free):
    model = compiled(
        make(plane_network(), ATTACK, 2.0, warm_start=lr.WarmStart(free=free)), rate=0.0
    )
    fit(model, *data)
    before = kept(model)
    fit(model, *data)
    worse = [
        losses(model.classifier, data[0] + step[0], data[1]).mean()
        for step in (before, kept(model))
    ]
    assert worse[1] > worse[0]


@pytest.mark.parametrize(
    ("make", "free"),
    [
        (lr.attacks.DAA, False),
        (lr.attacks.IntervalAttack, False),
        (lr.attacks.IntervalAttack, True),
    ],
)
def test_attacks_with_a_direction_or_a_start_of_their_own_start_warm_too(data, make, free):
    model = warm(attack=make(steps=1, step_size=0.3, bounds=None), free=free)
    fit(model, *data, epochs=3)
    for magnitude, own in zip((0.5, 2.0), kept(model), strict=True):
        np.testing.assert_allclose(np.linalg.norm(own, axis=1), magnitude, rtol=1e-5)


def test_evaluation_starts_cold_and_takes_all_its_steps(data):
    model = warm(free=True)
    fit(model, *data)
    before = kept(model)
    strong = model.evaluate(*data, verbose=0, return_dict=True)["loss@l2=2"]
    np.testing.assert_array_equal(kept(model), before)
    assert strong != pytest.approx(losses(model.classifier, data[0] + before[1], data[1]).mean())


def test_bad_settings_are_refused(data):
    with pytest.raises(ValueError, match=r"`reset_every` must be an integer .* Received: 0"):
        lr.WarmStart(reset_every=0)
    with pytest.raises(ValueError, match=r"`samples` must be an integer .* Received: 1.5"):
        lr.WarmStart(samples=1.5)
    with pytest.raises(TypeError, match=r"`warm_start` must be a Warm.* or None\. Received: True"):
        lr.OLSRC(network(), ATTACK, [1.0], warm_start=True)
    with pytest.raises(ValueError, match="`warm_start` needs objectives whose attacks"):
        lr.Standard(network(), warm_start=lr.WarmStart())
    with pytest.raises(TypeError, match="`free` must be a bool"):
        lr.WarmStart(free=1)
    with pytest.raises(ValueError, match="`warm_start` with free=True needs attacks"):
        warm(free=True, attack=lr.attacks.DAA(bounds=None))
    few = warm(samples=19)
    with pytest.raises(ValueError, match=r"`index` must be at least 0 and below the 19 .* to 19"):
        fit(few, *data)
    with pytest.raises(ValueError, match=r"`index` must be \[N\] integers"):
        few.fit({"inputs": data[0], "index": np.zeros((20, 1))}, data[1], verbose=0)
    model = warm()
    dataset = tf.data.Dataset.from_tensor_slices(data)
    indexed = lr.datasets.with_index(dataset)
    with pytest.raises(ValueError, match="`index` must be at least 0 and below the 3 samples"):
        warm(samples=3).fit(indexed.batch(5), verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`index` must be at least 0"):
        warm(samples=7).fit(indexed.batch(5), verbose=0)
    with pytest.raises(ValueError, match=r"`x` must come with the indices .*with_index"):
        model.fit(dataset.batch(5), verbose=0)
    with pytest.raises(ValueError, match="`warm_start` must name the number of `samples`"):
        model.fit(lr.datasets.with_index(dataset).batch(5), verbose=0)
    fit(model, *data)
    with pytest.raises(ValueError, match="Received: 10 samples, perturbations of 20"):
        fit(model, data[0][:10], data[1][:10])
    with pytest.raises(ValueError, match="`data` must be inputs, or a dataset"):
        lr.datasets.with_index(tf.data.Dataset.range(3))
