"""A Keras model that saves all that its training goes on from, and can be served."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from lexirobust import serving
from lexirobust.configs import arguments_of, deserialized, serialized
from lexirobust.probabilities import is_of_labels, probability_layer
from lexirobust.training.objectives import Rank
from lexirobust.training.settings import TrainingSettings, terms_of
from lexirobust.training.state.saved_variables import (
    FixedState,
    SavedState,
    load_state,
    save_state,
)
from lexirobust.training.step.perturbation import attack_numbers, share_attacks


class ResumableModel(keras.Model):
    """A Keras model whose training, once saved and loaded, goes on as it would have.

    A subclass keeps its `settings` and each other argument of its constructor as an attribute, and
    names in `saved_state` what Keras does not know of.
    """

    classifier: keras.Model
    objectives: Sequence[Rank]
    settings: TrainingSettings
    seed_generator: keras.random.SeedGenerator

    @property
    def has_logits(self) -> bool:
        """Tells if the model has one output, its logits."""
        raise NotImplementedError

    @property
    def saved_state(self) -> dict[str, SavedState | None]:
        """What Keras does not save by itself, by the prefix of its names in the file."""
        return {"seed": FixedState([self.seed_generator.state, *self._layer_seeds])}

    @property
    def _layer_seeds(self) -> Sequence[Any]:
        """The states of the generators of dropout and other random layers, each once."""
        known = [*self.weights, *self.metrics_variables, self.seed_generator.state]
        others = {id(variable): variable for variable in self.variables}
        for variable in known:
            others.pop(id(variable), None)
        return [*others.values()]

    def save_own_variables(self, store: Any) -> None:
        """Saves weights, and what `saved_state` names."""
        super().save_own_variables(store)
        save_state(store, self.saved_state)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        own = {**store}
        load_state(own, self.saved_state)
        super().load_own_variables(own)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments from which `from_config` makes an equal model.

        Objectives that share an attack are perturbed together, so that where these are among the
        arguments, `attack_numbers` says which do.
        """
        own = arguments_of(self, inherited=False, without=vars(self.settings))
        config = {**super().get_config(), **self.settings.get_config(), **serialized(own)}
        numbers = attack_numbers(terms_of(self.objectives))
        if "objectives" in own and len({*numbers}) < len(numbers):
            config["attack_numbers"] = numbers
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Makes a model from what `get_config` returned."""
        config = dict(config)
        numbers = config.pop("attack_numbers", None)
        model = cls(**deserialized(config, custom_objects))
        if numbers is not None:
            share_attacks(terms_of(model.objectives), numbers)
        return model

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model as it was when it was saved."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def save(
        self, filepath: Any, overwrite: bool = True, zipped: bool | None = None, **kwargs: Any
    ) -> None:
        """Saves all that training goes on from; as `keras.Model.save`, but for HDF5.

        Args:
            filepath: Where to: a path that ends in `.keras`, or as `zipped` says.
            overwrite: As of `keras.Model.save`.
            zipped: As of `keras.Model.save`.
            **kwargs: As of `keras.Model.save`.

        Raises:
            ValueError: If the path ends in `.h5` or `.hdf5`, or as `keras.Model.save`.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            # Keras would write it, and find no registered class in it when it is loaded.
            raise ValueError(
                "`filepath` must end in .keras: what Keras writes as HDF5 cannot be loaded again. "
                f"Received: {str(filepath)!r}; save_weights writes {'.weights.h5'!r} files."
            )
        super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)

    def export(self, filepath: Any, format: str = "tf_saved_model", **kwargs: Any) -> None:
        """Writes the classifier for serving; as `keras.Model.export`.

        A SavedModel of a classifier with one output is what `lexirobust.export` writes; where that
        is several sigmoids, which are no logits of classes, it is Keras's own.

        Args:
            filepath: Where to.
            format: `"tf_saved_model"`, or another one that Keras knows.
            **kwargs: As of `keras.Model.export`.

        Raises:
            ValueError: If the model is not built, or as `lexirobust.export`.
        """
        ours = self.has_logits and not is_of_labels(probability_layer(self.classifier))
        if format == "tf_saved_model" and ours and set(kwargs) <= {"verbose"}:
            serving.export(self, filepath, verbose=bool(kwargs.get("verbose")))
            return
        if self.built:
            # Keras exports what was called; training calls the classifier, not this model.
            self(keras.KerasTensor(self.get_build_config()["input_shape"]))
        super().export(filepath, format=format, **kwargs)

    def serving_endpoints(
        self, inputs: tf.TensorSpec
    ) -> dict[str, tuple[Callable[..., Any], list[tf.TensorSpec]]]:
        """The endpoints that `lexirobust.export` writes besides those of every classifier.

        Args:
            inputs: The specification of a batch of inputs.

        Returns:
            Functions and their signatures, by name.
        """
        del inputs
        return {}
