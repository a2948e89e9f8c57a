"""A pytest plugin for coverage, which sees nothing of what autograph has converted."""


def pytest_configure():
    """Runs the package's code as it is written, without autograph."""
    # Not at the top: tests/conftest.py sets what TensorFlow reads as it is imported.
    from tensorflow.python.autograph.core import config

    config.CONVERSION_RULES = (config.DoNotConvert("lexirobust"), *config.CONVERSION_RULES)
