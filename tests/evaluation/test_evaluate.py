import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import FGSM, PGD
from lexirobust.evaluation import evaluate

MAGNITUDES = [0.0, 0.1, 0.3]
OUTCOMES = ("correct", "losses", "norms", "feasible", "valid")


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]
    )


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    return rng.uniform(size=(23, 6)).astype(np.float32), rng.integers(3, size=23)


def measure(classifier, x, y, attack=None, **options):
    attack = attack or PGD("linf", steps=2, seed=3)
    options = {"batch_size": 5, "checks": False, **options}
    return lr.evaluate_robustness(classifier, x, y, attack, MAGNITUDES, **options)


def assert_equal(one, other):
    for name in OUTCOMES:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("batched", [None, 4, 50])
def test_a_dataset_gives_what_its_arrays_give(classifier, samples, batched):
    dataset = tf.data.Dataset.from_tensor_slices(samples)
    dataset = dataset if batched is None else dataset.batch(batched)
    of_arrays, of_dataset = measure(classifier, *samples), measure(classifier, dataset, None)
    assert_equal(of_arrays, of_dataset)
    assert of_arrays.settings["data"] == of_dataset.settings["data"]


def test_a_dataset_of_unknown_length_is_measured_whole(classifier, samples):
    dataset = tf.data.Dataset.from_tensor_slices(samples).filter(lambda x, y: y > 0)
    keep = samples[1] > 0
    curve = measure(classifier, dataset, None)
    assert_equal(curve, measure(classifier, samples[0][keep], samples[1][keep]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: data.repeat(), "`x` must be finite"),
        (lambda data: data.map(lambda x, y: x), "`x` must be a dataset of"),
        (lambda data: data.take(0), "`x` must hold at least one sample"),
        (lambda data: data.map(lambda x, y: (x + 2.0, y)), "lie in"),
        (lambda data: data.map(lambda x, y: (x, y + 7)), "labels|classes"),
    ],
)
def test_bad_datasets_are_refused(classifier, samples, make, message):
    dataset = make(tf.data.Dataset.from_tensor_slices(samples))
    with pytest.raises(ValueError, match=message):
        measure(classifier, dataset, None)


def test_a_bad_label_is_found_before_anything_is_attacked(classifier, samples, monkeypatch):
    x, y = samples
    monkeypatch.setattr(evaluate, "_measure", lambda *_, **__: pytest.fail("attacked"))
    with pytest.raises(ValueError, match=r"`y` must hold .* Received: 0 to 3"):
        measure(classifier, x, np.append(y[:-1], 3))


def test_labels_beside_a_dataset_are_refused(classifier, samples):
    dataset = tf.data.Dataset.from_tensor_slices(samples)
    with pytest.raises(ValueError, match="`y` must be None"):
        measure(classifier, dataset, samples[1])


@pytest.mark.parametrize("attack", [[], ["pgd"], None])
def test_what_is_no_attack_is_refused(classifier, samples, attack):
    with pytest.raises(TypeError, match="`attack` must be an attack or several"):
        lr.evaluate_robustness(classifier, *samples, attack, MAGNITUDES)


def test_data_in_the_place_of_the_classifier_are_told_apart(classifier, samples):
    with pytest.raises(TypeError, match=r"`classifier` must be .* comes first, .* ndarray"):
        lr.evaluate_robustness(*samples, classifier, FGSM("linf"), MAGNITUDES)


def test_several_attacks_keep_the_worst_of_each_sample(classifier, samples):
    attacks = [PGD("linf", steps=2, seed=3), FGSM("linf")]
    both = measure(classifier, *samples, attacks)
    each = [measure(classifier, *samples, attack) for attack in attacks]
    np.testing.assert_array_equal(both.correct, each[0].correct & each[1].correct)
    assert_equal(both, each[0] + each[1])
    assert [attack["class_name"] for attack in both.settings["attacks"]] == ["PGD", "FGSM"]


def test_attacks_in_different_boxes_are_refused(classifier, samples):
    with pytest.raises(ValueError, match="same bounds"):
        measure(classifier, *samples, [FGSM("linf"), FGSM("linf", bounds=None)])


def test_a_batch_does_not_depend_on_those_before(classifier, samples):
    whole = measure(classifier, *samples)
    again = measure(classifier, *samples)
    assert_equal(whole, again)


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupt(monkeypatch):
    """Stops evaluations before their third batch, until it is undone."""
    calls = []
    kept = evaluate._measure

    def stop(*arguments, **options):
        if len(calls) == 2:
            raise Interrupted
        calls.append(None)
        return kept(*arguments, **options)

    monkeypatch.setattr(evaluate, "_measure", stop)
    yield monkeypatch
    assert len(calls) == 2


@pytest.mark.parametrize("seed", [3, None])
def test_an_interrupted_evaluation_gives_the_same_numbers(
    classifier, samples, tmp_path, interrupt, seed
):
    folder = tmp_path / "backup"
    attack = PGD("linf", steps=2, seed=seed)
    with pytest.raises(Interrupted):
        measure(classifier, *samples, attack, backup=folder)
    assert len(list(folder.glob("batch_*.npz"))) == 2
    seeds = json.loads((folder / "settings.json").read_text())["seeds"]
    interrupt.undo()
    (folder / "batch_000001.npz").write_bytes(b"half a file")
    measured = []
    kept = evaluate._measure
    interrupt.setattr(evaluate, "_measure", lambda *a, **o: measured.append(0) or kept(*a, **o))
    resumed = measure(classifier, *samples, attack, backup=folder)
    assert len(measured) == 4  # Of five batches, the first was whole.
    assert not folder.exists()
    assert resumed.settings["seeds"] == seeds
    assert_equal(resumed, measure(classifier, *samples, PGD("linf", steps=2, seed=seeds[0])))


@pytest.mark.parametrize(
    "changed", ["data", "labels", "steps", "batch_size", "weights", "magnitudes"]
)
def test_a_backup_of_another_evaluation_is_refused(
    classifier, samples, tmp_path, interrupt, changed
):
    folder = tmp_path / "backup"
    with pytest.raises(Interrupted):
        measure(classifier, *samples, backup=folder)
    interrupt.undo()
    x, y = samples
    attack, options, magnitudes = PGD("linf", steps=2, seed=3), {"batch_size": 5}, MAGNITUDES
    if changed == "data":
        x = x[::-1]
    elif changed == "labels":
        y = (y + 1) % (y.max() + 1)
    elif changed == "steps":
        attack = PGD("linf", steps=4, seed=3)
    elif changed == "batch_size":
        options["batch_size"] = 4
    elif changed == "magnitudes":
        magnitudes = [0.0, 0.1, 0.4]
    else:
        classifier = keras.models.clone_model(classifier)
    with pytest.raises(ValueError, match="`backup` must be of the same"):
        lr.evaluate_robustness(classifier, x, y, attack, magnitudes, backup=folder, **options)
    assert len(list(folder.glob("batch_*.npz"))) == 2  # Nothing is lost.


def test_inputs_of_half_precision_are_attacked_in_single(classifier, samples):
    x, y = samples
    half = x.astype(np.float16)
    assert_equal(measure(classifier, half, y), measure(classifier, half.astype(np.float32), y))


def test_a_backup_of_another_callable_is_refused(classifier, samples, tmp_path, interrupt):
    """Weights do not tell them apart: there are none, or the same under another last layer."""
    folder = tmp_path / "backup"
    with pytest.raises(Interrupted):
        measure(classifier, *samples, backup=folder)
    interrupt.undo()
    softmax = keras.Sequential([classifier, keras.layers.Softmax()])
    with pytest.raises(ValueError, match="gave other logits"):
        measure(softmax, *samples, backup=folder)
    resumed = measure(classifier, *samples, backup=folder)
    assert_equal(resumed, measure(classifier, *samples))


def test_curves_of_other_classifiers_do_not_add_up(classifier, samples):
    """Weights do not tell them apart; see above."""
    scaled = keras.Sequential([keras.layers.Rescaling(0.5), classifier])
    curves = [measure(each, *samples) for each in (classifier, scaled)]
    curves += [measure(lambda x, net=net: net(x), *samples) for net in (classifier, scaled)]
    assert np.shape(curves[0].settings["logits"]) == (5, 3)
    for one, other in ((0, 1), (2, 3), (0, 3)):
        with pytest.raises(ValueError, match="Received: other logits"):
            curves[one] + curves[other]
    assert_equal(curves[0] + curves[2], curves[0])
    assert lr.AccuracyCurve.from_json(curves[0].to_json()).settings == curves[0].settings


def test_nothing_is_said_of_the_logits_of_randomized_classifiers(classifier, samples):
    def noisy(x):
        return classifier(x) + tf.random.normal((1, 3))

    with pytest.warns(UserWarning, match="randomized"):
        curve = measure(noisy, *samples)
    assert curve.settings["logits"] is None
    curve + measure(classifier, *samples)


def test_a_folder_of_other_things_is_no_backup(classifier, samples, tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(ValueError, match="`backup` must be a new or empty folder"):
        measure(classifier, *samples, backup=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "dear"


class Numbered(FGSM):
    """An attack of somebody else's, whose settings are NumPy's."""

    def __init__(self, number=3, table=(1, 2), **settings):
        super().__init__(**settings)
        self.number, self.table = np.float64(number), np.asarray(table)

    def get_config(self):
        return {**super().get_config(), "number": self.number, "table": self.table}

    def structure(self):
        return type(self)


@pytest.mark.parametrize("make", [lambda: PGD("linf", 2, seed=np.int64(3)), Numbered])
def test_curve_of_an_attack_with_numbers_of_numpy_can_be_written(classifier, samples, make):
    curve = measure(classifier, *samples, make(), checks=np.bool_(False))
    assert lr.AccuracyCurve.from_json(curve.to_json()).settings == curve.settings


def test_setting_that_cannot_be_written_is_refused_before_anything_runs(samples):
    def classifier(x):
        raise AssertionError

    with pytest.raises(ValueError, match="`attack` must have finite settings"):
        measure(classifier, *samples, Numbered(number=float("nan")))


@dataclasses.dataclass
class Scaled:
    """A classifier without a hash, as dataclasses are."""

    scale: float

    def __call__(self, x):
        return self.scale * x[:, :3]


def test_dataclass_is_a_classifier(samples):
    one, other = (measure(Scaled(scale), *samples) for scale in (1.0, -1.0))
    assert_equal(one, measure(lambda x: x[:, :3], *samples))
    assert not np.array_equal(one.correct, other.correct)


@pytest.mark.release
def test_seed_of_keras_makes_an_evaluation_and_its_flags_repeat(samples):
    seen = []
    note = seen.append  # The list itself would be looked at for changes, and traced anew each time.

    def classifier(x):
        if tf.executing_eagerly():
            note(np.array(x))
        return x[:, :3] * x[:, 3:]

    attack = PGD("l2", steps=1, restarts=3, bounds=None)

    def measured(*seed):
        seen.clear()
        for one in seed:
            keras.utils.set_random_seed(one)
        curve = measure(classifier, *samples, attack, checks=True)
        return curve, np.concatenate([np.ravel(x) for x in seen])

    _, (one, saw), (again, saw_again), (other, _), (unset, _) = (
        measured(*seed)
        for seed in ([4], [5], [5], [6], [])  # At first sight more is asked.
    )
    assert_equal(one, again)
    assert one.flags == again.flags
    assert one.settings == again.settings
    np.testing.assert_array_equal(saw, saw_again)
    assert len({str(curve.settings["seeds"]) for curve in (one, other, unset)}) == 3
    # With a seed of its own nothing else is drawn from.
    attack = PGD("l2", steps=1, restarts=3, bounds=None, seed=3)
    (_, saw), (_, saw_again) = measured(5), measured(6)
    np.testing.assert_array_equal(saw, saw_again)


def test_magnitudes_are_measured_in_the_order_given(classifier, samples):
    attack = PGD("l2", steps=1, bounds=None, seed=3)
    magnitudes = [0.5, 0.0, 0.1]
    curve = lr.evaluate_robustness(classifier, *samples, attack, magnitudes, checks=False)
    order = np.argsort(curve.magnitudes)
    assert sorted(magnitudes) == curve.magnitudes[order].tolist()
    expected = np.broadcast_to(np.reshape(curve.magnitudes, (3, 1)), curve.norms.shape)
    np.testing.assert_allclose(curve.norms, expected, rtol=1e-5)
