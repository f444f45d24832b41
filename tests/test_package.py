"""The package itself: what a wheel holds, what `import rhlens` costs, and how long files are."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import rhlens as rh

ROOT = Path(__file__).parents[1]


def test_a_wheel_installed_elsewhere_finds_its_models(tmp_path):
    def python(*arguments, **options):
        return subprocess.run(
            [sys.executable, *map(str, arguments)], check=True, capture_output=True, text=True, **options
        )

    python("-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    data = ("tasks/needles.json", "zoo/tokenizer.json", "show/rhlens.mplstyle", "show/report.html.jinja")
    assert {f"rhlens/{name}" for name in data} <= set(names)
    assert not [n for n in names if n.endswith((".pt", ".bin", ".pkl"))]
    python("-m", "pip", "install", "--no-deps", "--quiet", "--target", tmp_path / "site", wheel)
    code = (
        "import rhlens as rh; assert 'site' in rh.__file__, rh.__file__\n"
        "for name in ('nano-qwen2', 'planted-llama'):\n"
        "    model = rh.load(name); trials = rh.niah(model, [256], [0.5], needles=2)\n"
        "    print(name, len(rh.detect(model, trials).retrieval_heads()))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path)}
    shown = python("-c", code, cwd=tmp_path, env=environment).stdout.split()
    assert shown[0::2] == ["nano-qwen2", "planted-llama"]
    assert int(shown[1]) > 0
    assert int(shown[3]) == 3


def test_importing_rhlens_imports_nothing_heavy():
    code = "import sys, rhlens; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there_and_documented():
    for name in rh.__all__:
        assert getattr(rh, name).__doc__, name
    assert set(rh.__all__) <= set(dir(rh))


def test_no_file_is_long_and_none_hides_work():
    for path in [*ROOT.glob("rhlens/**/*.py"), *ROOT.glob("experiments/*.py"), *ROOT.glob("tests/**/*.py")]:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 600, path
        if path != Path(__file__):
            assert "TODO" not in text, path
            assert "NotImplementedError" not in text or path.name == "load.py", path
