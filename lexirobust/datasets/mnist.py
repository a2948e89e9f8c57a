"""MNIST and Fashion-MNIST."""

import contextlib
import os
import urllib.error
import urllib.request

import numpy as np


def mnist(
    split: str = "train", data_dir: str | os.PathLike[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Loads MNIST through TensorFlow Datasets, downloading it where it is not there yet.

    Args:
        split: str, "train" (60,000 images), "test" (10,000), or a slice such as "train[:1000]".
        data_dir: path of the folder that holds or will hold `mnist/3.0.1`. `None` means TensorFlow
            Datasets' own default, `~/tensorflow_datasets`.

    Returns:
        Tuple of images, float32 `[N, 28, 28, 1]` in [0, 1], and labels, int32 `[N]` in 0 to 9.

    Raises:
        FileNotFoundError: if `data_dir` does not hold MNIST and it cannot be downloaded.
        ValueError: if there is no such split.

    Example:

    >>> images, labels = mnist("test")  # doctest: +SKIP
    >>> images.shape, labels.shape  # doctest: +SKIP
    ((10000, 28, 28, 1), (10000,))

    Reference: sections 1.2 and 6.2 of the paper.
    """
    return _loaded("mnist", "MNIST", split, data_dir)


def fashion_mnist(
    split: str = "train", data_dir: str | os.PathLike[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Loads Fashion-MNIST, ten kinds of clothes, as `mnist` loads MNIST.

    Args:
        split: str, "train" (60,000 images), "test" (10,000), or a slice such as "train[:1000]".
        data_dir: path of the folder that holds or will hold `fashion_mnist/3.0.1`. `None` means
            TensorFlow Datasets' own default, `~/tensorflow_datasets`.

    Returns:
        Tuple of images, float32 `[N, 28, 28, 1]` in [0, 1], and labels, int32 `[N]` in 0 to 9.

    Raises:
        FileNotFoundError: if `data_dir` does not hold it and it cannot be downloaded.
        ValueError: if there is no such split.

    Example:

    >>> images, labels = fashion_mnist("test")  # doctest: +SKIP
    >>> images.shape, labels.shape  # doctest: +SKIP
    ((10000, 28, 28, 1), (10000,))

    Reference: Xiao, Rasul and Vollgraf, arXiv 1708.07747.
    """
    return _loaded("fashion_mnist", "Fashion-MNIST", split, data_dir)


def _loaded(
    name: str, title: str, split: str, data_dir: str | os.PathLike[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    if not builder.is_prepared():
        try:
            _check_reachable(builder.URL)
            builder.download_and_prepare()
        except (OSError, tfds.download.DownloadError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise FileNotFoundError(
                f"{title} is not in {str(builder.data_path)!r} and cannot be downloaded "
                f"({reason}): pass `data_dir`, a folder that holds a prepared '{name}/3.0.1'."
            ) from error
    # They fit into memory: one batch of everything is the arrays themselves.
    images, labels = builder.as_dataset(split=split, batch_size=-1, as_supervised=True)
    return images.numpy().astype(np.float32) / np.float32(255), labels.numpy().astype(np.int32)


def _check_reachable(url: str) -> None:
    """Raises an `OSError` at once where TensorFlow Datasets would retry for minutes."""
    # An HTTP error means that the server is there; what this address holds is not the question.
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
