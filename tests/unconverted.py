"""A pytest plugin for coverage, which sees nothing of what autograph has converted."""

from tensorflow.python.autograph.core import config


def pytest_configure():
    """Runs the package's code as it is written, without autograph."""
    config.CONVERSION_RULES = (config.DoNotConvert("lexirobust"), *config.CONVERSION_RULES)
