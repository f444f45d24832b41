"""Shared by every test: no network, one thread (a training run may have the other), small real checkpoints."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("MPLBACKEND", "agg")

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("rhlens", deadline=None, derandomize=True, print_blob=False)
settings.load_profile("rhlens")

PUBLISHED = Path(__file__).parents[2] / "shared" / "data" / "wu2024"


@pytest.fixture(scope="session")
def tokenizer():
    """The zoo's byte-level BPE."""
    from rhlens.zoo.tokenizer import zoo_tokenizer

    return zoo_tokenizer()


@pytest.fixture(scope="session")
def published() -> Path:
    """The folder of published score files; tests that need it are skipped where it is absent."""
    if not PUBLISHED.is_dir():
        pytest.skip("published score files are not here")
    return PUBLISHED


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """A random 2 x 4 head Llama, loaded: cheap, and retrieves nothing."""
    import rhlens as rh
    from tests.support import tiny_checkpoint

    return rh.load(tiny_checkpoint("llama", tmp_path_factory.mktemp("tiny")), quiet=True)


@pytest.fixture(scope="session")
def planted_llama():
    """The embedded planted Llama and the heads that were planted in it."""
    return _planted_llama()


@cache  # beyond a session: mutation testing forks hundreds of them out of one process
def _planted_llama():
    import rhlens as rh
    from rhlens.zoo.registry import MODELS

    copy_heads = dict(MODELS["planted-llama"].recipe)["copy_heads"]
    return rh.load("planted-llama", quiet=True), {rh.Head(*h) for h in copy_heads}
