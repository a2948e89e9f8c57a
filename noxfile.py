"""Runs the tests on every supported release of Python, Keras and TensorFlow, and counts them.

    pip install "nox[uv]" && nox --list
    nox --session "tests(python='3.11', keras='3.12', tensorflow='2.20')"
    nox --session smoke
    nox --session package
    nox --session fuzz -- --minutes=60

An environment takes 3 GB, less by uv, and is made anew in each session. The interpreters must be on
the path.
"""

import itertools
import pathlib

import nox

PYTHONS, KERAS, TENSORFLOW = (
    ("3.11", "3.12", "3.13"),
    ("3.12", "3.13", "3.14", "3.15"),
    ("2.20", "2.21"),
)
# The oldest and the newest interpreter, each with the oldest and the newest packages.
CORNERS = [
    ("3.11", "3.12", "2.20"),
    ("3.11", "3.15", "2.21"),
    ("3.13", "3.12", "2.20"),
    ("3.13", "3.15", "2.21"),
]
# Keras's own names, every method, every optimizer's state, saving, and files that come with the
# package: a minute or two.
SMOKE = (
    "tests/test_keras_internals.py",
    "tests/test_pretrained.py",
    *(f"tests/training/test_{name}.py" for name in ("methods", "preconditioners", "saving")),
)

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = []


def run_tests(session: nox.Session, keras: str, tensorflow: str, *chosen: str) -> None:
    """Runs tests beside releases of Keras and TensorFlow, and notes how many passed."""
    session.install("-e", ".[plots,test]", f"keras=={keras}.*", f"tensorflow=={tensorflow}.*")
    report = f"{session.create_tmp()}/tests.xml"
    session.run(
        *("pytest", "-n", "2", "--dist", "worksteal", "-m", "not release"),
        *(f"--junit-xml={report}", *chosen),
        success_codes=[0, 1],  # Failures are counted, and then an error.
    )
    whole = "--nowhole" if chosen else "--whole"
    session.run("python", "benchmarks/versions.py", f"--add={report}", whole)


@nox.session
@nox.parametrize(("python", "keras", "tensorflow"), CORNERS)
def tests(session: nox.Session, keras: str, tensorflow: str) -> None:
    """All tests of the README's command."""
    run_tests(session, keras, tensorflow)


@nox.session
@nox.parametrize(
    ("python", "keras", "tensorflow"),
    [each for each in itertools.product(PYTHONS, KERAS, TENSORFLOW) if each not in CORNERS],
)
def smoke(session: nox.Session, keras: str, tensorflow: str) -> None:
    """Some of them."""
    run_tests(session, keras, tensorflow, *SMOKE)


@nox.session
def package(session: nox.Session) -> None:
    """Builds what is released, checks it, and uses the wheel in an environment of its own."""
    out = session.create_tmp()
    session.install("build", "twine")
    session.run("python", "-m", "build", "--outdir", out)
    (wheel,), (archive,) = (list(pathlib.Path(out).glob(f"*.{kind}")) for kind in ("whl", "tar.gz"))
    session.run("twine", "check", "--strict", str(wheel), str(archive))
    session.install(str(wheel))
    session.chdir(out)  # Away from the sources.
    session.run("python", "-c", "import lexirobust as lr; print(lr.__version__, lr.__file__)")


@nox.session
def coverage(session: nox.Session) -> None:
    """Lines and branches that the tests of the README's command run: half an hour of one core."""
    session.install("-e", ".[plots,test]", "coverage")
    plugin = ("-p", "tests.unconverted")
    session.run("coverage", "run", "-m", "pytest", *plugin, "-m", "not release")
    session.run("coverage", "report")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Looks for arguments and files that end in an error of no meaning: three minutes, or as told.

    What follows `--` goes to `python -m tests.fuzz`: `--minutes`, and the `--seed` to begin with.
    """
    session.install("-e", ".[plots,test]")
    session.run("python", "-m", "tests.fuzz", "--minutes=3", *session.posargs)
