"""Checkpoints of a run, portable and sharded."""

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
    fault,
    newest_sound,
    remove_unfinished,
    unsound,
)
from keras_sid2.checkpoints.portable import PortableSaver, save_checkpoint
from keras_sid2.checkpoints.sharded import ShardedSaver, check_available

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
    "fault",
    "first_reason",
    "load_model",
    "newest_sound",
    "remove_unfinished",
    "save_checkpoint",
    "unsound",
]
