"""`rhlens doctor`: well where all is well, and every wrong thing named with its fix."""

import importlib.metadata
import shutil

import pytest

from rhlens.cli import doctor
from rhlens.zoo import registry
from tests.test_cli import run
from tests.test_cli_output import strict


def wrong(checks):
    return {check.name: check for check in checks if not check.ok}


def test_all_is_well_here_and_the_token_stays_secret(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_notatoken")
    assert run(monkeypatch, "doctor", "--json") == 0
    said = capsys.readouterr()
    found = {check["name"]: check for check in strict(said.out)["checks"]}
    assert {"rhlens", "Python", "torch", "transformer-lens", "circuitsvis", "devices", "threads"} <= set(found)
    assert found["planted-llama"]["value"] == "retrieval heads L2H3 L2H6 L3H1"
    assert found["nano-qwen2"]["value"].endswith("as on its card")
    assert found["hub token"]["value"] == "set"
    assert "hf_notatoken" not in said.out + said.err


def test_what_is_wrong_is_named_with_its_fix_and_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "planted", lambda: [doctor.Check("planted-llama", "none", False, "report it")])
    assert run(monkeypatch, "doctor") == 1
    assert "WRONG  planted-llama:           none\n       report it\n" in capsys.readouterr().out


def test_damaged_weights_are_told(monkeypatch, tmp_path):
    for name in ("nano-qwen2", "nano-llama"):
        shutil.copytree(registry.models_folder() / name, tmp_path / name)
    with (tmp_path / "nano-qwen2" / registry.WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    monkeypatch.setattr(registry, "models_folder", lambda: tmp_path)
    found = wrong(doctor.trained())
    assert "nano-llama" not in found
    assert "on its card" in found["nano-qwen2"].value
    assert "unreadable" in found["nano-mistral"].value


def test_old_and_missing_packages_are_told(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "einops":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "torch" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = wrong(doctor.versions())
    assert set(found) == {"torch", "einops"}
    assert found["torch"].fix.startswith("pip install 'torch")


def test_a_cache_that_cannot_be_written_is_told(monkeypatch, tmp_path):
    from huggingface_hub import constants

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    assert set(wrong(doctor.folders())) == {"hub cache"}


@pytest.mark.parametrize("heads", [[], [(0, 0)]])
def test_an_engine_that_finds_other_heads_is_told(monkeypatch, heads):
    class Scores:
        def retrieval_heads(self):
            return heads

    monkeypatch.setattr("rhlens.measure.detect.detect", lambda *_: Scores())
    assert set(wrong(doctor.planted())) == {"planted-llama", "planted-gpt2"}
