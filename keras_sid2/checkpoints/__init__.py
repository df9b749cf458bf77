"""Checkpoints of a run, portable and sharded."""

from keras_sid2 import renamed
from keras_sid2.checkpoints.loading import first_reason, load_model
from keras_sid2.checkpoints.manifest import (
    ARRAYS,
    CONFIG,
    MANIFEST,
    MODEL,
    PORTABLE,
    SHARDED,
    checkpoint_format,
    checkpoint_path,
    checkpoint_step,
    checkpoints,
    corrupt_checkpoints,
    fault,
    newest_sound,
    remove_unfinished,
)
from keras_sid2.checkpoints.portable import PortableSaver, save_checkpoint
from keras_sid2.checkpoints.sharded import ShardedSaver, check_available

__getattr__ = renamed.names(__name__, unsound="corrupt_checkpoints")

__all__ = [
    "ARRAYS",
    "CONFIG",
    "MANIFEST",
    "MODEL",
    "PORTABLE",
    "PortableSaver",
    "SHARDED",
    "ShardedSaver",
    "check_available",
    "checkpoint_format",
    "checkpoint_path",
    "checkpoint_step",
    "checkpoints",
    "corrupt_checkpoints",
    "fault",
    "first_reason",
    "load_model",
    "newest_sound",
    "remove_unfinished",
    "save_checkpoint",
]
