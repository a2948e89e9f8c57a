import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.training.augmentation import find_augmentation
from tests.training.by_hand import compiled, weights

L = keras.layers
SHAPE = (8, 8, 1)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.uniform(0.2, 0.8, (12, *SHAPE)).astype(np.float32), rng.integers(3, size=12)


class Noisy(L.Layer):
    """Augmentation that a user may write."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.source = keras.random.SeedGenerator(1)

    def call(self, x, training=False):
        if not training:
            return x
        return x + 0.01 * keras.random.normal(keras.ops.shape(x), seed=self.source)


class Learned(Noisy):
    """Has a weight, and so is part of what is trained."""

    def build(self, shape):
        self.scale = self.add_weight(name="scale", initializer="ones")

    def call(self, x, training=False):
        return self.scale * super().call(x, training)


def body():
    return [L.Conv2D(2, 3), L.BatchNormalization(), L.Dropout(0.1), L.Flatten(), L.Dense(3)]


def sequential(*head):
    return keras.Sequential([keras.Input(SHAPE), *head, *body()])


def functional(*head):
    inputs = x = keras.Input(SHAPE)
    for layer in (*head, *body()):
        x = layer(x)
    return keras.Model(inputs, x)


def inner_functional():
    inputs = keras.Input(SHAPE)
    return keras.Model(
        inputs, L.RandomRotation(0.1, name="turn")(L.RandomFlip(name="flip")(inputs))
    )


def branched():
    """Two branches, each of which augments by itself."""
    inputs = keras.Input(SHAPE)
    branches = [L.RandomFlip(name=name)(inputs) for name in ("one", "other")]
    return keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Add()(branches))))


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.flip = L.RandomFlip(name="flip")
        self.flat, self.dense = L.Flatten(), L.Dense(3)

    def call(self, x, training=False):
        return self.dense(self.flat(self.flip(x, training=training)))


def own():
    model = Own()
    model.build((None, *SHAPE))
    return model


def flip(**kwargs):
    return L.RandomFlip(name="flip", **kwargs)


def shift():
    return L.RandomTranslation(0.2, 0.2, name="shift")


FOUND = {
    "sequential": (lambda: sequential(flip(), shift()), ["flip", "shift"], []),
    "functional": (
        lambda: functional(flip(), L.RandomZoom(0.1, name="zoom")),
        ["flip", "zoom"],
        [],
    ),
    "rescaled": (
        lambda: sequential(L.Rescaling(1 / 3, 0.5, name="rescaled"), flip()),
        ["rescaled", "flip"],
        [],
    ),
    "normalized": (
        lambda: functional(
            L.Normalization(mean=0.3, variance=0.04, name="normal"),
            L.RandomContrast(0.5, value_range=(-2, 4), name="contrast"),
        ),
        ["normal", "contrast"],
        [],
    ),
    "inner sequential": (
        lambda: sequential(keras.Sequential([flip(), shift()])),
        ["flip", "shift"],
        [],
    ),
    "inner in functional": (lambda: functional(keras.Sequential([flip()])), ["flip"], []),
    "inner functional": (lambda: functional(inner_functional()), ["flip", "turn"], []),
    "reshaped": (
        lambda: keras.Sequential(
            [keras.Input((64,)), L.Reshape(SHAPE, name="reshaped"), flip(), *body()]
        ),
        ["reshaped", "flip"],
        [],
    ),
    "one's own": (lambda: sequential(Noisy(name="own")), ["own"], []),
    "pipeline": (lambda: functional(L.Pipeline([flip()], name="pipeline")), ["pipeline"], []),
    "rescaled, not augmented": (lambda: sequential(L.Rescaling(0.5)), [], []),
    "noise": (lambda: sequential(L.GaussianNoise(0.1), L.SpatialDropout2D(0.1)), [], []),
    "learned": (lambda: sequential(Learned()), [], []),
    "behind a resizing": (lambda: sequential(L.Resizing(6, 6), flip()), [], ["flip"]),
    "behind noise": (lambda: sequential(L.GaussianNoise(0.1), flip()), [], ["flip"]),
    "one ahead, one behind": (
        lambda: sequential(flip(), L.Conv2D(1, 3), shift()),
        ["flip"],
        ["shift"],
    ),
    "branched": (branched, [], ["one", "other"]),
    "subclassed": (own, [], ["flip"]),
}
if not keras.__version__.startswith("3.12."):  # Its RandAugment takes color images alone.
    rand_augment = functools.partial(L.RandAugment, value_range=(0, 1), name="rand")
    FOUND["RandAugment"] = (lambda: sequential(rand_augment()), ["rand"], [])


@pytest.mark.parametrize(("make", "layers", "left"), FOUND.values(), ids=FOUND)
def test_augmentation_at_the_head_is_found_and_left_out(make, layers, left):
    classifier = make()
    shape = (64,) if "reshaped" in layers else SHAPE
    x = np.random.default_rng(0).uniform(0.1, 0.9, (6, *shape))
    x = tf.constant(x, tf.float32)
    found = find_augmentation(classifier)
    assert [layer.name for layer in found.layers] == layers
    assert sorted(found.left) == sorted(left)
    np.testing.assert_allclose(
        found.trained(x, training=False), classifier(x, training=False), atol=1e-5
    )
    trained = [found.trained.trainable_variables, classifier.trainable_variables]
    assert [*map(id, trained[0])] == [*map(id, trained[1])]
    augmented = found(x)
    assert augmented.shape == x.shape
    if not layers:
        assert found.trained is classifier
        np.testing.assert_array_equal(augmented, x)
        return
    assert np.max(np.abs(augmented - x)) > 1e-3
    if set(layers) <= {"flip", "rescaled", "reshaped"}:  # The same numbers, somewhere else.
        np.testing.assert_allclose(np.sort(augmented, axis=None), np.sort(x, axis=None), atol=1e-6)


class Spy(L.Layer):
    """Keeps what it is given in eager training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.given = []

    def call(self, x, training=False):
        if training:
            self.given.append(x.numpy())
        return x


ATTACK = lr.attacks.PGD(norm="l2", steps=2, seed=0)
METHODS = {
    "OLSRC": lambda c, **options: lr.OLSRC(c, ATTACK, [0.5, 1.0], **options),
    "OLSRC, memory": lambda c, **options: lr.OLSRC(
        c, ATTACK, [0.5, 1.0], memory=lr.RunningMean(), **options
    ),
    "OLGRC": lambda c, **options: lr.OLGRC(c, ATTACK, [0.5, 1.0], **options),
    "adversarial training": lambda c, **options: lr.AdversarialTraining(c, ATTACK, 0.5, **options),
    "TRADES": lambda c, **options: lr.TRADES(c, ATTACK, 0.5, **options),
}


@pytest.mark.parametrize("way", ["layers", "argument"])
@pytest.mark.parametrize("method", METHODS)
def test_perturbations_fit_the_images_that_all_ranks_see(method, way, data):
    spy, augmentation = Spy(), [shift(), L.RandomBrightness(0.1, value_range=(0, 1))]
    head = augmentation if way == "layers" else []
    options = {} if way == "layers" else {"augmentation": keras.Sequential(augmentation)}
    model = METHODS[method](keras.Sequential([keras.Input(SHAPE), *head, spy, *body()]), **options)
    compiled(model, run_eagerly=True).fit(*data, batch_size=12, verbose=0)
    clean, *attacked = spy.given
    assert np.max(np.abs(clean - data[0])) > 0.1
    # Each pass sees the same images, or such as are exactly so far from them.
    norms = [np.linalg.norm((seen - clean).reshape(12, -1), axis=1) for seen in attacked]
    reached = {float(round(m, 3)) for rows in norms for m in np.round(rows, 3)}
    assert reached <= {0.0, 0.5, 1.0}
    assert 0.5 in reached


@pytest.mark.parametrize(
    "how",
    [{"run_eagerly": True}, pytest.param({"run_eagerly": False}, marks=pytest.mark.release)],
    ids=str,
)
def test_layers_and_argument_are_the_same(how, data):
    def model_of(way):
        keras.utils.set_random_seed(0)
        random = keras.Sequential([flip(seed=1), L.RandomTranslation(0.2, 0.2, seed=2)])
        head, options = ([random], {}) if way == "layers" else ([], {"augmentation": random})
        model = METHODS["OLSRC"](sequential(*head), **options)
        compiled(model, **how).fit(*data, batch_size=6, epochs=2, shuffle=False, verbose=0)
        return model

    layers, argument = model_of("layers"), model_of("argument")
    np.testing.assert_allclose(weights(layers), weights(argument), atol=1e-6)
    # In use neither is random.
    for model in (layers, argument):
        np.testing.assert_array_equal(
            model.predict(data[0], verbose=0), model.predict(data[0], verbose=0)
        )


def test_what_leaves_the_bounds_is_clipped(data):
    spy = Spy()
    classifier = keras.Sequential([keras.Input(SHAPE), spy, *body()])
    brighter = L.RandomBrightness((0.9, 0.9), value_range=(0, 255))
    model = METHODS["OLSRC"](classifier, augmentation=brighter)
    compiled(model, run_eagerly=True).fit(*data, batch_size=12, verbose=0)
    assert all(given.max() <= 1.0 for given in spy.given)
    assert spy.given[0].min() == 1.0


@pytest.mark.parametrize("name", ["behind a resizing", "branched", "subclassed"])
def test_what_cannot_be_left_out_is_named_before_the_first_step(name, data):
    make, _, left = FOUND[name]
    with pytest.warns(UserWarning, match="cannot be taken out of the classifier") as told:
        compiled(lr.AdversarialTraining(make(), ATTACK, 0.5)).fit(*data, epochs=0)
    (message,) = [str(each.message) for each in told if "taken out" in str(each.message)]
    assert all(repr(layer) in message for layer in left)
    # Where nothing is attacked, nothing is misfit.
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*cannot be taken out")
        compiled(lr.Standard(make())).fit(*data, epochs=0)


def test_a_model_that_is_built_by_its_first_batch_is_warned_of(data):
    classifier = keras.Sequential([L.Resizing(6, 6), flip(), *body()])
    model = compiled(lr.AdversarialTraining(classifier, ATTACK, 0.5))
    with pytest.warns(UserWarning, match="'flip' cannot be taken out"):
        model.fit(*data, verbose=0)


def test_the_exact_region_of_augmented_inputs_is_refused(data):
    with pytest.raises(
        ValueError, match=r"'discriminator' where inputs are augmented.*layers flip"
    ):
        compiled(lr.OLGRC(sequential(flip()), ATTACK, [0.5], explored="nearest"))


def test_the_discriminator_sees_what_was_augmented_once():
    model = lr.OLGRC(sequential(flip(), shift()), ATTACK, [0.5])
    names = [layer.name for layer in model.discriminator._flatten_layers()]
    assert "flip" not in names
    clone = keras.models.clone_model(model.discriminator)
    assert clone.output_shape == (None, 2)


@pytest.mark.parametrize(
    "method",
    [
        "OLSRC",
        "OLGRC",
        *(
            pytest.param(method, marks=pytest.mark.release)
            for method in METHODS
            if method not in ("OLSRC", "OLGRC")
        ),
    ],
)
def test_augmentation_comes_back_with_the_model(method, data, tmp_path):
    model = METHODS[method](sequential(flip()), augmentation=keras.Sequential([shift()]))
    compiled(model, run_eagerly=True).fit(*data, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.run_eagerly = True
        each.fit(*data, batch_size=6, shuffle=False, verbose=0)
    np.testing.assert_array_equal(weights(loaded), weights(model))


@pytest.mark.parametrize(
    ("augmentation", "error", "message"),
    [
        (lambda x: x, TypeError, "`augmentation` must be a Keras layer or None"),
        (L.CenterCrop(6, 6), ValueError, "`augmentation` must give inputs of the shape"),
    ],
)
def test_bad_augmentation_is_refused(augmentation, error, message):
    with pytest.raises(error, match=message):
        compiled(METHODS["OLSRC"](sequential(), augmentation=augmentation))


def warm(classifier, **options):
    start = lr.WarmStart(**options)
    return compiled(METHODS["OLSRC"](classifier, warm_start=start), rate=0.0, run_eagerly=True)


def test_starts_of_other_images_are_drawn_anew(data):
    x, y = data
    numbered = lr.datasets.with_index(tf.data.Dataset.from_tensor_slices((x, y))).batch(6)
    model = warm(sequential(), samples=12)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "In every epoch")
        logs = model.fit(numbered, epochs=3, verbose=0).history
    assert logs["random_starts"] == [1.0, 0.0, 0.0]

    def shifted(x, y):
        # Half of the images come back as others.
        keep = tf.reshape(tf.range(6) % 2 == 0, (6, 1, 1, 1))
        return {**x, "inputs": tf.where(keep, x["inputs"], tf.roll(x["inputs"], 1, axis=1))}, y

    logs = model.fit(numbered.map(shifted), verbose=0).history
    assert logs["random_starts"] == [0.5]


def test_a_warm_start_that_never_is_one_is_told_of(data):
    x, y = data
    numbered = lr.datasets.with_index(tf.data.Dataset.from_tensor_slices((x, y))).batch(6)

    source = tf.random.Generator.from_seed(0)  # Other numbers in every epoch.

    def noisy(x, y):
        return {**x, "inputs": x["inputs"] + source.uniform(tf.shape(x["inputs"]), 0.0, 0.1)}, y

    with pytest.warns(UserWarning, match="In every epoch attacks began at random for 100%"):
        warm(sequential(), samples=12).fit(numbered.map(noisy), epochs=2, verbose=0)


# Made in the test: layers that are made on import would draw from another seed in every run.
MOVED = {
    "flip": (lambda: [flip()], 1e-6),
    "rescaled flip": (lambda: [L.Rescaling(1 / 3, 0.5), flip()], 1e-5),
    "shift": (lambda: [L.RandomTranslation(0.1, 0.1, fill_mode="constant")], 0.5),
    "turn": (lambda: [L.RandomRotation(0.05)], 0.5),
    "own": (lambda: [Noisy()], 1e-6),
}


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize(("head", "apart"), MOVED.values(), ids=MOVED)
def test_perturbations_are_moved_along_and_back(head, apart, graph):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(0.2, 0.8, (6, *SHAPE)), tf.float32)
    coarse = rng.normal(size=(6, 2, 2, 1)) * np.eye(2)[None, :, :, None]
    perturbation = tf.constant(np.kron(coarse, np.ones((1, 4, 4, 1))), tf.float32)
    augmentation = find_augmentation(sequential(*head()))

    def moved(x, perturbation):
        augmented, (start, none), back = augmentation.along(x, [perturbation, 0.0 * x])
        return augmented, start, none, back(start)

    moved = tf.function(moved) if graph else moved
    augmented, start, none, returned = moved(x, perturbation)
    assert np.max(np.abs(augmented - x)) > 1e-3
    # What starts at random still does.
    np.testing.assert_allclose(none, 0.0, atol=1e-6)
    assert np.linalg.norm(start) == pytest.approx(
        np.linalg.norm(perturbation), rel=max(apart, 1e-4)
    )
    gap = np.linalg.norm(returned - perturbation) / np.linalg.norm(perturbation)
    assert gap <= apart


class NoDerivative(Noisy):
    def call(self, x, training=False):
        return (
            tf.raw_ops.AdjustHue(images=tf.repeat(x, 3, -1), delta=0.1)[..., :1] if training else x
        )


def test_where_there_is_no_way_back_starts_are_random(data):
    model = warm(sequential(NoDerivative()))
    logs = model.fit(*data, batch_size=12, epochs=2, verbose=0).history
    assert np.isfinite(logs["loss"]).all()
    assert not np.any(model._starts.variables[0])


@pytest.mark.parametrize("free", [False, True])
def test_warm_starts_go_on_through_augmentation(free, data):
    model = warm(sequential(flip(seed=1)), free=free)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "In every epoch")
        logs = model.fit(*data, batch_size=12, epochs=3, verbose=0).history
    assert logs["random_starts"] == [1.0, 0.0, 0.0]
    # Nothing is learned here: kept are ascents on images of whatever side, each seen from its own.
    losses = []
    for kept in (model._starts.variables[1], tf.reverse(model._starts.variables[1], [2])):
        logits = model.classifier(tf.constant(data[0]) + kept, training=False)
        losses.append(np.mean(keras.losses.sparse_categorical_crossentropy(data[1], logits, True)))
    assert losses[0] > losses[1]


class AlwaysFlipped(L.Layer):
    """Random in use, too."""

    def call(self, x):
        return tf.image.stateless_random_flip_left_right(x, self.draw())

    def draw(self):
        return tf.random.uniform([2], maxval=9999, dtype=tf.int32)


@pytest.mark.parametrize(
    "layers",
    [
        [L.RandomTranslation(0.05, 0.05)],
        [L.ZeroPadding2D(2), L.RandomCrop(8, 8)],  # It crops in training alone.
        [AlwaysFlipped()],
        [L.Lambda(lambda x: tf.image.random_brightness(x, 0.1))],
    ],
    ids=["shifts", "crops", "flips in use", "is brighter in use"],
)
def test_what_augments_is_accepted(layers, data):
    model = compiled(METHODS["OLSRC"](sequential(), augmentation=keras.Sequential(layers)))
    logs = model.fit(*data, batch_size=12, verbose=0).history
    assert np.isfinite(logs["loss@natural"]).all()


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), None])
def test_what_changes_inputs_in_use_is_no_augmentation(bounds):
    layers = [L.RandomTranslation(0.05, 0.05), L.Rescaling(1 / 255, name="small")]
    attack = lr.attacks.PGD("l2", steps=1, bounds=bounds)
    model = lr.OLSRC(sequential(), attack, [1.0], augmentation=keras.Sequential(layers))
    with pytest.raises(ValueError, match=r"`augmentation` must leave.*'small' \(Rescaling\)"):
        compiled(model)


def brighter(value_range):
    return L.RandomBrightness(0.2, value_range=value_range, name="bright", seed=1)


@pytest.mark.parametrize("how", ["layers", "argument"])
@pytest.mark.parametrize(("bounds", "value_range"), [((0, 1), (0, 255)), ((0, 255), (0, 1))])
def test_augmentation_of_inputs_of_another_range_is_warned_of(how, bounds, value_range):
    head, options = [brighter(value_range)], {}
    if how == "argument":
        head, options = [], {"augmentation": head[0]}
    attack = lr.attacks.PGD("l2", steps=1, bounds=bounds)
    with pytest.warns(UserWarning, match="to the ends of the attack's `bounds`.*'bright'"):
        compiled(lr.AdversarialTraining(sequential(*head), attack, bounds[1], **options))


def test_augmentation_of_inputs_of_their_range_is_not_warned_of(recwarn):
    layer = brighter((0, 1))
    (state,) = [generator.state for generator in layer._seed_generators]
    before = np.array(state)
    compiled(lr.AdversarialTraining(sequential(layer), ATTACK, 0.5))
    assert not [each for each in recwarn if "random batch" in str(each.message)]
    np.testing.assert_array_equal(state, before)  # Looking takes no draws.
