"""An attack as a stage of a pipeline."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import lexirobust as lr
from tests.helpers import store_mnist

X = np.random.default_rng(0).uniform(size=(10, 4, 4, 1)).astype(np.float32)
Y = np.arange(10) % 3


def network():
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Flatten(),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )


def attack(**settings):
    return lr.attacks.PGD("l2", steps=5, restarts=2, **settings)


def batches(*more, size=4):
    return tf.data.Dataset.from_tensor_slices((X, Y, *more)).batch(size)


def parts(dataset):
    return [np.concatenate(part) for part in zip(*dataset.as_numpy_iterator(), strict=True)]


@pytest.mark.parametrize("label", [3, -1, 0.5, 2.9999])
def test_labels_that_name_no_class_are_refused(label):
    y = np.where(np.arange(10) == 5, label, Y)
    data = tf.data.Dataset.from_tensor_slices((X, y)).batch(4)
    perturbed = lr.datasets.perturb(data, network(), attack(), 0.5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`y` must hold labels from 0 to 2"):
        parts(perturbed)


def test_autograph_can_read_what_it_is_given(caplog):
    """Pipelines convert what they map; of what it cannot read, TensorFlow prints a warning."""
    parts(lr.datasets.perturb(batches(), network(), attack(), 0.5))
    assert [record.message for record in caplog.records if "AutoGraph" in record.message] == []


def norms(moved):
    return np.linalg.norm((moved - X).reshape(10, -1), axis=1)


def losses(classifier, x):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    return loss(Y, classifier(x)).numpy()


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (255 * X, r"`x` must lie inside .*`bounds` \(0.0, 1.0\)"),
        (X - 0.5, "`x` must lie inside"),
        (np.where(X > 0.99, np.nan, X), "`x` must be finite"),
    ],
)
def test_inputs_that_no_attack_may_have_are_not_perturbed(x, match):
    given = tf.data.Dataset.from_tensor_slices((x, Y)).batch(10)
    step = lr.attacks.PGD("l2", steps=1, seed=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match=match):
        parts(lr.datasets.perturb(given, network(), step, 0.5))


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (True, "uint8"),
        pytest.param(True, "int64", marks=pytest.mark.release),
        pytest.param(False, "uint16", marks=pytest.mark.release),
    ],
)
def test_labels_of_any_integer_type_flat_or_in_a_column_lead_to_the_same_inputs(column, dtype):
    expected, classifier = None, network()
    for y in (Y, (Y[:, None] if column else Y).astype(dtype)):
        given = tf.data.Dataset.from_tensor_slices((X, y)).batch(10)
        step = lr.attacks.PGD("l2", steps=1, seed=0)
        moved, labels = parts(lr.datasets.perturb(given, classifier, step, 0.5))
        assert labels.dtype == y.dtype
        assert labels.shape == y.shape
        expected = moved if expected is None else expected
        np.testing.assert_array_equal(moved, expected)


def test_inputs_move_by_the_magnitude_and_what_follows_is_handed_through():
    classifier, weight = network(), np.linspace(0, 1, 10)
    dataset = lr.datasets.perturb(batches(weight), classifier, attack(), 0.5)
    moved, y, given = parts(dataset.prefetch(1))
    np.testing.assert_allclose(norms(moved), 0.5, rtol=1e-5)
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert np.all(losses(classifier, moved) > losses(classifier, X))
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(given, weight)
    assert dataset.element_spec[0].shape.as_list() == [None, 4, 4, 1]
    assert lr.datasets.perturb(batches().repeat(), classifier, attack(), 0.5).cardinality() < 0


def test_pixels_as_they_are_stored_lead_to_the_same_inputs(capfd):
    pixels = np.arange(36, dtype=np.uint8).reshape(6, 6)
    stored = tf.data.Dataset.from_tensor_slices((pixels, np.arange(6) % 2)).batch(3)
    floats = stored.map(lambda x, y: (tf.cast(x, tf.float32), y))
    classifier = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    moved = [
        parts(lr.datasets.perturb(given, classifier, attack(bounds=(0.0, 255.0), seed=3), 8.0))
        for given in (stored, floats)
    ]
    np.testing.assert_array_equal(moved[0][0], moved[1][0])
    assert "AutoGraph" not in capfd.readouterr().err


def test_seed_of_keras_makes_what_is_drawn_repeat():
    classifier = network()

    def drawn(*seed):
        for one in seed:
            keras.utils.set_random_seed(one)
        attack = lr.attacks.PGD("l2", steps=1, step_size=0.01)
        return parts(lr.datasets.perturb(batches(), classifier, attack, 1.0))[0]

    one, more, again = drawn(5), drawn(), drawn(5)
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, more)


def test_every_pass_draws_the_same_and_seeds_differ():
    classifier = network()

    def drawn(seed):
        return lr.datasets.perturb(
            batches(), classifier, lr.attacks.PGD("l2", steps=1, seed=seed), 1
        )

    first, again, other, unseeded = drawn(1), drawn(1), drawn(2), drawn(None)
    np.testing.assert_array_equal(parts(first)[0], parts(first)[0])
    np.testing.assert_array_equal(parts(first)[0], parts(again)[0])
    np.testing.assert_array_equal(parts(unseeded)[0], parts(unseeded)[0])
    assert not np.allclose(parts(first)[0], parts(other)[0])
    # Two batches of one dataset do not draw the same either.
    moved = parts(first)[0] - X
    assert not np.allclose(moved[:4], moved[4:8])


def test_a_classifier_is_taken_as_it_is():
    classifier = network()
    dataset = lr.datasets.perturb(batches(), classifier, attack(seed=0), 0.5)
    before = parts(dataset)[0]
    classifier.set_weights([-weight for weight in classifier.get_weights()])
    np.testing.assert_array_equal(parts(dataset)[0], before)
    renewed = parts(lr.datasets.perturb(batches(), classifier, attack(seed=0), 0.5))[0]
    assert not np.allclose(renewed, before)


@pytest.mark.parametrize("wrap", [lr.Standard, lambda c: lambda x: c(x)])
def test_models_of_ours_and_any_callable(wrap):
    classifier = network()
    moved = [
        parts(lr.datasets.perturb(batches(), each, attack(seed=0), 0.5))[0]
        for each in (classifier, wrap(classifier))
    ]
    np.testing.assert_allclose(*moved, atol=1e-5)


def test_labels_may_be_probabilities_and_trained_on():
    classifier = network()
    classifier.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    odds = keras.utils.to_categorical(Y).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((X, odds)).batch(4)
    history = classifier.fit(
        lr.datasets.perturb(dataset, classifier, attack(), 0.5), epochs=3, verbose=0
    ).history["loss"]
    assert history[-1] < history[0]


def test_saved_as_a_snapshot_and_cached(tmp_path):
    dataset = lr.datasets.perturb(batches(), network(), attack(), 0.5)
    expected = parts(dataset)
    dataset.save(str(tmp_path / "saved"))
    snapshot = dataset.snapshot(str(tmp_path / "snapshot"))
    for other in (tf.data.Dataset.load(str(tmp_path / "saved")), snapshot, snapshot):
        for one, two in zip(parts(other), expected, strict=True):
            np.testing.assert_array_equal(one, two)


def test_from_tensorflow_datasets_and_back(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(6, 28, 28, 1)).astype(np.uint8)
    store_mnist(tmp_path / "clean", train={"image": images, "label": np.arange(6)})
    classifier = keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )

    def scaled(image, label):
        return tf.cast(image, tf.float32) / 255, label

    rows = tfds.load("mnist", split="train", data_dir=tmp_path / "clean", as_supervised=True)
    moved = lr.datasets.perturb(rows.map(scaled).batch(4), classifier, attack(), 2.0)
    tfds.dataset_builders.store_as_tfds_dataset(
        name="moved",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Tensor(shape=(28, 28, 1), dtype=np.float32),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        ),
        split_datasets={
            "train": moved.unbatch().map(lambda image, label: {"image": image, "label": label})
        },
        data_dir=tmp_path / "moved",
        disable_shuffling=True,
    )
    read = tfds.load("moved", split="train", data_dir=tmp_path / "moved", batch_size=-1)
    sizes = np.linalg.norm(
        (read["image"].numpy() - images / np.float32(255)).reshape(6, -1), axis=1
    )
    np.testing.assert_allclose(sizes, 2.0, rtol=1e-5)
    np.testing.assert_array_equal(read["label"], np.arange(6))


def test_bad_input_is_named_before_anything_runs():
    classifier = network()
    for given, error, message in [
        ((X, classifier, attack(), 1.0), TypeError, "`dataset` must be a tf.data.Dataset"),
        ((batches(), classifier, "pgd", 1.0), TypeError, "`attack` must be an attack"),
        ((batches(), classifier, attack(), -1.0), ValueError, "`magnitude`"),
        (
            (batches(), keras.Sequential([keras.layers.Dense(2)]), attack(), 1.0),
            ValueError,
            "built",
        ),
        ((batches().unbatch(), classifier, attack(), 1.0), ValueError, "call its `batch`"),
        ((batches().map(lambda x, y: x), classifier, attack(), 1.0), ValueError, "as_supervised"),
        (
            (batches().map(lambda x, y: {"image": x, "label": y}), classifier, attack(), 1.0),
            ValueError,
            "as_supervised",
        ),
        (
            (batches().map(lambda x, y: (tf.strings.as_string(x), y)), classifier, attack(), 1.0),
            TypeError,
            "real numbers",
        ),
    ]:
        with pytest.raises(error, match=message):
            lr.datasets.perturb(*given)


def test_every_batch_draws_anew():
    same = tf.data.Dataset.from_tensor_slices((X[[0] * 4], Y[[0] * 4])).batch(2)
    step = lr.attacks.PGD("l2", steps=1, step_size=1e-3, bounds=None, seed=3)
    x, _ = parts(lr.datasets.perturb(same, network(), step, 0.5))
    assert np.max(np.abs(x[:2] - x[2:])) > 0.01
