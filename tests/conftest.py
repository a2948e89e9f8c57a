"""What every test stands on: a quiet TensorFlow, two CPU devices, a fixed seed."""

import ctypes
import gc
import os
import random

# Before TensorFlow is imported; a value that is already set wins.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:  # Workers share the cores among them.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Else malloc keeps a heap for each of TensorFlow's threads, and a worker grows to twice the size.
# Workers inherit it.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from lexirobust.attacks import graph_cache
from tests.helpers import mirrored_strategy
from tests.pipelines import leave_pipelines_untuned

# Results are held against closed forms; a GPU would round the factors of products to 10 bits.
tf.config.experimental.enable_tensor_float_32_execution(False)

# Two logical devices on the one CPU, so that a MirroredStrategy over "CPU:0" and "CPU:1" runs in
# this process. Only possible before the first operation, hence here and not in a fixture.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration(), tf.config.LogicalDeviceConfiguration()],
)

leave_pipelines_untuned()

keras.utils.set_random_seed(0)

# No deadline: the first example of a test pays for tracing. Derandomized: a run can be repeated, so
# more examples would be the same ones every time; tests/fuzz.py looks for new ones.
hypothesis.settings.register_profile("lexirobust", deadline=None, derandomize=True, max_examples=30)
hypothesis.settings.load_profile("lexirobust")


def collect():
    """Frees what is no longer used, and has the rest left out of later collections.

    What is left are modules and tests: looking through them took 5 s a file.
    """
    gc.collect()
    gc.freeze()


def pytest_collection_finish():
    """Tests are there to stay."""
    collect()


@pytest.fixture(autouse=True)
def _seed():
    """Every test starts from the same seed, whatever ran before it.

    TensorFlow's own seed only where a test has drawn by it: to set it drops all that is
    instantiated, functions included, which took a seventh of the suite's time.
    """
    if context.context()._rng.getstate() == random.Random(0).getstate():
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
    else:
        keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def strategy():
    """Two replicas on the one CPU."""
    return mirrored_strategy()


@pytest.fixture(autouse=True, scope="module")
def _forget():
    """What a file's tests have compiled is not kept for the rest: it came to 20 MB a test."""
    yield
    graph_cache.clear()
    keras.backend.clear_session()
    collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # What glibc has got back it keeps, unless it is told.
        libc.malloc_trim(0)
