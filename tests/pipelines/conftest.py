"""The real data sets, prepared once for all tests of the pipelines."""

import pytest

import pipelines

OWN = ("digits", "photo_patches")  # made from what scikit-learn ships


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A directory with both data sets, as TFRecord shards."""
    root = tmp_path_factory.mktemp("prepared")
    for name in OWN:
        pipelines.prepare(name, root)
    return root


@pytest.fixture(scope="session")
def array_record_dir(tmp_path_factory):
    """A directory with the digits as ArrayRecord shards."""
    root = tmp_path_factory.mktemp("array_record")
    pipelines.prepare("digits", root, file_format="array_record")
    return root
