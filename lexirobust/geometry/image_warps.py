"""Images bent: the plain maths under the spatial attacks.

Images are `[N, H, W, C]`. Positions count pixels from the middle of the first row and column, which
is at 0, down and to the right.
"""

import numpy as np
import tensorflow as tf

from lexirobust.tensors import of_dtype


def resample(
    images: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor, fill: float = 0.0
) -> tf.Tensor:
    """Reads images at any positions, bilinearly between pixels.

    Outside the image everything has the value `fill`; its pixels fade into it within one pixel.

    Args:
        images: `[N, H, W, C]` float tensor.
        rows: `[N, H', W']` positions.
        columns: `[N, H', W']` positions.
        fill: Value outside the image.

    Returns:
        `[N, H', W', C]` tensor, differentiable in the positions too. At whole positions, where the
        derivative jumps, it is the one towards larger positions.

    Example:

    >>> image = tf.reshape([1.0, 3.0], (1, 1, 2, 1))
    >>> columns = tf.reshape([0.0, 0.25, 1.5], (1, 1, 3))
    >>> resample(image, tf.zeros_like(columns), columns)[0, 0, :, 0].numpy().tolist()
    [1.0, 1.5, 1.5]

    Reference:
        Equation 1 of Xiao et al., arXiv 1801.02612.
    """
    height, width, channels = images.shape[1:]
    # A rim of `fill` around the image; nothing is read from beyond it.
    rim = [[0, 0], [1, 1], [1, 1], [0, 0]]
    pixels = tf.pad(images, rim, constant_values=of_dtype(fill, images.dtype))
    pixels = tf.reshape(pixels, (tf.shape(images)[0], (height + 2) * (width + 2), channels))
    row, below = _cell(rows, height)
    column, right = _cell(columns, width)

    def read(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return tf.gather(pixels, row * (width + 2) + column, batch_dims=1)

    upper = (1.0 - right) * read(row, column) + right * read(row, column + 1)
    lower = (1.0 - right) * read(row + 1, column) + right * read(row + 1, column + 1)
    return (1.0 - below) * upper + below * lower


def rotate_and_translate(
    images: tf.Tensor,
    degrees: tf.Tensor | float,
    down: tf.Tensor | float,
    right: tf.Tensor | float,
    fill: float = 0.0,
) -> tf.Tensor:
    """Rotates images about their middle, counterclockwise, and then shifts them.

    Args:
        images: `[N, H, W, C]` float tensor.
        degrees: Angles, scalar or `[N]`.
        down: Shifts in pixels, scalar or `[N]`.
        right: Shifts in pixels, scalar or `[N]`.
        fill: Value of what comes in from outside the image.

    Returns:
        Tensor shaped like `images`.

    Example:

    >>> image = tf.reshape([1.0, 2.0, 3.0, 4.0], (1, 2, 2, 1))
    >>> print(rotate_and_translate(image, 90.0, 0.0, 0.0)[0, ..., 0].numpy().round(3))
    [[2. 4.]
     [1. 3.]]
    """
    degrees, down, right = (_per_image(setting, images) for setting in (degrees, down, right))
    rows, columns = _positions(images)
    middle = [(size - 1) / 2 for size in images.shape[1:3]]
    # Where each pixel comes from: shifted back, then turned back.
    rows, columns = rows - middle[0] - down, columns - middle[1] - right
    cosine, sine = tf.cos(degrees * (np.pi / 180)), tf.sin(degrees * (np.pi / 180))
    return resample(
        images,
        cosine * rows + sine * columns + middle[0],
        cosine * columns - sine * rows + middle[1],
        fill,
    )


def flow(images: tf.Tensor, field: tf.Tensor) -> tf.Tensor:
    """Lets every pixel of images come from a place of its own.

    Args:
        images: `[N, H, W, C]` float tensor.
        field: `[N, H, W, 2]`: how far down and how far to the right of each pixel its value comes
            from, in pixels. What points out of the image comes from its edge.

    Returns:
        Tensor shaped like `images`.

    Example:

    >>> image = tf.reshape([1.0, 3.0], (1, 1, 2, 1))
    >>> field = tf.reshape([0.0, 0.25, 0.0, 0.5], (1, 1, 2, 2))
    >>> flow(image, field)[0, 0, :, 0].numpy().tolist()
    [1.5, 3.0]

    Reference:
        Xiao et al., arXiv 1801.02612.
    """
    rows, columns = _positions(images)
    height, width = images.shape[1:3]
    return resample(
        images,
        tf.clip_by_value(rows + field[..., 0], 0.0, height - 1.0),
        tf.clip_by_value(columns + field[..., 1], 0.0, width - 1.0),
    )


def total_variation(field: tf.Tensor) -> tf.Tensor:
    """Computes the total variation of flow fields.

    Args:
        field: `[N, H, W, 2]`.

    Returns:
        `[N]` tensor: over all pairs of pixels next to each other, down and across, the distance
        between their two displacements, added up.

    Example:

    >>> total_variation(tf.reshape([0.0, 0.0, 3.0, 4.0], (1, 1, 2, 2))).numpy().tolist()
    [5.0]

    Reference:
        Equation 4 of Xiao et al., arXiv 1801.02612, which counts every pair twice.
    """
    # Below the smallest number the derivative is 0: that of the root alone is infinite at 0.
    tiny = np.finfo(field.dtype.as_numpy_dtype).tiny
    steps = (field[:, 1:] - field[:, :-1], field[:, :, 1:] - field[:, :, :-1])
    squares = (tf.reduce_sum(tf.square(step), axis=-1) for step in steps)
    lengths = (tf.sqrt(tf.maximum(square, tiny)) for square in squares)
    return tf.add_n([tf.reduce_sum(length, axis=(1, 2)) for length in lengths])


def _per_image(setting: tf.Tensor | float, images: tf.Tensor) -> tf.Tensor:
    """`[N, 1, 1]` from a scalar or `[N]`."""
    setting = tf.reshape(of_dtype(setting, images.dtype), (-1, 1, 1))
    return tf.broadcast_to(setting, (tf.shape(images)[0], 1, 1))


def _positions(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Every pixel's own row `[1, H, 1]` and column `[1, 1, W]`."""
    rows, columns = (tf.range(size, dtype=images.dtype) for size in images.shape[1:3])
    return rows[None, :, None], columns[None, None, :]


def _cell(positions: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The pixel before each position, counted from the rim, and the share `[..., 1]` beyond it."""
    positions = tf.clip_by_value(positions + 1.0, 0.0, size + 1.0)
    before = tf.minimum(tf.floor(positions), float(size))
    return tf.cast(before, tf.int32), (positions - before)[..., None]
