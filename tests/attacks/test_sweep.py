import numpy as np
import pytest
import tensorflow as tf

from lexirobust.attacks import DAA, FGSM, PGD, geometry
from lexirobust.attacks.gradient import restarts

MAGNITUDES = [0.1, 0.2, 0.3, 0.4, 0.6]


def network(x):
    """Random features of bumpy classes."""
    rng = np.random.default_rng(3)
    inner = tf.constant(2 * rng.normal(size=(6, 32)), x.dtype)
    outer = tf.constant(rng.normal(size=(32, 4)), x.dtype)
    return tf.sin(x @ inner) @ outer


def samples(count=60):
    x = np.random.default_rng(0).uniform(size=(count, 6)).astype(np.float32)
    return x, np.argmax(network(x), axis=-1)


def right(moved, y):
    return np.argmax(network(moved), axis=-1) == y


@pytest.mark.parametrize("early_stop", [False, True])
def test_maximum_norm_curve_only_falls_sample_by_sample(early_stop):
    x, y = samples()
    attack = PGD(
        norm="l2", steps=3, constraint="maximum", early_stop=early_stop, bounds=(0, 1), seed=0
    )
    sweep = attack.sweep(network, x, y, MAGNITUDES)
    correct = np.array([right(moved, y) for moved in sweep])
    assert np.all(correct[1:] <= correct[:-1])
    for magnitude, moved in zip(MAGNITUDES, sweep, strict=True):
        assert np.all(geometry.norm(moved - x, "l2") <= magnitude * (1 + 1e-5))
    assert correct[-1].sum() < correct[0].sum() < len(x)


@pytest.mark.parametrize("constraint", ["exact", "maximum"])
def test_sweep_is_as_strong_as_separate_runs(constraint):
    x, y = samples(200)
    settings = {"norm": "l2", "steps": 20, "constraint": constraint, "seed": 0}
    sweep = PGD(**settings).sweep(network, x, y, MAGNITUDES)
    attack = PGD(**settings)
    alone = [right(attack(network, x, y, magnitude), y).sum() for magnitude in MAGNITUDES]
    together = [right(moved, y).sum() for moved in sweep]
    # One sample in a hundred is left to the random starts.
    assert np.all(np.array(together) <= np.array(alone) + 2)


def test_sweep_takes_few_steps_where_the_magnitude_below_succeeds(monkeypatch):
    taken = []
    run = PGD._judged

    def noted(self, classifier, x, y, magnitude, **given):
        taken.append((len(x), given.get("steps", self.steps)))
        return run(self, classifier, x, y, magnitude, **given)

    monkeypatch.setattr(PGD, "_judged", noted)
    x, y = samples()
    moved = PGD(norm="l2", steps=24, seed=0).sweep(network, x, y, [0.3, 0.6])
    resisting = right(moved[1], y).sum()
    assert taken[:2] == [(60, 24), (60, 24 // restarts.CHAINED_SHARE)]
    assert all(resisting <= count < 60 and steps == 24 for count, steps in taken[2:])


@pytest.mark.parametrize("sweep", [False, True])
def test_where_success_is_enough_later_starts_see_what_still_resists(monkeypatch, sweep):
    seen = []
    run = PGD._judged

    def noted(self, classifier, x, y, magnitude, **given):
        moved = run(self, classifier, x, y, magnitude, **given)
        seen.append((len(x), given["restarts"], int(np.sum(right(moved[0], y)))))
        return moved

    monkeypatch.setattr(PGD, "_judged", noted)
    x, y = samples()
    attack = PGD(norm="l2", steps=2, restarts=5, early_stop=True, seed=0)
    moved = attack.sweep(network, x, y, [0.15])[0] if sweep else attack(network, x, y, 0.15)
    counts, starts, resisting = zip(*seen, strict=True)
    assert counts == (60, *resisting[:-1])
    assert starts == (2, 2, 1)
    assert right(moved, y).sum() == resisting[-1] < 60


def test_sweep_keeps_the_order_it_is_given_and_takes_a_magnitude_twice():
    x, y = samples(8)
    attack = PGD(norm="l2", steps=2, bounds=None, seed=0)
    magnitudes = [0.5, 0.0, 2.0, 0.5]
    sweep = attack.sweep(network, x, y, tf.constant(magnitudes))
    for magnitude, moved in zip(magnitudes, sweep, strict=True):
        np.testing.assert_allclose(geometry.norm(moved - x, "l2"), magnitude, rtol=1e-5)
    assert np.array_equal(sweep[0], sweep[3])
    assert np.array_equal(sweep[1], x)


def test_batch_size_changes_nothing_but_the_memory():
    x, y = samples(8)
    attack = FGSM(norm="l2", bounds=None)
    seen = []

    def noting(x):
        tf.py_function(lambda count: seen.append(int(count)), [tf.shape(x)[0]], [])
        return network(x)

    every = np.linspace(0.1, 0.8, 8)
    whole, sweep = attack(network, x, y, 0.5), attack.sweep(network, x, y, [0.5, 1.0])
    for batch_size in (3, 100):
        seen.clear()
        moved = attack(noting, x, y, 0.5, batch_size=batch_size)
        np.testing.assert_allclose(moved, whole, rtol=1e-5)
        assert max(seen) == min(batch_size, 8)
        moved = attack.sweep(network, x, y, [0.5, 1.0], batch_size=batch_size)
        np.testing.assert_allclose(moved, sweep, rtol=1e-5)
        each = attack(network, x, y, every, batch_size=batch_size)
        np.testing.assert_allclose(geometry.norm(each - x, "l2"), every, rtol=1e-5)


def test_sweep_inside_a_graph_gives_the_same():
    x, y = samples(8)
    attack = PGD(norm="l2", steps=2, bounds=None, seed=0)

    @tf.function(autograph=False)
    def run():
        return attack.sweep(network, x, y, tf.constant([0.5, 1.0]))

    moved = run()
    assert moved.shape == (2, 8, 6)
    np.testing.assert_allclose(geometry.norm(moved[1] - x, "l2"), 1.0, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [0, -1, True, 1.5])
def test_bad_batch_size_is_refused(batch_size):
    x, y = samples(8)
    with pytest.raises(
        ValueError, match=r"`batch_size` must be an integer of at least 1 or None\. Received"
    ):
        FGSM()(network, x, y, 0.5, batch_size=batch_size)
    with pytest.raises(ValueError, match="`batch_size` must be"):
        FGSM().sweep(network, x, y, [0.5], batch_size=batch_size)


def test_scales_of_other_samples_are_refused():
    x, y = samples(8)
    with pytest.raises(ValueError, match=r"`scale` must be a scalar, or .* each of 8 samples"):
        FGSM().sweep(network, x, y, [0.5], scale=np.ones(4))


@pytest.mark.parametrize("x", [b"text", "", np.ones((2, 6), complex), np.array([["a"], ["b"]])])
def test_inputs_that_are_no_real_numbers_are_refused(x):
    with pytest.raises(TypeError, match=r"`x` must be real numbers\. Received: "):
        FGSM()(network, x, np.zeros(2, int), 0.5)


@pytest.mark.parametrize(
    ("attack", "autograph"),
    [
        (PGD("linf", steps=3, seed=0, bounds=None), True),
        (DAA(norm="linf", steps=2, seed=0, bounds=None), False),
    ],
    ids=["PGD", "DAA"],
)
def test_samples_may_have_scales_of_their_own(attack, autograph):
    x, y = samples(20)
    scale = np.linspace(0.5, 2.0, 20).astype(np.float32)
    expected = np.array(MAGNITUDES)[:, None] * scale
    graph = tf.function(
        lambda: attack.sweep(network, x, y, MAGNITUDES, scale=scale), autograph=autograph
    )
    for moved in (attack.sweep(network, x, y, MAGNITUDES, batch_size=7, scale=scale), graph()):
        norms = [attack.measure(perturbed - x) for perturbed in moved]
        np.testing.assert_allclose(norms, expected, rtol=1e-4)


def test_inside_a_larger_ball_a_small_success_is_not_lost():
    def classifier(x):
        """Wrong between 0.05 and 0.2; right and yet of larger loss beyond."""
        size = tf.abs(x)
        near = tf.concat([tf.zeros_like(x), size - 0.05, -9.0 + size], axis=1)
        far = tf.concat([tf.zeros_like(x), size - 0.5, size - 0.5], axis=1)
        return tf.where(size < 0.2, near, far)

    attack = PGD("linf", steps=2, step_size=0.5, constraint="maximum", bounds=None, seed=0)
    x, y = tf.zeros((3, 1)), np.zeros(3, int)
    for x_adv in attack.sweep(classifier, x, y, [0.1, 0.4]):
        assert (np.argmax(classifier(x_adv), axis=1) != 0).all()
    assert (np.argmax(classifier(x + 0.4), axis=1) == 0).all()
