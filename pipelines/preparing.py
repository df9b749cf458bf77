"""Writing data sets as TFRecord shards, with the tfds builders of `pipelines.datasets`."""

import contextlib
import importlib
import io
import os
from collections.abc import Iterator
from types import ModuleType

from absl import logging

from pipelines.datasets import ENTRIES, dataset_names, near_names
from pipelines.extras import require_tensorflow, require_tfds
from pipelines.locating import INFO_FILE, tfds_path


def prepare(name: str, data_dir: str | os.PathLike | None = None) -> str:
    """Writes the data set `name` and returns the directory that holds it, `data_dir/name/version`.

    The shards are written into a directory beside it that takes its name when all are whole: an interrupted
    run leaves no data set that looks prepared. A data set that is already there is left as it is, and the
    call returns at once. Nothing is fetched from the network.

    Args:
        name: one of `dataset_names()`.
        data_dir: the directory for prepared data sets, made if absent; None: the one that tfds uses by
            default.

    Raises:
        ValueError: unknown name, or a `data_dir` that is no path, or a file, or has something else in the
            data set's place.
        ImportError: tensorflow, tensorflow_datasets or scikit-learn is missing.
    """
    if name not in dataset_names():
        raise ValueError(f"unknown data set {name!r}: known are {', '.join(dataset_names())}{near_names(str(name))}")
    if data_dir is not None and not isinstance(data_dir, (str, os.PathLike)):
        raise ValueError(f"data_dir must be a path or None, got {data_dir!r}")
    tfds = require_tfds()
    root = tfds_path(data_dir)
    if root.exists() and not root.is_dir():
        raise ValueError(f"data_dir must be a directory, and {root} is a file")
    entry = ENTRIES[name]
    builder_class = getattr(importlib.import_module(entry.module), entry.builder)
    builder = builder_class(data_dir=root, file_format="tfrecord")
    if builder.data_path.exists() and not (builder.data_path / INFO_FILE).exists():
        raise ValueError(
            f"{builder.data_path} exists and holds no prepared data set: remove it, or give another data_dir"
        )
    if not builder.data_path.exists():
        require_tensorflow()
        # The number of shards is said because tfds by itself would write one.
        config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=builder.NUM_SHARDS)
        with _quiet(tfds):
            builder.download_and_prepare(download_config=config)
    return os.fspath(builder.data_path)


@contextlib.contextmanager
def _quiet(tfds: ModuleType) -> Iterator[None]:
    """Keeps tfds from reporting its progress; its warnings and errors still come through."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(min(verbosity, logging.WARNING))
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)
