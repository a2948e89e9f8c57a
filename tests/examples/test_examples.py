"""The examples, run as a user runs them."""

import importlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import lexirobust
from lexirobust import datasets
from tests.forks import run_forked
from tests.helpers import store_mnist

# Nothing listens there: MNIST is out of reach on every machine.
OFFLINE = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "ftp")}
PLANE = "examples/circle_and_line.py"
TOY, MNIST, DIGITS = "examples/toy.py", "examples/mnist.py", "examples/digits.py"
PHYSICS, FAIRNESS = "examples/physics_informed.py", "examples/fairness.py"
FIELDS = {
    "method": str,
    "seed": int,
    "natural_accuracy": float,
    "natural_loss": float,
    "accuracy": dict,
    "seconds": float,
}


def run(*arguments):
    finished = run_forked(*arguments, **OFFLINE)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def results(folder):
    found = json.loads((folder / "results.json").read_text())
    for result in found:
        for field, kind in FIELDS.items():
            assert isinstance(result[field], kind), field
        assert all(0 <= value <= 1 for value in result["accuracy"].values())
        assert 0 <= result["natural_accuracy"] <= 1
        assert result["seconds"] > 0
        assert np.isfinite(result["natural_loss"])
    return found


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """One short run of both experiments: what it printed, and where it wrote."""
    folder = tmp_path_factory.mktemp("toy")
    methods = "--methods=standard,adversarial,olgrc"
    return run(TOY, "--experiment=all", methods, "--epochs=300", f"--out={folder}"), folder


@pytest.mark.release
def test_toy_writes_results_and_draws(toy):
    shown, folder = toy
    found = results(folder)
    assert [(result["experiment"], result["method"]) for result in found] == [
        (1, "standard"),
        (1, "adversarial"),
        (1, "olgrc"),
        (2, "standard"),
        (2, "olgrc"),
    ]
    first, again = found[0], found[3]  # One training.
    assert {**first, **{name: again[name] for name in ("experiment", "magnitudes")}} == again
    assert (first["magnitudes"], again["magnitudes"][-1]) == ([4.0], 6.0)
    for result in found:
        magnitudes = list(map(float, result["accuracy"]))
        assert magnitudes == sorted(magnitudes)
        assert result["seed"] == 0
        assert result["accuracy"]["0"] == result["natural_accuracy"]
        assert all(-8 <= place <= 8 for place in result["boundaries"])
        assert result["method"] in shown
    assert "Experiment 1" in shown
    assert "Experiment 2" in shown
    pictures = {path.stem for path in folder.glob("*.png") if is_picture(path)}
    assert pictures == {"figures5to8", "figure9", "figure10", "figure11", "figure12"}


@pytest.mark.release
def test_toy_olgrc_ends_with_one_boundary_near_zero(toy):
    result = results(toy[1])[-1]
    (boundary,) = result["boundaries"]
    assert abs(boundary) < 0.25
    assert result["natural_accuracy"] == 1.0


BAD_FLAGS = [
    ((TOY, "--methods=olsrc,nope"), "--methods"),
    ((TOY, "--methods=trades", "--experiment=2"), "trades"),
    ((MNIST, "--magnitudes=much"), "--magnitudes"),
    ((MNIST, "--method=trades", "--magnitudes=1,2"), "trades"),
    ((MNIST, "--method=average", "--magnitudes=1"), "average"),
    ((MNIST, "--paper", "--epochs=3"), "--epochs"),
    ((MNIST, "--memory", "--method=trades"), "--memory"),
    ((MNIST, "--batch_size=300", "--samples=200"), "--batch_size"),
    (("examples/figures.py", "--figures=nope"), "--figures"),
    ((PLANE, "--methods=nope"), "--methods"),
    (("examples/report.py", "--samples=5"), "--samples"),
    ((DIGITS, "--methods=ranked,nope"), "--methods"),
    ((DIGITS, "--coefficients=0.1,0"), "--coefficients"),
    ((PHYSICS, "--steps=30"), "--steps"),
    ((FAIRNESS, "--targets=0.1,0"), "--targets"),
]


@pytest.mark.parametrize(
    ("arguments", "named"), BAD_FLAGS, ids=[" ".join(arguments) for arguments, _ in BAD_FLAGS]
)
def test_bad_flags_give_a_usage_error(arguments, named, tmp_path):
    finished = run_forked(*arguments, f"--out={tmp_path}", **OFFLINE)
    shown = finished.stdout + finished.stderr
    assert finished.returncode == 1, shown
    assert named in shown
    assert "Traceback" not in shown
    assert [*tmp_path.iterdir()] == []


@pytest.mark.release
def test_mnist_that_cannot_be_had_is_one_line(tmp_path):
    finished = run_forked(MNIST, f"--data_dir={tmp_path}", f"--out={tmp_path}", **OFFLINE)
    assert finished.returncode != 0
    assert "Traceback" not in finished.stderr
    (line,) = [line for line in finished.stderr.splitlines() if "MNIST" in line]
    assert "--data_dir" in line
    assert str(tmp_path) in line


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Twenty images prepared on disk under MNIST's name."""
    folder = tmp_path_factory.mktemp("tfds")
    rng = np.random.default_rng(0)
    rows = {
        "image": rng.integers(256, size=(20, 28, 28, 1)).astype(np.uint8),
        "label": np.arange(20) % 10,
    }
    store_mnist(folder, train=rows, test=rows)
    return folder


@pytest.mark.release
def test_pipeline_ends_with_the_numbers_of_the_other_process(digits, tmp_path):
    settings = ["--trained=20", "--samples=20", "--epochs=10", "--magnitude=6.0"]
    run("examples/pipeline.py", *settings, f"--data_dir={digits}", f"--out={tmp_path}")
    (found,) = json.loads((tmp_path / "results.json").read_text())
    plain, here, *elsewhere = found["right"].values()
    assert plain > here
    assert len(set(elsewhere)) == 1
    assert len(list(tf.data.TFRecordDataset(str(tmp_path / "moved.tfrecord")))) == 20


@pytest.mark.release
def test_interpretation_draws_and_measures(digits, tmp_path):
    settings = ["--samples=20", "--epochs=60", "--steps=3", "--magnitudes=0.5"]
    run("examples/interpretation.py", *settings, f"--data_dir={digits}", f"--out={tmp_path}")
    found = json.loads((tmp_path / "results.json").read_text())
    assert [result["method"] for result in found] == ["standard", "olsrc"]
    for result in found:
        assert set(result["nearest"]) == {"DeepFool", "FAB", "HopSkipJump"}
        assert all(min(each["distances"]) > 0 for each in result["nearest"].values())
        assert is_picture(tmp_path / f"{result['method']}.png")


@pytest.mark.release
def test_mnist_trains_measures_and_saves(digits, tmp_path):
    settings = ["--samples=12", "--test_samples=5", "--epochs=1", "--attack_steps=2"]
    settings += ["--test_steps=3", "--test_restarts=2", "--warm_start=steps"]
    run(MNIST, *settings, "--method=olgrc", f"--data_dir={digits}", f"--out={tmp_path}")
    (result,) = results(tmp_path)
    assert (result["method"], result["magnitudes"]) == ("olgrc", [4.0])
    assert list(result["accuracy"]) == ["4"]
    assert result["accuracy"]["4"] == result["outcomes"]["4"].count("1") / 5
    assert is_picture(tmp_path / "training.png")
    assert not (tmp_path / "backup").exists()
    for constraint in ("exact", "maximum"):
        curve = result["curves"][constraint]
        shares = [outcomes.count("1") / 5 for outcomes in curve["outcomes"]]
        assert curve["accuracy"] == shares
        assert len(shares) == len(curve["magnitudes"])
    falls = np.diff(result["curves"]["maximum"]["accuracy"])
    assert np.all(falls <= 0)

    page = tmp_path / "page.md"
    run("examples/mnist_page.py", f"--results={tmp_path / 'results.json'}", f"--out={page}")
    written = page.read_text()
    assert f"{100 * result['natural_accuracy']:.2f}" in written
    assert "| OLGRC " in written
    assert is_picture(tmp_path / "figures" / "page.png")

    x, y = datasets.mnist("test", digits)
    model = keras.models.load_model(tmp_path / "model.keras")
    logits = model.predict(x, verbose=0)
    served = tf.saved_model.load(tmp_path / "serving" / "1")
    assert logits.shape == (20, 10)
    assert np.allclose(served.serve(x), logits, atol=1e-5)
    assert result["natural_accuracy"] == np.mean(np.argmax(logits, axis=1) == y)
    assert int(model.optimizer.iterations) == 1


@pytest.mark.release
def test_mnist_trains_in_mini_batches(digits, tmp_path):
    settings = ["--samples=12", "--test_samples=5", "--curve_samples=0", "--epochs=2"]
    settings += ["--batch_size=5", "--memory", "--attack_steps=1", "--test_steps=1"]
    run(MNIST, *settings, f"--data_dir={digits}", f"--out={tmp_path}")
    model = keras.models.load_model(tmp_path / "model.keras")
    assert int(model.optimizer.iterations) == 6
    means = np.concatenate([np.ravel(mean) for mean in model.mean_gradients[1]])
    assert np.isfinite(means).all()
    assert np.any(means)
    page = tmp_path / "page.md"
    run("examples/mnist_page.py", f"--results={tmp_path / 'results.json'}", f"--out={page}")
    assert "| OLSRC, batches of 5, memory " in page.read_text()


@pytest.mark.release
def test_figures_are_drawn(digits, tmp_path):
    figures = "--figures=2,5,6,7,8,13,14"
    run("examples/figures.py", figures, f"--data_dir={digits}", f"--out={tmp_path}")
    pictures = {path.stem for path in tmp_path.glob("*.png") if is_picture(path)}
    assert pictures == {f"figure{number}" for number in (2, 5, 6, 7, 8, 13, 14)}


@pytest.mark.release
def test_circle_and_line_measures_against_the_parabola(tmp_path, monkeypatch):
    options = PLANE, "--methods=olsrc", f"--out={tmp_path}"
    shown = run(*options, "--epochs=2")
    assert is_picture(tmp_path / "figure3.png")
    kept = tmp_path / "results.json"
    first = json.loads(kept.read_text())
    assert [result["method"] for result in first] == ["olsrc", "neighbor"]
    assert "1-nearest-neighbor" in shown
    # Neighbors come close to it without training; what is there already is not done again.
    assert first[-1]["mean_distance"] < 0.05 < first[0]["mean_distance"]
    run(*options, "--epochs=2")
    assert json.loads(kept.read_text()) == first

    monkeypatch.syspath_prepend("examples")
    example = importlib.import_module("circle_and_line")

    def parabola(points, above=0.0):
        score = points[:, 1] - points[:, 0] ** 2 / 4 - above
        return np.stack([score, -score], axis=1)

    found = example.measured(example.crossings(lambda points: parabola(points, above=0.5)))
    assert found["mean_distance"] == pytest.approx(0.5, abs=1e-4)
    assert found["largest_distance"] == pytest.approx(0.5, abs=1e-4)
    assert found["columns_without_one_crossing"] == 0
    nowhere = example.measured(example.crossings(lambda points: np.zeros_like(points)))
    assert nowhere["columns_without_one_crossing"] == 61


@pytest.mark.release
def test_an_interrupted_training_goes_on_as_it_would_have(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend("examples")
    common = importlib.import_module("common")
    x, y = datasets.toy(20, seed=0)
    attack = lexirobust.attacks.PGD(steps=2, bounds=None)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 3:  # The backup is of the end of epoch 1.
                raise KeyboardInterrupt

    def trained(folder, *callbacks):
        keras.utils.set_random_seed(0)
        classifier = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
        model = lexirobust.OLSRC(classifier, attack, [1.0], warm_start=lexirobust.WarmStart())
        model.compile("adam")
        log = keras.callbacks.CSVLogger(folder / "training.csv", append=True)
        ours = [
            lexirobust.callbacks.Backup(folder / "backup", every=2, delete=False),
            common.Seconds(),
            log,
        ]
        model.fit(
            x,
            y,
            batch_size=len(x),
            epochs=6,
            shuffle=False,
            verbose=0,
            callbacks=[*ours, *callbacks],
        )
        return model

    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "halves", Stop())
    halves = trained(tmp_path / "halves")
    assert int(halves.optimizer.iterations) == int(whole.optimizer.iterations) == 6
    for one, other in zip(whole.get_weights(), halves.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    history, other = (
        common.read_history(tmp_path / name / "training.csv") for name in ("whole", "halves")
    )
    assert len(history["loss"]) == 6
    assert history["loss"] == other["loss"]
    assert min(history["seconds"]) > 0


def test_a_folder_with_other_settings_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend("examples")
    common = importlib.import_module("common")
    common.begin(tmp_path / "run", {"epochs": 2})
    common.begin(tmp_path / "run", {"epochs": 3})
    (tmp_path / "run" / "backup").mkdir()
    common.begin(tmp_path / "run", {"epochs": 3})
    with pytest.raises(SystemExit, match="--out"):
        common.begin(tmp_path / "run", {"epochs": 4})


@pytest.mark.release
def test_report_is_a_page_that_warns(tmp_path):
    settings = ["--epochs=1", "--samples=40", "--steps=2", f"--out={tmp_path}"]
    shown = run("examples/report.py", *settings)
    page = tmp_path / "report.html"
    assert str(page) in shown
    assert [path.name for path in tmp_path.iterdir()] == [page.name]
    told = page.read_text(encoding="utf-8")
    assert "on the same\n40 samples" in told
    assert told.index("standard with softmax</h3>") < told.index("looks like probabilities")
    assert "Clean image" in told


@pytest.mark.release
def test_digits_ranks_the_main_loss_above_its_regularization(tmp_path):
    settings = ["--seeds=0", "--epochs=300", "--learning_rate=1e-2", "--coefficients=1e-3"]
    shown = run(DIGITS, *settings, f"--out={tmp_path}")
    found = json.loads((tmp_path / "results.json").read_text())
    runs = {result["method"]: result for result in found}
    assert list(runs) == ["none", "weighted", "ranked", "per-rank"]
    assert all(name in shown for name in runs)
    assert is_picture(tmp_path / "digits.png")
    for result in found:
        assert result["coefficient"] == (0.0 if result["method"] == "none" else 1e-3)
        assert result["samples"] == 200
        assert 0.85 < result["natural_accuracy"] < 1
    loss, size = (
        {name: result[field] for name, result in runs.items()}
        for field in ("natural_training_loss", "squared_weights")
    )
    for name in ("ranked", "per-rank"):
        assert loss[name] < 0.6 * loss["weighted"]
        assert size[name] < 0.6 * size["none"]


@pytest.mark.release
def test_physics_informed_ranks_the_boundary_above_the_inside(tmp_path):
    settings = ["--seeds=0", "--steps=1000", "--weights=1"]
    shown = run(PHYSICS, *settings, f"--out={tmp_path}")
    weighted, ranked = json.loads((tmp_path / "results.json").read_text())
    assert (weighted["method"], weighted["weight"]) == ("weighted", 1.0)
    assert (ranked["method"], ranked["weight"]) == ("ranked", None)
    assert ranked["error"] < 0.9 * weighted["error"]
    assert f"{ranked['error']:.3f}" in shown
    assert is_picture(tmp_path / "physics_informed.png")


def adult(rng, count):
    """Lines as of adult.data: men who work long earn much, and women however long they work."""
    lines = []
    for woman, hours in zip(rng.integers(2, size=count), rng.integers(20, 60, count), strict=True):
        much = rng.random() < (0.4 if woman else 0.9 if hours > 40 else 0.1)
        sex, income = ("Female" if woman else "Male"), (">50K" if much else "<=50K")
        kinds = rng.choice(["a", "b"], size=6)
        age, schooling, gain, loss = rng.integers(1, 50, size=4)
        lines.append(
            f"{age}, {kinds[0]}, 1, x, {schooling}, {kinds[1]}, {kinds[2]}, {kinds[3]}, "
            f"{kinds[4]}, {sex}, {gain}, {loss}, {hours}, {kinds[5]}, {income}"
        )
    return lines


@pytest.mark.release
def test_fairness_meets_the_gap_that_is_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "adult.data").write_text("\n".join(adult(rng, 3000)) + "\n\n")
    test = ["|1x3 Cross validator", *(f"{line}." for line in adult(rng, 200))]
    (tmp_path / "adult.test").write_text("\n".join(test))
    settings = ["--seeds=0", "--steps=100", "--weights=0.5", "--targets=0.05", f"--data={tmp_path}"]
    shown = run(FAIRNESS, *settings, f"--out={tmp_path}")
    found = json.loads((tmp_path / "results.json").read_text())
    plain, weighted, target = (abs(run["training"]["gap_of_probabilities"]) for run in found)
    assert [run["method"] for run in found] == ["plain", "weighted", "target"]
    assert plain > 0.1
    assert weighted < 0.05
    assert target == pytest.approx(0.05, abs=0.01)
    assert "target 0.05" in shown
    assert is_picture(tmp_path / "fairness.png")
