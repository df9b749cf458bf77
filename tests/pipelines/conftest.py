"""The real data sets, prepared once for all tests of the pipelines."""

import pytest

import pipelines


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A directory with both data sets, as TFRecord shards."""
    root = tmp_path_factory.mktemp("prepared")
    for name in pipelines.dataset_names():
        pipelines.prepare(name, root)
    return root
