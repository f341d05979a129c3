"""Parameters of masked pretraining from a weight file."""

from instructrl.config.model import EncoderConfig
from instructrl.data.text.tokenizer import Tokenizer
from instructrl.models.encoders.architecture import check_architecture
from instructrl.models.encoders.registry import encoder_shapes
from instructrl.models.parameter_files import flatten_params
from instructrl.models.weight_files import DECODER, check_tokenizer, match_params, read_weights, weights_path
from instructrl.training.model_factory import split_encoder_decoder
from instructrl.training.parameters.encoder_weights import WeightSource
from instructrl.training.run_dir import DataRecord
from instructrl.training.types import Params


def init_masked_params(encoder: EncoderConfig, params: Params, tokenizer: Tokenizer) -> tuple[Params, DataRecord]:
    """Replace parameters by those of `encoder.weights`, if set; returns them and the file's entry of data.json.

    A file without a decoder leaves the decoder random.

    Raises:
        InputError: the weights are missing, damaged, or have a different architecture, preprocessing or vocabulary.
    """
    path = weights_path(encoder)
    if path is None:
        return params, {}
    weights = read_weights(path, kind=encoder.kind)
    check_architecture(path, weights.architecture, encoder)
    check_tokenizer(path, weights.tokenizer, tokenizer=tokenizer.checksum, name=encoder.tokenizer)
    shapes = encoder_shapes(encoder, vocabulary_size=tokenizer.vocabulary_size)
    if any(name.startswith(DECODER) for name in weights.arrays):
        shapes |= {name: leaf.shape for name, leaf in flatten_params(params["decoder"]).items()}
    loaded = split_encoder_decoder(match_params(weights, shapes))
    print(f"starts from {path}, {'with' if loaded['decoder'] else 'without'} its decoder")
    return {**params, **{name: part for name, part in loaded.items() if part}}, {
        "encoder": WeightSource(path, weights.checksum).record()
    }
