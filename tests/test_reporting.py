"""Pages as a browser parses them, held against the curves themselves."""

import base64
import dataclasses
import datetime
import io
import itertools
import pathlib
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import image

import lexirobust as lr
from lexirobust.evaluation import ExampleInputs, Flag

MAGNITUDES = np.array([1.0, 0.0, 0.25])  # In no order.
SOFTMAX = Flag("probabilities", "Rows sum to 1.", "Leave the softmax out.")
WEAK = Flag("attack too weak", "It falls by 9 points.", "Double `steps`.")
EVIL = """<script>alert("1")</script> & $_$ 'b'"""  # Between the dollars: no valid formula.


class Page(HTMLParser):
    """What a page says: texts and tables by the section's id, and all tags in their order."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.headings = [], []
        self.texts, self.tables, self.paragraphs = {}, {}, {}
        self._open, self._section = [], None
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self._open, "tags that are never closed"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("meta", "img", "br"):
            return
        self._open.append(tag)
        if tag in ("section", "header"):
            self._section = dict(attributes).get("id", tag)
            self.texts[self._section] = ""
            self.tables[self._section], self.paragraphs[self._section] = [], []
        elif tag == "table":
            self.tables[self._section].append([])
        elif tag == "tr":
            self.tables[self._section][-1].append([])
        elif tag in ("th", "td"):
            self.tables[self._section][-1][-1].append("")
        elif tag == "p":
            self.paragraphs[self._section].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        data = " ".join(data.split()) + " "
        if self._section is None or not data.strip():
            return
        self.texts[self._section] += data
        if "th" in self._open or "td" in self._open:
            self.tables[self._section][-1][-1][-1] += data
        elif self._open[-1] == "h3":
            self.headings.append(data.strip())
        elif "p" in self._open:
            self.paragraphs[self._section][-1] += data

    def images(self, alt):
        """Pixels of the pictures whose description begins so, `[H, W, 4]` from 0 to 1."""
        sources = [
            attributes["src"]
            for tag, attributes in self.tags
            if tag == "img" and attributes["alt"].startswith(alt)
        ]
        return [image.imread(io.BytesIO(base64.b64decode(s.split(",")[1]))) for s in sources]


def curve(correct=None, seed=0, settings=None, **others):
    """`[3, 40]` outcomes, chance where none are given, of an evaluation with its checks."""
    others["settings"] = {"checks": True, **(settings or {})}
    if correct is None:
        correct = np.random.default_rng(seed).uniform(size=(3, 40)) < 0.6
    zeros = np.zeros(np.shape(correct), np.float32)
    return lr.AccuracyCurve(MAGNITUDES, correct, zeros, zeros, zeros == 0, **others)


def right(*counts):
    """The first so many of 40 samples, at each magnitude in ascending order."""
    ascending = np.arange(40) < np.array(counts)[:, None]
    return curve(ascending[[2, 0, 1]])


def written(curves, tmp_path, **options):
    lr.report(curves, tmp_path / "page.html", **options)
    return Page(tmp_path / "page.html")


def shown(x, steps=3):
    """Samples that gain 0.1 at one pixel in the smallest step and 0.2, 0.3 in the next."""
    moved = np.stack([x.copy() for _ in range(steps)])
    for row, change in enumerate((0.3, 0.0, -0.1)[:steps]):
        moved[row, :, 0, 0] += change
    decisions = np.stack([np.arange(len(x)) + row for row in range(steps)])
    return ExampleInputs(x, np.arange(len(x)), moved, decisions)


def test_the_table_holds_accuracies_and_intervals_by_ascending_magnitude(tmp_path):
    curves = {"a": curve(seed=1), "b": curve(seed=2)}
    (table,) = written(curves, tmp_path).tables["accuracy"]
    assert [cell.strip() for cell in table[0]] == ["magnitude ε", "a", "b"]
    assert [float(row[0]) for row in table[1:]] == [0, 0.25, 1]
    for row, index in zip(table[1:], (1, 2, 0), strict=True):
        for cell, each in zip(row[1:], curves.values(), strict=True):
            low, high = 100 * each.interval()[index]
            expected = f"{100 * each.accuracy[index]:.1f} % ({low:.1f} to {high:.1f})"
            assert cell.strip() == expected
    assert "left out" not in written(curves, tmp_path).texts["accuracy"]


def test_what_is_left_out_is_told_and_what_is_undefined_is_called_so(tmp_path):
    counted = np.ones((3, 40), bool)
    counted[0] = False
    counted[2, 10:] = False
    own = {"genuine": "0123"}
    genuine = curve(seed=1, valid=counted, settings=own)
    both = {"g": genuine, "all": curve(seed=2, settings=own)}
    (table,) = written(both, tmp_path).tables["accuracy"]
    assert table[0][1].split() == ["g", "genuine"]
    assert table[0][2].split() == ["all", "genuine"]
    assert "left out" not in table[1][1]
    assert f"{100 * genuine.accuracy[2]:.1f} %" in table[2][1]
    assert "75.0 % left out" in table[2][1]
    assert table[3][1].split() == ["undefined", "100.0", "%", "left", "out"]
    assert "undefined" not in "".join(row[2] for row in table)


def test_flags_stand_before_the_curves_each_once_with_all_that_it_concerns(tmp_path):
    curves = {
        "one": curve(seed=1, flags=(SOFTMAX, WEAK, WEAK)),
        "two": curve(seed=2, flags=(SOFTMAX,)),
        "three": curve(seed=3),
        "four": curve(seed=4, settings={"checks": False}),
    }
    page = written(curves, tmp_path)
    source = page.source
    for flag in (SOFTMAX, WEAK):
        for text in (flag.message, flag.advice):
            assert source.count(text) == 1
            assert source.index(text) < source.index("<img") < source.index("<table")
    assert page.headings == [": one, two", ": one"]
    told = page.texts["flags"]
    assert "Probabilities : one, two" in told
    assert "Attack too weak : one" in told
    assert told.index("one, two") < told.index(SOFTMAX.message) < told.index(WEAK.message)
    by_name = {p.split(":")[0].strip(): p for p in page.paragraphs["flags"] if " : " in p}
    assert by_name.keys() == {"three", "four"}
    assert "No warnings" in by_name["three"]
    assert "not checked for warnings" in by_name["four"]


def test_one_kind_of_warning_stands_once_with_what_was_found_of_each(tmp_path):
    other = dataclasses.replace(WEAK, message="It falls by 3 points.")
    curves = {
        "one": curve(seed=1, flags=(WEAK,)),
        "two": curve(seed=2, flags=(other,)),
        "three": curve(seed=3, flags=(WEAK,)),
        "four": curve(seed=4),
        "five": curve(seed=5),
    }
    page = written(curves, tmp_path)
    assert page.texts["flags"].count("Attack too weak") == 1
    assert page.headings == [": one, two, three"]
    first, second, advice, quiet = page.paragraphs["flags"]
    assert first.split() == ["one", "and", "three", ":", *WEAK.message.split()]
    assert second.split() == ["two", ":", *other.message.split()]
    assert advice.strip() == WEAK.advice
    assert quiet.split() == ["four", "and", "five", ":", "No", "warnings."]


def test_an_evaluation_says_whether_it_looked_for_flags():
    x, y = lr.datasets.toy(10, seed=0)
    attack = lr.attacks.FGSM("l2", bounds=None)
    classifier = lr.datasets.toy_classifier("f3")
    for checks in (True, False):
        measured = lr.evaluate_robustness(classifier, x, y, attack, [0.5], checks=checks)
        assert measured.settings["checks"] is checks


def some_curves():
    """Seven, so different that some differ significantly and some only by chance."""
    rng = np.random.default_rng(0)
    shares = np.array([0.5, 0.9, 0.7])[:, None]
    curves = {
        name: curve(rng.uniform(size=(3, 40)) < shares - weaker)
        for name, weaker in zip("abcdef", (0.0, 0.4, 0.02, 0.3, 0.0, 0.15), strict=True)
    }
    return {**curves, "g": curves["a"]}


def test_the_ranking_is_by_significance_and_says_what_decides(tmp_path):
    curves = some_curves()
    page = written(curves, tmp_path)
    ranked = dict(zip(curves, lr.rank(list(curves.values()), significance=0.05), strict=True))
    values = [int(attributes["value"]) for tag, attributes in page.tags if tag == "li"]
    assert values == sorted(set(ranked.values()))
    sentences = page.paragraphs["order"]
    for value, names in zip(values, places(page), strict=True):
        assert sorted(names) == sorted(name for name in curves if ranked[name] == value)
        if len(names) > 1:
            (shared,) = [p for p in sentences if f"share place {value}:" in p]
            assert set(names) | {"and"} == set(shared.split(" share")[0].replace(",", "").split())
            assert p_value(least_p_value(curves, names)) in shared
    for before, place in itertools.pairwise(places(page)):
        for behind in place:
            (sentence,) = [p for p in sentences if f"is ahead of {behind} ," in p]
            ahead = sentence.split()[0]
            order = lr.compare(curves[ahead], curves[behind], significance=0.05)
            assert ahead in before
            assert order.order == 1
            assert f"decided at magnitude {order.at:g}:" in sentence
            assert p_value(order.p_value) in sentence


def least_p_value(curves, names):
    pairs = itertools.combinations(names, 2)
    return min(lr.compare(curves[a], curves[b], significance=0.05).p_value for a, b in pairs)


def test_the_strict_order_is_a_footnote_with_what_decides(tmp_path):
    curves = some_curves()
    note = written(curves, tmp_path).paragraphs["order"][-1]
    entries = note.split("before: ")[1].strip().removesuffix(".").split("; ")
    strict = dict(zip(curves, lr.rank(list(curves.values())), strict=True))
    names = []
    for entry in entries:
        number, name, *reason = entry.split(maxsplit=2)
        assert strict[name] == int(number.removesuffix("."))
        order = lr.compare(curves[names[-1]], curves[name]) if names else None
        told = []
        if order and order.order:
            told = [f"(magnitude {order.at:g}, corrected {p_value(order.p_value)})"]
        assert reason == told
        names.append(name)
    assert sorted(names) == sorted(curves)
    assert [strict[name] for name in names] == sorted(strict.values())


def p_value(p):
    return "p-value below 0.001" if p < 0.001 else f"p-value {p:.3f}"


def places(page):
    """The names in each place, as the list has them."""
    listed = page.source.split('<ol class="places">')[1].split("</ol>")[0]
    return [line.split(">")[1].split("<")[0].split(", ") for line in listed.split("\n") if line]


@pytest.mark.parametrize(
    ("first", "second", "ranked", "told"),
    [
        # Magnitudes 0, 0.25 and 1; all 40 samples are the same, so that only counts matter.
        ((30, 30, 9), (30, 30, 9), [["A", "B"]], "share place 1: chance"),
        ((31, 20, 9), (30, 20, 9), [["A", "B"]], "(smallest corrected p-value 1.000)"),
        (
            (30, 30, 9),
            (30, 10, 9),
            [["A"], ["B"]],
            "A is ahead of B, decided at magnitude 0.25: 75.0 % against 25.0 %",
        ),
        ((31, 30, 9), (30, 10, 9), [["A"], ["B"]], "A is ahead of B, decided at magnitude 0.25"),
        # One sample at magnitude 0, by chance, leads to no first place.
        ((31, 10, 9), (30, 30, 9), [["B"], ["A"]], "B is ahead of A, decided at magnitude 0.25"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_each_way_that_two_may_stand_is_said(first, second, ranked, told, swapped, tmp_path):
    curves = {"A": right(*first), "B": right(*second)}
    if swapped and first != second:
        curves = dict(reversed(curves.items()))
    page = written(curves, tmp_path)
    assert places(page) == ranked
    _, sentence, _, _ = page.paragraphs["order"]
    assert told in sentence.replace(" ,", ",")


def test_a_circle_is_called_one(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lexirobust.reporting.ranking.standings", lambda curves, **_: [1] * len(curves)
    )
    page = written({"A": right(40, 9, 9), "B": right(9, 9, 9)}, tmp_path)
    assert "A and B share place 1: each is ahead of another in a circle" in page.texts["order"]
    assert "A and B share the first place: each is ahead of another" in page.texts["summary"]


@pytest.mark.parametrize(
    ("curves", "told"),
    [
        (
            {"A": right(40, 30, 9), "B": right(40, 10, 9)},
            "A ranks first, with natural accuracy 100.0 %, robust accuracy 75.0 % at magnitude "
            "0.25 and 22.5 % at magnitude 1. No warnings speak against these numbers.",
        ),
        (
            {"A": right(30, 19, 0), "B": right(31, 19, 0)},
            "B and A share the first place: no difference between them is significant. B has "
            "natural accuracy 77.5 %, robust accuracy 0.0 % at magnitude 1. No warnings",
        ),
        (
            {"A": dataclasses.replace(right(40, 9, 9), flags=(WEAK,)), "B": right(9, 9, 9)},
            "Warnings speak against these numbers : attack too weak.",
        ),
        (
            {
                name: dataclasses.replace(
                    right(30, 20, 9),
                    settings={"attacks": [{"class_name": name, "config": {"norm": "l2"}}]},
                )
                for name in ("PGD", "Square")
            },
            "at magnitude 1. The classifiers were measured with different attacks , or with "
            "different settings of one: what a weaker attack leaves is no robustness",
        ),
        (
            {"A": right(40, 9, 9), "B": dataclasses.replace(right(9, 9, 9), flags=(WEAK,))},
            "No warnings speak against these numbers. There are warnings about B .",
        ),
        (
            {"A": dataclasses.replace(right(30, 20, 9), settings={"checks": False})},
            "A has natural accuracy 75.0 %, robust accuracy 50.0 % at magnitude 0.25 and 22.5 % at "
            "magnitude 1. These numbers were not checked for warnings.",
        ),
        (
            {
                "A": dataclasses.replace(
                    right(30, 20, 9), settings={"checks": True, "genuine": "0123"}
                )
            },
            "genuine accuracy 50.0 % at magnitude 0.25",
        ),
        (
            {"A": dataclasses.replace(right(30, 20, 9), magnitudes=MAGNITUDES + 1)},
            "A has no natural accuracy measured, robust accuracy 50.0 % at magnitude 1.25",
        ),
        (
            {"A": dataclasses.replace(right(30, 20, 9), magnitudes=MAGNITUDES * 0)},
            "%, no accuracy under attack measured.",
        ),
    ],
)
def test_the_summary_holds_the_first_ones_numbers_and_what_speaks_against_them(
    curves, told, tmp_path
):
    page = written(curves, tmp_path)
    assert told in page.texts["summary"]
    assert page.source.index('id="summary"') < page.source.index('id="flags"')


@pytest.mark.parametrize(
    ("settings", "head"),
    [
        ([{"attacks": [{"class_name": "PGD", "config": {"norm": "l2"}}]}] * 2, "l2 norm"),
        (
            [
                {
                    "attacks": [
                        {"class_name": "PGD", "config": {"norm": norm}} for norm in ("l2", "linf")
                    ]
                }
            ]
            * 2,
            "",
        ),
        ([{"attacks": [{"class_name": "Spatial", "config": {}}]}] * 2, ""),
        ([{}] * 2, ""),
    ],
)
def test_the_table_names_the_norm_where_all_have_one(settings, head, tmp_path):
    curves = {name: curve(settings=own) for name, own in zip("ab", settings, strict=True)}
    (table,) = written(curves, tmp_path).tables["accuracy"]
    assert " ".join(table[0][0].split()) == f"magnitude ε {head}".strip()


def test_what_the_samples_are_and_the_day_are_said(tmp_path):
    day = datetime.date(2025, 3, 9)
    page = written({"a": curve()}, tmp_path, data="test images of MNIST", date=day)
    assert "on 40 samples (test images of MNIST) under" in page.texts["header"]
    assert "Written on 2025-03-09." in page.texts["header"]
    before = datetime.date.today()
    page = written({"a": curve()}, tmp_path)
    assert "on 40 samples under" in page.texts["header"]
    days = (before, datetime.date.today())
    assert any(f"Written on {day.isoformat()}." in page.texts["header"] for day in days)


def test_tables_show_that_they_scroll_and_keep_lines_short(tmp_path):
    page = written(some_curves(), tmp_path)
    attributes = [own for tag, own in page.tags if own.get("class") == "wide"]
    assert [own["tabindex"] for own in attributes[:1]] == ["0"]  # For those without a mouse.
    assert "100% local" in page.source
    assert "100% scroll" in page.source
    cell = page.source.split("<td>")[1].split("</td>")[0]
    assert "<br><small>(" in cell  # The interval stands below, so that five fit.


def test_one_classifier_has_no_order(tmp_path):
    page = written({"alone": right(9, 8, 7)}, tmp_path)
    assert "order" not in page.texts
    assert "Accuracy of a classifier on 40 samples" in page.texts["header"]


def test_what_comes_from_outside_is_text(tmp_path):
    flag = Flag(EVIL, EVIL, EVIL)
    attack = {"class_name": EVIL, "config": {EVIL: EVIL, "norm": EVIL}}
    settings = {"attacks": [attack], EVIL: EVIL, "data": EVIL}
    evil = curve(flags=(flag,), settings=settings)
    evil = dataclasses.replace(evil, shown=shown(np.full((1, 4, 4), 0.5, np.float32)))
    options = {"class_names": [EVIL] * 3, "data": EVIL}
    page = written({EVIL: evil, "b": curve(seed=1)}, tmp_path, **options)
    assert "script" not in {tag for tag, _ in page.tags}
    for section in ("header", "summary", "flags", "accuracy", "order", "samples", "settings"):
        assert EVIL in page.texts[section]
    assert EVIL in page.tags[[tag for tag, _ in page.tags].index("img")][1]["alt"]


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    x = np.full((2, 4, 4), 0.5, np.float32)
    page = written({"a": curve(shown=shown(x)), "b": curve(seed=1)}, tmp_path)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert len(sources) == 1 + 2 * (1 + 2 * 2)
    assert all(source.startswith("data:image/") for source in sources)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    for word in ("http:", "https:", "href", "url(", "@import"):
        assert word not in page.source


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 4, 5, 1), (6, 4, 5, 3)])
def test_images_are_shown_with_their_perturbations(shape, tmp_path):
    x = np.full(shape, 0.4, np.float32)
    x[:, 1, 1], x[:, 2, 2] = 0.0, 1.0
    norms = np.full((3, 40), 0.123, np.float32)
    norms[2, 1] = np.nan
    samples = shown(x)
    samples.decisions[0, 3] = -1
    measured = dataclasses.replace(curve(), norms=norms, shown=samples)
    page = written({"a": measured}, tmp_path)
    clean = page.images("Clean image")
    assert len(clean) == 4
    np.testing.assert_allclose(clean[0][..., :3].mean(axis=-1), gray(x[0]), atol=1 / 255)

    smallest, largest = page.images("Its perturbation")[:2]
    middle = smallest[1, 1, :3]
    np.testing.assert_allclose(middle, middle[0], atol=2 / 255)  # No color where nothing changed.
    assert (smallest[..., :3] == middle).all(axis=-1).sum() == 4 * 5 - 1
    assert smallest[0, 0, 2] > smallest[0, 0, 0] or shape[-1] == 3  # Blue: less.
    assert largest[0, 0, 0] > largest[0, 0, 2] or shape[-1] == 3  # Red: more.
    assert smallest[0, 0, :3].sum() < middle.sum()
    assert shape[-1] != 3 or largest[0, 0, :3].sum() > middle.sum()

    told = page.texts["samples"]
    assert told.count("norm 0.123") == 7
    # Rows of magnitudes 1, 0 and 0.25 add 0, 1 and 2 to the label.
    assert told.count("1 → 1") == told.count("1 → 3") == 1
    assert "1 → 2" not in told
    assert told.count("3 → not a number") == 1
    assert told.index("1 → 3") < told.index("1 → 1")


def test_classes_are_shown_by_name(tmp_path):
    samples = shown(np.full((3, 4, 4), 0.4, np.float32))
    samples.decisions[0, 2] = -1
    names = np.array(["coat", "bag", "boot", "shirt", "dress"])
    page = written({"a": curve(shown=samples)}, tmp_path, class_names=names)
    told = page.texts["samples"]
    assert "clean label coat" in told
    # Rows of magnitudes 1, 0 and 0.25 add 0, 1 and 2 to the label.
    for words in ("coat → boot", "bag → shirt", "boot → dress", "coat → coat"):
        assert told.count(words) == 1
    assert "boot → not a number" in told
    assert "<strong>coat → boot</strong>" in page.source
    assert "<strong>coat → coat</strong>" not in page.source


def gray(pixels):
    return pixels.reshape(*pixels.shape[:2], -1).mean(axis=-1)


def test_an_image_that_did_not_change_has_a_perturbation_without_color(tmp_path):
    x = np.zeros((1, 4, 4), np.float32)
    still = ExampleInputs(x, np.zeros(1, int), np.stack([x] * 3), np.zeros((3, 1), int))
    for picture in written({"a": curve(shown=still)}, tmp_path).images("Its perturbation"):
        assert (picture[..., :3] > 0.95).all()


@pytest.mark.parametrize("shape", [(6, 5), (6, 4, 4, 2), (6, 2, 4, 4, 3)])
def test_other_inputs_are_not_shown(shape, tmp_path):
    x = np.zeros(shape, np.float32)
    page = written({"a": curve(shown=ExampleInputs(x, np.arange(6), x[None], x[None]))}, tmp_path)
    assert "samples" not in page.texts
    assert [tag for tag, _ in page.tags].count("img") == 1


def test_a_curve_that_was_read_gives_the_same_page_without_samples(tmp_path):
    x = np.full((2, 4, 4), 0.5, np.float32)
    samples = lr.datasets.toy(10, seed=0)
    attack = lr.attacks.FGSM("l2", bounds=(-9.0, 9.0))
    classifier = lr.datasets.toy_classifier("f1")
    measured = lr.evaluate_robustness(classifier, *samples, attack, [0, 0.5, 1], checks=False)
    measured = dataclasses.replace(measured, shown=shown(x))
    page = written({"a": measured}, tmp_path)
    read = written({"a": lr.AccuracyCurve.from_json(measured.to_json())}, tmp_path)
    assert "no samples to show" not in page.texts.pop("samples")
    assert "a : no samples to show. AccuracyCurve.to_json" in read.texts.pop("samples")
    assert page.texts == read.texts


def test_only_curves_that_hold_no_samples_say_so(tmp_path):
    x = np.full((2, 4, 4), 0.5, np.float32)
    curves = {"a": curve(shown=shown(x)), "b": curve(seed=1), "c": curve(seed=2)}
    told = written(curves, tmp_path).texts["samples"]
    assert "b and c : no samples to show." in told
    assert "1 → 1" in told


def test_settings_are_written_as_they_are(tmp_path):
    x, y = lr.datasets.toy(10, seed=0)
    attacks = [
        lr.attacks.FGSM("l2", bounds=None),
        lr.attacks.WorstCase(
            [lr.attacks.FGSM(norm, bounds=None) for norm in ("l1", "linf")], [1, 2]
        ),
    ]
    classifier = lr.datasets.toy_classifier("f1")
    first = lr.evaluate_robustness(classifier, x, y, attacks, [0, 1], checks=False)
    page = written({"a": first, "b": first}, tmp_path)
    phrase = (
        "the worst of FGSM with exact l2 norm and the worst of FGSM with exact l1 norm and FGSM "
        "with exact linf norm, at 2 magnitudes from 0 to 1."
    )
    assert phrase in page.texts["header"]
    told, *tables = page.tables["settings"]
    rows = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in told}
    assert rows["data digest"] == [first.settings["data"]]  # Of both.
    assert rows["seeds"] == [str(first.settings["seeds"])]
    assert f"lexirobust={lr.__version__}" in rows["versions"][0]
    assert len(first.settings["seeds"]) == len(tables) == 2
    for attack, table in zip(attacks, tables, strict=True):
        config = {name.strip(): value.strip() for name, value in table}
        assert config.keys() == attack.get_config().keys()
    assert ["norm ", "l2 "] in tables[0]
    assert "[FGSM(norm=l1, " in dict(tables[1])["attacks "]


def test_settings_that_differ_have_a_cell_for_each(tmp_path):
    curves = {name: curve(settings={"seeds": [seed]}) for name, seed in (("a", 1), ("b", 2))}
    told, *_ = written(curves, tmp_path).tables["settings"]
    assert ["seeds", "[1]", "[2]"] in [[cell.strip() for cell in row] for row in told]


def test_a_search_for_the_nearest_example_is_called_by_its_name(tmp_path):
    x, y = lr.datasets.toy(10, seed=0)
    attack = lr.attacks.DeepFool("l2", bounds=None)
    classifier = lr.datasets.toy_classifier("f1")
    measured = lr.evaluate_robustness(classifier, x, y, attack, [0, 1], checks=False)
    assert measured.norm == "l2"
    assert "under DeepFool with l2 norm" in written({"a": measured}, tmp_path).texts["header"]


@pytest.mark.parametrize(
    ("curves", "error", "message"),
    [
        ({}, ValueError, "`curves` must hold at least one curve"),
        ([right(9, 8, 7)], TypeError, "`curves` must map names to curves. Received: list"),
        ({"a": right(9, 8, 7), "b": 1}, TypeError, "Received: 'b' with int"),
        ({1: right(9, 8, 7)}, TypeError, "Received: 1 with AccuracyCurve"),
        ({"a": right(9, 8, 7), "b": curve(np.ones((3, 4), bool))}, ValueError, "same samples"),
        (
            # The second does not say what its data were.
            {
                "a": curve(settings={"data": 1}),
                "b": curve(),
                "c": curve(settings={"data": 2}),
            },
            ValueError,
            "same samples in the same order",
        ),
        ({"a": curve(settings={"genuine": "0123"}), "b": curve()}, ValueError, "same kind"),
        (
            {
                norm: curve(settings={"attacks": [{"class_name": "PGD", "config": {"norm": norm}}]})
                for norm in ("l2", "linf")
            },
            ValueError,
            "same norm",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_drawn(
    curves, error, message, tmp_path, monkeypatch
):
    monkeypatch.setattr("lexirobust.plotting.accuracy_curves", lambda *_: pytest.fail("drawn"))
    with pytest.raises(error, match=message):
        lr.report(curves, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"class_names": "abc"}, TypeError, "`class_names` must be a text for each class"),
        ({"class_names": [0, 1, 2, 3]}, TypeError, "`class_names` must be a text for each class"),
        ({"class_names": 10}, TypeError, "`class_names` must be a text for each class"),
        ({"class_names": ["a", "b"]}, ValueError, "at least 4. Received: 2 names"),
        ({"data": np.zeros(3)}, TypeError, "`data` must be a str or None"),
        ({"date": "2026-01-01"}, TypeError, "`date` must be a date or None. Received: '2026"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_is_drawn(
    options, error, message, tmp_path, monkeypatch
):
    monkeypatch.setattr("lexirobust.plotting.accuracy_curves", lambda *_: pytest.fail("drawn"))
    samples = shown(np.full((2, 4, 4), 0.5, np.float32))  # Decisions up to 3.
    with pytest.raises(error, match=message):
        lr.report({"a": curve(shown=samples)}, tmp_path / "page.html", **options)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_hold_a_page_are_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("lexirobust.plotting.accuracy_curves", lambda *_: pytest.fail("drawn"))
    for path in (tmp_path, tmp_path / "nowhere" / "page.html", str(tmp_path / "no" / "page.html")):
        with pytest.raises(ValueError, match="`path` must be a file in a folder that exists"):
            lr.report({"a": right(9, 8, 7)}, path)


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_what_is_not_installed_is_named_with_its_extra(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"`report` needs {name}.*lexirobust\[report\]"):
        lr.report({"a": right(9, 8, 7)}, tmp_path / "page.html")


def test_a_page_that_could_not_be_finished_leaves_the_old_one_alone(tmp_path, monkeypatch):
    place = tmp_path / "page.html"
    lr.report({"old": right(9, 8, 7)}, str(place))
    old = place.read_text(encoding="utf-8")

    def write_half(path, text, **_):
        path.write_bytes(text[: len(text) // 2].encode())
        raise OSError("No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", write_half)
    with pytest.raises(OSError, match="No space"):
        lr.report({"new": right(9, 8, 7)}, place)
    assert list(tmp_path.iterdir()) == [place]
    assert place.read_text(encoding="utf-8") == old
