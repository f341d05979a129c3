"""Small models of SentencePiece, and its ids of a few sentences. Needs sentencepiece and protobuf.

    pip install sentencepiece protobuf                  # in an environment of its own
    PYTHONPATH=. python tests/golden/make_tokenizers.py                     # unigrams as T5's, byte pairs as Gemma's

The tables of the rules nmt_nfkc, 240 kB, are left out of the files.
"""

import io
import json
import random

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from tests.paths import GOLDEN

ACTIONS = ("reach the", "push the", "Open the", "close the", "put the", "stack the", "slide the", "pick up the")
COLOURS = ("red", "blue", "teal", "green", "Purple", "yellow", "olive", "navy")
THINGS = ("ball", "box", "cup", "drawer", "lid", "jar", "button", "Lamp", "shelf", "plate", "block", "mug")
SENTENCES = (
    "reach the red ball", "Open  the Purple drawer, then stop.", " put the lid", "close the jar\n\nthen stop  ",
    "tab\tseparated", "\ufb01x the \uff22ox", "a\u200bb", "the \uff42all", "the </s> ball <pad> <extra_id_0>", "",
)  # fmt: skip
COMMON = {"pad_id": 0, "eos_id": 1}
KINDS = {
    "unigrams": {
        "model_type": "unigram", "vocab_size": 54, "unk_id": 2, "bos_id": -1, "normalization_rule_name": "nmt_nfkc",
    },
    "byte_pairs": {
        "model_type": "bpe", "vocab_size": 330, "unk_id": 3, "bos_id": 2, "normalization_rule_name": "identity",
        "eos_piece": "<eos>", "bos_piece": "<bos>", "byte_fallback": True, "add_dummy_prefix": False,
        "remove_extra_whitespaces": False, "user_defined_symbols": ["\n\n"],
    },
}  # fmt: skip


def main() -> None:
    """Write both models and the ids."""
    rng = random.Random(0)
    corpus = [" ".join(map(rng.choice, (ACTIONS, COLOURS, THINGS))) for _ in range(2000)]
    ids = {}
    for name, settings in KINDS.items():
        content = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_writer=content, minloglevel=2, **COMMON, **settings
        )
        processor = sentencepiece.SentencePieceProcessor(model_proto=content.getvalue())
        # SigLIP 2 reads Gemma's pieces of text in lower case.
        read = [text if name == "unigrams" else text.lower() for text in SENTENCES]
        ids[name] = [[text, processor.encode(given)] for text, given in zip(SENTENCES, read, strict=True)]
        model = sentencepiece_model_pb2.ModelProto.FromString(content.getvalue())
        model.normalizer_spec.precompiled_charsmap = b""
        (GOLDEN / f"{name}.model").write_bytes(model.SerializeToString())
    (GOLDEN / "sentencepiece.json").write_text(json.dumps(ids, indent=1) + "\n")


if __name__ == "__main__":
    main()
