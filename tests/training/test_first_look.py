import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from tests.training.by_hand import compiled

L = keras.layers
ATTACK = lr.attacks.PGD(norm="l2", steps=1, bounds=(0.0, 255.0), seed=0)


def network(*head, dtype="float32", last=None):
    layers = [keras.Input((6,), dtype=dtype), *head, L.Dense(4, "relu"), *([last] if last else [])]
    return keras.Sequential([*layers, L.Dense(2)])


def embedded():
    inputs = keras.Input((6,), dtype="int32")
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(L.Embedding(256, 3, name="words")(inputs))))


def embedded_floats():
    inputs = keras.Input((6,))
    words = L.Embedding(256, 3, name="words")(inputs)
    return keras.Model(inputs, L.Dense(2)(L.Flatten()(words)))


class Rounded(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(2)

    def call(self, x):
        return self.dense(tf.round(x))


def inner():
    steps = keras.Sequential([keras.Input((6,)), L.Lambda(tf.floor, name="stairs")], name="steps")
    return network(steps)


CUT = {
    "uint8": (lambda: network(L.Rescaling(1 / 255), dtype="uint8"), "input of dtype uint8"),
    "int32": (lambda: network(L.Rescaling(1 / 255), dtype="int32"), "input of dtype int32"),
    "round": (lambda: network(L.Lambda(tf.round, name="whole")), r"layer 'whole' \(Lambda\)"),
    "sign": (lambda: network(L.Lambda(tf.sign, name="side")), r"layer 'side' \(Lambda\)"),
    "stop": (
        lambda: network(last=L.Lambda(tf.stop_gradient, name="wall")),
        r"layer 'wall' \(Lambda\)",
    ),
    "discretized": (
        lambda: network(L.Discretization([1.0, 9.0], output_mode="int", name="bins")),
        r"layer 'bins' \(Discretization\)",
    ),
    "inner model": (inner, r"layer 'steps' \(Sequential\)"),
    "integers embedded": (embedded, "input of dtype int32"),
    "embedded": (embedded_floats, r"layer 'words' \(Embedding\)"),
    "subclassed": (Rounded, "something in it"),
}


@pytest.mark.parametrize(("make", "cut"), CUT.values(), ids=CUT)
def test_what_cuts_the_gradient_is_named_before_the_first_step(make, cut):
    x = np.random.default_rng(0).uniform(0, 255, (8, 6)).astype(np.float32)

    def trained():
        model = compiled(lr.AdversarialTraining(make(), ATTACK, 1.0), run_eagerly=True)
        model.fit(x, np.arange(8) % 2, epochs=1, verbose=0)

    with pytest.warns(UserWarning, match=f"no gradient by its inputs: .*{cut}") as told:
        trained()
    assert sum("no gradient" in str(each.message) for each in told) == 1


FINE = {
    "plain": lambda: network(L.Rescaling(1 / 255)),
    "last weights of 0": lambda: keras.Sequential(
        [keras.Input((6,)), L.Dense(4, "relu"), L.Dense(2, kernel_initializer="zeros")]
    ),
    "one branch": lambda: branched(),
    "unknown size": lambda: keras.Sequential(
        [keras.Input((None, 3)), L.GlobalAveragePooling1D(), L.Dense(2)]
    ),
    "larger than any guess": lambda: keras.Sequential(
        [
            keras.Input((None, None, 1)),
            *(L.Conv2D(2, 3, strides=2) for _ in range(4)),
            L.GlobalAveragePooling2D(),
            L.Dense(2),
        ]
    ),
    "softmax": lambda: network(last=L.Softmax()),
}


def said_of_gradients(caught):
    """The warnings that a gradient is missing."""
    return [each for each in caught if "no gradient" in str(each.message)]


def branched():
    inputs = keras.Input((6,))
    rounded = L.Lambda(tf.round)(inputs)
    return keras.Model(inputs, L.Dense(2)(L.Concatenate()([rounded, inputs])))


@pytest.mark.parametrize("make", FINE.values(), ids=FINE)
def test_where_a_gradient_is_there_nothing_is_said(make, recwarn):
    compiled(lr.OLSRC(make(), ATTACK, [1.0]))
    assert not said_of_gradients(recwarn)


@pytest.mark.parametrize(
    "make",
    [
        lambda c: lr.Standard(c),
        lambda c: lr.AdversarialTraining(c, lr.attacks.Square(max_queries=3), 1.0),
    ],
    ids=["nothing is attacked", "no gradient is followed"],
)
def test_who_needs_no_gradient_may_have_none(make, recwarn):
    compiled(make(network(dtype="uint8")))
    assert not said_of_gradients(recwarn)


def test_the_worst_of_several_attacks_needs_one():
    union = lr.attacks.WorstCase(
        [lr.attacks.Square(max_queries=3, bounds=(0.0, 255.0)), ATTACK], [1.0, 1.0]
    )
    with pytest.warns(UserWarning, match="no gradient by its inputs"):
        compiled(lr.AdversarialTraining(network(dtype="uint8"), union, 1.0))


def test_what_cuts_the_gradient_is_named_whatever_the_size():
    layers = [L.Lambda(tf.round, name="whole"), L.GlobalAveragePooling1D(), L.Dense(2)]
    classifier = keras.Sequential([keras.Input((None, 3)), *layers])
    with pytest.warns(UserWarning, match="layer 'whole'"):
        compiled(lr.AdversarialTraining(classifier, ATTACK, 1.0))


def test_a_classifier_that_is_built_by_its_data_has_a_gradient(recwarn):
    model = compiled(lr.AdversarialTraining(keras.Sequential([L.Dense(2)]), ATTACK, 1.0))
    model.fit(np.ones((8, 6), np.float32), np.arange(8) % 2, verbose=0)
    assert not said_of_gradients(recwarn)


def test_magnitudes_in_other_units_than_the_inputs_are_warned_of(recwarn):
    x = np.random.default_rng(0).integers(256, size=(8, 6)).astype(np.float32)
    y = np.arange(8) % 2
    with pytest.warns(UserWarning, match="norm of 1 is next to nothing where .* 0 to 255"):
        compiled(lr.OLSRC(network(), ATTACK, [0.5, 1.0])).fit(x, y, verbose=0)
    recwarn.clear()
    compiled(lr.OLSRC(network(), ATTACK, [0.5, 25.0])).fit(x, y, verbose=0)
    assert not [w for w in recwarn if "next to nothing" in str(w.message)]


@pytest.mark.parametrize("attacked", ["union", "nested", "max"])
def test_each_attack_of_a_union_must_have_room(attacked):
    norms = [lr.attacks.PGD(norm, steps=1, bounds=(0.0, 255.0)) for norm in ("linf", "l2")]
    union = lr.attacks.WorstCase(norms, [8.0, 1000.0])
    if attacked == "max":
        model = lr.MultiPerturbationTraining(network(), norms, [8.0, 1000.0], "max")
    else:
        nested = lr.attacks.WorstCase([union, norms[0]], [1.0, 8.0])
        model = lr.OLSRC(network(), union if attacked == "union" else nested, [1.0])
    with pytest.raises(ValueError, match=r"at most 624\.6.*Received: 1000"):
        compiled(model)


def test_each_attack_of_a_union_must_come_to_something():
    norms = [lr.attacks.PGD(norm, steps=1, bounds=(0.0, 255.0)) for norm in ("linf", "l2")]
    model = lr.MultiPerturbationTraining(network(), norms, [8 / 255, 100.0], "max")
    with pytest.warns(UserWarning, match="linf norm of 0.03.* next to nothing"):
        compiled(model)
