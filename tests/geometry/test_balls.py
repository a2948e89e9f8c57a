import itertools
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from lexirobust.attacks import geometry

NORMS = ["l1", "l2", "linf"]
ORDER = {"l1": 1, "l2": 2, "linf": np.inf}
DUAL = {"l1": np.inf, "l2": 2, "linf": 1}
PROJECTIONS = [geometry.project_ball, geometry.project_sphere]


# Few draws of many rows each: a call costs the same for one as for all of them.
few_draws = settings(max_examples=20)


def length(rows, norm):
    return np.linalg.norm(np.reshape(rows, (len(rows), -1)).astype(float), ORDER[norm], axis=1)


class Case(NamedTuple):
    """Perturbations to project, a radius for each, and their box."""

    norm: str
    flat: np.ndarray
    radius: np.ndarray
    box: tuple[np.ndarray, np.ndarray] | None

    def project(self, projection):
        point, room = projection(tf.constant(self.flat), self.radius, self.norm, self.box)
        return point.numpy(), room.numpy()

    @property
    def reach(self):
        """How far the farthest corner of the box is."""
        if self.box is None:
            return np.full(len(self.flat), np.inf)
        return length(np.maximum(-self.box[0], self.box[1]), self.norm)


@st.composite
def cases(draw, norms=NORMS, largest=40, decades=3, boxed=None, rows=32):
    """Perturbations of all scales around sparse inputs between 0 and 1, in their box or without."""
    norm, size = draw(st.sampled_from(norms)), draw(st.integers(1, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.uniform(size=(rows, size)).astype(np.float32)
    x[rng.random(x.shape) < draw(st.sampled_from([0, 0.8]))] = 0
    x[rng.random(x.shape) < draw(st.sampled_from([0, 0.3]))] = 1
    flat = rng.normal(size=x.shape) * 10 ** rng.uniform(-decades, decades, size=(rows, 1))
    flat[rng.random(x.shape) < draw(st.sampled_from([0, 0.5]))] = 0
    if draw(st.booleans()):
        flat = np.sign(flat) * np.abs(flat[:, :1])  # Ties.
    boxed = draw(st.booleans()) if boxed is None else boxed
    box = (-x, 1 - x) if boxed else None
    corner = length(np.maximum(x, 1 - x), norm)
    radius = corner * rng.uniform(0, draw(st.sampled_from([0.05, 1, 1.3])), size=rows)
    return Case(norm, flat.astype(np.float32), radius.astype(np.float32), box)


@few_draws
@given(case=cases())
def test_sphere_is_met_wherever_the_box_reaches_it(case):
    point, room = case.project(geometry.project_sphere)
    expected = np.minimum(case.radius, case.reach)
    np.testing.assert_allclose(length(point, case.norm), expected, rtol=1e-5)
    clear = np.abs(case.reach / case.radius - 1) > 1e-5
    assert np.array_equal(room[clear], (case.reach >= case.radius)[clear])


@few_draws
@given(case=cases())
def test_ball_is_never_left_and_has_always_room(case):
    point, room = case.project(geometry.project_ball)
    assert np.all(length(point, case.norm) <= case.radius * (1 + 1e-5))
    assert np.all(room)


@pytest.mark.parametrize("projection", PROJECTIONS)
@few_draws
@given(case=cases(boxed=True))
def test_box_is_kept_to_the_last_bit(projection, case):
    point, _ = case.project(projection)
    assert np.all(point >= case.box[0])
    assert np.all(point <= case.box[1])


@pytest.mark.parametrize("projection", PROJECTIONS)
@few_draws
@given(case=cases())
def test_projecting_twice_changes_nothing_more(projection, case):
    point, _ = case.project(projection)
    again, _ = case._replace(flat=point).project(projection)
    np.testing.assert_allclose(again, point, rtol=1e-5, atol=1e-6 * case.radius.max())


def soft_threshold(flat, radius):
    """Nearest point of the l1 ball, after Duchi et al."""
    size = np.abs(flat)
    if size.sum() <= radius:
        return flat
    falling = np.sort(size)[::-1]
    offs = (np.cumsum(falling) - radius) / np.arange(1, len(flat) + 1)
    off = offs[np.flatnonzero(falling > offs)[-1]]
    return np.sign(flat) * np.maximum(size - off, 0)


NEAREST = {
    "l1": soft_threshold,
    "l2": lambda flat, radius: flat * radius / max(np.linalg.norm(flat), radius, 1e-300),
    "linf": lambda flat, radius: np.clip(flat, -radius, radius),
}


@few_draws
@given(case=cases(boxed=False))
def test_ball_without_a_box_has_a_closed_form(case):
    point, _ = case.project(geometry.project_ball)
    rows = zip(case.flat.astype(float), case.radius, strict=True)
    expected = np.array([NEAREST[case.norm](flat, radius) for flat, radius in rows])
    np.testing.assert_allclose(point, expected, rtol=1e-4, atol=1e-5 * case.radius.max())


def nearest_by_slsqp(case, row, at_least=0.0):
    """Distance to the nearest point in ball and box, on the sides that the coordinates are on.

    At least so much of the radius is to be used.
    """
    size, radius = np.abs(case.flat[row]).astype(float), float(case.radius[row])
    low, high = (side[row] for side in case.box)
    room = np.where(case.flat[row] > 0, high, -low).astype(float)
    used = {
        "l1": (lambda s: s.sum(), radius),
        "l2": (lambda s: s @ s, radius**2),
    }
    if case.norm == "linf":
        room, constraints = np.minimum(room, radius), []
    else:
        norm, limit = used[case.norm]
        constraints = [{"type": "ineq", "fun": lambda s: limit - norm(s)}]
        if at_least:
            constraints.append({"type": "ineq", "fun": lambda s: norm(s) - at_least * limit})
    result = minimize(
        lambda s: np.sum((s - size) ** 2),
        np.minimum(room, radius / len(size)),
        bounds=list(zip(np.zeros_like(room), room, strict=True)),
        constraints=constraints,
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    return np.linalg.norm(result.x - size)


@few_draws
@given(case=cases(largest=4, decades=0.5, boxed=True, rows=12))
def test_ball_in_a_box_gives_the_nearest_point(case):
    point, _ = case.project(geometry.project_ball)
    for row, distance in enumerate(np.linalg.norm(point - case.flat, axis=1)):
        assert distance == pytest.approx(nearest_by_slsqp(case, row), abs=1e-4)


@few_draws
@given(case=cases(norms=["l1", "l2"], largest=4, decades=0.5, boxed=True, rows=12))
def test_sphere_in_a_box_gives_the_nearest_point_where_no_side_must_change(case):
    point, _ = case.project(geometry.project_sphere)
    sides = np.where(case.flat > 0, case.box[1], -case.box[0])
    # A coordinate at 0 is on either side.
    reached = (length(sides, case.norm) > case.radius * 1.01) & np.all(case.flat != 0, axis=1)
    for row in np.flatnonzero(reached):
        distance = np.linalg.norm(point[row] - case.flat[row])
        assert distance == pytest.approx(nearest_by_slsqp(case, row, at_least=1.0), abs=1e-4)


def faces(flat, radius, low, high):
    """The nearest point of every face of the cube, as far as the box has it."""
    inside = np.clip(flat, np.maximum(low, -radius), np.minimum(high, radius))
    for index, end in itertools.product(range(len(flat)), (-radius, radius)):
        if low[index] <= end <= high[index]:
            yield np.where(np.arange(len(flat)) == index, end, inside)


@few_draws
@given(case=cases(norms=["linf"], largest=6, decades=0.5, boxed=True))
def test_cube_in_a_box_gives_the_nearest_point(case):
    point, room = case.project(geometry.project_sphere)
    for row in np.flatnonzero(room):
        flat, low, high = (part[row].astype(float) for part in (case.flat, *case.box))
        candidates = list(faces(flat, float(case.radius[row]), low, high))
        nearest = min(np.linalg.norm(candidate - flat) for candidate in candidates)
        assert np.linalg.norm(point[row] - flat) == pytest.approx(nearest, abs=1e-5)


@st.composite
def extremes(draw, largest=6, rows=32):
    """Zero, tiny and huge perturbations and radii, coordinates at the box's edge, no room."""
    norm, size = draw(st.sampled_from(NORMS)), draw(st.integers(1, largest))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.uniform(size=(rows, size)).astype(dtype)
    x[rng.random(x.shape) < 0.3] = 0
    x[rng.random(x.shape) < 0.3] = 1
    low, high = -x, 1 - x
    shut = draw(st.sampled_from([0, 0.4, 1]))
    low[rng.random(x.shape) < shut], high[rng.random(x.shape) < shut] = 0, 0
    flat = rng.normal(size=x.shape) * draw(st.sampled_from([0, 1e-30, 1, 1e12, 1e30, 5e37]))
    at_edge = rng.random(x.shape) < draw(st.sampled_from([0, 0.5, 1]))
    flat = np.where(at_edge, np.where(rng.random(x.shape) < 0.5, low, high), flat)
    flat[rng.random(x.shape) < draw(st.sampled_from([0, 0.4]))] = 0
    box = draw(st.sampled_from([None, (low, high)]))
    corner = length(np.maximum(-low, high), norm)
    radius = draw(
        st.sampled_from([corner, 0.5 * corner, 1e-30 * corner, 0 * corner, 1e20 + corner])
    )
    return Case(norm, flat.astype(dtype), radius.astype(dtype), box)


@few_draws
@given(case=extremes())
def test_sphere_is_met_at_every_scale(case):
    point, room = case.project(geometry.project_sphere)
    expected = np.minimum(case.radius.astype(float), case.reach)
    np.testing.assert_allclose(length(point, case.norm), expected, rtol=1e-5)
    clear = np.abs(case.reach - case.radius) > 1e-5 * case.radius
    assert np.array_equal(room[clear], (case.reach >= case.radius)[clear])


@few_draws
@given(case=extremes())
def test_ball_is_not_left_at_any_scale_and_what_is_inside_stays(case):
    point, room = case.project(geometry.project_ball)
    assert np.all(length(point, case.norm) <= case.radius.astype(float) * (1 + 1e-5))
    assert room.all()
    inside = length(case.flat, case.norm) < case.radius.astype(float) * (1 - 1e-5)
    if case.box is not None:
        inside &= np.all((case.flat >= case.box[0]) & (case.flat <= case.box[1]), axis=1)
    assert np.array_equal(point[inside], case.flat[inside])


@pytest.mark.parametrize("projection", PROJECTIONS)
@few_draws
@given(case=extremes())
def test_box_and_first_result_are_kept_at_every_scale(projection, case):
    point, _ = case.project(projection)
    assert point.dtype == case.flat.dtype
    if case.box is not None:
        assert np.all((point >= case.box[0]) & (point <= case.box[1]))
    again, _ = case._replace(flat=point).project(projection)
    away = np.abs(again.astype(float) - point).max(axis=1)
    assert np.all(away <= 1e-5 * case.radius.astype(float))


@few_draws
@given(case=cases(norms=["l2"], largest=6, decades=0.5, boxed=True))
def test_coordinates_at_zero_take_what_the_others_have_no_room_for(case):
    # On the l2 sphere the nearest point has the largest inner product with the perturbation, to
    # which a coordinate at 0 adds nothing and one that changes its side takes from.
    point, room = case.project(geometry.project_sphere)
    own = np.where(case.flat > 0, case.box[1], case.box[0])
    corner = np.where(case.flat == 0, 0, own)
    with_zeros = np.where(case.flat == 0, np.maximum(-case.box[0], case.box[1]), own)
    needed = (length(corner, "l2") < case.radius * 0.999) & (
        length(with_zeros, "l2") > case.radius * 1.001
    )
    assert room[needed].all()
    moved = np.where(case.flat == 0, 0, point)
    np.testing.assert_allclose(moved[needed], corner[needed], atol=1e-6)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_projections_are_differentiable(projection, norm, boxed):
    rng = np.random.default_rng(0)
    x, flat, weights = rng.uniform(0.05, 0.95, size=(20, 5)), *rng.normal(size=(2, 20, 5))
    radius = 0.7 * length(np.where(flat > 0, 1 - x, x), norm)
    box = (tf.constant(-x), tf.constant(1 - x)) if boxed else None

    def value(flat):
        return tf.reduce_sum(weights * projection(flat, radius, norm, box)[0], axis=1)

    flat = tf.constant(flat)
    with tf.GradientTape() as tape:
        tape.watch(flat)
        total = value(flat)
    gradient = tape.gradient(total, flat, unconnected_gradients="zero").numpy()
    for index, step in enumerate(1e-5 * np.eye(5)):
        difference = (value(flat + step) - value(flat - step)) / 2e-5
        np.testing.assert_allclose(gradient[:, index], difference, atol=1e-5)


@pytest.mark.parametrize("projection", PROJECTIONS)
@few_draws
@given(case=extremes())
def test_derivatives_are_finite(projection, case):
    flat = tf.constant(case.flat)
    with tf.GradientTape() as tape:
        tape.watch(flat)
        point, _ = projection(flat, case.radius, case.norm, case.box)
    gradient = tape.gradient(point, flat, unconnected_gradients="zero")
    # A large radius over a tiny perturbation is a derivative beyond float32.
    usual = (np.abs(case.flat) < 1e3) & ((np.abs(case.flat) > 1e-3) | (case.flat == 0))
    usual = usual.all(axis=1) & (case.radius < 1e3)
    assert np.isfinite(gradient.numpy()[usual]).all()


def test_coordinates_change_side_where_the_box_is_short_on_theirs():
    box = (np.array([[-9.0, -9.0]]), np.array([[0.5, 0.1]]))
    for norm in NORMS:
        case = Case(norm, np.array([[2.0, 0.1]]), np.array([3.0]), box)
        point, room = case.project(geometry.project_sphere)
        assert length(point, norm) == pytest.approx(3.0)
        assert room.all()
        # The second coordinate has less to lose.
        assert point[0, 0] == 0.5
        assert point[0, 1] < -1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_zero_perturbation_reaches_the_sphere(norm, boxed):
    x = np.array([[0.0, 0.25, 1.0], [0.5, 0.5, 0.5]], np.float32)
    case = Case(norm, np.zeros_like(x), np.full(2, 0.5), (-x, 1 - x) if boxed else None)
    point, room = case.project(geometry.project_sphere)
    assert room.all()
    np.testing.assert_allclose(length(point, norm), 0.5, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_radius_zero_leaves_nothing(norm, projection):
    x = np.array([[0.0, 0.25, 1.0], [0.5, 0.5, 0.5]], np.float32)
    flat = np.array([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]], np.float32)
    for box in (None, (-x, 1 - x)):
        point, room = projection(tf.constant(flat), 0.0, norm, box)
        assert np.all(point.numpy() == 0)
        assert room.numpy().all()


@pytest.mark.parametrize("norm", NORMS)
def test_mask_says_where_the_farthest_corner_is_nearer_than_the_radius(norm):
    x = tf.constant([[0.0, 0.0], [0.5, 0.0], [0.4, 0.4]])
    box = geometry.box_around(x, (0.0, 1.0))
    corners = {"l1": [2, 1.5, 1.2], "l2": [2**0.5, 1.25**0.5, 0.72**0.5], "linf": [1, 1, 0.6]}
    reach = np.array(corners[norm], np.float32)
    np.testing.assert_allclose(geometry.farthest(box, x, norm), reach, rtol=1e-6)
    for share, expected in ((0.999, True), (1.0, True), (1.001, False)):
        point, room = geometry.project_sphere(tf.ones_like(x), reach * share, norm, box)
        assert room.numpy().tolist() == [expected] * 3
        np.testing.assert_allclose(length(point, norm), reach * min(share, 1), rtol=1e-5)


def test_rounding_of_the_room_denies_no_magnitude():
    # 1 - 0.6 is 0.39999998 in float32, less than 0.4.
    box = geometry.box_around(tf.constant([[0.6, 0.5]]), (0.0, 1.0))
    box = (tf.zeros_like(box[0]), box[1] * [[1.0, 0.5]])
    assert box[1][0, 0] < tf.constant(0.4)
    point, room = geometry.project_sphere(tf.constant([[0.1, 0.1]]), 0.4, "linf", box)
    assert room.numpy().all()
    np.testing.assert_allclose(point, [[0.4, 0.1]], rtol=1e-6)


def test_perturbations_far_outside_a_small_l1_ball_keep_an_exact_norm():
    flat = tf.constant(np.random.default_rng(0).normal(size=(4, 784)) * 1e4, tf.float32)
    for projection in PROJECTIONS:
        point, _ = projection(flat, 0.1, "l1")
        np.testing.assert_allclose(length(point, "l1"), 0.1, rtol=1e-5)


def test_coordinates_that_cannot_use_their_size_do_not_cost_the_others_digits():
    box = (tf.constant([[-1.0, -1.0, -1.0]]), tf.constant([[0.05, 1.0, 1.0]]))
    flat = tf.constant([[2e4, 0.3, 0.2]])
    for projection, radius in zip(PROJECTIONS, (0.45, 0.65), strict=True):
        point, _ = projection(flat, radius, "l1", box)
        np.testing.assert_allclose(length(point, "l1"), radius, rtol=1e-5)


@few_draws
@given(
    norm=st.sampled_from(NORMS),
    scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_norm_is_numpys_at_every_scale(norm, scale, seed):
    rows = np.random.default_rng(seed).normal(size=(32, 2, 4)) * scale
    rows = rows.astype(np.float32)
    np.testing.assert_allclose(geometry.norm(rows, norm), length(rows, norm), rtol=1e-5)


def gradients(seed, shape=(32, 3, 5)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("norm", NORMS)
@few_draws
@given(seed=st.integers(0, 2**32 - 1))
def test_long_step_from_anywhere_ends_where_a_linear_function_is_largest(norm, seed):
    gradient = gradients(seed)
    direction = geometry.steepest_direction(gradient, norm).numpy()
    here = gradients(seed + 1)
    end, _ = geometry.project_ball(here + 1e5 * direction, 2.0, norm)
    gain = np.sum(end * gradient, axis=(1, 2))
    dual = np.linalg.norm(gradient.reshape(32, -1), DUAL[norm], axis=1)
    np.testing.assert_allclose(gain, 2.0 * dual, rtol=1e-3)


@pytest.mark.parametrize(("norm", "size"), [("l1", "linf"), ("l2", "l2"), ("linf", "linf")])
@few_draws
@given(seed=st.integers(0, 2**32 - 1))
def test_steepest_direction_has_size_one(norm, size, seed):
    direction = geometry.steepest_direction(gradients(seed), norm).numpy()
    np.testing.assert_allclose(length(direction, size), 1.0, rtol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e30])
def test_steepest_direction_knows_no_scale(norm, scale):
    expected = geometry.steepest_direction(gradients(0), norm)
    scaled = geometry.steepest_direction(gradients(0) * np.float32(scale), norm)
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_zero_gradient_has_no_direction(norm):
    assert np.all(geometry.steepest_direction(tf.zeros((2, 3)), norm) == 0)


@pytest.mark.parametrize("norm", NORMS)
def test_size_of_a_direction_is_that_of_what_can_move(norm):
    gradient = tf.constant([[50.0, -40.0, 3.0, -2.0]])
    box = (tf.constant([[-1.0, 0.0, -1.0, -1.0]]), tf.constant([[0.0, 1.0, 1.0, 1.0]]))
    direction = geometry.steepest_direction(gradient, norm, box)
    free = geometry.steepest_direction(tf.constant([[0.0, 0.0, 3.0, -2.0]]), norm)
    np.testing.assert_allclose(direction[:, 2:], free[:, 2:], rtol=1e-6)
    # What has reached the box is held there by the projection, not drawn back.
    assert np.array_equal(np.sign(direction), np.sign(gradient))
    # However much of the gradient cannot move, the direction and where it leads are finite.
    lopsided = tf.constant([[3e30, -3e30, 3e-20, -2e-20]])
    steep = geometry.steepest_direction(lopsided, norm, box)
    point, _ = geometry.project_sphere(2.0 * steep, 1.0, norm, box)
    np.testing.assert_allclose(geometry.norm(point, norm), 1.0, rtol=1e-5)
    assert point[0, 2] > 0
    stuck = geometry.steepest_direction(gradient[:, :2], "l2", (box[0][:, :2], box[1][:, :2]))
    assert np.all(stuck == 0)


@pytest.mark.parametrize("norm", NORMS)
def test_random_perturbations_lie_on_the_sphere_or_fill_the_ball(norm):
    like, radius = tf.zeros((4000, 2)), tf.linspace(0.5, 2.0, 4000)
    draws = {
        surface: geometry.random_perturbation(like, radius, norm, tf.constant([1, 2]), surface)
        for surface in (True, False)
    }
    np.testing.assert_allclose(length(draws[True], norm), radius, rtol=1e-5)
    shares = length(draws[False], norm) / radius
    assert np.all(shares <= 1 + 1e-5)
    # Half the radius bounds a quarter of the area; four standard deviations of the count.
    assert np.mean(shares <= 0.5) == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 4000))
    for draw in draws.values():
        quadrants = np.mean(np.all(draw.numpy() > 0, axis=1))
        assert quadrants == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 4000))


@pytest.mark.parametrize("norm", NORMS)
def test_random_perturbations_depend_on_the_seed_alone(norm):
    def draw(*seed):
        return geometry.random_perturbation(tf.zeros((3, 4)), 1.0, norm, tf.constant(seed), True)

    assert np.array_equal(draw(1, 2), draw(1, 2))
    assert not np.any(np.all(draw(1, 2) == draw(1, 3), axis=1))


@pytest.mark.parametrize("norm", NORMS)
def test_compiled_by_xla_everything_is_the_same(norm):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(size=(16, 30)), tf.float32)
    flat = tf.constant(rng.normal(size=(16, 30)), tf.float32)
    radius = tf.constant(rng.uniform(0.1, 0.9, size=16), tf.float32)

    def everything():
        box = geometry.box_around(x, (0.0, 1.0))
        points, rooms = zip(*[f(flat, radius, norm, box) for f in PROJECTIONS], strict=True)
        return [
            *points,
            *(tf.cast(room, tf.float32) for room in rooms),
            geometry.steepest_direction(flat, norm, box),
            geometry.norm(flat, norm),
            geometry.farthest(box, x, norm),
            geometry.leave_ball(points[1], flat, radius, norm),
            # XLA draws other numbers from the same seed.
            geometry.norm(
                geometry.random_perturbation(x, radius, norm, tf.constant([1, 2]), surface=True),
                norm,
            ),
        ]

    # A coordinate is held to the root of float32's rounding where a norm of l2 is to be exact.
    compiled_by_xla = tf.function(everything, jit_compile=True)
    for ours, compiled in zip(everything(), compiled_by_xla(), strict=True):
        np.testing.assert_allclose(compiled, ours, rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("project", [geometry.project_ball, geometry.project_sphere])
@pytest.mark.parametrize("radius", [-1.0, [1.0, -1e-6], np.nan])
def test_a_radius_below_0_is_refused(project, radius):
    with pytest.raises(ValueError, match="`radius` must be at least 0"):
        project(tf.constant([[3.0, 4.0], [0.0, 1.0]]), radius, "l2")


def test_unknown_norm_is_refused():
    for call in (
        lambda: geometry.norm(tf.ones((1, 1)), "l3"),
        lambda: geometry.project_ball(tf.ones((1, 1)), 1.0, "l3"),
        lambda: geometry.project_sphere(tf.ones((1, 1)), 1.0, "l3"),
    ):
        with pytest.raises(ValueError, match=r"`norm` must be one of .* Received: 'l3'"):
            call()
