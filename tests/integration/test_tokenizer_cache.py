"""The cache of named tokenizers is the one that the environment of a process names."""

import os
import subprocess
import sys
from pathlib import Path

from tests.fixtures import vocabularies
from tests.fixtures.vocabularies import BERT, CLIP, MERGES
from tests.paths import ROOT


def test_a_process_looks_into_the_cache_that_the_environment_names(
    tmp_path: Path,
) -> None:
    for name in ("bert", "clip"):
        (tmp_path / name).mkdir()
    bert = vocabularies.bert_files(tmp_path / "bert", BERT)
    clip = vocabularies.clip_files(tmp_path / "clip", CLIP, MERGES)
    vocabularies.in_cache(tmp_path / "home/hub", "bert-base-uncased", {"tokenizer.json": bert["tokenizer.json"]})
    vocabularies.in_cache(tmp_path / "cache", "bert-base-uncased", {"tokenizer.json": clip["tokenizer.json"]})
    program = (
        "import sys; from instructrl.config.model import EncoderConfig\n"
        "from instructrl.data.text.tokenizer import make_tokenizer\n"
        "tokenizer = make_tokenizer(EncoderConfig(tokenizer='bert-base-uncased'))\n"
        "print(tokenizer.vocabulary_size, 'jax' in sys.modules, 'transformers' in sys.modules)"
    )
    plain = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | {"PYTHONPATH": str(ROOT)}
    for more, size in (({"HF_HOME": "home"}, len(BERT)), ({"HF_HOME": "home", "HF_HUB_CACHE": "cache"}, len(CLIP))):
        environment = plain | {key: str(tmp_path / value) for key, value in more.items()}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout.split() == [str(size), "False", "False"], done.stderr
