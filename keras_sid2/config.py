"""Settings without weights: frozen dataclasses that Keras can save inside a model's configuration."""

import dataclasses

import keras

PACKAGE = "keras_sid2"

register = keras.saving.register_keras_serializable(package=PACKAGE)


def settings(cls: type) -> type:
    """Makes `cls` a frozen dataclass that `keras.saving` writes and reads back by its fields."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    cls.get_config = lambda self: {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    cls.from_config = classmethod(lambda klass, config: klass(**{k: _read_back(v) for k, v in config.items()}))
    return register(cls)


def _read_back(value):
    """What keras wrote as a configuration of its own, such as a learning rate's schedule, as the object."""
    return keras.saving.deserialize_keras_object(value) if isinstance(value, dict) and "class_name" in value else value
