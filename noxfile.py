"""Runs the tests on every supported release of Python, Keras and TensorFlow.

    pip install nox && nox --list
    nox --session "tests(python='3.11', keras='3.12', tensorflow='2.20')"
    nox --session smoke

An environment takes 3 GB and is made anew in each session. The interpreters must be on the path.
"""

import itertools

import nox

PYTHONS, KERAS, TENSORFLOW = (
    ("3.11", "3.12", "3.13"),
    ("3.12", "3.13", "3.14", "3.15"),
    ("2.20", "2.21"),
)
# The oldest of all, the newest of all, and the newest interpreter with the oldest packages.
CORNERS = [("3.11", "3.12", "2.20"), ("3.13", "3.12", "2.20"), ("3.13", "3.15", "2.21")]
# A training step of every method, attacks, saving and the dual: two minutes.
SMOKE = ("tests/gem", "tests/training/test_saving.py", "tests/training/test_update.py")

nox.options.sessions = []


def install(session: nox.Session, keras: str, tensorflow: str) -> None:
    """Installs the package beside releases of Keras and TensorFlow."""
    session.install("-e", ".[plots,test]", f"keras=={keras}.*", f"tensorflow=={tensorflow}.*")


@nox.session
@nox.parametrize(("python", "keras", "tensorflow"), CORNERS)
def tests(session: nox.Session, keras: str, tensorflow: str) -> None:
    """All tests of the README's command."""
    install(session, keras, tensorflow)
    session.run("pytest", "-n", "2", "--dist", "worksteal", "-m", "not release")


@nox.session
@nox.parametrize(
    ("python", "keras", "tensorflow"),
    [each for each in itertools.product(PYTHONS, KERAS, TENSORFLOW) if each not in CORNERS],
)
def smoke(session: nox.Session, keras: str, tensorflow: str) -> None:
    """Some of them."""
    install(session, keras, tensorflow)
    session.run("pytest", "-n", "2", "-m", "not release", *SMOKE)


@nox.session
def coverage(session: nox.Session) -> None:
    """Lines and branches that the tests of the README's command run: half an hour of one core."""
    session.install("-e", ".[plots,test]", "coverage")
    plugin = ("-p", "tests.unconverted")
    session.run("coverage", "run", "-m", "pytest", *plugin, "-m", "not release")
    session.run("coverage", "report")
