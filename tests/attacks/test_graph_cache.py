import dataclasses
import functools
import gc
import types
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from lexirobust.attacks import PGD, Attack, DeepFool, Square, WorstCase, graph_cache
from lexirobust.attacks.classifier import logits_of

WEIGHTS = np.array([[1.0, -1.0], [-0.5, 0.5], [0.25, 0.0], [-2.0, 1.0]], np.float32)
SIGN = 1.0
OPTIONS = types.SimpleNamespace(sign=1.0)


class Gradient(Attack):
    """Moves inputs along a gradient: an attack that is traced in no time."""

    def __init__(self, scale=1.0):
        super().__init__("l2", None, seed=0)
        self.scale = scale

    def perturb(self, classifier, x, y, magnitude, seed):
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = logits_of(classifier, x)
            ahead = logits[:, 0] - logits[:, 1]
        return x - self.scale * magnitude[:, None] * tape.gradient(ahead, x)

    def get_config(self):
        return {"scale": self.scale}


def samples():
    rng = np.random.default_rng(0)
    return rng.uniform(0.3, 0.7, size=(6, 4)).astype(np.float32), rng.integers(2, size=6)


def linear(x, sign):
    return tf.cast(sign, x.dtype) * (x @ tf.constant(WEIGHTS))


class Attribute:
    def __init__(self):
        self.sign = 1.0

    def __call__(self, x):
        return linear(x, self.sign)

    def change(self):
        self.sign = -1.0


class Method(Attribute):
    __call__ = None

    def logits(self, x):
        return self.signed(x)

    def signed(self, x):
        return linear(x, self.sign)


class Nested:
    def __init__(self):
        self.inner = [{"sign": Attribute()}]

    def __call__(self, x):
        return self.inner[0]["sign"](x)

    def change(self):
        self.inner[0]["sign"].change()


class Slotted:
    __slots__ = ("__weakref__", "sign")

    def __init__(self):
        self.sign = 1.0

    def __call__(self, x):
        return linear(x, self.sign)

    def change(self):
        self.sign = -1.0


@dataclasses.dataclass
class Record:
    """With `eq`, as is the default, it has no hash."""

    sign: float = 1.0

    def __call__(self, x):
        return linear(x, self.sign)

    def change(self):
        self.sign = -1.0


class Entries:
    def __init__(self):
        self.weights = WEIGHTS.copy()

    def __call__(self, x):
        return x @ self.weights

    def change(self):
        self.weights *= -1.0


class OfClass:
    sign = 1.0

    def __call__(self, x):
        return linear(x, self.sign)

    def change(self):
        type(self).sign = -1.0


class Module(tf.Module):
    def __init__(self):
        super().__init__()
        self.weights = tf.Variable(WEIGHTS)

    def __call__(self, x):
        return x @ self.weights

    def change(self):
        self.weights = tf.Variable(-WEIGHTS)


def of_object(kind):
    classifier = kind()
    return classifier, classifier.change


def method():
    owner = Method()
    return owner.logits, owner.change


def closure():
    sign = 1.0

    def change():
        nonlocal sign
        sign = -1.0

    return lambda x: linear(x, sign), change


def inner_closure():
    classifier, change = closure()
    return lambda x: tf.map_fn(lambda row: classifier(row[None])[0], x), change


def item():
    signs = [1.0]
    return lambda x: linear(x, signs[0]), lambda: signs.__setitem__(0, -1.0)


def of_globals():
    def change():
        globals()["SIGN"] = -1.0

    return lambda x: linear(x, SIGN), change


def through_a_helper():
    def change():
        OPTIONS.sign = -1.0

    return lambda x: by_options(x), change


def by_options(x):
    return linear(x, OPTIONS.sign)


def partial():
    classifier = functools.partial(linear, sign=1.0)
    return classifier, lambda: classifier.keywords.update(sign=-1.0)


def partial_of_object():
    record = Record()
    return functools.partial(lambda record, x: record(x), record), record.change


def default():
    def classifier(x, sign=1.0):
        return linear(x, sign)

    def change():
        classifier.__defaults__ = (-1.0,)

    return classifier, change


CALLABLES = {
    **{kind.__name__: functools.partial(of_object, kind) for kind in (Attribute, Nested, Slotted)},
    **{kind.__name__: functools.partial(of_object, kind) for kind in (Record, Entries, OfClass)},
    "Module": functools.partial(of_object, Module),
    "method": method,
    "closure": closure,
    "inner closure": inner_closure,
    "item": item,
    "globals": of_globals,
    "helper": through_a_helper,
    "partial": partial,
    "partial of object": partial_of_object,
    "default": default,
}


def network(*layers):
    model = keras.Sequential([keras.Input((4,)), *layers])
    for weight in model.weights:
        weight.assign(np.random.default_rng(len(weight.shape)).normal(size=weight.shape))
    return model


def lora():
    model = network(keras.layers.Dense(8, "tanh"), keras.layers.Dense(2))

    def change():
        for layer in model.layers:
            layer.enable_lora(1)
            layer.lora_kernel_b.assign(3.0 * np.ones(layer.lora_kernel_b.shape))

    return model, change


def popped():
    model = network(keras.layers.Dense(2), keras.layers.Softmax())
    model.layers[0].kernel.assign(40.0 * WEIGHTS)  # What is so sure has no gradient in float32.
    return model, model.pop


def added():
    model = network(keras.layers.Dense(2))
    return model, lambda: model.add(keras.layers.Lambda(lambda x: -x))


def activation():
    model = network(keras.layers.Dense(4, "relu"), keras.layers.Dense(2))

    def change():
        model.layers[0].activation = keras.activations.tanh

    return model, change


def adapted():
    normalize = keras.layers.Normalization()
    normalize.adapt(samples()[0])
    model = network(normalize, keras.layers.Dense(8, "tanh"), keras.layers.Dense(2))
    return model, lambda: normalize.adapt(10.0 * samples()[0] ** 3)


def quantized():
    model = network(keras.layers.Dense(8, "tanh"), keras.layers.Dense(2))
    return model, lambda: model.quantize("int8")


class Own(keras.Model):
    """A model whose layer and settings are attributes."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)
        self.sign = 1.0

    def call(self, x):
        return self.sign * self.dense(x)


def own_setting():
    model = Own()
    return model, lambda: setattr(model, "sign", -1.0)


def own_layer():
    model = Own()
    dense = model.dense
    return model, lambda: setattr(model, "dense", lambda x: -dense(x))


def inside_a_function():
    model, change = activation()
    return lambda x: model(x, training=False), change


MODELS = {
    "enable_lora": lora,
    "pop": popped,
    "add": added,
    "activation": activation,
    "adapt": adapted,
    "quantize": quantized,
    "own setting": own_setting,
    "own layer": own_layer,
    "inside a function": inside_a_function,
}


@pytest.fixture(autouse=True)
def _as_before():
    yield
    globals()["SIGN"] = OPTIONS.sign = OfClass.sign = 1.0


def check_change(run, classifier, change):
    """What runs sees the classifier as it is now, as it would one that it has never seen."""
    before = run(classifier)
    assert np.array_equal(run(classifier), before)
    change()
    after = run(classifier)
    assert np.array_equal(after, run(lambda x: logits_of(classifier, x)))
    assert not np.allclose(after, before)


@pytest.mark.filterwarnings("ignore:`classifier` must give logits")
@pytest.mark.parametrize("make", [*CALLABLES.values(), *MODELS.values()], ids=[*CALLABLES, *MODELS])
def test_classifier_that_has_changed_is_attacked_as_it_is(make):
    x, y = samples()
    attack = Gradient()
    check_change(lambda classifier: attack(classifier, x, y, 0.1), *make())


ATTACKS = {
    "sweep": lambda classifier, x, y: PGD(
        norm="linf", steps=1, bounds=None, constraint="maximum", seed=0
    ).sweep(classifier, x, y, [0.1]),
    "Square": lambda classifier, x, y: Square(max_queries=9, seed=0)(classifier, x, y, 0.1),
    "DeepFool": lambda classifier, x, y: DeepFool(steps=2)(classifier, x, y).inputs,
    "evaluate_robustness": lambda classifier, x, y: (
        lr.evaluate_robustness(classifier, x, y, Gradient(), [0.1], checks=False).losses
    ),
}


@pytest.mark.parametrize("run", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize(
    "make",
    [functools.partial(of_object, Attribute), pytest.param(added, marks=pytest.mark.release)],
)
def test_everything_that_attacks_sees_the_change(run, make):
    x, y = samples()
    check_change(lambda classifier: run(classifier, x, y), *make())


def test_classifier_that_has_changed_is_looked_at_again():
    model = network(keras.layers.Dense(3), keras.layers.Softmax())
    attack, (x, y) = Gradient(), samples()
    with pytest.warns(UserWarning, match="`classifier` must give logits"):
        attack(model, x, y, 0.1)
    with pytest.raises(ValueError, match="`y` must hold labels from 0 to 2"):
        attack(model, x, y + 3, 0.1)
    model.pop()
    model.pop()
    model.add(keras.layers.Dense(5))
    attack(model, x, y + 3, 0.1)
    model.add(keras.layers.Softmax())
    with pytest.warns(UserWarning, match="`classifier` must give logits"):
        attack(model, x, y, 0.1)


def test_attack_that_has_changed_is_the_one_that_runs():
    (x, y), classifier = samples(), Attribute()
    single, other = Gradient(1.0), Gradient(0.0)
    union = WorstCase([single, other], [1.0, 1.0])
    runs = [lambda attack=attack: attack(classifier, x, y, 1.0) - x for attack in (single, union)]
    before = [run() for run in runs]
    single.scale = 2.0
    for run, moved in zip(runs, before, strict=True):
        np.testing.assert_allclose(run()[y == 0], 2.0 * moved[y == 0], rtol=1e-5)
    union.magnitudes = (2.0, 1.0)
    np.testing.assert_allclose(runs[1]()[y == 0], 4.0 * before[1][y == 0], rtol=1e-5)


class Traced:
    """Notes how often it is traced, and changes itself as it is called."""

    def __init__(self):
        self.traced = []
        self.calls = 0
        self.features = None
        self.by_shape = {}
        self.stats = {"calls": 0}

    def __call__(self, x):
        if not tf.executing_eagerly():
            self.traced.append(x.shape)
        self.calls += 1
        self.stats["calls"] += 1
        self.by_shape[self.calls] = x.shape
        self.features = tf.identity(x)
        return linear(self.features, 1.0)


def test_what_a_classifier_notes_as_it_is_called_is_no_change():
    classifier, attack, (x, y) = Traced(), Gradient(), samples()
    attack(classifier, x, y, 0.1)
    traced = len(classifier.traced)
    for _ in range(3):
        classifier(tf.constant(x))
        attack(classifier, x, y, 0.2)
        lr.evaluate_robustness(classifier, x, y, attack, [0.1, 0.3], batch_size=3, checks=False)
    assert len(classifier.traced) == traced
    classifier.other = 3.0
    attack(classifier, x, y, 0.1)
    assert len(classifier.traced) > traced


def test_value_that_is_replaced_by_its_equal_is_no_change():
    classifier = Traced()
    classifier.settings = {"sign": 1.5, "names": ("one", 1)}
    attack, (x, y) = Gradient(), samples()
    attack(classifier, x, y, 0.1)
    traced = len(classifier.traced)
    for value in (float("1.5"), 3.0 / 2.0):
        classifier.settings["sign"] = value
        attack(classifier, x, y, 0.1)
    assert len(classifier.traced) == traced


class Counted(keras.layers.Layer):
    """Notes outside of itself when it is traced."""

    traced = 0

    def call(self, x):
        globals()["TRACED"] += not tf.executing_eagerly()
        return x


TRACED = 0


def test_training_and_saving_a_model_is_no_change(tmp_path):
    model = network(keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.5), Counted())
    model.add(keras.layers.Dense(2, activity_regularizer="l2"))
    attack, (x, y) = Gradient(), samples()
    losses = []

    def attacked():
        before = TRACED
        curve = lr.evaluate_robustness(model, x, y, attack, [0.1], checks=False)
        losses.append(float(curve.losses.mean()))
        return TRACED - before

    assert attacked() > 0
    assert attacked() == 0
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
    assert attacked() == 0
    for _ in range(2):
        model.fit(x, y, verbose=0)
        assert attacked() == 0
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "model", verbose=False)
    model.get_config()
    assert attacked() == 0
    model.set_weights([2.0 * w for w in model.get_weights()])
    assert attacked() == 0
    assert len({*losses}) == 4  # Before training, after each epoch, and with other weights.


def test_few_graphs_are_kept():
    x, y = samples()
    classifiers = [Attribute() for _ in range(40)]
    gone = [weakref.ref(classifier) for classifier in classifiers]
    for classifier in classifiers:
        Gradient()(classifier, x, y, 0.1)
    del classifier, classifiers
    gc.collect()
    assert 0 < sum(reference() is not None for reference in gone) < 40
    graph_cache.clear()
    gc.collect()
    assert not any(reference() for reference in gone)


@pytest.mark.parametrize("kind", [PGD, DeepFool])
def test_a_graph_that_is_forgotten_is_gone(kind):
    """Nothing in it is among what TensorFlow keeps for good, as it does custom gradients."""
    attack, (x, y) = kind(norm="l2", steps=1, bounds=None), samples()
    graph_cache.clear()
    attack(Attribute(), x, y, *([] if kind is DeepFool else [0.1]))
    made = [kept[-1] for kept in graph_cache._KEPT.values()]
    graphs = [weakref.ref(each.graph) for each in made if hasattr(each, "graph")]
    assert graphs
    del made
    graph_cache.clear()
    gc.collect()
    assert not any(graph() for graph in graphs)


def test_large_array_that_cannot_change_is_not_read():
    weights = WEIGHTS.copy()
    snapshot = graph_cache.Snapshot(weights)
    weights[0] = 7.0
    assert not snapshot.still_holds()
    weights.setflags(write=False)
    snapshot = graph_cache.Snapshot(weights)
    weights.setflags(write=True)
    weights[0] = 8.0
    weights.setflags(write=False)
    assert snapshot.still_holds()
