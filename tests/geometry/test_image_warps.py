import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lexirobust.geometry import image_warps as warp


def images(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).uniform(size=shape).astype(dtype)


def smooth(size=41):
    """A bump that ends well inside the image."""
    places = np.linspace(-1, 1, size)
    rows, columns = np.meshgrid(places, places, indexing="ij")
    square = (rows - 0.15) ** 2 + 2 * (columns + 0.1) ** 2
    return np.exp(-12 * square)[None, ..., None].astype(np.float32)


def shifted(x, down, right, fill):
    moved = np.full_like(x, fill)
    height, width = x.shape[1:3]
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[:, row, column] = x[:, row - down, column - right]
    return moved


@pytest.mark.parametrize("fill", [0.0, -1.0, 0.5])
def test_translation_by_whole_pixels_is_a_shift(fill):
    x = images(2, 5, 7, 3)
    places = np.array([*itertools.product(range(-9, 10), repeat=2)])
    moved = warp.rotate_and_translate(
        tf.constant(np.repeat(x, len(places), axis=0)),
        0.0,
        *(tf.constant(np.tile(axis, 2), tf.float32) for axis in places.T),
        fill,
    ).numpy()
    moved = moved.reshape(2, len(places), *x.shape[1:])
    for index, (down, right) in enumerate(places):
        assert np.array_equal(moved[:, index], shifted(x, down, right, fill))


def test_every_image_has_a_rotation_and_a_translation_of_its_own():
    x = images(3, 6, 6, 2)
    moved = warp.rotate_and_translate(
        tf.constant(x), [0.0, 90.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, -1.0]
    )
    expected = [x[0], np.rot90(x[1]), shifted(x, 2, -1, 0.0)[2]]
    np.testing.assert_allclose(moved, expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("quarters", [-1, 1, 2, 4])
def test_rotation_by_right_angles_is_numpys(size, quarters):
    x = images(2, size, size, 3, dtype=np.float64)
    moved = warp.rotate_and_translate(tf.constant(x), 90.0 * quarters, 0.0, 0.0)
    np.testing.assert_allclose(moved, np.rot90(x, quarters, axes=(1, 2)), atol=1e-12)


def test_rotation_by_half_a_turn_of_an_image_that_is_not_square():
    x = images(1, 3, 6, 1)
    np.testing.assert_allclose(
        warp.rotate_and_translate(tf.constant(x), 180.0, 0.0, 0.0), x[:, ::-1, ::-1], atol=1e-5
    )


def test_images_are_turned_first_and_then_shifted():
    x = np.zeros((1, 5, 5, 1), np.float32)
    x[0, 2, 4] = 1  # To the right of the middle; above it after a quarter turn.
    moved = warp.rotate_and_translate(tf.constant(x), 90.0, 1.0, 2.0)
    assert np.unravel_index(np.argmax(moved), moved.shape)[1:3] == (1, 4)


def test_rotation_there_and_back_changes_a_smooth_image_little():
    x, degrees = smooth(), np.linspace(-180, 180, 61).astype(np.float32)
    there = warp.rotate_and_translate(tf.constant(np.repeat(x, 61, axis=0)), degrees, 0.0, 0.0)
    back = warp.rotate_and_translate(there, -degrees, 0.0, 0.0)
    # Bilinear interpolation errs by at most an eighth of both second derivatives added, each time.
    bends = [np.abs(np.diff(x, 2, axis=axis)).max() for axis in (1, 2)]
    np.testing.assert_allclose(back, np.repeat(x, 61, axis=0), atol=2 * sum(bends) / 8)


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_resampling_is_scipys_where_nothing_is_outside(seed):
    rng = np.random.default_rng(seed)
    x = images(1, 5, 6, 1, seed=seed, dtype=np.float64)
    rows, columns = rng.uniform(0, 4, size=(1, 3, 4)), rng.uniform(0, 5, size=(1, 3, 4))
    expected = ndimage.map_coordinates(x[0, ..., 0], [rows[0], columns[0]], order=1)
    ours = warp.resample(tf.constant(x), tf.constant(rows), tf.constant(columns))
    np.testing.assert_allclose(ours[0, ..., 0], expected, rtol=1e-12)


def test_pixels_fade_into_what_is_outside():
    x = tf.fill((1, 2, 2, 1), 3.0)
    rows = tf.constant([[[-9.0, -1.0, -0.25, 0.5, 1.5, 2.0, 1e9]]])
    read = warp.resample(x, rows, tf.zeros_like(rows), fill=1.0)
    np.testing.assert_allclose(np.ravel(read), [1.0, 1.0, 2.5, 3.0, 2.0, 1.0, 1.0])


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_gradient_of_resampling_is_that_of_finite_differences(seed):
    rng = np.random.default_rng(seed)
    x = tf.constant(images(8, 4, 5, 3, seed=seed, dtype=np.float64))
    weights = rng.normal(size=(8, 6, 1, 3))
    # Inside the cells of the grid, or the difference would straddle a kink.
    whole = rng.integers(-2, [[[5]], [[6]]], size=(2, 8, 6)).astype(np.float64)
    places = (whole + rng.uniform(0.01, 0.99, size=whole.shape))[..., None]

    def value(places):
        return tf.reduce_sum(weights * warp.resample(x, places[0], places[1], fill=0.5))

    places = tf.constant(places)
    with tf.GradientTape() as tape:
        tape.watch(places)
        value_here = value(places)
    gradient = tape.gradient(value_here, places).numpy()
    # Every value depends on its own position alone.
    for axis, index in itertools.product(range(2), range(6)):
        step = np.zeros(gradient.shape)
        step[axis, :, index] = 1e-3 * rng.uniform(0.5, 1, size=(8, 1))
        difference = (value(places + step) - value(places - step)) / 2
        assert np.sum(gradient * step) == pytest.approx(float(difference), abs=1e-12)


def test_uniform_flow_is_a_translation_the_other_way():
    x = smooth(21)
    field = tf.tile(tf.reshape([2.0, -1.0], (1, 1, 1, 2)), (1, 21, 21, 1))
    inner = np.s_[:, 3:-3, 3:-3]
    np.testing.assert_allclose(warp.flow(x, field)[inner], shifted(x, -2, 1, 0.0)[inner], rtol=1e-6)


def test_flow_brings_in_nothing_from_outside():
    x = images(2, 4, 5, 1)
    far = tf.fill((2, 4, 5, 2), -100.0)
    np.testing.assert_array_equal(warp.flow(x, far), np.broadcast_to(x[:, :1, :1], x.shape))


def test_no_movement_changes_no_bit():
    x = images(2, 5, 6, 3)
    assert np.array_equal(warp.rotate_and_translate(tf.constant(x), 0.0, 0.0, 0.0, fill=0.3), x)
    assert np.array_equal(warp.flow(x, tf.zeros((2, 5, 6, 2))), x)


def test_roughness_adds_up_distances_between_neighbors():
    field = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    expected = np.zeros(2)
    for row in range(3):
        for column in range(4):
            if row:
                expected += np.linalg.norm(
                    field[:, row, column] - field[:, row - 1, column], axis=1
                )
            if column:
                expected += np.linalg.norm(
                    field[:, row, column] - field[:, row, column - 1], axis=1
                )
    np.testing.assert_allclose(warp.total_variation(tf.constant(field)), expected, rtol=1e-5)


def test_uniform_field_is_smooth_and_its_gradient_finite():
    field = tf.ones((1, 3, 3, 2))
    with tf.GradientTape() as tape:
        tape.watch(field)
        total = warp.total_variation(field)
    np.testing.assert_allclose(total, 0.0, atol=1e-12)
    assert np.all(tape.gradient(total, field) == 0)
