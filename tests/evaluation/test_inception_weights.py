"""Files of Inception weights: the same from each kind, and one sentence about what is wrong with others."""

import hashlib
import pathlib
import re
import sys
import zipfile

import numpy as np
import pytest
from inception_parts import random_weights, write_pth

from keras_sid2 import backend
from keras_sid2.evaluation import inception_weights
from keras_sid2.evaluation.inception_tables import weight_shapes

pytestmark = pytest.mark.backend_free


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture(scope="module")
def npz(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.npz"
    inception_weights.write_weights(path, weights)
    return path


@pytest.fixture(scope="module")
def pth(tmp_path_factory):
    pytest.importorskip("torch", reason="a .pth needs torch")
    return write_pth(tmp_path_factory.mktemp("weights") / "inception.pth")


def publish(path, monkeypatch):
    """Makes `path` pass for the published file."""
    monkeypatch.setattr(inception_weights, "FILE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_both_files_hold_the_same(npz, pth, weights, monkeypatch):
    from_npz = inception_weights.read_weights(npz)
    from_pth = inception_weights.read_weights(str(publish(pth, monkeypatch)))
    assert list(from_npz) == list(from_pth) == list(weight_shapes())
    for name, array in weights.items():
        np.testing.assert_array_equal(from_npz[name], array)
        np.testing.assert_array_equal(from_pth[name], array)
    assert from_pth.published and not from_npz.published
    digests = {inception_weights.weights_digest(arrays) for arrays in (from_npz, from_pth, weights)}
    assert len(digests) == 1


def test_a_npz_made_of_the_published_file_says_so_and_is_held_to_it(pth, tmp_path, monkeypatch):
    published, path = inception_weights.read_weights(publish(pth, monkeypatch)), tmp_path / "inception.npz"
    inception_weights.write_weights(path, published)
    assert inception_weights.read_weights(path).published
    digest = inception_weights.weights_digest(published)
    others = {"fc.bias": published["fc.bias"] + 1.0}, {"published": np.array(f"{'0' * 64} {digest}")}
    with np.load(path) as file:
        arrays = dict(file)
    for other in others:
        np.savez(path, **{**arrays, **other})
        with pytest.raises(ValueError, match="in '.*inception.npz' are not the published ones, as it says they are"):
            inception_weights.read_weights(path)


def test_the_digest_is_of_names_shapes_and_values():
    digest = inception_weights.weights_digest
    array = np.arange(6, dtype="float32")
    first = digest({"a": array, "b": array})
    assert first == digest({"b": array, "a": array}) and re.fullmatch("[0-9a-f]{64}", first)
    others = ({"a": array, "c": array}, {"a": array, "b": array[::-1]}, {"a": array, "b": array.reshape(2, 3)})
    assert len({first, *map(digest, others)}) == 4


def test_the_published_name_ends_with_the_first_digits_of_the_hash():
    assert inception_weights.URL.endswith(f"-{inception_weights.FILE_SHA256[:8]}.pth")


def test_another_pth_is_not_read(pth, monkeypatch):
    monkeypatch.setattr(backend, "read_torch_file", lambda path: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="inception.pth' is not the published file .* starts with 6726825d: its own"):
        inception_weights.read_weights(pth)


def test_arrays_that_are_not_as_they_should_be(weights, tmp_path):
    name = "Mixed_7c.branch3x3_2b.conv.weight"
    cases = {
        f"need an array '{name}', which": {k: v for k, v in weights.items() if k != name},
        "have no array 'more', which": {**weights, "more": weights["fc.bias"]},
        f"need '{name}' as float32 [384, 384, 3, 1]": {**weights, name: weights[name].transpose(0, 1, 3, 2)},
        "need 'fc.bias' as float32 [1008]": {**weights, "fc.bias": weights["fc.bias"].astype("float64")},
    }
    for sentence, wrong in cases.items():
        with pytest.raises(ValueError, match=re.escape(sentence)):
            inception_weights.write_weights(tmp_path / "wrong.npz", wrong)
    assert not list(tmp_path.iterdir())
    np.savez(tmp_path / "wrong.npz", **{"fc.bias": weights["fc.bias"]})
    with pytest.raises(ValueError, match=r"'Conv2d_1a_3x3.conv.weight', which .*wrong.npz lacks"):
        inception_weights.read_weights(tmp_path / "wrong.npz")


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of Inception weights at .*none.npz"):
        inception_weights.read_weights(tmp_path / "none.npz")
    for suffix in (".h5", ""):
        with pytest.raises(ValueError, match=r"read from a .npz or the published .pth, got"):
            inception_weights.read_weights(tmp_path / f"weights{suffix}")
    with pytest.raises(ValueError, match=r"are written as .npz, got"):
        inception_weights.write_weights(tmp_path / "weights.pth", {})


def test_nothing_of_a_npz_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return pytest.fail, ("it was unpickled",)

    path = tmp_path / "trap.npz"
    np.savez(path, **{"fc.bias": np.array([Trap()], dtype=object)})
    with pytest.raises(ValueError, match="no .npz of plain arrays"):
        inception_weights.read_weights(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="no .npz of plain arrays"):
        inception_weights.read_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Conv2d_1a_3x3.conv.weight.npy", b"no array")
    with pytest.raises(ValueError, match=r"need 'Conv2d_1a_3x3.conv.weight' as float32 .* has \|S8 \[\]"):
        inception_weights.read_weights(path)


def test_what_torch_files_may_hold(tmp_path):
    torch = pytest.importorskip("torch", reason="a .pth needs torch")
    path = tmp_path / "file.pth"
    for content in ({"a": pytest.fail}, {"a": 1.0}, [1]):
        torch.save(content, path)
        with pytest.raises(ValueError, match="is no PyTorch file of tensors by name"):
            backend.read_torch_file(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is no PyTorch file of tensors by name"):
        backend.read_torch_file(path)


def test_without_torch_a_pth_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="file.pth' needs PyTorch: pip install torch"):
        backend.read_torch_file(tmp_path / "file.pth")


# The download: keras.utils.get_file's own, from a file instead of the network.


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """The file behind the URL."""
    path = tmp_path / "remote" / "weights.pth"
    path.parent.mkdir()
    path.write_bytes(b"stands for 96 MB")
    monkeypatch.setattr(inception_weights, "URL", path.as_uri())
    return path


def test_weights_are_downloaded_once(remote, tmp_path, monkeypatch):
    content = publish(remote, monkeypatch).read_bytes()
    path = inception_weights.download_weights(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "weights.pth" and path.read_bytes() == content
    remote.unlink()
    assert inception_weights.download_weights(path.parent) == path
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="folder/weights.pth' is not the published file"):
        inception_weights.download_weights(path.parent)


def test_another_file_from_the_network_is_not_kept(remote, tmp_path):
    with pytest.raises(ValueError, match="is not the published file"):
        inception_weights.download_weights(tmp_path / "folder")
    assert not list((tmp_path / "folder").iterdir())


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(inception_weights, "URL", "http://localhost:9/weights.pth")  # a port where nobody answers
    sentence = "could not be downloaded from http://localhost:9/weights.pth .* give its path as `weights`"
    with pytest.raises(ConnectionError, match=sentence):
        inception_weights.download_weights(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_home_folder_is_understood(remote, tmp_path, monkeypatch):
    publish(remote, monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert inception_weights.download_weights(pathlib.Path("~/cache")) == tmp_path / "cache" / "weights.pth"
