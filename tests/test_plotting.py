import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from lexirobust import datasets, plotting
from lexirobust.plotting.style import label_points, series_styles

MAGNITUDES = np.linspace(0.0, 7.0, 15)


def history(*ranks, scale=1.0, epochs=5):
    values = {"loss": [1.0] * epochs, "lr": [0.1] * epochs}
    for split, offset in (("", 0.0), ("val_", 0.01)):
        for index, rank in enumerate(ranks):
            steps = np.arange(epochs) / epochs
            values[f"{split}accuracy@{rank}"] = list(0.5 + steps / 2 - offset - index / 10)
            values[f"{split}loss@{rank}"] = list(scale * (1.1 - steps + offset + index / 10))
    return values


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def rectangles(axes):
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def assert_saves(figure, tmp_path):
    path = tmp_path / "figure.png"
    figure.savefig(path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_training_curves_draw_every_history(tmp_path):
    histories = {
        "adversarial": history("natural", "l2=4"),
        "OLSRC": history("natural", "l2=1", "l2=4", scale=2.0, epochs=7),
    }
    figure = plotting.training_curves(histories)
    assert len(figure.axes) == 4
    assert [axes.get_title() for axes in figure.axes[:2]] == ["accuracy", "loss"]
    assert [axes.get_xlabel() for axes in figure.axes[2:]] == ["epoch", "epoch"]
    for row, (method, values) in enumerate(histories.items()):
        assert figure.axes[2 * row].get_ylabel() == method
        for column, quantity in enumerate(("accuracy", "loss")):
            drawn = lines(figure.axes[2 * row + column])
            assert set(drawn) == {key for key in values if f"{quantity}@" in key}
            for key, line in drawn.items():
                assert np.array_equal(line.get_ydata(), values[key])
                assert np.array_equal(line.get_xdata(), np.arange(1, len(values[key]) + 1))
    assert_saves(figure, tmp_path)


def test_test_data_are_drawn_at_the_epochs_that_they_were_measured_at():
    values = history("natural", epochs=8)
    values = {key: v[:2] if key.startswith("val_") else v for key, v in values.items()}
    drawn = lines(plotting.training_curves({"a": values}, validation_freq=3).axes[0])
    assert drawn["val_accuracy@natural"].get_xdata().tolist() == [3, 6]
    assert drawn["accuracy@natural"].get_xdata().tolist() == [*range(1, 9)]
    for validation_freq in (1, 2, 5):
        with pytest.raises(ValueError, match="`validation_freq` must be that of `fit`"):
            plotting.training_curves({"a": values}, validation_freq)
    mixed = values | {"val_loss@natural": [0.1] * 8}
    with pytest.raises(ValueError, match=r"2 and 8 values of test data in 8 epochs of 'a'"):
        plotting.training_curves({"a": mixed}, validation_freq=3)


def test_target_curves_draw_the_estimate_the_target_and_held_out_data():
    history = {"loss@natural": [0.5, 0.2]}
    for rank, target in (("natural", 0.1), ("l2=1", 0.8)):
        history |= {f"target@{rank}": [target] * 2, f"estimate@{rank}": [0.5, 0.3]}
        history |= {f"descent@{rank}": [1.0, -9.0]}
    history["held_out@l2=1"] = [0.4, 0.5]
    figure = plotting.target_curves(history)
    natural, ranked, descent, _ = figure.axes
    assert [axes.get_ylabel() for axes in (natural, ranked)] == ["natural", "l2=1"]
    assert [len(axes.lines) for axes in (natural, ranked)] == [2, 3]
    assert list(natural.lines[1].get_ydata()) == [0.1, 0.1]
    assert list(ranked.lines[1].get_ydata()) == [0.4, 0.5]
    assert list(descent.lines[0].get_ydata()) == [1.0, -3.0]
    with pytest.raises(ValueError, match="must be of a model with `targets`"):
        plotting.target_curves({"loss@natural": [0.5]})


def contrast(color, alpha=1.0):
    """WCAG's contrast of a line with white paper: 1 is none, 21 that of black."""
    shown = 1 - (1 - np.array(to_rgb(color))) * (1.0 if alpha is None else alpha)
    linear = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


def test_what_fit_returns_is_drawn_as_its_history_is():
    drawn = SimpleNamespace(history=history("natural", "l2=4"))
    for one in (drawn, drawn.history, {"": drawn}):
        figure = plotting.training_curves(one)
        assert len(figure.axes) == 2
        assert figure.axes[0].get_ylabel() == ""
        loss = lines(figure.axes[1])["loss@l2=4"]
        assert np.array_equal(loss.get_ydata(), drawn.history["loss@l2=4"])
    drawn.history |= {f"{name}@natural": [0.5] * 5 for name in ("target", "estimate", "descent")}
    (above, _), (same, _) = (plotting.target_curves(h).axes for h in (drawn, drawn.history))
    assert lines(above).keys() == lines(same).keys() >= {"estimate", "target"}


@pytest.mark.parametrize(
    ("draw", "given"),
    [
        (plotting.training_curves, 3),
        (plotting.training_curves, [1.0]),
        (plotting.training_curves, {"OLSRC": 3}),
        (plotting.training_curves, [{"loss@natural": [1.0]}]),
        (plotting.target_curves, 3),
    ],
)
def test_what_is_no_history_is_refused(draw, given):
    with pytest.raises(TypeError, match=r"must be what `fit` returns, or its `history`\. Received"):
        draw(given)


def test_training_curves_draw_no_rank_paler_than_the_others():
    figure = plotting.training_curves({"OLSRC": history("natural", "l2=1", "l2=4")})
    drawn = lines(figure.axes[0])
    colors = []
    for rank in ("natural", "l2=1", "l2=4"):
        train, test = (drawn[f"{split}accuracy@{rank}"] for split in ("", "val_"))
        assert train.get_color() == test.get_color()
        assert train.get_linestyle() == "-"
        assert test.get_linestyle() == "--"
        assert test.get_zorder() >= train.get_zorder()
        assert contrast(test.get_color(), test.get_alpha()) > 3
        assert train.get_alpha() == drawn["accuracy@natural"].get_alpha()
        assert train.get_linewidth() == drawn["accuracy@natural"].get_linewidth()
        colors.append(train.get_color())
    assert len(set(colors)) == 3
    order = [line.get_label() for line in figure.axes[0].get_lines()]
    assert order == sorted(order, key=lambda label: label.startswith("val_"))
    assert order[2] == "accuracy@natural"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["natural", "l2=1", "l2=4", "train", "test"]


def test_training_curves_take_pairs_of_ranks_for_no_rank():
    logs = {**history("natural", "l2=4"), "cosine@natural,l2=4": [0.1] * 3}
    labels = plotting.training_curves({"OLSRC": logs}).legends[0].get_texts()
    assert [text.get_text() for text in labels][:2] == ["natural", "l2=4"]
    assert "natural,l2=4" not in [text.get_text() for text in labels]


def test_training_curves_without_test_data_have_no_entry_for_it():
    values = {key: v for key, v in history("natural").items() if not key.startswith("val_")}
    figure = plotting.training_curves({"Standard": values})
    assert set(lines(figure.axes[0])) == {"accuracy@natural"}
    assert all(tick == int(tick) for tick in figure.axes[0].get_xticks())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["natural", "train"]


def test_training_curves_use_a_logarithm_only_for_losses_over_decades():
    near, far = history("natural"), history("natural")
    far["loss@natural"] = [1.0, 0.1, 0.01, 1e-3, 0.0]
    assert plotting.training_curves({"a": near}).axes[1].get_yscale() == "linear"
    figure = plotting.training_curves({"a": near, "b": far})
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "log"] * 2


def test_training_curves_refuse_what_is_not_a_history():
    with pytest.raises(ValueError, match="`histories` must not be empty"):
        plotting.training_curves({})
    with pytest.raises(ValueError, match=r"`histories\['a'\]` .*'loss@natural'"):
        plotting.training_curves({"a": {"loss": [1.0]}})


def curves(name):
    train = datasets.toy_accuracy(name, MAGNITUDES)
    return {
        "train": SimpleNamespace(magnitudes=MAGNITUDES, accuracy=train),
        "test": SimpleNamespace(magnitudes=MAGNITUDES, accuracy=train / 2),
    }


def test_classifiers_and_curves_draw_probability_boundaries_and_accuracy(tmp_path):
    names = ("f2", "f3")
    figure = plotting.classifiers_and_curves(
        {name: (datasets.toy_classifier(name), curves(name)) for name in names}
    )
    assert len(figure.axes) == 4
    assert [axes.get_xlabel() for axes in figure.axes[2:]] == ["input", "exact perturbation norm"]
    signed_distance = {"f2": lambda x: np.maximum(-4 - x, x), "f3": lambda x: x}
    boundaries = {"f2": [-4.0, 0.0], "f3": [0.0]}
    for row, name in enumerate(names):
        left, right = figure.axes[2 * row : 2 * row + 2]
        assert left.get_ylabel() == name
        probability = lines(left)["p(class 1)"]
        x = np.asarray(probability.get_xdata())
        assert (x[0], x[-1]) == (-8.0, 8.0)
        expected = 1 / (1 + np.exp(-signed_distance[name](x)))
        assert np.allclose(probability.get_ydata(), expected, atol=1e-5)
        rings = [line for line in left.get_lines() if line.get_marker() == "o"]
        assert [np.asarray(ring.get_xdata())[0] for ring in rings] == pytest.approx(
            boundaries[name], abs=1e-5
        )
        written = [text.get_text() for text in left.texts]
        assert written == [f"{b:.2f}".replace("-", "−") for b in boundaries[name]]
        drawn = lines(right)
        for label, curve in curves(name).items():
            assert np.array_equal(drawn[label].get_xdata(), curve.magnitudes)
            assert np.array_equal(drawn[label].get_ydata(), curve.accuracy)
        assert drawn["train"].get_color() == plotting.RED
        assert drawn["test"].get_color() == plotting.BLUE
    assert_saves(figure, tmp_path)


def test_classifiers_and_curves_keep_other_curves_apart_from_train_and_test():
    others = {"certified": curves("f3")["test"], **curves("f3")}
    figure = plotting.classifiers_and_curves({"f3": (datasets.toy_classifier("f3"), others)})
    drawn = lines(figure.axes[1])
    assert set(drawn) == {"certified", "train", "test"}
    assert len({line.get_color() for line in drawn.values()}) == 3
    assert len({line.get_linestyle() for line in drawn.values()}) == 3


def test_classifiers_and_curves_draw_magnitudes_in_their_order():
    mixed = SimpleNamespace(magnitudes=[4.0, 0.0, 1.0], accuracy=np.array([0.2, 1.0, 0.7]))
    figure = plotting.classifiers_and_curves({"f3": (datasets.toy_classifier("f3"), {"a": mixed})})
    (line,) = figure.axes[1].get_lines()
    np.testing.assert_array_equal(line.get_xydata(), [[0.0, 1.0], [1.0, 0.7], [4.0, 0.2]])


def test_classifiers_and_curves_mark_the_data():
    figure = plotting.classifiers_and_curves({"f3": (datasets.toy_classifier("f3"), curves("f3"))})
    bands = {band.get_label(): band for band in rectangles(figure.axes[0])}
    assert bands["class −1"].get_x() == -2
    assert bands["class 1"].get_x() == 1
    for band, color in zip(bands.values(), (plotting.RED, plotting.BLUE), strict=True):
        assert band.get_width() == 1
        assert to_rgb(band.get_facecolor()) == to_rgb(color)


def test_classifiers_and_curves_keep_labels_inside_their_axes():
    def classifier(x):
        return np.concatenate([np.zeros_like(x), x - 7.9], axis=-1)

    figure = plotting.classifiers_and_curves({"late": (classifier, curves("f3"))})
    figure.canvas.draw()
    left = figure.axes[0]
    assert left.texts[0].get_text() == "7.90"
    assert left.texts[0].get_window_extent().x1 <= left.get_window_extent().x1


def test_classifiers_and_curves_refuse_nothing():
    with pytest.raises(ValueError, match="`classifiers` must not be empty"):
        plotting.classifiers_and_curves({})


def estimate(x, magnitude):
    assert x.dtype == np.float32
    return 1 / (1 + np.exp(2 + magnitude - np.abs(x[:, 0])))


@pytest.mark.parametrize("count", [1, 4, 7])
def test_discriminator_estimate_draws_a_panel_for_each_magnitude(count, tmp_path):
    magnitudes = list(range(count))
    samples = {}
    for magnitude in magnitudes[1:]:
        x, y = datasets.toy(20, seed=magnitude)
        samples[magnitude] = (x + magnitude * np.sign(x), y)
    figure = plotting.discriminator_estimate(estimate, magnitudes, samples)
    assert [axes.get_title() for axes in figure.axes] == [f"norm {m}" for m in magnitudes]
    for axes, magnitude in zip(figure.axes, magnitudes, strict=True):
        drawn = lines(axes)
        x = drawn["estimate"].get_xdata()
        assert (x[0], x[-1]) == (-9.0, 9.0)
        assert np.array_equal(drawn["estimate"].get_ydata(), estimate(x[:, None], magnitude))
        assert ("samples, class 1" in drawn) == (magnitude in samples)
        if magnitude in samples:
            inputs, labels = samples[magnitude]
            colors = (plotting.RED, plotting.BLUE)
            for label, name in enumerate(("class −1", "class 1")):
                ticks = drawn[f"samples, {name}"]
                assert np.array_equal(ticks.get_xdata(), inputs[labels == label, 0])
                assert np.all(ticks.get_ydata() < 0)
                assert ticks.get_color() == colors[label]
    assert_saves(figure, tmp_path)


@pytest.mark.parametrize(
    ("magnitude", "expected"),
    [
        (0.0, []),
        (0.5, [(-2.5, -0.5), (0.5, 2.5)]),
        (1.0, [(-3.0, 0.0), (0.0, 3.0)]),
        (1.5, [(-3.5, 3.5)]),
        (6.0, [(-8.0, 8.0)]),
    ],
)
def test_discriminator_estimate_shades_what_was_explored(magnitude, expected):
    figure = plotting.discriminator_estimate(estimate, [magnitude], {})
    shades = [p for p in rectangles(figure.axes[0]) if p.get_label() == "explored"]
    assert [(s.get_x(), s.get_x() + s.get_width()) for s in shades] == expected


def test_discriminator_estimate_labels_the_lowest_panel_of_every_column():
    figure = plotting.discriminator_estimate(estimate, list(range(7)), {})
    assert [axes.get_xlabel() for axes in figure.axes] == [""] * 3 + ["input"] * 4
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert entries == ["explored", "class −1", "class 1", "estimate"]


def test_discriminator_estimate_refuses_nothing():
    with pytest.raises(ValueError, match="`magnitudes` must not be empty"):
        plotting.discriminator_estimate(estimate, [], {})


def function_of(axes, x):
    """The value that a drawn piecewise constant function takes at x: a dot, else a line."""
    black = [line for line in axes.get_lines() if line.get_color() == "black"]
    dots = [line for line in black if line.get_marker() == "o"]
    for dot in dots:
        if dot.get_markerfacecolor() == "black" and dot.get_xdata()[0] == x:
            return dot.get_ydata()[0]
    for line in black:
        if line not in dots and line.get_xdata()[0] <= x <= line.get_xdata()[1]:
            return line.get_ydata()[0]
    raise AssertionError(f"nothing is drawn at {x}")


def test_toy_closed_forms_show_the_closed_forms(tmp_path):
    figure = plotting.toy_closed_forms()
    assert len(figure.axes) == 13
    density, *rest = figure.axes
    stairs = [patch.get_data() for patch in density.patches if isinstance(patch, StepPatch)]
    assert [(list(heights), list(edges)) for heights, edges, _ in stairs] == [
        ([1.0], [-2.0, -1.0]),
        ([1.0], [1.0, 2.0]),
    ]

    for row, name in enumerate(("f1", "f2", "f3", "f4")):
        classifier, standard, genuine = rest[3 * row : 3 * row + 3]
        assert classifier.get_ylabel() == name
        model = datasets.toy_classifier(name)
        for x in (-6.0, -4.0, -3.0, 0.0, 0.5, 1.0, 3.0, 4.0, 7.0):
            logits = np.asarray(model(np.array([[x]], np.float32)))
            assert function_of(classifier, x) == 2 * np.argmax(logits) - 1

        drawn = lines(standard)
        norms = np.arange(0, 7.01, 0.25)
        exact = datasets.toy_accuracy(name, norms)
        maximum = datasets.toy_accuracy(name, norms, constraint="maximum")
        for label, expected in (("exact norm", exact), ("maximum norm", maximum)):
            line = drawn[label]
            assert np.allclose(np.interp(norms, line.get_xdata(), line.get_ydata()), expected)

        for norm in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.5, 6.0):
            value = datasets.toy_accuracy(name, [norm], genuine=True)[0]
            assert function_of(genuine, norm) == value
    assert_saves(figure, tmp_path)


def test_toy_closed_forms_of_the_supplement(tmp_path):
    figure = plotting.toy_closed_forms(["supplement"], ["densities", "standard"])
    density, standard = figure.axes
    stairs = [patch.get_data() for patch in density.patches if isinstance(patch, StepPatch)]
    assert sorted((edges[0], heights[0]) for heights, edges, _ in stairs) == [
        (low, 0.5) for low in (-2.0, -1.0, 0.0, 1.0)
    ]
    exact = lines(standard)["exact norm"]
    # Accuracy rises again between 2 and 3.
    assert np.interp([2.0, 3.0], exact.get_xdata(), exact.get_ydata()).tolist() == [0.0, 0.5]
    assert_saves(figure, tmp_path)


def test_toy_closed_forms_refuse_parts_that_are_none():
    for parts in ([], ["accuracy"]):
        with pytest.raises(ValueError, match="`parts` must be out of densities, classifier"):
            plotting.toy_closed_forms(["f1"], parts)


def test_training_curves_rank_by_magnitude_whatever_the_order_of_the_keys():
    values = history("l2=10", "discriminator", "l2=2_5", "l2=0_5", "natural")
    figure = plotting.training_curves({"OLGRC": dict(sorted(values.items()))})
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["natural", "l2=0_5", "l2=2_5", "l2=10", "discriminator", "train", "test"]
    solid = lines(figure.axes[0])["accuracy@natural"]
    assert solid.get_linestyle() == "-"


def test_explanations_have_captions_and_a_color_scale(tmp_path):
    images = np.random.default_rng(0).uniform(size=(2, 5, 5, 1))
    columns = {"image": images, "way": images - 0.5}
    captions = {"image": ["label 7, classified 7", "label 1, classified 4"]}
    figure = plotting.explanations(columns, captions)
    *axes, scale = figure.axes
    written = [each.get_xlabel() for each in axes]
    assert written == [captions["image"][0], "", captions["image"][1], ""]
    assert [axes[0].get_title(), axes[1].get_title()] == ["image", "way"]
    ticks = [tick.get_text() for tick in scale.get_xticklabels()]
    assert ticks == ["− largest value", "0", "+ largest value"]
    assert_saves(figure, tmp_path)
    inside = figure.bbox
    for each in axes:
        assert inside.contains(*each.xaxis.label.get_window_extent().min)
    assert len(plotting.explanations({"image": images}).axes) == 2  # Nothing has a sign.


@pytest.mark.parametrize("captions", [{"image": ["one"]}, {"imagination": ["one", "two"]}])
def test_explanations_refuse_captions_of_other_images(captions):
    with pytest.raises(ValueError, match="`captions` must map titles of `columns` to 2 texts each"):
        plotting.explanations({"image": np.zeros((2, 5, 5))}, captions)


def test_labels_overlap_no_label_and_no_point():
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    points = [(0.0, 0.0), (0.01, 0.01), (0.02, 0.0), *[(1.0, 1.0)] * 3]
    axes.plot(*zip(*points, strict=True), "o")
    label_points(figure, axes, [(f"0.{i}", *point, "black") for i, point in enumerate(points)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 6
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    for box in boxes:
        assert not any(box.contains(*axes.transData.transform(p)) for p in points)
        assert axes.bbox.x0 <= box.x0 <= box.x1 <= axes.bbox.x1


def test_a_method_has_the_same_style_in_every_picture():
    first = series_styles(["standard", "OLSRC", "mine"])
    second = series_styles(["other", "TRADES", "OLSRC, alpha 0.5", "Standard"])
    assert first["OLSRC"] == second["OLSRC, alpha 0.5"]
    assert first["standard"] == second["Standard"]
    assert [*second] == ["other", "TRADES", "OLSRC, alpha 0.5", "Standard"]
    seven = series_styles(["standard with softmax", "standard", *"abcde"])
    assert len({style["color"] for style in seven.values()}) == 7
    assert seven["standard"] == first["standard"]
    assert len(series_styles(map(str, range(20)))) == 20
