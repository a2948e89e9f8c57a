"""Packaging of lexirobust. The tools' own settings are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).resolve().parent

# Read as text: importing the package here would need TensorFlow at build time.
VERSION = re.search(
    r'^__version__ = "([^"]+)"$',
    (HERE / "lexirobust" / "version.py").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
).group(1)

INSTALL_REQUIRES = [
    # The oldest release with wheels for Python 3.13. docs/compatibility.md says which tests were
    # run on it, and that all were on 2.21.
    "tensorflow>=2.20",
    # We override internals of training (lexirobust/keras_internals.py) and read the state of
    # optimizers. Keras changes both between minor releases, and a guarantee that rests on them
    # would break unseen. Raise the upper bound together with a run of noxfile.py on the new
    # release. 3.12 is the oldest that TensorFlow 2.21 allows.
    "keras>=3.12,<3.16",
    # NumPy 2 changed the dtype of mixed scalar arithmetic (NEP 50). The tests know only the new
    # rules.
    "numpy>=2.0",
    # The first release with type information (py.typed), which mypy uses on the examples' flags.
    "absl-py>=2.1",
    # The release that the MNIST loader and its tests were run with, beside NumPy 2 and protobuf 7.
    "tensorflow-datasets>=4.9.10",
    # The oldest release with wheels for every Python allowed below. It is the reference that the
    # dual solver is checked against (`solver="cvxopt"`).
    "cvxopt>=1.3.2",
    # Tells how finely a variable's type rounds, bfloat16 too, which NumPy does not know. TensorFlow
    # brings it; 0.5.1 is the oldest that it allows.
    "ml_dtypes>=0.5.1",
    # tensorflow-datasets 4.9.10 imports it on Python 3.11 and later but requires it only below 3.9.
    # It uses `abc.Traversable` in an isinstance test, a runtime-checkable protocol since 5.0.
    "importlib_resources>=5.0",
    # Progress bars. The first release that lists Python 3.11.
    "tqdm>=4.65",
    # Intervals of proportions and exact tests. The first release that allows NumPy 2.
    "scipy>=1.13",
]

EXTRAS_REQUIRE = {
    "plots": [
        # The first release that allows NumPy 2. It carries its own types.
        "matplotlib>=3.9",
        # Tables in the examples. Keras requires it without a bound; 12.6 lists Python 3.11.
        "rich>=12.6",
    ],
    "report": [
        # Fills in the page. The first release whose PackageLoader needs no pkg_resources, which
        # setuptools no longer ships.
        "jinja2>=3.0",
        # Draws what is in it: bound as above.
        "matplotlib>=3.9",
    ],
    "tensorboard": [
        # TensorFlow writes summaries by it; the oldest release that goes with a TensorFlow above.
        "tensorboard>=2.20",
        # Pictures, which `plotting` draws: bound as there.
        "matplotlib>=3.9",
    ],
    "examples": [
        # It ships the images of examples/digits.py and examples/report.py. The first release that
        # allows NumPy 2.
        "scikit-learn>=1.4.2",
        # Markdown tables there. No older release was tried.
        "tabulate>=0.10",
        # Integrated Gradients and SmoothGrad in examples/interpretation.py. The release that was
        # tried with NumPy 2.
        "saliency>=0.2.1",
    ],
    "benchmarks": [
        # The solver of the original GEM, which benchmarks/gem.py compares with. The release that
        # was tried with NumPy 2.4; no older one was.
        "quadprog>=0.1.14",
        # The attacks that benchmarks/attacks.py and benchmarks/cross_check.py compare with; the
        # release that was tried.
        "adversarial-robustness-toolbox>=1.20.1",
        # Tables in pages: bound as above.
        "tabulate>=0.10",
        # Finds wrong labels in benchmarks/targets.py. The release that was tried.
        "cleanlab>=2.9",
    ],
    "docs": [
        # Material 9.8 asks for MkDocs 1; a major release of either moves settings and themes.
        "mkdocs>=1.6,<2",
        "mkdocs-material>=9.8,<10",
        # The reference, from docstrings. The releases that were tried.
        "mkdocstrings>=1.0.8,<2",
        "mkdocstrings-python>=2.0.11,<3",
        # Formulas as MathML, which browsers draw by themselves. The release that was tried.
        "latex2mathml>=3.81",
        # Shows the tutorials' notebooks. The release that was tried; it puts a rendering of its own
        # in place of MkDocs's, so the next major release may part from docs/hooks.
        "mkdocs-jupyter>=0.26.3,<1",
        # They make notebooks of the tutorials' scripts, and run them. The releases that were tried.
        "jupytext>=1.19.6",
        "nbclient>=0.11",
        "ipykernel>=7.4",
        # Breaks long signatures of the reference: bound as below.
        "ruff>=0.17.6,<0.18",
    ],
    "test": [
        # Since 8.1.1 import mode "importlib" imports a package's modules once, under their true
        # names. Otherwise doctests would import lexirobust twice and register its classes twice.
        "pytest>=8.1.1",
        # Runs tests side by side: most of their time goes to tracing, on one core. 3.2 has the
        # scheduler "worksteal".
        "pytest-xdist>=3.2",
        # Holds the JSON of accuracy curves against its schema. The first with draft 2020-12.
        "jsonschema>=4.0",
        # Property tests. No older release was tried.
        "hypothesis>=6.170",
        # The tests write reports and run the examples: bound as there.
        "jinja2>=3.0",
        "scikit-learn>=1.4.2",
        "tabulate>=0.10",
        "saliency>=0.2.1",
        # TensorFlow writes summaries by it; the oldest release that goes with a TensorFlow above.
        "tensorboard>=2.20",
        # Two runtimes that are not TensorFlow, in which exported models give what they should. The
        # releases that were tried.
        "ai-edge-litert>=2.3",
        "openvino>=2026.4",
        # The tests build the documentation site: bounds as there.
        "mkdocs>=1.6,<2",
        "mkdocs-material>=9.8,<10",
        "mkdocstrings>=1.0.8,<2",
        "mkdocstrings-python>=2.0.11,<3",
        "latex2mathml>=3.81",
        "mkdocs-jupyter>=0.26.3,<1",
        # Reads the tutorials' sources, which their notebooks are held to: bound as there.
        "jupytext>=1.19.6",
        # Its types, which mypy asks for.
        "types-tabulate>=0.10",
        # A formatter's style changes between minor releases, and CI compares text.
        "ruff>=0.17.6,<0.18",
        # New minor releases find new errors. CI must not fail by itself.
        "mypy>=2.4,<2.5",
    ],
}

setup(
    name="lexirobust",
    version=VERSION,
    description="Ranked losses for Keras: no step spends a higher rank to buy a lower one.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["lexirobust", "lexirobust.*"]),
    package_data={
        "lexirobust": ["py.typed", "templates/*.jinja", "pretrained/*.json", "pretrained/*.keras"]
    },
    # Keras 3.13 and later need Python 3.11. TensorFlow 2.21 has no wheels for 3.14; that bound is
    # left to TensorFlow, whose next release moves it.
    python_requires=">=3.11",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    keywords="adversarial robustness lexicographic ranked losses gradient projection keras",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
