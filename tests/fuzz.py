"""Gives loaders and argument checks what nobody should: `python -m tests.fuzz --minutes=60`.

Prints what was tried how often, and everything that ended in something else than an error that says
what was wrong; if there was any, the exit code is 1. What it finds is kept as an ordinary test
where it was mended. `nox --session fuzz` runs it for a few minutes.
"""

import collections
import copy
import inspect
import json
import os
import pathlib
import random
import sys
import tempfile
import time
import traceback
import warnings
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported.

import keras
import numpy as np
from absl import app, flags
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import lexirobust as lr
from tests.training.by_hand import METHODS, compiled, network

MINUTES = flags.DEFINE_float("minutes", 1.0, "How long.", lower_bound=0.0)
SEED = flags.DEFINE_integer("seed", 0, "Where to begin.")

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 20)
    | st.integers()
    | st.floats()
    | st.floats(0, 3)
    | st.text(max_size=4)
    | st.sampled_from(["l2", "linf", "exact", "maximum", "maximize", "onestep", "auto", "nearest"])
    | st.sampled_from([1j, b"l2", np.float32(1), np.int64(2), np.nan, np.bool_(True), object()])
)
VALUES = SCALARS | st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=6,
)
ARRAYS = st.lists(st.floats(width=32) | st.floats(-2, 2, width=32), max_size=6).map(
    lambda values: np.array(values, np.float32)
)

ATTACK = lr.attacks.PGD(norm="l2", steps=1, bounds=None)
X, Y = lr.datasets.toy(20, seed=0)
CLASSIFIER = network()
CURVE = lr.evaluate_robustness(CLASSIFIER, X, Y, attack=ATTACK, magnitudes=[0, 1])
TRAINED = compiled(METHODS["olsrc"](network()))

# What is called, with arguments that are good; some of them are replaced.
CALLED = {
    **{
        name: (getattr(lr.attacks, name), {"norm": "l2"})
        for name in ("PGD", "FGSM", "BIM", "DAA", "Square", "IntervalAttack")
    },
    **{
        name: (getattr(lr.attacks, name), {"norm": "l2"})
        for name in ("FAB", "DeepFool", "HopSkipJump", "BoundaryAttack")
    },
    "Spatial": (lr.attacks.Spatial, {}),
    "Flow": (lr.attacks.Flow, {}),
    "WorstCase": (lr.attacks.WorstCase, {"attacks": [ATTACK, ATTACK], "magnitudes": [1.0, 2.0]}),
    "WarmStart": (lr.WarmStart, {}),
    "Adversarial": (lr.objectives.Adversarial, {"attack": ATTACK, "magnitude": 1.0}),
    "Divergence": (lr.objectives.Divergence, {"attack": ATTACK, "magnitude": 1.0}),
    "Output": (lr.objectives.Output, {"output": "color"}),
    "Regularization": (lr.objectives.Regularization, {}),
    "WeightedSum": (
        lr.objectives.WeightedSum,
        {"objectives": [lr.objectives.Natural()], "weights": [1.0]},
    ),
    "OLSRC": (lr.OLSRC, {"classifier": CLASSIFIER, "attack": ATTACK, "magnitudes": [1.0]}),
    "OLGRC": (lr.OLGRC, {"classifier": CLASSIFIER, "attack": ATTACK, "magnitudes": [1.0]}),
    "TRADES": (lr.TRADES, {"classifier": CLASSIFIER, "attack": ATTACK, "magnitude": 1.0}),
    "AdversarialTraining": (
        lr.AdversarialTraining,
        {"classifier": CLASSIFIER, "attack": ATTACK, "magnitude": 1.0},
    ),
    "MixTrain": (lr.MixTrain, {"classifier": CLASSIFIER, "attack": ATTACK, "magnitude": 1.0}),
    "MultiPerturbationTraining": (
        lr.MultiPerturbationTraining,
        {"classifier": CLASSIFIER, "attacks": [ATTACK], "magnitudes": [1.0], "strategy": "max"},
    ),
    "LexicographicModel": (
        lr.LexicographicModel,
        {"classifier": CLASSIFIER, "objectives": [lr.objectives.Natural()]},
    ),
    "Backup": (lr.callbacks.Backup, {"folder": "unused"}),
    "LexicographicCheckpoint": (
        lr.callbacks.LexicographicCheckpoint,
        {"path": "unused.keras", "ranks": ["accuracy"]},
    ),
    "RobustnessCurve": (
        lr.callbacks.RobustnessCurve,
        {"x": X, "y": Y, "attack": ATTACK, "magnitudes": [0, 1.0]},
    ),
    "ConflictMonitor": (lr.callbacks.ConflictMonitor, {}),
    "toy": (lr.datasets.toy, {"n": 10, "seed": 0}),
    "toy_classifier": (lr.datasets.toy_classifier, {"name": "f1"}),
    "subset": (lr.datasets.subset, {"x": X, "y": Y, "count": 3, "seed": 0}),
    "with_index": (lr.datasets.with_index, {"data": X}),
    "class_distances": (lr.class_distances, {"x": X, "y": Y}),
    "nearest_pairs": (lr.nearest_pairs, {"x": X, "y": Y}),
    "compare": (lr.compare, {"first": CURVE, "second": CURVE}),
    "rank": (lr.rank, {"curves": [CURVE, CURVE]}),
    "compile": (compiled(METHODS["olsrc"](network())).compile, {"optimizer": "sgd"}),
    "fit": (TRAINED.fit, {"x": X, "y": Y, "verbose": 0}),
    "attack": (ATTACK, {"classifier": CLASSIFIER, "x": X, "y": Y, "magnitude": 1.0}),
    "sweep": (ATTACK.sweep, {"classifier": CLASSIFIER, "x": X, "y": Y, "magnitudes": [0, 1.0]}),
    "evaluate_robustness": (
        lr.evaluate_robustness,
        {"classifier": CLASSIFIER, "x": X, "y": Y, "attack": ATTACK, "magnitudes": [0, 1.0]},
    ),
}
# These would work for ages, or write where they are told to.
LEFT_ALONE = {
    "fit": {"epochs", "callbacks", "verbose", "steps_per_epoch", "initial_epoch"},
    "toy": {"n"},
    "evaluate_robustness": {"backup"},
}
REFUSED = (ValueError, TypeError)

found: dict[str, str] = {}
counts: collections.Counter[str] = collections.Counter()


def tried(what, function, refused=REFUSED):
    """Calls, and writes down what is neither a result nor a refusal.

    What ends inside Keras, or what it reads files with, is theirs to say.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            function()
        counts[f"{what}: accepted"] += 1
    except refused:
        counts[f"{what}: refused"] += 1
    except Exception as error:  # Whatever it is: that is what is looked for.
        frames = traceback.extract_tb(error.__traceback__)
        place = frames[-1]
        ours = any("/lexirobust/" in frame.filename for frame in frames)
        ours &= "/keras/" not in place.filename
        if ours:
            key = f"{what}: {type(error).__name__} in {pathlib.Path(place.filename).name}"
            if key not in found:
                print(f"FOUND {key}:{place.lineno}\n{traceback.format_exc()[-1500:]}", flush=True)
            found.setdefault(key, traceback.format_exc())
        counts[f"{what}: {type(error).__name__}{'' if ours else ' of theirs'}"] += 1


def arguments(data):
    name = data.draw(st.sampled_from(sorted(CALLED)))
    function, good = CALLED[name]
    known = [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.name not in LEFT_ALONE.get(name, ())
    ]
    if not known:
        return
    replaced = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=2, unique=True))
    drawn = {key: data.draw(VALUES | ARRAYS, label=key) for key in replaced}

    def call():
        made = function(**{**good, **drawn})
        if hasattr(made, "get_config") and not isinstance(made, keras.Model):
            type(made).from_config(made.get_config())

    before = len(found)
    tried(name, call)
    if len(found) > before:
        print(f"by {drawn}", flush=True)


def curves(data):
    content = json.loads(CURVE.to_json())
    mutate(content, random.Random(data.draw(st.integers())))
    tried("from_json", lambda: lr.AccuracyCurve.from_json(json.dumps(content)))


def mutate(content, chance):
    """Changes a place or two in JSON."""
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        places = [*_places(content)]
        inner, key = chance.choice(places)
        kind = chance.choice(["value", "value", "remove", "copy"])
        if kind == "remove":
            del inner[key]
        elif kind == "copy":
            other, name = chance.choice(places)
            if name in other if isinstance(other, dict) else name < len(other):
                inner[key] = copy.deepcopy(other[name])
        else:
            inner[key] = chance.choice(
                [None, True, 0, -1, 3, 1e308, float("nan"), "", "l2", [], {}, [1, 2], {"a": 1}]
            )


def _places(content):
    inner = [*content.items()] if isinstance(content, dict) else [*enumerate(content)]
    for key, value in inner:
        yield content, key
        if isinstance(value, dict | list):
            yield from _places(value)


def files_of(folder):
    """A saved model of each method: its bytes, and what it holds by name."""
    saved = {}
    for method in METHODS:
        path = pathlib.Path(folder) / f"{method}.keras"
        compiled(METHODS[method](network(), warm_start=None)).save(path)
        with zipfile.ZipFile(path) as archive:
            inside = {name: archive.read(name) for name in archive.namelist()}
        saved[method] = path.read_bytes(), inside
    return saved


def loaded(saved, folder, chance):
    """Loads a file that was changed in its bytes, its configuration or its weights."""
    whole, inside = saved[chance.choice(sorted(saved))]
    path = pathlib.Path(folder) / "changed.keras"
    kind = chance.choice(["bytes", "config", "config", "config", "weights", "missing"])
    if kind == "bytes":
        changed = bytearray(whole)
        for _ in range(chance.choice([1, 3, 50])):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        path.write_bytes(changed[: chance.choice([len(changed), chance.randrange(len(changed))])])
    else:
        changed = dict(inside)
        if kind == "config":
            config = json.loads(inside["config.json"])
            mutate(config, chance)
            changed["config.json"] = json.dumps(config).encode()
        elif kind == "missing":
            del changed[chance.choice(sorted(changed))]
        else:
            weights = bytearray(inside["model.weights.h5"])
            for _ in range(chance.choice([1, 10, 200])):
                weights[chance.randrange(len(weights))] = chance.randrange(256)
            changed["model.weights.h5"] = bytes(weights)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in changed.items():
                archive.writestr(name, content)
    refused = (*REFUSED, zipfile.BadZipFile, OSError)
    tried(f"load_model, {kind}", lambda: keras.models.load_model(path), refused)


def main(_):
    end = time.monotonic() + 60 * MINUTES.value
    number = SEED.value
    with tempfile.TemporaryDirectory() as folder:
        saved = files_of(folder)
        while time.monotonic() < end:
            for target, examples in ((arguments, 50), (curves, 50)):
                quick = settings(
                    max_examples=examples,
                    phases=[Phase.generate],
                    deadline=None,
                    database=None,
                    suppress_health_check=[*HealthCheck],
                )
                seed(number)(quick(given(st.data())(target)))()
            for example in range(5):
                loaded(saved, folder, random.Random(f"{number} {example}"))
            number += 1
            if number % 20 == 0:
                keras.backend.clear_session()
    print(json.dumps(dict(sorted(counts.items())), indent=1))
    print(f"{sum(counts.values())} tried, by seeds {SEED.value} to {number - 1}; found:")
    print("\n".join(sorted(found)) or "nothing")
    sys.exit(bool(found))


if __name__ == "__main__":
    app.run(main)
