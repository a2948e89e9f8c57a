"""A pytest plugin for coverage, which sees nothing of what autograph has converted."""

import functools

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests():
    """Runs the package's code as it is written: before tests/conftest.py imports the package."""
    import tensorflow as tf
    from tensorflow.python.autograph.core import config

    config.CONVERSION_RULES = (config.DoNotConvert("lexirobust"), *config.CONVERSION_RULES)
    compiled = tf.function

    def function(func=None, **options):
        if func is None:
            return functools.partial(function, **options)
        # What is compiled itself is converted in spite of the rule.
        if getattr(func, "__module__", "").startswith("lexirobust"):
            options["autograph"] = False
        return compiled(func, **options)

    tf.function = function
