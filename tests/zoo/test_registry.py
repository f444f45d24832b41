"""A trained model is a folder and a spec; snapshots are weights beside it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import rhlens as rh
from rhlens.zoo import registry
from rhlens.zoo.registry import MODELS, facts_of, folder_of, known, log_spaced, models_folder, ship, snapshots
from rhlens.zoo.specs import SPECS
from tests.support import plain_model, tiny_checkpoint

TRAINED = [name for name, model in MODELS.items() if model.origin == "trained"]


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A package whose only trained model is a tiny one with two snapshots."""
    run, models = tmp_path / "run", tmp_path / "models"
    tiny_checkpoint("llama", run)
    (run / "history.jsonl").write_text('{"seconds": 1}\n')
    for tokens, seed in (("900", 1), ("12000", 2)):
        tiny_checkpoint("llama", run / "snapshots" / f"{tokens}-tokens", seed=seed)
    (run / "checkpoint.pt").write_bytes(b"large")
    ship(run, "nano-llama", models)
    monkeypatch.setattr(registry, "models_folder", lambda: models)
    monkeypatch.setattr(registry, "MODELS", registry._trained() | registry._BUILT)
    return run


def test_a_shipped_run_is_found_by_name_and_its_snapshots_in_order(shipped):
    assert list(registry.MODELS) == ["nano-llama", "planted-llama", "planted-gpt2", "random-llama"]
    assert snapshots("nano-llama") == ["nano-llama@900", "nano-llama@12000"]
    assert snapshots("planted-llama") == []
    with folder_of("nano-llama") as folder:
        assert {path.suffix for path in folder.iterdir()} == {".json", ".jsonl", ".safetensors"}
        assert load_file(folder / "model.safetensors")["model.norm.weight"].dtype == torch.float16


@pytest.mark.parametrize(("name", "source"), [("nano-llama", "."), ("nano-llama@12000", "snapshots/12000-tokens")])
def test_a_snapshot_loads_by_name_with_its_own_weights(shipped, name, source):
    model = rh.load(name, quiet=True)
    assert model.cfg.model_name == name
    tokens = torch.randint(2, 2000, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = plain_model(shipped / source)(tokens).logits
        # weights in half precision are close to what they were, and far from those of another seed
        assert torch.allclose(model(tokens), expected, atol=0.1)
        assert not torch.allclose(plain_model(shipped / "snapshots/900-tokens")(tokens).logits, expected, atol=0.5)


def test_a_snapshot_that_is_not_there_is_named(shipped):
    with pytest.raises(ValueError, match="choose from nano-llama@900, nano-llama@12000"), folder_of("nano-llama@1"):
        pass
    with folder_of("nothing@1") as folder:
        assert folder is None


def test_only_finished_runs_of_known_specs_ship(shipped, tmp_path):
    with pytest.raises(ValueError, match="did you mean nano-llama\\?"):
        ship(shipped, "nano-lama", tmp_path / "elsewhere")
    shutil.rmtree(shipped / "snapshots")
    (shipped / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="is no trained model"):
        ship(shipped, "nano-llama", tmp_path / "elsewhere")


def test_a_card_ships_with_the_weights_it_was_measured_on_and_with_no_others(shipped, tmp_path):
    models = tmp_path / "elsewhere"
    for checksum in (facts_of(shipped).checksum, facts_of(registry.models_folder() / "nano-llama").checksum):
        (shipped / "card.json").write_text(json.dumps({"checksum": checksum}))
        (shipped / "README.md").write_text("the card in words")
        folder = ship(shipped, "nano-llama", models)
        # The run's own weights are single precision: a card of those is not of the ones that ship.
        is_of_it = checksum == facts_of(folder).checksum
        assert [(folder / name).exists() for name in ("card.json", "README.md")] == [is_of_it, is_of_it]
    assert is_of_it
    assert ship(folder, "nano-llama", tmp_path / "again").joinpath("card.json").exists(), (
        "half precision stays as it is"
    )


def test_shipping_again_leaves_no_snapshot_of_the_run_before(shipped):
    shutil.rmtree(shipped / "snapshots" / "900-tokens")
    ship(shipped, "nano-llama", registry.models_folder())
    assert snapshots("nano-llama") == ["nano-llama@12000"]


def test_at_most_nine_log_spaced_snapshots_ship(shipped):
    kept = shipped / "snapshots"
    for tokens in SPECS["nano-llama"].snapshots:
        shutil.copytree(kept / "900-tokens", kept / f"{tokens}-tokens")
    for tokens in (900, 12000):
        shutil.rmtree(kept / f"{tokens}-tokens")
    ship(shipped, "nano-llama", registry.models_folder())
    shares = [int(name.partition("@")[2]) / 1e6 for name in snapshots("nano-llama")]
    assert shares == [0.2, 0.4, 0.6, 1.0, 1.5, 2, 4, 6, 11]


def test_log_spaced_numbers_keep_the_ends_and_even_ratios():
    assert log_spaced([2**i for i in range(9)], 5) == [1, 4, 16, 64, 256]
    assert log_spaced([5, 1], 9) == [1, 5]
    assert log_spaced([1, 98, 99, 100], 3) == [1, 98, 100], "the ends stay, whatever lies between"
    assert log_spaced([], 9) == []


@pytest.mark.parametrize("name", ["planted-gpt2", "random-llama", *TRAINED])
def test_facts_read_off_a_folder_are_those_of_the_loaded_model(name):
    with folder_of(name) as folder:
        facts, model = facts_of(folder), plain_model(folder)
    config = model.config
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    assert (facts.layers, facts.heads) == (config.num_hidden_layers, config.num_attention_heads)
    assert facts.positions == config.max_position_embeddings
    assert facts.architecture == config.model_type


def test_typos_are_answered_with_a_suggestion():
    assert known("b", ["a", "b"], "letter") == "b"
    with pytest.raises(ValueError, match=r"^no spec 'nano-lama': did you mean nano-llama\? choose from nano-llama, x$"):
        known("nano-lama", ["nano-llama", "x"], "spec")
    with pytest.raises(ValueError, match=r"^no spec '7': choose from a$"):
        known("7", ["a"], "spec")


def test_all_shipped_models_are_small_and_safe():
    files = [path for path in models_folder().rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".safetensors", ".jinja", ".md"}
    assert sum(path.stat().st_size for path in files) <= 80e6
    for name in TRAINED:
        assert sum(path.stat().st_size for path in (models_folder() / name).iterdir()) <= 8e6
        assert name in SPECS
        for snapshot in snapshots(name):
            assert (models_folder() / f"{snapshot}.safetensors").stat().st_size <= 8e6


@pytest.mark.parametrize("name", TRAINED)
def test_a_shipped_card_is_of_the_weights_beside_it(name):
    path = models_folder() / name / "card.json"
    if not path.exists():
        pytest.skip("not measured yet")
    assert json.loads(path.read_text())["checksum"] == facts_of(path.parent).checksum
