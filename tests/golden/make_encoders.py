"""Reference outputs of the transformers library, for random weights. Needs torch and transformers, and no jax.

    pip install torch transformers                      # in an environment of its own
    PYTHONPATH=. python tests/golden/make_encoders.py                       # the tiny ones, tests/golden/*.npz
    PYTHONPATH=. python tests/golden/make_encoders.py dinov2_b14 FOLDER     # one of the true size, for tests/parity

With a name and a folder it saves the model as it is published (config.json, model.safetensors) and reference.npz.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.fixtures.published_encoders import random_images, random_tensors, random_tokens
from tests.paths import GOLDEN

DINOV2 = {
    "s": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "b": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "l": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "tiny": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 4, "image_size": 20},
}
FILE = "model.safetensors"
SIGLIP2 = {  # of both towers, and of the image tower
    "b16": ({"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
            {"patch_size": 16, "image_size": 224}),
    "so400m": ({"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304},
               {"patch_size": 14, "image_size": 224}),
    "tiny": ({"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40},
             {"patch_size": 4, "image_size": 20}),
}  # fmt: skip
T5 = {
    "base": {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 3072, "vocab_size": 32128},
    "tiny": {"d_model": 16, "d_kv": 8, "num_layers": 2, "num_heads": 2, "d_ff": 40, "vocab_size": 128},
}
T5_LENGTHS = {"base": 64, "tiny": 24}  # of texts, in tokens
MEAN = {"dinov2": [0.485, 0.456, 0.406], "siglip2": [0.5] * 3}
STD = {"dinov2": [0.229, 0.224, 0.225], "siglip2": [0.5] * 3}


def make(name: str, folder: Path) -> Any:
    """A model of the transformers library by the name of our option, saved as it is published, with random weights.

    Parameters in the library may have other names than in published files, by which they are random.
    """
    kind, size, *registers = name.split("_")
    if kind == "t5":
        model = make_t5(size, gated=bool(registers))
    else:
        model = make_siglip2(size) if kind == "siglip2" else make_dinov2(size, registers=bool(registers))
    model.save_pretrained(folder)
    library_class = type(model)
    del model  # it would take as much memory once more
    save_file(random_tensors(shapes(folder)), folder / FILE, metadata={"format": "pt"})
    return library_class.from_pretrained(folder).eval()


def make_dinov2(size: str, *, registers: bool) -> Any:
    """DINOv2 of a size."""
    sizes = {"image_size": 518, "patch_size": 14} | DINOV2[size.removesuffix("14")]
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=4)
        return transformers.Dinov2WithRegistersModel(config)
    return transformers.Dinov2Model(transformers.Dinov2Config(**sizes))


def make_siglip2(size: str) -> Any:
    """Both towers of SigLIP 2 of a size."""
    both, image = SIGLIP2[size]
    tiny = size == "tiny"
    text = {"vocab_size": 30 if tiny else 256_000, "max_position_embeddings": 8 if tiny else 64}
    return transformers.SiglipModel(
        transformers.SiglipConfig(
            vision_config=both | image, text_config=both | text | {"projection_size": both["hidden_size"]}
        )
    )


def make_t5(size: str, *, gated: bool) -> Any:
    """The encoder of T5 of a size, with ReLU as in its first version or gated as in 1.1."""
    act = "gated-gelu" if gated else "relu"
    return transformers.T5EncoderModel(transformers.T5Config(**T5[size], feed_forward_proj=act))


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters in a saved model."""
    with safe_open(folder / FILE, "numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@torch.no_grad()
def outputs(model: Any, kind: str, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every hidden state, the normalised last one, and what represents the image or text; text_... of the text."""
    pixels = (images.astype(np.float32) / 255 - np.float32(MEAN[kind])) / np.float32(STD[kind])
    given = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if kind == "dinov2":
        return states(model(given, output_hidden_states=True))
    settings = model.config.text_config
    tokens = random_tokens(len(images), settings.max_position_embeddings, settings.vocab_size)
    image = model.vision_model(given, interpolate_pos_encoding=True, output_hidden_states=True)
    text = model.text_model(torch.from_numpy(tokens).long(), output_hidden_states=True)
    return states(image) | {f"text_{name}": value for name, value in states(text).items()}


@torch.no_grad()
def text_outputs(model: Any, length: int) -> dict[str, np.ndarray]:
    """Every hidden state of T5, the normalised last one, and the mean of a text's tokens."""
    tokens = random_tokens(2, length, model.config.vocab_size)
    mask = torch.from_numpy(tokens != 0)
    found = model(torch.from_numpy(tokens).long(), attention_mask=mask.long(), output_hidden_states=True)
    final = found.last_hidden_state
    pooled = (final * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    # The library's last state is the normalised one, for which it leaves the last block's out.
    hidden = {f"text_hidden_{index}": value.numpy() for index, value in enumerate(found.hidden_states[:-1])}
    return {**hidden, "text_final": final.numpy(), "text_pooled": pooled.numpy()}


def all_outputs(model: Any, name: str, size: int) -> dict[str, np.ndarray]:
    """The outputs of a model by the name of our option, for images of `size` pixels where it reads images."""
    kind = name.partition("_")[0]
    if kind == "t5":
        return text_outputs(model, T5_LENGTHS[name.split("_")[1]])
    return outputs(model, kind, random_images(2, size))


def states(found: Any) -> dict[str, np.ndarray]:
    """The outputs of a tower."""
    hidden = {f"hidden_{index}": value.numpy() for index, value in enumerate(found.hidden_states)}
    return {**hidden, "final": found.last_hidden_state.numpy(), "pooled": found.pooler_output.numpy()}


def write_golden(name: str) -> None:
    """Write the outputs of a tiny model, with its settings and the shapes of its parameters."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = make(name, folder)
        settings, names = (folder / "config.json").read_text(), json.dumps(shapes(folder))
    found = all_outputs(model, name, 28)
    np.savez_compressed(GOLDEN / f"{name}.npz", settings=settings, shapes=names, **found)


def write_reference(name: str, folder: Path) -> None:
    """Write a model of the true size, and its outputs for two images of 224 pixels."""
    model = make(name, folder)
    np.savez(folder / "reference.npz", **all_outputs(model, name, 224))


if __name__ == "__main__":
    if len(sys.argv) == 3:
        write_reference(sys.argv[1], Path(sys.argv[2]))
    else:
        for tiny in ("dinov2_tiny", "dinov2_tiny_reg", "siglip2_tiny", "t5_tiny", "t5_tiny_gated"):
            write_golden(tiny)
