"""What others add, each one file and one line that imports it, works everywhere."""

import importlib.util
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust as lr
from tests.training.by_hand import network

pytestmark = pytest.mark.release

X, Y = lr.datasets.toy(40, seed=0)

ATTACK = """
    import keras
    import tensorflow as tf

    import lexirobust as lr


    @keras.saving.register_keras_serializable(package="trial")
    class Toward(lr.attacks.Attack):
        # Moves every input by its magnitude in one direction.

        def __init__(self, direction=1.0, norm="l2", bounds=None, seed=None):
            super().__init__(norm=norm, bounds=bounds, seed=seed)
            self.direction = direction

        def get_config(self):
            return {"direction": self.direction, "norm": self.norm, "seed": self.seed}

        def perturb(self, classifier, x, y, magnitude, seed):
            step = tf.broadcast_to(tf.cast(magnitude, x.dtype), tf.shape(x)[:1])
            return x + self.direction * step[:, None]
"""

OBJECTIVE = """
    import keras
    import tensorflow as tf

    import lexirobust as lr


    @keras.saving.register_keras_serializable(package="trial")
    class Flat(lr.objectives.Objective):
        # Asks for the same logits under attack as on clean inputs.

        def __init__(self, attack, magnitude):
            super().__init__("flat", attack, magnitude)

        def loss(self, forward, batch, inputs, score):
            logits = forward(inputs)
            return tf.reduce_mean(tf.square(logits - forward(batch.x))), logits

        def get_config(self):
            attack = keras.saving.serialize_keras_object(self.attack)
            return {"attack": attack, "magnitude": self.magnitude}

        @classmethod
        def from_config(cls, config):
            attack = keras.saving.deserialize_keras_object(config["attack"])
            return cls(attack, config["magnitude"])
"""

METRIC = """
    import keras
    import tensorflow as tf

    import lexirobust as lr


    @keras.saving.register_keras_serializable(package="trial")
    class Scaled(keras.optimizers.SGD):
        # Moves each variable by a hundredth of its gradient's, but for the largest one.

        def update_step(self, gradient, variable, learning_rate):
            super().update_step(factor(gradient) * gradient, variable, learning_rate)


    def factor(gradient):
        return 1.0 if len(gradient.shape) == 2 else 0.01


    @lr.preconditioner.register(Scaled)
    def scaled(optimizer):
        def diagonal(gradient):
            return [tf.ones([]) if g is None else factor(g) * tf.ones_like(g) for g in gradient]

        return diagonal
"""


@pytest.fixture
def add(tmp_path):
    """Writes a file, and imports it."""

    def add(name, source):
        path = tmp_path / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return add


def trained(model, optimizer="adam"):
    model.compile(optimizer)
    logs = model.fit(X, Y, batch_size=20, verbose=0).history
    assert np.isfinite(np.concatenate([*logs.values()])).all()
    return logs


def saved_and_loaded(model, path):
    model.save(path / "model.keras")
    loaded = keras.models.load_model(path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    for one, other in zip(
        model.fit(X, Y, verbose=0).history.items(),
        loaded.fit(X, Y, verbose=0).history.items(),
        strict=True,
    ):
        assert one == other
    return loaded


def test_an_attack(add, tmp_path):
    attack = add("trial_attack", ATTACK).Toward()
    model = lr.OLSRC(network(), attack, [0.5, 1.0])
    assert {"loss@l2=0_5", "accuracy@l2=1"} <= trained(model).keys()
    loaded = saved_and_loaded(model, tmp_path)
    assert loaded.attack.get_config() == attack.get_config()

    curve = lr.evaluate_robustness(model, X, Y, attack, [0, 0.5, 1])
    expected = [np.mean(np.argmax(model.predict(X + d, verbose=0), 1) == Y) for d in (0, 0.5, 1)]
    np.testing.assert_allclose(curve.accuracy, expected)
    assert lr.AccuracyCurve.from_json(curve.to_json()).settings == curve.settings
    lr.report({"trial": curve}, tmp_path / "report.html")
    assert "Toward" in (tmp_path / "report.html").read_text(encoding="utf-8")

    lr.export(model, tmp_path / "1", attack)
    served = tf.saved_model.load(str(tmp_path / "1"))
    perturb = served.signatures["perturb"]
    x_adv = perturb(
        inputs=tf.constant(X), labels=tf.constant(Y, tf.int64), magnitude=tf.constant(2.0)
    )["perturbed"]
    np.testing.assert_allclose(x_adv, X + 2.0)


def test_an_objective(add, tmp_path):
    flat = add("trial_objective", OBJECTIVE).Flat
    attack = lr.attacks.PGD(steps=2, restarts=2, bounds=None)
    model = lr.LexicographicModel(network(), [lr.objectives.Natural(), flat(attack, 1.0)])
    logs = trained(model)
    assert {"loss@flat", "accuracy@flat", "step_cosine@flat"} <= logs.keys()
    assert isinstance(saved_and_loaded(model, tmp_path).objectives[1], flat)
    assert "loss@flat" in model.evaluate(X, Y, verbose=0, return_dict=True)


def test_an_optimizers_metric(add, tmp_path):
    optimizer = add("trial_metric", METRIC).Scaled
    attack = lr.attacks.PGD(steps=2, restarts=2, bounds=None)
    model = lr.OLSRC(network(), attack, [1.0], detailed_logs=True)
    logs = trained(model, optimizer(0.1))
    gradients = model.gradients(X, Y)
    metric = [1.0 if len(g.shape) == 2 else 0.01 for g in gradients[0]]
    model.compile(optimizer(0.0))  # Stands still, and logs what ranks are compared by.
    logs = model.fit(X, Y, batch_size=len(X), verbose=0).history
    weighed = [
        sum(m * np.sum(np.square(g)) for m, g in zip(metric, row, strict=True)) for row in gradients
    ]
    np.testing.assert_allclose(logs["norm@natural"], np.sqrt(weighed[0]), rtol=1e-4)
    saved_and_loaded(model, tmp_path)
