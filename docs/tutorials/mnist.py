# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # MNIST in five minutes
#
# From a bare machine to a classifier of handwritten digits that resists small changes of its input,
# and to a report that says how much it resists. You need Python 3.11 or later and a clone of the
# repository. In its root:
#
# ```bash
# python3 -m venv .venv
# .venv/bin/pip install ".[plots,report]" jupyterlab
# .venv/bin/jupyter lab docs/tutorials/mnist.ipynb
# ```
#
# Twenty lines of code follow, and they are all there is to write. Without Jupyter,
# `.venv/bin/python docs/tutorials/mnist.py` runs them and leaves the report.

# %%
import keras

import lexirobust as lr

# %matplotlib inline

# %% [markdown]
# ## Data
#
# Images have 28×28 pixels from 0 to 1. TensorFlow Datasets downloads them on first use, and keeps
# them. We train on 12,000 of the 60,000 training images, and measure on 200 test images.

# %%
keras.utils.set_random_seed(0)
(x, y), (x_test, y_test) = lr.datasets.mnist("train[:12000]"), lr.datasets.mnist("test[:200]")

# %% [markdown]
# ## Network
#
# Any Keras classifier will do whose last layer gives logits: no softmax at its end.

# %%
layers = [
    keras.Input((28, 28, 1)),
    keras.layers.Conv2D(16, 5, strides=2, activation="relu"),
    keras.layers.Flatten(),
    keras.layers.Dense(100, activation="relu"),
    keras.layers.Dense(10),
]

# %% [markdown]
# ## Training
#
# `lr.OLSRC` wraps the network. It has two losses, and ranks them:
#
# 1. `loss@natural`, on the images as they are;
# 2. `loss@l2=2`, on images that an attack (`PGD`, three gradient steps) has perturbed to be
#    misclassified. The magnitude of a perturbation is its l2 norm, here 2.
#
# A training step lowers the second loss only as far as that does not oppose the average gradient of
# the first. `lr.RunningMean()` takes that average over many batches: one says too little about the
# data.

# %%
attack = lr.attacks.PGD("l2", steps=3)
model = lr.OLSRC(keras.Sequential(layers), attack, [2.0], memory=lr.RunningMean())
model.compile("adam", metrics=["accuracy"])
history = model.fit(x, y, batch_size=128, epochs=8)

# %% [markdown]
# After the last epoch 98 % of the training images are classified as labeled (`accuracy`), and 66 %
# of the perturbed ones (`accuracy@l2=2`). `min_cosine` is the cosine between the gradients of the
# two losses. Below 0 they pull in different directions, and the ranking is at work.

# %% [markdown]
# ## Robust accuracy
#
# The few attack steps of training are quick and weak. AutoAttack is the attack that published
# numbers are measured with: several attacks one after another, each on the images that have
# resisted so far. A magnitude is the most that it may change an image by.

# %%
curve = lr.evaluate_robustness(model, x_test, y_test, lr.attacks.AutoAttack("l2"), [0, 1, 2])
print(curve.accuracy, curve.flags)
curve.plot()

# %% [markdown]
# 97 % of the test images are classified as labeled, 90 % under any perturbation of norm 1 that was
# found, and 60 % at norm 2. The shade is the 95 % interval: 200 images are few. `()` means that
# there are no warnings. Your digits may differ a little: processors round differently. Plain
# training of a small network keeps about 8 % at norm 2 ([three
# seeds](../targets.md#what-it-brings)).
#
# ## Report
#
# One HTML page: a summary, the curve with its 95 % intervals, warnings if there are any, and some
# images with what the attack made of them. It loads nothing and runs no script, so it can be sent
# by mail.

# %%
lr.report({"OLSRC": curve}, "report.html", data="200 test images of MNIST")

# %% [markdown]
# The top of such a page, here of three other classifiers:
#
# ![A page with a summary, warnings, accuracy by magnitude and a ranking](../figures/report.png)
#
# ## Next
#
# - `model.save("mnist.keras")` saves the model. The whole way to a server is [another
#   tutorial](serving.ipynb).
# - Measure [a classifier you already have](own_classifier.ipynb).
# - Say [what natural accuracy is enough](targets.ipynb), and get more robustness for it.
# - [Choose a magnitude](../choose_magnitude.md) for your own data, and read [what the logs
#   mean](../logs.md).
