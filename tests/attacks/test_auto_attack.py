"""AutoAttack and what it is made of, on classifiers whose distances to the boundary are known."""

import json

import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import (
    FAB,
    PGD,
    Attack,
    AutoAttack,
    DeepFool,
    HopSkipJump,
    Square,
    TargetedPGD,
    WithinMagnitude,
    staged_run,
)
from lexirobust.attacks.losses import LOSSES, targeted_dlr, wrong_class
from lexirobust.attacks.staged_run import CLEAN, RESISTS
from tests.attacks import linear

LINEAR, X = linear.Linear(), linear.samples()
Y = LINEAR.labels(X)
WRONG = np.where(np.arange(len(Y)) == 0, (Y + 1) % 4, Y)  # The first sample is misclassified.
FEW = {"bounds": None, "steps": 10, "max_queries": 20, "seed": 0}


def threshold(norm, y=Y):
    """`[N]` distances to the nearest boundary; 0 where a sample is misclassified."""
    return np.where(y == Y, linear.distances(LINEAR, X, norm), 0.0)


def between(distances, *counts):
    """Magnitudes in the middle between the distances of so many samples and the next."""
    ordered = np.sort(distances)
    return np.array([(ordered[count - 1] + ordered[count]) / 2 for count in counts])


@pytest.mark.parametrize("norm", ["l2", "l1", pytest.param("linf", marks=pytest.mark.release)])
def test_linear_classifier_is_broken_from_its_distance_on(norm):
    distances = threshold(norm, WRONG)
    magnitudes = between(distances, 5, 2, 3)  # In no order.
    found = AutoAttack(norm, **FEW).search(LINEAR, X, WRONG, magnitudes, batch_size=4)
    assert np.array_equal(found.found_by != RESISTS, distances <= magnitudes[:, None])
    assert np.all(found.found_by[:, 0] == CLEAN)
    moved = found.x_adv.numpy()
    assert np.array_equal(moved[:, 0], np.broadcast_to(X[0], moved[:, 0].shape))
    wrong = np.stack([LINEAR.labels(each) != WRONG for each in moved])
    assert np.array_equal(wrong, found.found_by != RESISTS)
    norms = np.linalg.norm(moved.astype(np.float64) - X, linear.ORDER[norm], axis=-1)
    assert np.all(norms <= magnitudes[:, None] * (1 + 1e-5))


@pytest.mark.release
def test_one_magnitude_at_a_time_breaks_what_a_sweep_does():
    magnitudes = between(threshold("l2"), 2, 4)
    attack = AutoAttack("l2", **FEW)
    swept = attack.sweep(LINEAR, X, Y, magnitudes)
    for magnitude, of_sweep in zip(magnitudes, swept, strict=True):
        called = attack(LINEAR, X, Y, magnitude)
        in_graph = attack.perturb(LINEAR, tf.constant(X), tf.constant(Y), magnitude, [1, 2])
        expected = threshold("l2") <= magnitude
        for moved in (of_sweep, called, in_graph):
            assert np.array_equal(LINEAR.labels(moved) != Y, expected)


def test_nothing_is_attacked_at_magnitude_0():
    (magnitude,) = between(threshold("l2", WRONG), 3)
    alone = AutoAttack("l2", **FEW).search(LINEAR, X, WRONG, [magnitude])
    found = AutoAttack("l2", **FEW).search(LINEAR, X, WRONG, [magnitude, 0.0])
    np.testing.assert_array_equal(found.passes, alone.passes)
    np.testing.assert_array_equal(found.found_by[0], alone.found_by[0])
    np.testing.assert_array_equal(found.x_adv[0], alone.x_adv[0])
    np.testing.assert_array_equal(found.found_by[1], [CLEAN] + [RESISTS] * (len(X) - 1))
    np.testing.assert_array_equal(found.x_adv[1], X)
    assert not AutoAttack("l2", **FEW).search(LINEAR, X, WRONG, [0.0]).passes.any()


def test_samples_may_have_scales_of_their_own():
    distances = threshold("linf")
    scale = np.float32(1.1) * distances * np.where(np.arange(len(Y)) % 2, 1.0, 0.8)
    found = AutoAttack("linf", **FEW).search(LINEAR, X, Y, [1.0], scale=scale)
    assert np.array_equal(found.found_by[0] != RESISTS, np.arange(len(Y)) % 2 == 1)


def test_versions_have_the_stages_of_the_paper():
    def named(*given, **settings):
        stages = AutoAttack(*given, **settings).stages
        return [(s.name, s.targets) for s in stages], [s.passes for s in stages]

    aimed = [("PGD, targeted DLR loss", 9), ("FAB, targeted", 9)]
    assert named("linf") == (
        [("PGD, cross entropy", 0), *aimed, ("Square", 0)],
        [102, 103, 290, 5000],
    )
    plus = [("PGD, cross entropy", 0), ("PGD, DLR loss", 0), ("FAB", 0), ("Square", 0), *aimed]
    assert named("l2", "plus") == (plus, [510, 510, 1090, 5000, 103, 290])
    names, passes = named("linf", "rand")
    assert names == [("PGD, cross entropy", 0), ("PGD, DLR loss", 0)]
    assert passes == [20 * 101 + 1] * 2
    (*_, targeted, fab, square), _ = named("l1")
    assert targeted == ("PGD, targeted DLR loss", 5)
    assert fab == ("FAB, targeted", 5)
    assert square == ("Square", 0)


def test_in_a_graph_rounds_are_repeated_toward_every_class(monkeypatch):
    calls, perturb = [], TargetedPGD.perturb
    monkeypatch.setattr(
        TargetedPGD, "perturb", lambda *given: calls.append(given[-1]) or perturb(*given)
    )
    magnitude = 0.01 * threshold("l1").min()  # All resist.
    AutoAttack("l1", **FEW).perturb(LINEAR, tf.constant(X), tf.constant(Y), magnitude, [1, 2])
    assert len(calls) == 3 * 3  # Of pairs of starts.
    assert len({tuple(seed.numpy()) for seed in calls}) == len(calls)


def test_each_stage_sees_what_still_resists():
    """Passes are the most that the classifier saw, the looks between the stages aside."""
    (magnitude,) = between(threshold("linf"), 3)
    attack = AutoAttack("linf", **FEW, exhaustive=True)
    attack.search(LINEAR, X, Y, [magnitude])
    before = int(LINEAR.seen)
    found = attack.search(LINEAR, X, Y, [magnitude])
    seen = int(LINEAR.seen) - before
    resist = np.sum(found.found_by == RESISTS)
    assert resist == 3
    # All samples in the first stage, in the others those three, toward three classes each.
    assert found.passes.tolist() == [6 * 12, 3 * 3 * 13, 3 * 3 * 110, 3 * 20]
    looks = 2 * 6 + 6 + 3 * 7  # At clean inputs, and after each attack.
    assert seen <= found.passes.sum() + looks


def test_what_has_no_prospect_is_left_out():
    """Toward nine classes a quarter, toward three the rest; of a search that is far off a tenth."""
    classifier = linear.Linear(classes=10)
    y = classifier.labels(X)
    distances = linear.distances(classifier, X, "linf")
    (magnitude,) = between(distances, 2)
    attack = AutoAttack("linf", bounds=None, steps=20, max_queries=100, seed=0)
    found = attack.search(classifier, X, y, [magnitude])
    assert np.array_equal(found.found_by[0] != RESISTS, distances <= magnitude)
    *_, targeted, fab, square = found.passes
    assert targeted == 4 * (9 * (5 + 3) + 3 * (20 + 3))
    assert fab == 4 * 3 * (40 + 90)
    assert 4 * 10 <= square < 4 * 140


def test_classes_that_come_near_have_a_prospect():
    """The class that is least likely at the input is the one whose boundary is nearest."""
    steep = np.array([[0.0, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1, 2.0]], np.float32)

    def classifier(x):
        return x @ steep - np.array([0.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6], np.float32)

    x, y, magnitude = tf.zeros((1, 1)), tf.constant([0]), tf.constant([0.7])
    (stage,) = [s for s in AutoAttack("linf", **FEW).stages if s.name.startswith("PGD, targeted")]
    batch = staged_run._Batch([stage], classifier, x, y, magnitude, np.random.default_rng(0))
    staged_run._aim(batch, 0, stage, exhaustive=False)
    assert batch.found_by.tolist() == [RESISTS]
    assert 7 in batch.ranks[0]
    assert batch.ranks.shape == (1, 3)


class Luck(Attack):
    """Goes part of the way from 0 to the boundary at 1, and only its last run all of it."""

    def __init__(self, way, runs):
        super().__init__(norm="linf", bounds=None, seed=None)
        self.way, self.runs, self.calls = way, runs, []

    def perturb(self, classifier, x, y, magnitude, seed):
        raise NotImplementedError

    def _run(self, classifier, x, y, magnitude):
        self.calls.append(len(x))
        return x + (self.way if len(self.calls) < self.runs else 1.1)


@pytest.mark.parametrize(
    ("way", "runs", "found_by", "calls"),
    [(0.95, 3, 2, [4, 4, 4]), (0.95, 4, RESISTS, [4, 4, 4]), (0.85, 2, RESISTS, [4])],
)
def test_an_attack_that_came_near_is_repeated_twice(way, runs, found_by, calls):
    def classifier(x):
        return tf.concat([1.0 - x, tf.zeros_like(x)], axis=1)

    x, y, magnitude = tf.zeros((4, 1)), tf.zeros(4, tf.int32), tf.ones(4)
    far, near = Luck(0.5, 2), Luck(way, runs)
    stages = [staged_run.Stage("far", far, 0, 1), staged_run.Stage("near", near, 0, 1)]
    found = staged_run.run_stages(stages, classifier, x, y, magnitude, [0], exhaustive=False)
    assert found.found_by.tolist() == [found_by] * 4
    assert (far.calls, near.calls) == ([4], calls)
    assert found.passes.tolist() == [4, sum(calls)]


def test_search_that_leads_on_goes_on():
    magnitude = tf.constant(1.06 * threshold("linf"), tf.float32)
    decide = lambda x: tf.stop_gradient(LINEAR.uncounted(x))  # noqa: E731

    def broken(queries, exhaustive):
        attack = AutoAttack("linf", bounds=None, max_queries=queries)
        stages = [stage for stage in attack.stages if stage.name == "Square"]
        x, y = tf.constant(X), tf.constant(Y)
        found = staged_run.run_stages(stages, decide, x, y, magnitude, [0], exhaustive)
        return np.sum(found.found_by == 1)

    assert broken(60, exhaustive=True) < broken(600, exhaustive=False) >= 5


@pytest.mark.parametrize("classes", [2, pytest.param(3, marks=pytest.mark.release)])
def test_few_classes_have_losses_of_their_own(classes):
    classifier = linear.Linear(classes=classes)
    y = classifier.labels(X)
    distances = linear.distances(classifier, X, "l2")
    (magnitude,) = between(distances, 3)
    for version in ("standard", "plus", "rand"):
        found = AutoAttack("l2", version, **FEW).search(classifier, X, y, [magnitude])
        assert np.array_equal(found.found_by[0] != RESISTS, distances <= magnitude)


@pytest.mark.parametrize(("norm", "room"), [("linf", 1.3), ("l2", 2.0), ("l1", 4.0)])
def test_gradients_that_are_masked_are_searched_around(norm, room):
    def rounded(x):
        return LINEAR.uncounted(tf.round(64.0 * x) / 64.0)

    magnitude = room * threshold(norm).max()
    settings = {"bounds": None, "steps": 5, "max_queries": 2000, "seed": 0}
    with pytest.warns(UserWarning, match="no gradient"):
        found = AutoAttack(norm, **settings).search(rounded, X, LINEAR.labels(X), [magnitude])
    names = [stage.name for stage in AutoAttack(norm, **settings).stages]
    assert np.all(found.found_by > 0)
    assert np.sum(found.found_by == 1 + names.index("Square")) >= 2  # Random starts find some.


def test_saturated_logits_change_nothing():
    magnitudes = between(threshold("l2"), 2, 4)
    found = AutoAttack("l2", **FEW).search(lambda x: 1000.0 * LINEAR.uncounted(x), X, Y, magnitudes)
    assert np.array_equal(found.found_by != RESISTS, threshold("l2") <= magnitudes[:, None])


def test_goal_of_a_randomized_classifier_is_a_mean_over_draws():
    """The mean gradient leads to the worst point of the mean classifier, one draw's does not."""

    def random(x):
        slopes = tf.constant([1.0, 0.0]) + tf.random.normal(tf.shape(x), stddev=3.0)
        return tf.stack([tf.zeros(tf.shape(x)[0]), tf.reduce_sum(x * slopes, axis=1)], axis=1)

    x, y = tf.zeros((200, 2)), tf.zeros(200, tf.int32)
    best = {}
    for draws in (1, 400):
        attack = PGD(
            "l2", steps=1, step_size=9.0, bounds=None, random_start=False, eot_samples=draws,
            loss="margin",
        )  # fmt: skip
        moved = tf.function(lambda attack=attack: attack.perturb(random, x, y, 1.0, [0, 0]))()
        best[draws] = float(tf.reduce_mean(moved[:, 0]))
    assert best[400] > 0.97
    assert best[1] < 0.5


def test_wrong_classes_are_ranked_by_their_logits():
    logits = tf.constant([[0.0, 3.0, 1.0, 2.0], [5.0, 5.0, 5.0, 1.0]])
    y = tf.constant([3, 1])
    ranked = [wrong_class(logits, y, rank).numpy().tolist() for rank in (1, 2, 3, 4)]
    assert ranked == [[1, 0], [2, 2], [0, 3], [0, 3]]


def test_targeted_loss_is_the_papers():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 6))
    y, target = rng.integers(6, size=50), rng.integers(6, size=50)
    rows, ordered = np.arange(50), np.sort(logits, axis=1)[:, ::-1]
    expected = (logits[rows, target] - logits[rows, y]) / (
        ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
    )
    value = targeted_dlr(tf.constant(logits), tf.constant(y), tf.constant(target))
    np.testing.assert_allclose(value, expected)
    # Toward the strongest other class it is the loss whose label is the target, turned around.
    first = wrong_class(tf.constant(logits), tf.constant(y), 1)
    right = np.argmax(logits, axis=1) == y
    value = targeted_dlr(tf.constant(logits), tf.constant(y), first)
    same = -LOSSES["dlr"](tf.constant(logits), first, tf.constant(True))
    np.testing.assert_allclose(value[right], same[right])


def test_target_is_the_class_that_is_walked_toward():
    """At a norm where every boundary is in reach each rank ends in a class of its own."""
    ends = [
        LINEAR.labels(
            linear.moved_by(
                TargetedPGD(steps=20, bounds=None, target_rank=rank), LINEAR, X, Y, 20.0
            )
        )
        for rank in (1, 2, 3)
    ]
    targets = [wrong_class(LINEAR.uncounted(tf.constant(X)), tf.constant(Y), r) for r in (1, 2, 3)]
    # The margin of the target over the label is largest there, over other classes need not be.
    for end, target in zip(ends, targets, strict=True):
        assert np.mean(end == target) >= 0.5
    assert all(len(set(column)) > 1 for column in np.transpose(ends))


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_fab_toward_one_class_meets_its_boundary(norm):
    """With two classes there is one boundary; toward the nearest of four it is the nearest."""
    logits = LINEAR.logits(X)
    for rank in (1, 2, 3):
        attack = FAB(norm, steps=20, bounds=None, target_rank=rank)
        found = linear.search(attack, LINEAR, X, Y)
        target = np.asarray(wrong_class(tf.constant(logits), tf.constant(Y), rank))
        slopes = LINEAR.weights[:, Y] - LINEAR.weights[:, target]
        rows = np.arange(len(Y))
        gap = logits[rows, Y] - logits[rows, target]
        own = gap / np.linalg.norm(slopes, linear.DUAL[norm], axis=0)
        # On the way another class may win earlier, never later.
        assert np.all(found.distances <= own * (1 + 1e-4))
        assert np.all(found.distances >= threshold(norm) * (1 - 1e-4))


def test_search_ends_where_points_are_near_enough():
    attack, distances = FAB("l2", steps=50, bounds=None), threshold("l2")
    x, y = tf.constant(X), tf.constant(Y)
    far = tf.constant(2 * distances, tf.float32)
    some = attack.search(LINEAR, x, y, [0, 1], enough=far)
    whole = attack.search(LINEAR, x, y, [0, 1])
    assert np.all(some.distances <= far)
    assert np.all(some.queries < whole.queries // 2)


def test_nearest_points_give_a_whole_curve():
    distances = threshold("linf")
    magnitudes = between(distances, 2, 4)
    attack = DeepFool("linf", bounds=None)
    curve = lr.evaluate_robustness(LINEAR, X, Y, attack, [0.0, *magnitudes], checks=False)
    assert np.array_equal(curve.correct[1:], distances > magnitudes[:, None])
    assert np.all(curve.norms[1:] <= magnitudes[:, None])
    with pytest.raises(TypeError, match="MinimumNormAttack"):
        WithinMagnitude(PGD())


def test_decision_attacks_are_measured_by_too():
    attack = HopSkipJump("l2", steps=3, gradient_queries=20, bounds=None, seed=0)
    curve = lr.evaluate_robustness(LINEAR, X, Y, attack, [0.0, 1e-3, 50.0], checks=False)
    assert curve.accuracy.tolist() == [1.0, 1.0, 0.0]


def test_square_stops_at_success():
    classifier = linear.Linear(classes=2, size=10)
    x = linear.samples(size=10)
    y = classifier.labels(x)
    magnitude = 2 * linear.distances(classifier, x, "linf").max()
    settings = {"constraint": "maximum", "bounds": None, "early_stop": True}
    before = int(classifier.seen)
    moved = linear.moved_by(Square("linf", 500, **settings), classifier, x, y, magnitude)
    assert np.all(classifier.labels(moved) != y)
    assert int(classifier.seen) - before < 100 * len(x)


def test_curve_tells_what_each_attack_broke(tmp_path):
    distances = threshold("linf", WRONG)
    magnitudes = between(distances, 2, 4)
    attack = AutoAttack("linf", **FEW)
    options = {"batch_size": 4, "checks": False}
    curve = lr.evaluate_robustness(LINEAR, X, WRONG, attack, [0.0, *magnitudes], **options)
    (described,) = curve.settings["attacks"]
    broken = np.sum([stage["broken"] for stage in described["stages"]], axis=0)
    expected = np.sum((distances <= magnitudes[:, None]) & (distances > 0), axis=1)
    assert broken.tolist() == expected.tolist()
    assert [s["name"] for s in described["stages"]] == [stage.name for stage in attack.stages]
    assert all(stage["passes"] > 0 for stage in described["stages"])
    again = lr.AccuracyCurve.from_json(curve.to_json())
    assert again.settings == json.loads(json.dumps(curve.settings))
    kept = lr.evaluate_robustness(
        LINEAR, X, WRONG, attack, [0.0, *magnitudes], backup=tmp_path / "kept", **options
    )
    assert kept.settings["attacks"] == curve.settings["attacks"]
