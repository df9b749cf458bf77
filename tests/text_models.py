"""Little networks that read text, with random weights, as folders of the transformers package."""

import json

import pytest

WORDS = "a red blue cat dog heart above the two and".split()


def transformers():
    """The package, or the test is skipped."""
    pytest.importorskip("torch")
    return pytest.importorskip("transformers", reason="transformers (the extra `text`) is not installed")


def save_bert(folder, *, seed=0, **changes):
    """A BERT of 12 numbers a token; up to 16 tokens."""
    package = transformers()
    import torch

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = package.BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, model_max_length=16)
    tokenizer.save_pretrained(folder)
    small = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = package.BertConfig(vocab_size=len(vocabulary), max_position_embeddings=16, **small, **changes)
    package.BertModel(config).eval().save_pretrained(folder)
    return folder


def save_clip(folder, *, seed=0):
    """A CLIP of 8 x 8 pixels and 12 tokens."""
    package = transformers()
    import torch

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = ["<|startoftext|>", "<|endoftext|>", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    tokens += [*"abcdefghijklmnopqrstuvwxyz", "re", "red</w>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    about = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 12}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {**small, "vocab_size": len(tokens), "max_position_embeddings": 12, **ends}
    vision = {**small, "image_size": 8, "patch_size": 4}
    config = package.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    package.CLIPModel(config).eval().save_pretrained(folder)
    return folder
