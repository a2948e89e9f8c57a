import dataclasses
import itertools
import json
import operator
import pathlib

import hypothesis
import jsonschema
import numpy as np
import pytest
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from scipy import stats

import lexirobust as lr
from lexirobust import plotting
from lexirobust.evaluation import ExampleInputs, Flag

SCHEMA = pathlib.Path(__file__).parents[2] / "docs" / "accuracy_curve.schema.json"
FLAG = Flag("no gradients", "None were found.", "Look for them.")
FIELDS = ("magnitudes", "correct", "losses", "norms", "feasible", "valid")


def curve(seed=0, samples=17, data="abc", flags=(FLAG,)):
    """Any curve, with a magnitude at which nothing counts."""
    rng = np.random.default_rng(seed)
    shape = (3, samples)
    counted = rng.uniform(size=shape) < 0.7
    counted[1] = False
    return lr.AccuracyCurve(
        magnitudes=np.array([0.0, 0.1, 0.25]),
        correct=rng.uniform(size=shape) < 0.5,
        losses=rng.exponential(size=shape).astype(np.float32),
        norms=np.where(rng.uniform(size=shape) < 0.1, np.nan, 0.2).astype(np.float32),
        feasible=rng.uniform(size=shape) < 0.9,
        valid=counted,
        flags=flags,
        settings={
            "data": data,
            "attacks": [{"class_name": "PGD", "config": {"seed": seed}}],
            "seeds": [seed],
        },
    )


def test_printed_it_is_one_line_of_accuracies_and_warnings():
    correct = np.arange(8) < np.array([[6], [3]])
    zeros = np.zeros((2, 8))
    settings = {"attacks": [{"class_name": "PGD", "config": {"norm": "l2"}}], "checks": True}
    measured = lr.AccuracyCurve(
        np.array([0.0, 0.5]), correct, zeros, zeros, zeros == 0, flags=(FLAG,), settings=settings
    )
    told = "<AccuracyCurve of 8 samples, l2: 75.0% at 0, 37.5% at 0.5; warnings: no gradients>"
    assert repr(measured) == told
    unchecked = dataclasses.replace(
        measured, flags=(), valid=np.zeros((2, 8), bool), settings={"attacks": [{}]}
    )
    told = "<AccuracyCurve of 8 samples, magnitude: undefined at 0, undefined at 0.5; warnings: "
    assert repr(unchecked) == told + "not looked for>"


def test_accuracy_is_that_of_the_samples_that_count():
    measured = curve()
    for row in (0, 2):
        right = measured.correct[row][measured.valid[row]]
        assert measured.accuracy[row] == pytest.approx(right.mean())
        assert measured.excluded[row] == pytest.approx(1 - len(right) / 17)
    assert np.isnan(measured.accuracy[1])
    assert measured.counts[1] == 0
    assert measured.excluded[1] == 1


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_intervals_are_wilsons(confidence):
    """From the formula; the counts' own samples, not all."""
    measured = curve()
    z = stats.norm.ppf((1 + confidence) / 2)
    for row in (0, 2):
        n, p = measured.counts[row], measured.accuracy[row]
        center = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
        np.testing.assert_allclose(
            measured.interval(confidence)[row], [center - half, center + half], rtol=1e-9
        )
    assert np.isnan(measured.interval()[1]).all()


@pytest.mark.parametrize("confidence", ["95%", 1.0, None])
def test_confidences_are_numbers_between_0_and_1(confidence):
    with pytest.raises(ValueError, match="`confidence` must be a number above 0 and below 1"):
        curve().interval(confidence)


def test_json_brings_back_the_same_curve():
    measured = curve()
    read = lr.AccuracyCurve.from_json(measured.to_json())
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(read, name), getattr(measured, name))
        assert getattr(read, name).dtype == getattr(measured, name).dtype
    assert read.flags == measured.flags
    assert read.settings == measured.settings
    assert read.to_json() == measured.to_json()


def test_json_is_written_to_a_file_and_read_from_it(tmp_path):
    measured = curve()
    text = measured.to_json(tmp_path / "curve.json")
    assert (tmp_path / "curve.json").read_text(encoding="utf-8") == text == measured.to_json()
    assert lr.AccuracyCurve.from_json(tmp_path / "curve.json").to_json() == text


def test_json_follows_the_schema_that_is_documented():
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    content = json.loads(curve().to_json())
    jsonschema.validate(content, schema)
    assert content["clean_acc"] == pytest.approx(100 * curve().accuracy[0])
    assert content["adv_acc"][1] is None
    del content["eps"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_what_was_measured_can_be_written(tmp_path):
    x, y = lr.datasets.toy(20, seed=0)
    attack = lr.attacks.PGD("l2", steps=1, bounds=None)
    measured = lr.evaluate_robustness(
        lr.datasets.toy_classifier("f3"), x, y, attack, [0, 1.5], checks=False
    )
    jsonschema.validate(json.loads(measured.to_json()), json.loads(SCHEMA.read_text()))
    read = lr.AccuracyCurve.from_json(measured.to_json())
    np.testing.assert_array_equal(read.losses, measured.losses)
    assert measured.shown.x_adv.shape == (2, 8, 1)
    np.testing.assert_array_equal(measured.shown.x_adv[0], x[:8])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "schema version 1. Received: version None"),
        ('{"schema_version": 2}', "Received: version 2"),
        ('{"schema_version": 1, "eps": [0]}', "whole curve. Received: no .*'correct'"),
        ("{", "Expecting"),
        ("c.json", r"`text` must be JSON, or .* as a pathlib.Path. Received: 'c.json'"),
        (None, "`text` must be JSON, .* Received: None"),
    ],
)
def test_other_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        lr.AccuracyCurve.from_json(text)


def test_lists_and_zeros_and_ones_make_a_curve_that_is_written_and_read():
    correct, zeros = [[1, 1, 0], [0, 1, 0]], [[0, 0, 0], [0, 0, 0]]
    measured = lr.AccuracyCurve([0, 1], correct, zeros, zeros, np.ones((2, 3), int))
    np.testing.assert_allclose(measured.accuracy, [2 / 3, 1 / 3])
    assert not (measured + measured).correct[1, 2]
    read = lr.AccuracyCurve.from_json(measured.to_json())
    np.testing.assert_array_equal(read.correct, np.array(correct, bool))
    assert {name: getattr(read, name).dtype.kind for name in FIELDS} == {
        **dict.fromkeys(FIELDS, "b"),
        **dict.fromkeys(("magnitudes", "losses", "norms"), "f"),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correct": [[2, 1]]}, r"`correct` must be an array of bools.*shape \(1, 2\), dtype int"),
        ({"correct": [["1", "0"]]}, "`correct` must be an array of bools"),
        ({"valid": "all"}, "`valid` must be an array of bools"),
        ({"losses": [[None, 0.5]]}, "`losses` must be an array of numbers. Received: list"),
        ({"norms": [[0.5], [0.5, 1.0]]}, "`norms` must be an array of numbers. Received: list"),
        ({"magnitudes": ["0.5"]}, "`magnitudes` must be an array of numbers"),
    ],
)
def test_outcomes_of_another_kind_are_refused(changes, message):
    zeros = np.zeros((1, 2))
    given = {"magnitudes": [0.5], "correct": zeros == 0, "losses": zeros, "norms": zeros}
    with pytest.raises(TypeError, match=message):
        lr.AccuracyCurve(**{**given, "feasible": zeros == 0, **changes})


def places(content, path=()):
    """Where in JSON there is something."""
    yield path
    inner = content.items() if isinstance(content, dict) else ()
    inner = enumerate(content) if isinstance(content, list) else inner
    for key, value in inner:
        yield from places(value, (*path, key))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@hypothesis.settings(max_examples=500)
@hypothesis.given(st.data())
def test_whatever_stands_somewhere_else_is_read_or_refused(data):
    content = json.loads(curve().to_json())
    *path, last = data.draw(st.sampled_from([each for each in places(content) if each]))
    inner = content
    for key in path:
        inner = inner[key]
    inner[last] = data.draw(JSON_VALUES)
    text = json.dumps(content)
    if data.draw(st.booleans()):
        text = text[: data.draw(st.integers(0, len(text)))]
    try:
        read = lr.AccuracyCurve.from_json(text)
    except ValueError:
        return
    assert lr.AccuracyCurve.from_json(read.to_json()).to_json() == read.to_json()


@pytest.mark.parametrize("number", [3.4028235677973366e38, 10**400])
def test_numbers_that_the_type_cannot_hold_are_refused(number):
    content = json.loads(curve().to_json())
    content["losses"][0][0] = number
    with pytest.raises(ValueError, match="as the schema says"):
        lr.AccuracyCurve.from_json(json.dumps(content))


@pytest.mark.parametrize("number", ["NaN", "1e999"])
def test_settings_that_json_cannot_hold_are_refused(number):
    text = curve().to_json().replace('"settings": {', f'"settings": {{"epsilon": {number}, ', 1)
    with pytest.raises(ValueError, match="as the schema says"):
        lr.AccuracyCurve.from_json(text)


@pytest.mark.parametrize("magnitude", [None, float("inf")])
def test_magnitudes_that_are_no_numbers_are_refused(magnitude):
    content = json.loads(curve().to_json())
    content["eps"][0] = magnitude
    with pytest.raises(ValueError, match="as the schema says"):
        lr.AccuracyCurve.from_json(json.dumps(content))


def test_nesting_without_end_is_refused():
    with pytest.raises(ValueError, match="`text`"):
        lr.AccuracyCurve.from_json("[" * 100_000)


def test_the_sum_of_two_curves_is_the_worse_outcome_of_each_sample():
    one, other = curve(seed=1), curve(seed=2)
    both = one + other
    for k, n in np.ndindex(both.correct.shape):
        options = [c for c in (one, other) if c.valid[k, n]]
        assert both.valid[k, n] == bool(options)
        if options:
            worst = min(options, key=lambda c: (c.correct[k, n], -c.losses[k, n]))
            for name in ("correct", "losses", "norms", "feasible"):
                np.testing.assert_array_equal(getattr(both, name)[k, n], getattr(worst, name)[k, n])
    assert both.flags == (FLAG,)
    assert [attack["config"]["seed"] for attack in both.settings["attacks"]] == [1, 2]
    assert both.settings["seeds"] == [1, 2]
    np.testing.assert_array_equal((other + one).correct & both.valid, both.correct & both.valid)


def test_the_sum_of_two_curves_shows_the_worse_outcome_of_each_sample():
    def showing(seed, count):
        shown = ExampleInputs(
            x=np.zeros((count, 2, 2)),
            y=np.arange(count),
            x_adv=np.full((3, count, 2, 2), seed),
            decisions=np.full((3, count), seed),
        )
        return dataclasses.replace(curve(seed=seed), shown=shown)

    one, other = showing(seed=1, count=5), showing(seed=2, count=4)
    both = one + other
    assert both.shown.x.shape == (4, 2, 2)
    assert both.shown.y.tolist() == [0, 1, 2, 3]
    owners = np.where(both.losses == other.losses, 2, 1)[:, :4]
    assert set(owners.flat) == {1, 2}
    np.testing.assert_array_equal(both.shown.decisions, owners)
    np.testing.assert_array_equal(both.shown.x_adv, np.tile(owners[..., None, None], (2, 2)))
    assert (one + curve()).shown is None


@pytest.mark.parametrize("name", ["correct", "valid", "magnitudes"])
def test_outcomes_of_other_shapes_are_refused(name):
    measured = curve()
    with pytest.raises(ValueError, match=r"`magnitudes` must be \[K\]"):
        dataclasses.replace(measured, **{name: getattr(measured, name)[:2]})


def test_sums_need_the_same_samples():
    with pytest.raises(ValueError, match="same samples in the same order"):
        curve() + curve(data="xyz")
    with pytest.raises(TypeError):
        curve() + 1


def with_settings(seed=0, **settings):
    one = curve(seed=seed)
    return dataclasses.replace(one, settings={**one.settings, **settings})


def test_sums_need_the_same_classifier():
    one, other = with_settings(classifier="abc"), with_settings(seed=1, classifier="xyz")
    with pytest.raises(ValueError, match="one classifier"):
        one + other
    assert lr.compare(one, other).order is not None
    for known in (with_settings(seed=1, classifier="abc"), curve(seed=1)):
        assert (one + known).settings["classifier"] == "abc"


def test_sums_need_logits_that_are_alike():
    logits = [[1.0, -2.0], [0.5, 0.25]]
    one = with_settings(logits=logits)
    rounded = with_settings(seed=1, logits=[[1.01, -2.0], [0.5, 0.251]])
    fewer = with_settings(seed=1, logits=logits[:1])
    for known in (rounded, fewer, curve(seed=1), with_settings(seed=1, logits=None)):
        assert (one + known).settings["logits"] == logits
    for others in ([[1.0, -2.0], [0.5, 0.35]], [[1.0, -2.0, 0.0], [0.5, 0.25, 0.0]]):
        other = with_settings(seed=1, logits=others)
        with pytest.raises(ValueError, match=r"one classifier. Received: other logits"):
            one + other
        assert lr.compare(one, other).order is not None


@pytest.mark.parametrize(("one", "other"), [(True, True), (True, False), (False, True)])
def test_a_sum_was_checked_where_both_were(one, other):
    both = with_settings(checks=one) + with_settings(seed=1, checks=other)
    assert both.settings["checks"] is (one and other)


def test_curves_of_other_priors_are_not_compared():
    one = curve()
    other = dataclasses.replace(one, settings={**one.settings, "priors": [0.2, 0.8]})
    for pair in ((one, other), (other, one)):
        with pytest.raises(ValueError, match="same priors"):
            lr.compare(*pair)
    assert lr.compare(other, other).order == 0


def test_curves_of_another_kind_are_neither_compared_nor_added():
    one = curve()
    other = dataclasses.replace(one, settings={**one.settings, "genuine": "cells"})
    for pair in ((one, other), (other, one)):
        for combine in (lr.compare, operator.add, lambda *pair: lr.rank(pair)):
            with pytest.raises(ValueError, match="same kind"):
                combine(*pair)
    assert lr.compare(other, other).order == 0


def test_curves_of_other_norms_are_added_and_not_compared():
    one, other = (
        dataclasses.replace(
            curve(), settings={"attacks": [{"class_name": "PGD", "config": {"norm": norm}}]}
        )
        for norm in ("l2", "linf")
    )
    for combine in (lr.compare, lambda *pair: lr.rank(pair)):
        with pytest.raises(ValueError, match="same norm"):
            combine(one, other)
    assert (one + other).norm is None


def test_a_plot_has_each_curve_its_interval_and_its_gap():
    figure = plotting.accuracy_curves({"first": curve(seed=1), "second": curve(seed=2)})
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["first", "second"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 100 * curve(seed=1).accuracy)
    assert len(axes.collections) == 2
    assert axes.get_ylabel() == "accuracy, %"
    assert curve().plot().axes[0].get_legend() is None


def test_one_curve_is_drawn_without_a_name():
    measured = curve()
    alone, plotted = (f.axes[0] for f in (plotting.accuracy_curves(measured), measured.plot()))
    for one, other in zip(alone.get_lines(), plotted.get_lines(), strict=True):
        np.testing.assert_array_equal(one.get_ydata(), other.get_ydata())
    assert alone.get_legend() is None
    for given in ([measured], {"OLSRC": [0.5]}):
        with pytest.raises(TypeError, match=r"`curves` must be a curve, .* Received: list"):
            plotting.accuracy_curves(given)


def test_the_interval_of_a_magnitude_without_neighbors_is_a_bar():
    one = lr.AccuracyCurve(
        np.array([0.0, 1.0, 2.0, 3.0]), *np.ones((4, 4, 9), bool), np.ones((4, 9), bool)
    )
    valid = np.ones((4, 9), bool)
    valid[1] = False
    for measured, bars in (
        (one, 0),
        (dataclasses.replace(one, valid=valid), 1),
        (dataclasses.replace(one, **{name: getattr(one, name)[:1] for name in FIELDS}), 1),
    ):
        _, lone = measured.plot().axes[0].collections
        assert len(lone.get_segments()) == bars
        for low, high in lone.get_segments():
            np.testing.assert_allclose([low[1], high[1]], 100 * measured.interval()[0])


def test_intervals_of_several_curves_stand_side_by_side_at_their_magnitude():
    same = {name: curve(seed=1) for name in "abc"}
    figure = plotting.accuracy_curves(same)
    figure.canvas.draw()
    (axes,) = figure.axes
    places = [line.get_transform().transform(line.get_xydata()) for line in axes.lines]
    points = [72 / figure.dpi * (one - other)[:, 0] for other, one in itertools.pairwise(places)]
    assert np.nanmin(points) > 2
    for line, bars in zip(axes.lines, axes.collections, strict=True):
        assert np.array_equal(line.get_xdata(), np.sort(curve().magnitudes))
        assert to_rgb(bars.get_color()[0]) == to_rgb(line.get_color())
        assert len(bars.get_segments()) == len(curve().magnitudes)
    low, high = axes.get_xlim()
    least, most = curve().magnitudes.min(), curve().magnitudes.max()
    # Room for the bars at either end, and no more.
    assert least - 0.1 * (most - least) < low < least < most < high < most + 0.1 * (most - least)


def test_the_axis_names_the_norm_where_all_curves_have_one():
    def label(*norms, **settings):
        curves = {
            str(number): dataclasses.replace(
                curve(), settings={"attacks": [{"config": {"norm": norm}}], **settings}
            )
            for number, norm in enumerate(norms)
        }
        return plotting.accuracy_curves(curves).axes[0].get_xlabel()

    assert label("l2", "l2") == "magnitude ε of the perturbation, l2 norm"
    without = "magnitude ε of the perturbation"
    assert label("l2", "linf") == label("$x$") == label("l2", priors=[0.5, 0.5]) == without


@pytest.mark.parametrize(
    ("attacks", "norm"),
    [
        ([lr.attacks.PGD("l1"), lr.attacks.FGSM("l1")], "l1"),
        ([lr.attacks.PGD("l2"), lr.attacks.FGSM("linf")], None),
        ([lr.attacks.FAB("linf")], "linf"),
        ([lr.attacks.WorstCase([lr.attacks.FGSM("l2"), lr.attacks.FGSM("l1")], [1, 2])], None),
    ],
)
def test_a_curve_knows_the_norm_of_its_attacks(attacks, norm):
    x, y = np.full((2, 3), 0.5, np.float32), np.zeros(2, int)
    measured = lr.evaluate_robustness(lambda x: x, x, y, attacks, [0], checks=False)
    assert measured.norm == norm
    assert lr.AccuracyCurve.from_json(measured.to_json()).norm == norm
