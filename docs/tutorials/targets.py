# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A target on natural accuracy
#
# Robustness costs natural accuracy, the accuracy on inputs that nobody has tampered with. How much
# it may cost is for you to say: "at least 84 %, and then as robust as possible". This tutorial
# trains one network twice, once without giving anything away and once with a target, and compares
# the two. It needs `pip install ".[plots]"`.

# %%
import keras
import numpy as np
import tqdm.keras

import lexirobust as lr
from lexirobust import plotting

# %matplotlib inline

# %% [markdown]
# ## Data
#
# Fashion-MNIST: 12,000 images to train on, 2,000 held-out images on which the target is to hold,
# and test images that neither sees.

# %%
x, y = lr.datasets.fashion_mnist("train[:12000]")
x_held_out, y_held_out = lr.datasets.fashion_mnist("train[50000:52000]")
x_test, y_test = lr.datasets.fashion_mnist("test")


def network():
    """A small network that gives logits, with the same weights each time."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 5, strides=2, activation="relu"),
            keras.layers.Conv2D(32, 5, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(100, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def bar(title):
    """A progress bar over the epochs."""
    return tqdm.keras.TqdmCallback(verbose=0, desc=title)


# %% [markdown]
# ## Without a target
#
# `lr.OLSRC` ranks two losses: that on natural images first, that on images perturbed by an l2 norm
# of 1 second. A step lowers the second only as far as that does not raise the first.

# %%
attack = lr.attacks.PGD("l2", steps=3)
settings = {"memory": lr.RunningMean(), "warm_start": lr.WarmStart()}
strict = lr.OLSRC(network(), attack, [1.0], **settings)
strict.compile("adam", metrics=["accuracy"])
strict.fit(x, y, batch_size=256, epochs=10, verbose=0, callbacks=[bar("strict")])


def natural_accuracy(model):
    """The share of all test images that is classified as labeled."""
    return np.mean(model.predict(x_test, batch_size=1000, verbose=0).argmax(axis=1) == y_test)


print(f"natural accuracy {natural_accuracy(strict):.1%}")

# %% [markdown]
# ## With a target

# %%
target = lr.OLSRC(network(), attack, [1.0], targets=[lr.Target(accuracy=0.84)], **settings)
target.compile("adam", metrics=["accuracy"])
held_out = lr.callbacks.HeldOutTargets(x_held_out, y_held_out)
callbacks = [held_out, bar("target")]
history = target.fit(x, y, batch_size=256, epochs=10, verbose=0, callbacks=callbacks).history
print(f"natural accuracy {natural_accuracy(target):.1%}")

# %%
plotting.target_curves(history)

# %% [markdown]
# ## What it brings
#
# AutoAttack on 300 test images, at fewer steps than by default to save time:

# %%
autoattack = lr.attacks.AutoAttack("l2", steps=50, max_queries=500, seed=0)
curves = {
    name: lr.evaluate_robustness(model, x_test[:300], y_test[:300], autoattack, [0, 0.5, 1.0])
    for name, model in {"strict": strict, "target 84 %": target}.items()
}
for name, curve in curves.items():
    print(name, curve.accuracy.round(3), curve.flags)
plotting.accuracy_curves(curves)

# %%
print(lr.compare(curves["target 84 %"], curves["strict"], significance=0.05))

# %% [markdown]
# ## Next
#
# - [Choose a target](../targets.md): losses or accuracies, several ranks, and results of three
#   seeds.
# - Keep the best epoch that meets the target, and serve it: [serving](serving.ipynb).
