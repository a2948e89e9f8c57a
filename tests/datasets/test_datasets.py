import io
import itertools
import shutil
import urllib.error
from email.message import Message

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lexirobust import datasets
from tests.helpers import store_mnist

NAMES = ["f1", "f2", "f3", "f4"]
ALL_NAMES = [*NAMES, "supplement"]
BOUNDARIES = {
    "f1": [1.0],
    "f2": [-4.0, 0.0],
    "f3": [0.0],
    "f4": [0.0, 4.0],
    "supplement": [-4.0, -3.0, -1.0, 0.0, 1.0, 3.0],
}


def step(x):
    return np.where(x >= 0, 1, -1)


# The paper's formulas, in {-1, 1}.
FORMULAS = {
    "f1": lambda x: step(x - 1),
    "f2": lambda x: 1 - step(x + 4) + step(x),
    "f3": step,
    "f4": lambda x: -1 + step(x) - step(x - 4),
    "supplement": lambda x: np.where(
        ((x >= -4) & (x < -3)) | ((x >= -1) & (x < 0)) | ((x >= 1) & (x < 3)), 1, -1
    ),
}


def falling(d):
    """1 on [0, 1], 2 - d on [1, 2], 0 after."""
    return min(1.0, max(2 - d, 0.0))


# The accuracy functions as the paper states them, piece by piece.
EXACT = {
    "f1": lambda d: 1 - d / 2 if d <= 1 else max(0.0, min(0.5, (3 - d) / 2)),
    "f2": lambda d: falling(d) + min(0.5, max(0.0, (d - 5) / 2)),
    "f3": falling,
    "f4": lambda d: falling(d) + min(0.5, max(0.0, (d - 5) / 2)),
}
MAXIMUM = {"f1": EXACT["f1"], "f2": falling, "f3": falling, "f4": falling}
GENUINE = {
    "f1": lambda d: 0.75 if 0 < d <= 1 else 1.0,
    "f2": lambda d: 0.75 if d == 1 else (1.0 if d <= 2 else 0.5),
    "f3": lambda d: 0.75 if d == 1 else 1.0,
    "f4": lambda d: 0.75 if d == 1 else (1.0 if d < 2 else 0.5),
}
SPECIAL = [0, 0.1, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 5.5, 6, 7]
# Right beside the jumps, where rounding would show.
BESIDE = [np.nextafter(d, towards) for d in (1.0, 2.0) for towards in (0.0, 9.0)]


def score_and_gradient(classifier, x):
    inputs = tf.constant(np.reshape(x, (-1, 1)), dtype=tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        logits = classifier(inputs)
        score = logits[:, 1] - logits[:, 0]
    return score.numpy(), tape.gradient(score, inputs).numpy()[:, 0]


@given(n=st.integers(1, 200), seed=st.integers(0, 2**32))
def test_toy_is_balanced_and_lies_in_its_intervals(n, seed):
    x, y = datasets.toy(n, seed)
    assert x.shape == (n, 1)
    assert x.dtype == np.float32
    assert y.shape == (n,)
    assert y.dtype == np.int32
    assert np.sum(y == 0) == n // 2
    assert np.sum(y == 1) == n - n // 2
    low = np.where(y == 1, 1, -2)
    assert np.all((x[:, 0] >= low) & (x[:, 0] < low + 1))


def test_toy_is_uniform_and_shuffled():
    x, y = datasets.toy(20_000, seed=3)
    for label, low in ((0, -2), (1, 1)):
        offsets = np.sort(x[y == label, 0] - low)
        # Kolmogorov's distance for 10,000 uniform draws exceeds 0.02 with probability 7e-4.
        assert np.max(np.abs(offsets - np.linspace(0, 1, offsets.size))) < 0.02
    assert abs(np.mean(y[:10_000]) - 0.5) < 0.02


def test_toy_depends_on_the_seed_alone():
    first, again, other = datasets.toy(50, 1), datasets.toy(50, 1), datasets.toy(50, 2)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("n", [0, -3, 2.5, "7", None, True])
def test_toy_refuses_counts_that_are_none(n):
    with pytest.raises(ValueError, match="`n` must be an integer of at least 1"):
        datasets.toy(n, seed=0)


def test_circle_and_line_are_sampled_evenly():
    x, y = datasets.circle_and_line(4001, seed=0)
    assert (x.dtype, x.shape, y.dtype, int(y.sum())) == (np.float32, (4001, 2), np.int32, 2001)
    circle, line = x[y == 0] - [0.0, 1.0], x[y == 1]
    np.testing.assert_allclose(np.linalg.norm(circle, axis=1), 1.0, atol=1e-6)
    assert (line[:, 1] == 0).all()
    assert abs(line[:, 0]).max() <= 4
    angles = np.arctan2(circle[:, 1], circle[:, 0])
    assert stats.kstest(angles, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 0.01
    assert stats.kstest(line[:, 0], stats.uniform(-4, 8).cdf).pvalue > 0.01
    again = datasets.circle_and_line(4001, seed=0)
    np.testing.assert_array_equal(again[0], x)
    assert not np.array_equal(datasets.circle_and_line(4001, seed=1)[0], x)
    with pytest.raises(ValueError, match="`n`"):
        datasets.circle_and_line(0, seed=0)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_toy_classifier_decides_as_the_step_functions_do(name):
    boundaries = np.array(BOUNDARIES[name], dtype=np.float32)
    # Beside 0, TensorFlow flushes anything nearer than the smallest normal number to 0.
    below, above = (
        np.where(
            boundaries == 0,
            side * np.finfo(np.float32).tiny,
            np.nextafter(boundaries, side * np.float32(9)),
        )
        for side in (-1, 1)
    )
    x = np.concatenate(
        [
            np.linspace(-8, 8, 1001, dtype=np.float32),
            boundaries,
            below,
            above,
        ]
    )
    logits = datasets.toy_classifier(name)(x[:, None])
    expected = (FORMULAS[name](x) + 1) // 2
    assert np.array_equal(np.argmax(logits, axis=-1), expected)
    # Shorter distances than the tie break drown in a softmax, boundaries themselves must not.
    clear = np.min(np.abs(x[:, None] - boundaries), axis=1)
    apart = (clear == 0) | (clear > 1e-6)
    assert np.array_equal(np.argmax(tf.nn.softmax(logits), axis=-1)[apart], expected[apart])


@pytest.mark.parametrize("name", ALL_NAMES)
def test_toy_classifier_scores_are_signed_distances_with_gradients_to_the_boundary(name):
    x = np.linspace(-7.99, 7.99, 500)
    score, gradient = score_and_gradient(datasets.toy_classifier(name), x)
    boundaries = np.array(BOUNDARIES[name])
    distance = np.min(np.abs(x[:, None] - boundaries), axis=1)
    assert np.allclose(score, FORMULAS[name](x) * distance, atol=1e-5)
    assert np.array_equal(np.abs(gradient), np.ones_like(gradient))
    landed = x - score * gradient
    assert np.max(np.min(np.abs(landed[:, None] - boundaries), axis=1)) < 1e-5


@pytest.mark.parametrize("name", ALL_NAMES)
def test_toy_classifier_has_a_gradient_on_boundaries_and_midway_between_them(name):
    boundaries = BOUNDARIES[name]
    midways = [(low + high) / 2 for low, high in itertools.pairwise(boundaries)]
    _, gradient = score_and_gradient(datasets.toy_classifier(name), boundaries + midways)
    assert np.array_equal(np.abs(gradient), np.ones_like(gradient))


@pytest.mark.parametrize("name", ALL_NAMES)
def test_toy_classifier_survives_saving(name, tmp_path):
    classifier = datasets.toy_classifier(name)
    x = np.linspace(-8, 8, 33, dtype=np.float32)[:, None]
    classifier.save(tmp_path / "classifier.keras")
    loaded = keras.models.load_model(tmp_path / "classifier.keras")
    assert isinstance(loaded, datasets.ToyClassifier)
    assert loaded.rule == name
    assert np.array_equal(loaded.predict(x, verbose=0), classifier(x))
    assert np.array_equal(classifier(x, training=True), classifier(x, training=False))


def test_toy_classifier_names_what_it_knows():
    with pytest.raises(ValueError, match=r"`name` must be one of 'f1', 'f2'.*Received: 'f9'"):
        datasets.toy_classifier("f9")
    with pytest.raises(ValueError, match="`rule` must be one of"):
        datasets.ToyClassifier("f9")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("table", "options"),
    [
        (EXACT, {}),
        (MAXIMUM, {"constraint": "maximum"}),
        (GENUINE, {"genuine": True}),
    ],
    ids=["exact", "maximum", "genuine"],
)
def test_toy_accuracy_is_the_closed_form(name, table, options):
    norms = SPECIAL + BESIDE
    accuracy = datasets.toy_accuracy(name, norms, **options)
    assert accuracy.dtype == np.float64
    assert np.allclose(accuracy, [table[name](d) for d in norms], rtol=0, atol=1e-12)


@given(norm=st.floats(0, 9), name=st.sampled_from(NAMES))
def test_toy_accuracy_is_the_closed_form_anywhere(norm, name):
    assert datasets.toy_accuracy(name, [norm])[0] == pytest.approx(EXACT[name](norm), abs=1e-12)
    assert datasets.toy_accuracy(name, [norm], "maximum")[0] == pytest.approx(
        MAXIMUM[name](norm), abs=1e-12
    )
    assert datasets.toy_accuracy(name, [norm], genuine=True)[0] == GENUINE[name](norm)


def labeled_grid(name, cells):
    """Points between the ends of the data and their labels; then those of the closure."""
    intervals = [(-2, 0), (-1, 1), (0, 0), (1, 1)] if name == "supplement" else [(-2, 0), (1, 1)]
    inner = [(low + (k + 0.5) / cells, c) for low, c in intervals for k in range(cells)]
    closure = [(low + k / cells, c) for low, c in intervals for k in range(cells + 1)]
    return np.array(inner), np.array(closure)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_standard_accuracy_agrees_with_counting(name):
    cells = 64
    inner, _ = labeled_grid(name, cells)
    x, sign = inner[:, 0], 2 * inner[:, 1] - 1
    for norm in np.arange(0, 8, 0.125):
        # Whole cells stay right or do not, since norms and boundaries are multiples of a cell.
        exact = (FORMULAS[name](x - norm) == sign) & (FORMULAS[name](x + norm) == sign)
        within = x + np.arange(-norm, norm + 1 / cells, 1 / cells)[:, None]
        maximum = np.all(FORMULAS[name](within) == sign, axis=0)
        assert datasets.toy_accuracy(name, [norm])[0] == np.mean(exact)
        assert datasets.toy_accuracy(name, [norm], "maximum")[0] == np.mean(maximum)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_genuine_accuracy_agrees_with_the_nearest_neighbor_test(name):
    # Multiples of 1/64 are exact, so "no nearer than d" is meant to the last bit.
    _, closure = labeled_grid(name, 64)
    data, sign = closure[:, 0], 2 * closure[:, 1] - 1
    for norm in np.arange(1 / 64, 4, 1 / 64):
        perturbed = data[:, None] + [-norm, norm]
        nearest = np.min(np.abs(perturbed[..., None] - data), axis=-1)
        allowed = nearest >= norm
        right = np.all((FORMULAS[name](perturbed) == sign[:, None]) | ~allowed, axis=1)
        expected = np.mean(right[np.any(allowed, axis=1)])
        assert datasets.toy_accuracy(name, [norm], genuine=True)[0] == expected


def order(first, second):
    """-1, 0 or 1: the sign of the first difference."""
    differences = np.flatnonzero(first != second)
    return 0 if differences.size == 0 else int(np.sign(first - second)[differences[0]])


def test_toy_classifiers_rank_as_the_paper_says():
    norms = np.arange(0, 8, 0.125)
    standard = {name: datasets.toy_accuracy(name, norms) for name in NAMES}
    genuine = {name: datasets.toy_accuracy(name, norms, genuine=True) for name in NAMES}
    assert order(standard["f1"], standard["f3"]) == -1
    assert order(standard["f3"], standard["f2"]) == -1
    assert order(standard["f2"], standard["f4"]) == 0
    assert order(genuine["f1"], genuine["f2"]) == -1
    assert order(genuine["f2"], genuine["f3"]) == -1
    assert order(genuine["f4"], genuine["f2"]) == -1


def test_accuracy_of_the_supplement_rises_again():
    accuracy = datasets.toy_accuracy("supplement", [0, 1, 1.25, 1.5, 1.75, 2, 3])
    assert accuracy[0] == 1.0
    assert np.all(accuracy[[1, 5]] == 0.0)
    assert accuracy[-1] == 0.5


def test_toy_accuracy_refuses_what_is_not_defined():
    with pytest.raises(ValueError, match='`genuine=True` needs `constraint="exact"`'):
        datasets.toy_accuracy("f1", [1.0], constraint="maximum", genuine=True)
    with pytest.raises(ValueError, match="`constraint` must be"):
        datasets.toy_accuracy("f1", [1.0], constraint="l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`name` must be one of"):
        datasets.toy_accuracy("f9", [1.0])
    for magnitudes in ([-1.0], [np.nan], [np.inf], 1.0, [[1.0]]):
        with pytest.raises(ValueError, match="`magnitudes` must be"):
            datasets.toy_accuracy("f1", magnitudes)


@given(boundary=st.floats(-7.9, 7.9), slope=st.floats(0.1, 10) | st.floats(-10, -0.1))
def test_decision_boundary_of_a_linear_classifier(boundary, slope):
    def classifier(x):
        return tf.concat([tf.zeros_like(x), slope * (x - boundary)], axis=-1)

    assert datasets.decision_boundaries(classifier) == [pytest.approx(boundary, abs=2e-6)]


@pytest.mark.parametrize("name", ALL_NAMES)
def test_decision_boundaries_of_the_toy_classifiers(name):
    found = datasets.decision_boundaries(datasets.toy_classifier(name))
    assert found == pytest.approx(BOUNDARIES[name], abs=2e-6)


def test_decision_boundaries_of_more_classes_and_of_none():
    def three(x):
        return tf.concat([-x - 2, tf.zeros_like(x), 2 * x - 3], axis=-1)

    assert datasets.decision_boundaries(three) == pytest.approx([-2.0, 1.5], abs=2e-6)
    assert datasets.decision_boundaries(three, low=-1, high=1) == []
    assert datasets.decision_boundaries(three, points=2, low=0, high=4) == [
        pytest.approx(1.5, abs=2e-6)
    ]


def test_decision_boundaries_refuse_an_empty_range():
    classifier = datasets.toy_classifier("f1")
    with pytest.raises(ValueError, match="`low` must be less than `high`"):
        datasets.decision_boundaries(classifier, low=1, high=1)
    with pytest.raises(ValueError, match="`points` must be an integer of at least 2"):
        datasets.decision_boundaries(classifier, points=1)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Random images, prepared on disk under MNIST's name: the folder, images and labels."""
    folder = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(7, 28, 28, 1)).astype(np.uint8)
    images[0] = 255
    labels = rng.permutation(10)[:7]
    store_mnist(
        folder,
        train={"image": images, "label": labels},
        test={"image": images[:2], "label": labels[:2]},
    )
    return folder, images, labels


def refuse(error):
    def urlopen(*_, **__):
        raise error

    return urlopen


def test_mnist_reads_prepared_files_without_a_network(digits, monkeypatch):
    folder, images, labels = digits
    monkeypatch.setattr("urllib.request.urlopen", refuse(AssertionError("asked the network")))
    x, y = datasets.mnist(data_dir=folder)
    assert x.shape == (7, 28, 28, 1)
    assert x.dtype == np.float32
    assert x.max() == 1.0
    assert np.allclose(x, images / 255, rtol=0, atol=1e-7)
    assert y.dtype == np.int32
    assert np.array_equal(y, labels)
    x, y = datasets.mnist("test", data_dir=str(folder))
    assert np.array_equal(y, labels[:2])
    x, y = datasets.mnist("train[2:5]", data_dir=folder)
    assert np.array_equal(y, labels[2:5])
    with pytest.raises(ValueError, match="validation"):
        datasets.mnist("validation", data_dir=folder)


def assert_one_line_about_data_dir(caught, folder):
    message = str(caught.value)
    assert "\n" not in message
    assert "`data_dir`" in message
    assert str(folder) in message


def test_fashion_mnist_is_read_alike(digits, tmp_path, monkeypatch):
    _, images, labels = digits
    monkeypatch.setattr("urllib.request.urlopen", refuse(OSError("offline")))
    with pytest.raises(
        FileNotFoundError, match=r"Fashion-MNIST is not in .*'fashion_mnist/3\.0\.1'"
    ):
        datasets.fashion_mnist(data_dir=tmp_path)
    store_mnist(tmp_path, "fashion_mnist", test={"image": images, "label": labels})
    x, y = datasets.fashion_mnist("test[:3]", data_dir=tmp_path)
    np.testing.assert_array_equal(x, images[:3] / np.float32(255))
    assert y.tolist() == labels[:3].tolist()


def test_mnist_without_network_says_what_to_do_and_starts_no_download(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", refuse(urllib.error.URLError("no\nroute")))

    def download(*_, **__):
        raise AssertionError("started a download")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    with pytest.raises(FileNotFoundError, match=r"URLError.*no route") as caught:
        datasets.mnist(data_dir=tmp_path)
    assert_one_line_about_data_dir(caught, tmp_path)


@pytest.mark.parametrize("error", [tfds.download.DownloadError("HTTP 500"), OSError("disk full")])
def test_mnist_reports_a_download_that_fails(error, tmp_path, monkeypatch):
    forbidden = urllib.error.HTTPError(
        "https://example.org", 403, "Forbidden", Message(), io.BytesIO()
    )
    monkeypatch.setattr("urllib.request.urlopen", refuse(forbidden))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse(error))
    with pytest.raises(FileNotFoundError, match=str(error)) as caught:
        datasets.mnist(data_dir=tmp_path)
    assert_one_line_about_data_dir(caught, tmp_path)
    assert caught.value.__cause__ is error


def test_mnist_downloads_what_is_not_there(digits, tmp_path, monkeypatch):
    folder, _, labels = digits
    asked = []

    def urlopen(request, timeout):
        asked.append(request.get_method())
        return io.BytesIO()

    def download(builder):
        shutil.copytree(folder / "mnist", tmp_path / "mnist")
        builder.info.read_from_directory(builder.data_path)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", download)
    for _ in range(2):
        x, y = datasets.mnist(data_dir=tmp_path)
        assert x.shape == (7, 28, 28, 1)
        assert np.array_equal(y, labels)
    # The second time, the files are there.
    assert asked == ["HEAD"]


@given(n=st.integers(1, 40), data=st.data())
def test_subset_draws_pairs_without_replacement(n, data):
    count = data.draw(st.integers(1, n))
    x = np.arange(n, dtype=np.float32)[:, None] * [1, 10]
    y = np.arange(n, dtype=np.int8)
    inputs, labels = datasets.subset(x, y, count, seed=data.draw(st.integers(0, 99)))
    assert inputs.shape == (count, 2)
    assert inputs.dtype == x.dtype
    assert labels.dtype == y.dtype
    assert np.array_equal(inputs, x[labels])
    assert np.unique(labels).size == count


def test_subset_depends_on_the_seed_alone():
    x = np.arange(1000)
    first = datasets.subset(x, x, 100, seed=1)[0]
    assert np.array_equal(first, datasets.subset(x, x, 100, seed=1)[0])
    assert not np.array_equal(first, datasets.subset(x, x, 100, seed=2)[0])
    assert not np.array_equal(first, np.sort(first))


@pytest.mark.parametrize("count", [0, -1, 4, 1.0, True])
def test_subset_refuses_counts_that_are_none(count):
    with pytest.raises(ValueError, match="`count` must be an integer from 1 to 3"):
        datasets.subset(np.zeros(3), np.zeros(3), count, seed=0)


def test_subset_refuses_unequal_lengths():
    with pytest.raises(ValueError, match=r"`x` and `y` .* \(3, 2\) and \(2,\)"):
        datasets.subset(np.zeros((3, 2)), np.zeros(2), 1, seed=0)
    with pytest.raises(ValueError, match="equal length"):
        datasets.subset(np.zeros(()), np.zeros(()), 1, seed=0)


def test_boundaries_are_where_logits_are_no_longer_numbers_too():
    def classifier(x):
        return tf.concat([1.0 - x, 0.0 * tf.sqrt(4.0 - x)], axis=1)

    np.testing.assert_allclose(datasets.decision_boundaries(classifier), [1.0, 4.0], atol=1e-5)
