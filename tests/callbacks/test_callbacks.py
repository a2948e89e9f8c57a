"""What watches `fit`."""

import csv
import itertools
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lexirobust as lr
from lexirobust import plotting
from lexirobust.callbacks import (
    AttackCheck,
    Backup,
    ConflictMonitor,
    FigureCallback,
    LexicographicCheckpoint,
    RobustnessCurve,
)
from tests.training.by_hand import (
    ATTACK,
    ROOT,
    adversarial,
    compiled,
    cosine,
    gradient,
    loss_at,
    network,
    right_network,
)

X, Y = lr.datasets.toy(20, seed=0)


def trained(model, *callbacks, epochs=4, **options):
    """The history of a full-batch training."""
    options = {"batch_size": 20, "shuffle": False, "verbose": 0, **options}
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **options)


def events(folder):
    """What was written for TensorBoard."""
    read = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    read.Reload()
    return {tag: read.Tensors(tag) for tag in read.Tags()["tensors"]}


def test_a_curve_is_what_an_evaluation_says(tmp_path):
    watch = RobustnessCurve(X, Y, ATTACK, [0, 0.5, 4], every=2, log_dir=tmp_path)
    model = compiled(lr.OLSRC(right_network(), ATTACK, [1.0]))
    history = trained(model, watch).history
    assert watch.names == ["val_accuracy@natural", "val_accuracy@l2=0_5", "val_accuracy@l2=4"]
    curve = lr.evaluate_robustness(model.classifier, X, Y, ATTACK, [0, 0.5, 4], checks=False)
    np.testing.assert_array_equal(watch.curves[3].correct, curve.correct)
    assert sorted(watch.curves) == [0, 1, 3]
    for name, accuracy in zip(watch.names, curve.accuracy, strict=True):
        assert len(history[name]) == len(history["loss"]) == 4
        assert history[name][2] == history[name][1]  # Not measured: what is known.
        assert history[name][-1] == accuracy
    written = events(tmp_path)
    assert {"val_accuracy/curve", "val_losses/l2=4", "val_losses/natural"} <= set(written)
    for name in watch.names:
        told = written[name.replace("@", "/")]
        assert [event.step for event in told] == [0, 1, 3]
        seen = [tf.make_ndarray(event.tensor_proto) for event in told]
        np.testing.assert_allclose(seen, [history[name][epoch] for epoch in (0, 1, 3)], atol=1e-6)
    *_, picture = written["val_accuracy/curve"]
    width, height, png = tf.make_ndarray(picture.tensor_proto)
    assert tf.io.decode_png(png).shape == (int(height), int(width), 4)


@pytest.mark.parametrize(
    "every", [2, 9, *(pytest.param(every, marks=pytest.mark.release) for every in (1, 3))]
)
def test_what_is_logged_is_a_table(every, tmp_path):
    model = compiled(lr.OLSRC(right_network(), ATTACK, [1.0]))
    watches = [RobustnessCurve(X, Y, ATTACK, [0, 0.5], every=every), AttackCheck(X, Y, every=every)]
    names = [*watches[0].names, "fresh_accuracy@l2=1"]
    table = tmp_path / "log.csv"
    stop = keras.callbacks.EarlyStopping(names[1], mode="max", patience=9)
    history = trained(model, *watches, keras.callbacks.CSVLogger(table), stop).history
    assert {len(values) for values in history.values()} == {4}
    with table.open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    for name in names:
        np.testing.assert_allclose([float(row[name]) for row in rows], history[name], rtol=1e-6)


WRONG = {
    "one-hot": (X, np.eye(2)[Y], r"`y` must be \[N\] labels.*np.argmax"),
    "no such class": (X, Y + 1, "`y` must hold labels from 0 to 1"),
    "wider": (np.repeat(X, 3, axis=1), Y, "shape"),
    "fewer labels": (X, Y[:-1], "one label a sample"),
}


@pytest.mark.parametrize(("x", "y", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_measured_is_refused_before_the_first_epoch(x, y, message):
    model = compiled(lr.OLSRC(right_network(), ATTACK, [1.0]))
    before = [np.array(w) for w in model.weights]

    def train():
        trained(model, RobustnessCurve(x, y, ATTACK, [0, 0.5], every=2))

    with pytest.raises((ValueError, TypeError), match=message):
        train()
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_magnitude_that_no_input_of_a_dataset_can_move_by_is_refused():
    model = compiled(lr.OLSRC(right_network(), ATTACK, [1.0]))
    data = tf.data.Dataset.from_tensor_slices((X / 9, Y)).batch(20)
    attack = lr.attacks.AutoAttack("linf", bounds=(-1.0, 1.0))
    with pytest.raises(ValueError, match=r"at most 2.*Received: 8"):
        trained(model, RobustnessCurve(data, None, attack, [0.0, 8.0]))


def test_held_out_data_may_be_a_dataset():
    logs = []
    for given in ((X, 1 - Y), (tf.data.Dataset.from_tensor_slices((X, 1 - Y)).batch(20), None)):
        model = lr.OLSRC(right_network(), ATTACK, [1.0], targets=[lr.Target(accuracy=0.5)])
        watch = lr.callbacks.HeldOutTargets(*given)
        logs.append(trained(compiled(model), watch, epochs=1).history["held_out@natural"])
    assert logs == [[0.0], [0.0]]  # The network is right of all labels, which these are not.


@pytest.mark.release
def test_watching_changes_nothing():
    random = lr.attacks.PGD(norm="l2", steps=1, step_size=0.01, bounds=None)
    runs = []
    for callbacks in ([], [RobustnessCurve(X, Y, random, [0.5])]):
        keras.utils.set_random_seed(1)
        model = compiled(lr.OLSRC(network(keras.layers.Dropout(0.5)), random, [1.0]))
        trained(model, *callbacks, shuffle=True, batch_size=5)
        runs.append(model.get_weights())
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_plain_keras_model_is_watched_and_stopped_by_what_is_seen():
    classifier = right_network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.SGD(0.0), loss)
    watch = RobustnessCurve(X, Y, ATTACK, [0.5])
    stop = keras.callbacks.EarlyStopping("val_accuracy@l2=0_5", patience=2, mode="max")
    assert len(trained(classifier, watch, stop, epochs=9).epoch) == 3


def test_callbacks_of_one_fit_know_nothing_of_another_one():
    watch = RobustnessCurve(X, Y, ATTACK, [1.0])
    monitor = ConflictMonitor()
    model = compiled(lr.OLSRC(right_network(), ATTACK, [1.0], detailed_logs=True))
    trained(model, watch, monitor, epochs=3)
    first = dict(watch.curves)
    last = trained(model, watch, monitor, epochs=4, initial_epoch=2).history
    assert [*watch.curves] == [0, 1, 2, 3]  # Training went on.
    assert [watch.curves[epoch] is first[epoch] for epoch in (0, 1, 2)] == [True, True, False]
    assert monitor.history["min_cosine"][2:] == last["min_cosine"]
    assert len(monitor.history["min_cosine"]) == 4
    last = trained(model, watch, monitor, epochs=2).history
    assert [*watch.curves] == [0, 1]
    assert monitor.history["min_cosine"] == last["min_cosine"]


def test_a_monitor_forgets_by_the_epoch_of_each_value():
    monitor = ConflictMonitor()
    monitor.on_epoch(0, {"min_cosine": 1.0})
    monitor.on_epoch(1, {"min_cosine": 2.0, "cosine@natural,l2=1": 3.0})
    monitor.forget_from(1)
    assert monitor.history == {"min_cosine": [1.0]}
    monitor.on_epoch(1, {"cosine@natural,l2=1": 4.0})
    assert monitor.history == {"min_cosine": [1.0], "cosine@natural,l2=1": [4.0]}


def test_curves_are_measured_from_the_smallest_magnitude_up():
    watch = RobustnessCurve(X, Y, ATTACK, [4, 0, 0.5, 4])
    assert watch.names == ["val_accuracy@natural", "val_accuracy@l2=0_5", "val_accuracy@l2=4"]


def test_a_search_for_the_least_norm_is_watched():
    attack = lr.attacks.WithinMagnitude(lr.attacks.DeepFool("l2", bounds=None))
    watch = RobustnessCurve(X, Y, attack, [0.0, 0.5])
    trained(compiled(lr.Standard(right_network())), watch, epochs=1)
    assert attack.seed is None
    assert watch.curves[0].accuracy[0] >= watch.curves[0].accuracy[1]


def test_a_curve_does_not_hide_what_validation_data_say():
    model = compiled(lr.OLSRC(right_network(), ATTACK, [1.0]))
    with pytest.raises(ValueError, match="`validation_data` must be left out"):
        trained(model, RobustnessCurve(X, Y, ATTACK, [1.0]), validation_data=(X, Y))


def test_conflicts_are_kept_and_written(tmp_path):
    monitor = ConflictMonitor(tmp_path)
    model = compiled(lr.OLSRC(right_network(), ATTACK, [2.5, 4.0], detailed_logs=True))
    history = trained(model, monitor).history
    ranks = ["natural", "l2=2_5", "l2=4"]
    for higher, lower in itertools.combinations(ranks, 2):
        for what in ("cosine", "multiplier", "active"):
            assert len(monitor.history[f"{what}@{higher},{lower}"]) == 4
    assert monitor.history == {name: history[name] for name in monitor.history}
    assert "loss" not in monitor.history
    assert min(history["cosine@natural,l2=4"]) < 0
    written = events(tmp_path)
    pictures = {f"conflict/{name}" for name in ("cosines", "multipliers")}
    assert pictures | {"cosine/natural,l2=4", "conflict/min_cosine"} <= set(written)
    assert all(len(written[name]) == 4 for name in pictures)


@pytest.mark.release
def test_conflict_on_batches_is_told_from_conflict_on_the_data_set():
    model = lr.OLSRC(
        right_network(), ATTACK, [4.0], detailed_logs=True, memory=lr.RunningMean(steps=100)
    )
    monitor = ConflictMonitor(x=X, y=Y, batch_size=7)
    trained(compiled(model, rate=0.0), monitor, batch_size=10)
    moved = adversarial(model.classifier, X, Y, 4.0)
    one, other = (
        gradient(model.classifier, loss_at(model.classifier, seen, Y))[0] for seen in (X, moved)
    )
    np.testing.assert_allclose(
        monitor.history["data_cosine@natural,l2=4"], cosine(one, other), rtol=1e-5
    )
    # Where weights stay, the mean over whole epochs is the gradient on all data.
    np.testing.assert_allclose(monitor.history["data_memory_cosine@natural"], 1.0, rtol=1e-5)
    assert len(monitor.history["batch_cosine@natural,l2=4"]) == 4
    # Another metric, the same sign: the means conflict as the data do.
    assert min(monitor.history["cosine@natural,l2=4"]) < 0


def test_a_data_set_needs_labels():
    with pytest.raises(ValueError, match="`x` and `y` must be given both"):
        ConflictMonitor(x=X)


def test_a_data_set_is_held_in_memory():
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    with pytest.raises(TypeError, match="`x` must be an array"):
        ConflictMonitor(x=batches, y=Y)


def test_conflicts_must_be_reported():
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0]))
    with pytest.raises(ValueError, match="detailed_logs=True"):
        trained(model, ConflictMonitor())


def test_pictures_are_drawn(tmp_path):
    def draw(classifier):
        return plotting.classifiers_and_curves({"f": (classifier, {"x": watch.curves[0]})})

    watch = RobustnessCurve(X, Y, ATTACK, [0, 1])
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0]))
    picture = FigureCallback(draw, tmp_path / "pictures", tmp_path / "log", every=2)
    trained(model, watch, picture)
    drawn = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in drawn] == ["epoch-0002.png", "epoch-0004.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    assert len(events(tmp_path / "log")["classifier"]) == 2


def told(ranks, *values, **settings):
    """Which of these epochs are better than the best before."""
    keeper = LexicographicCheckpoint("best.keras", ranks, **settings)
    return [keeper.improves(dict(zip(ranks, row, strict=True))) for row in values]


def test_epochs_that_were_not_measured_do_not_count_for_patience(tmp_path):
    model = compiled(lr.OLSRC(right_network(), ATTACK, [1.0]), rate=0.0)
    watch = RobustnessCurve(X, Y, ATTACK, [0, 0.5], every=3)
    keeper = LexicographicCheckpoint(tmp_path / "best.keras", watch.names, patience=2)
    history = trained(model, watch, keeper, epochs=12).history
    # Measured in epochs 0, 2, 5: nothing is learned, so that none is better than the first.
    assert (keeper.best_epoch, len(history["loss"])) == (0, 6)
    assert len(history[watch.names[0]]) == 6


def test_ties_by_the_first_rank_go_to_the_second():
    rows = [(0.9, 0.1), (0.9, 0.2), (0.8, 0.9), (0.95, 0.0), (0.95, 0.0)]
    better = [True, True, False, True, False]
    assert told(["a", "b"], *rows) == better
    losses = [tuple(-value for value in row) for row in rows]
    assert told(["a", "b"], *losses, mode="min") == better


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_a_number_is_better_than_none(mode, sign):
    none = np.nan
    rows = [(none, 1.0, 1.0), (0.9, none, 1.0), (0.9, none, 0.9), (0.9, 0.1, none)]
    rows += [(0.8, 0.9, 0.9), (0.9, none, 0.9), (0.9, 0.1, 0.1), (0.95, none, none)]
    better = [False, True, False, True, False, False, True, True]
    rows = [tuple(sign * value for value in row) for row in rows]
    assert told(["a", "b", "c"], *rows, mode=mode) == better


def test_the_best_is_kept_where_no_sample_counts_for_a_rank(tmp_path, recwarn):
    class Uncounted(Told):
        values = ((0.5, np.nan), (0.9, np.nan), (0.8, 0.1))

    path = tmp_path / "best.weights.h5"
    model, epochs = compiled(lr.OLSRC(network(), ATTACK, [1.0])), Uncounted()
    trained(model, epochs, LexicographicCheckpoint(path, ["a", "b"]), epochs=2)
    keeper = LexicographicCheckpoint(path, ["a", "b"], targets=[None, 0.1])
    with pytest.warns(UserWarning, match="'b' is nan, asked 0.1"):
        trained(model, epochs, keeper, epochs=3, initial_epoch=2)
    assert keeper.best_epoch == 1
    model.load_weights(path)
    np.testing.assert_array_equal(model.classifier.get_weights()[0], epochs.seen[1])
    assert not [w for w in recwarn if "nothing was written" in str(w.message)]


def test_what_the_first_rank_loses_to_the_tolerance_does_not_add_up():
    rows = [(0.90 - 0.004 * step, 0.1 * step) for step in range(6)]
    better = told(["a", "b"], *rows, tolerance=0.01)
    assert better == [True, True, True, False, False, False]
    # Once the first rank has risen beyond it, the second begins anew.
    assert told(["a", "b"], (0.90, 0.9), (0.92, 0.1), (0.92, 0.2), tolerance=0.01) == [True] * 3


def test_no_chosen_epoch_is_beaten_lexicographically():
    values = np.random.default_rng(0).integers(0, 3, size=(200, 3)).astype(float)
    keeper = LexicographicCheckpoint("best.keras", list("abc"))
    for row in values:
        keeper.improves(dict(zip("abc", row, strict=True)))
    assert tuple(keeper.best) == max(map(tuple, values))


class Told(keras.callbacks.Callback):
    """Has these logs for each epoch, and keeps its weights."""

    values = ((0.5, 0.5), (0.9, 0.1), (0.9, 0.05), (0.8, 0.9), (1.0, 1.0))

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        logs["a"], logs["b"] = self.values[epoch]
        self.seen.append(self.model.classifier.get_weights()[0])


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_of_the_epochs_that_meet_their_targets_the_best_by_other_ranks_is_kept(mode, sign):
    keeper = LexicographicCheckpoint("best.keras", ["a", "b"], mode=mode, targets=[sign * 0.9])
    epochs = [(0.80, 0.9), (0.95, 0.2), (0.91, 0.5), (0.99, 0.4), (0.89, 0.9), (0.90, 0.6)]
    logs = [{"a": sign * first, "b": sign * second} for first, second in epochs]
    assert [keeper.improves(each) for each in logs] == [True, True, True, False, False, True]
    np.testing.assert_allclose(keeper.best, [sign * 0.90, sign * 0.6])


@pytest.mark.parametrize("targets", [[0.1, 0.2, 0.3], [np.inf]])
def test_targets_that_are_no_numbers_are_refused(targets):
    with pytest.raises(ValueError, match="`targets` must be finite numbers or None"):
        LexicographicCheckpoint("best.keras", ["a", "b"], targets=targets)


def test_the_best_model_is_saved_and_training_stops(tmp_path):
    for name in ("best.keras", "best.weights.h5"):
        epochs = Told()
        keeper = LexicographicCheckpoint(tmp_path / name, ["a", "b"], patience=2)
        model = compiled(lr.OLSRC(network(), ATTACK, [1.0]))
        history = trained(model, epochs, keeper, epochs=5)
        assert (keeper.best_epoch, len(history.epoch)) == (1, 4)
        if name.endswith(".keras"):
            best = keras.models.load_model(tmp_path / name)
        else:
            model.load_weights(tmp_path / name)
            best = model
        np.testing.assert_array_equal(best.classifier.get_weights()[0], epochs.seen[1])
    models = ["best.keras", "best.weights.h5"]
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == sorted([*models, *(f"{name}.json" for name in models)])


def test_the_best_model_outlives_a_stop(tmp_path):
    path = tmp_path / "best.weights.h5"

    def keeper(**settings):
        return LexicographicCheckpoint(path, ["a", "b"], **settings)

    model, before = compiled(lr.OLSRC(network(), ATTACK, [1.0])), Told()
    trained(model, before, keeper(), epochs=3)
    # Goes on, from epoch 2 or 1: what is made again is not judged again.
    for start in (2, 1):
        resumed = keeper(patience=2)
        history = trained(model, Told(), resumed, epochs=5, initial_epoch=start)
        assert history.epoch == [*range(start, 4)]
        assert resumed.best_epoch == 1
        assert resumed.best.tolist() == [0.9, 0.1]
    model.load_weights(path)
    np.testing.assert_array_equal(model.classifier.get_weights()[0], before.seen[1])
    with pytest.raises(ValueError, match="`ranks`"):
        trained(model, LexicographicCheckpoint(path, ["b"]), epochs=5, initial_epoch=2)
    # From the first epoch on it is another training, whatever there was, and whose.
    after = Told()
    trained(model, after, resumed, epochs=1)
    assert resumed.best_epoch == 0
    model.load_weights(path)
    np.testing.assert_array_equal(model.classifier.get_weights()[0], after.seen[0])
    (tmp_path / "best.weights.h5.json").write_text("{")
    with pytest.raises(ValueError, match=r"best\.weights\.h5\.json"):
        trained(model, keeper(), epochs=5, initial_epoch=2)


def test_the_best_model_is_known_where_no_epoch_is_left(tmp_path, recwarn):
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0]))
    for done in (3, 0):
        keeper = LexicographicCheckpoint(tmp_path / "best.keras", ["a", "b"])
        backup = Backup(tmp_path / "backup", delete=False)
        assert len(trained(model, Told(), keeper, backup, epochs=3).epoch) == done
        assert keeper.best_epoch == 1
    assert not [w for w in recwarn if "no epoch's logs" in str(w.message)]


def test_targets_that_no_epoch_meets_are_warned_of(tmp_path, recwarn):
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0]))
    for targets in ([np.nextafter(0.9, 1)], [None, 0.1], [0.95]):
        keeper = LexicographicCheckpoint(tmp_path / "best.keras", ["a", "b"], targets=targets)
        trained(model, Told(), keeper, epochs=3)
    (told,) = [str(w.message) for w in recwarn if "`targets`" in str(w.message)]
    assert "'a' is 0.9, asked 0.95" in told


def test_other_workers_choose_the_same_and_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(LexicographicCheckpoint, "_writes", property(lambda self: False))
    keeper = LexicographicCheckpoint(tmp_path / "best.keras", ["a", "b"], patience=2)
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0]))
    assert len(trained(model, Told(), keeper, epochs=5).epoch) == 4
    assert keeper.best_epoch == 1
    assert not [*tmp_path.iterdir()]


def test_ranks_must_be_in_the_logs(tmp_path):
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0]))
    with pytest.raises(ValueError, match="'l2=3'"):
        trained(model, LexicographicCheckpoint(tmp_path / "b.keras", ["loss", "l2=3"]))
    with pytest.warns(UserWarning, match="no epoch's logs"):
        trained(model, LexicographicCheckpoint(tmp_path / "b.keras", ["l2=3"]))


def test_ranks_that_are_missing_are_told_after_the_first_epoch(tmp_path):
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0]))
    told = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            del logs
            told.append(sum("not in the logs of epoch 1" in str(w.message) for w in caught))

    watch = RobustnessCurve(X, Y, ATTACK, [0, 0.5])
    keeper = LexicographicCheckpoint(tmp_path / "b.keras", watch.names)
    with pytest.warns(UserWarning, match="RobustnessCurve, must come before") as caught:
        trained(model, keeper, watch, Look(), epochs=2)
    assert told == [1, 1]


def test_validation_that_is_made_now_and_then_is_waited_for(tmp_path, recwarn):
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0]), rate=0.0)
    keeper = LexicographicCheckpoint(tmp_path / "b.keras", ["val_accuracy@natural"])
    trained(model, keeper, epochs=2, validation_data=(X, Y), validation_freq=2)
    assert keeper.best_epoch == 1
    assert not [w for w in recwarn if "`ranks`" in str(w.message)]
    keeper = LexicographicCheckpoint(tmp_path / "b.keras", ["val_accuracy@natual"])
    with pytest.warns(UserWarning, match="logs of epoch 2.*'val_accuracy@natural'"):
        trained(model, keeper, epochs=3, validation_data=(X, Y), validation_freq=2)


def test_without_tensorboard_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="tensorboard"):
        ConflictMonitor(tmp_path)
    ConflictMonitor()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: RobustnessCurve(X, Y, "pgd", [1.0]), TypeError, "`attack`"),
        (lambda: RobustnessCurve(X, Y, ATTACK, [-1.0]), ValueError, "`magnitudes`"),
        (lambda: RobustnessCurve(X, Y, ATTACK, [1.0, 1.0000001]), ValueError, "six digits"),
        (
            lambda: RobustnessCurve(X / 9, Y, lr.attacks.PGD("linf", bounds=(-1, 1)), [0.1, 8.0]),
            ValueError,
            "at most 2.*Received: 8",
        ),
        (lambda: RobustnessCurve(X, Y, ATTACK, [1.0], every=0), ValueError, "`every`"),
        (lambda: RobustnessCurve(X, Y, ATTACK, [1.0], batch_size=0), ValueError, "`batch_size`"),
        (lambda: RobustnessCurve(X, Y[:3], ATTACK, [1.0]), ValueError, "`y`"),
        (lambda: FigureCallback("draw", "folder"), TypeError, "`draw`"),
        (lambda: FigureCallback(print), ValueError, "`folder` or `log_dir`"),
        (lambda: LexicographicCheckpoint("best.h5", ["a"]), ValueError, "`path`"),
        (lambda: LexicographicCheckpoint("b.keras", "a"), ValueError, "`ranks`"),
        (lambda: LexicographicCheckpoint("b.keras", ["a", "a"]), ValueError, "`ranks`"),
        (lambda: LexicographicCheckpoint("b.keras", ["a"], -1.0), ValueError, "`tolerance`"),
        (lambda: LexicographicCheckpoint("b.keras", ["a"], patience=0), ValueError, "`patience`"),
        (lambda: LexicographicCheckpoint("b.keras", ["a"], mode="up"), ValueError, "`mode`"),
        (lambda: Backup("folder", every=0), ValueError, "`every`"),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


# A training of ten epochs of four batches, as a user's script would be.
SCRIPT = """
import sys
import keras
import numpy as np
import tensorflow as tf

import lexirobust as lr

tf.config.experimental.enable_op_determinism()
keras.utils.set_random_seed(0)
method, folder, out = sys.argv[1:]
x, y = lr.datasets.toy(40, seed=0)
layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.2)]
layers += [keras.layers.BatchNormalization(), keras.layers.Dense(2)]
attack = lr.attacks.PGD(norm="l2", steps=2, bounds=None)
model = getattr(lr, method)(
    keras.Sequential([keras.Input((1,)), *layers]), attack, [1.0, 2.0], warm_start=lr.WarmStart()
)
model.compile("adam")


class Tell(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("batch", flush=True)


callbacks = [lr.callbacks.Backup(folder), Tell()]
model.fit(x, y, batch_size=10, epochs=10, shuffle=False, verbose=0, callbacks=callbacks)
np.savez(out, *[v.numpy() for v in [*model.variables, *model.optimizer.variables]])
"""


def started(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.release
def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(tmp_path):
    method = "OLGRC"  # A discriminator is part of its state besides.
    whole = started(method, tmp_path / "whole", tmp_path / "whole.npz")
    assert len(whole.communicate()[0].split()) == 40
    seen = 0
    # Inside an epoch, and about where a backup is written.
    for batches, wait in ((7, 0.0), (5, 0.01)):
        process = started(method, tmp_path / "backup", tmp_path / "killed.npz")
        for _ in range(batches):
            assert process.stdout.readline() == "batch\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0].split()
        assert process.returncode == -signal.SIGKILL
        seen += batches + len(rest)
    last = started(method, tmp_path / "backup", tmp_path / "killed.npz")
    assert len(last.communicate()[0].split()) < 40
    assert last.returncode == 0
    one, other = (np.load(tmp_path / f"{name}.npz") for name in ("whole", "killed"))
    assert one.files == other.files
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])
    assert not (tmp_path / "backup").exists()


def test_a_half_written_backup_is_passed_over(tmp_path):
    model = compiled(lr.OLSRC(network(), ATTACK, [1.0]))
    trained(model, Backup(tmp_path, delete=False), epochs=2)
    (tmp_path / ".part-epoch-3.weights.h5").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    assert trained(model, Backup(tmp_path, every=3), epochs=4).epoch == [2, 3]
    # Without a backup, training begins at its first epoch again.
    assert trained(model, epochs=2).epoch == [0, 1]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["notes.txt"]


def test_a_backup_needs_a_built_model(tmp_path):
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must be built"):
        trained(model, Backup(tmp_path))


def test_a_stopped_training_goes_on_from_its_backup(tmp_path):
    models = [compiled(lr.OLSRC(right_network(), ATTACK, [4.0]), rate=0.1) for _ in range(3)]
    whole, first, second = models
    trained(whole, epochs=2)
    trained(first, Backup(tmp_path, delete=False), epochs=1)
    trained(second, Backup(tmp_path), epochs=2)
    for one, other in zip(second.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not tmp_path.exists()


def test_a_training_that_stops_early_leaves_a_backup_of_its_end(tmp_path):
    model = compiled(lr.Standard(right_network()), rate=0.1)
    stop = keras.callbacks.EarlyStopping("loss", patience=1, min_delta=1e9)
    trained(model, stop, Backup(tmp_path, every=5, delete=False), epochs=9)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-2.weights.h5"]


def test_a_backup_that_is_cut_off_is_none(tmp_path, monkeypatch):
    model = compiled(lr.Standard(network()))

    def cut_off(path, **_):
        with open(path, "wb") as file:
            file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "save_weights", cut_off)
    with pytest.raises(KeyboardInterrupt):
        trained(model, Backup(tmp_path), epochs=2)
    assert not [*tmp_path.glob("epoch-*")]
