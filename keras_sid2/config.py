"""Settings without weights: frozen dataclasses that Keras can save inside a model's configuration."""

import dataclasses

import keras

PACKAGE = "keras_sid2"

register = keras.saving.register_keras_serializable(package=PACKAGE)


def later(default=None):
    """A field that came in a later version: its default is not written, so that what has none says what it said."""
    return dataclasses.field(default=default, metadata={"later": True})


def settings(cls: type) -> type:
    """Makes `cls` a frozen dataclass that `keras.saving` writes and reads back by its fields."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    cls.get_config = _written
    if any("later" in field.metadata for field in dataclasses.fields(cls)):
        cls.__repr__ = _told
    cls.from_config = classmethod(lambda klass, config: klass(**{k: _read_back(v) for k, v in config.items()}))
    return register(cls)


def _written(self) -> dict:
    values = ((field, getattr(self, field.name)) for field in dataclasses.fields(self))
    return {field.name: value for field, value in values if "later" not in field.metadata or value != field.default}


def _told(self) -> str:
    return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in _written(self).items())})"


def _read_back(value):
    """What keras wrote as a configuration of its own, such as a learning rate's schedule, as the object."""
    return keras.saving.deserialize_keras_object(value) if isinstance(value, dict) and "class_name" in value else value
