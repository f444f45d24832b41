"""Whether rhlens can work here: what is installed, what there is to compute on, and whether the zoo is whole."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from rhlens.cli.output import Json, print_json
from rhlens.cli.verbs import command


@dataclass(frozen=True)
class Check:
    """One thing looked at; `fix` says what to do where it is not `ok`."""

    name: str
    value: str
    ok: bool = True
    fix: str = ""


@command()
def doctor(as_json: Json = False) -> None:
    """Check versions, devices, caches, and the embedded models; exit code 1 if something is wrong.

    Examples:
      rhlens doctor
      rhlens doctor --json
    """
    checks = [check for part in (versions, machine, hub, folders, trained, planted) for check in part()]
    ok = all(check.ok for check in checks)
    if as_json:
        print_json("doctor", ok=ok, checks=[asdict(check) for check in checks])
    else:
        for check in checks:
            print(f"{'ok   ' if check.ok else 'WRONG'}  {check.name + ':':<24} {check.value}")
            if not check.ok:
                print(f"       {check.fix}")
    if not ok:
        raise typer.Exit(1)


def versions() -> Iterator[Check]:
    """Python and every package that rhlens needs, against the versions it needs."""
    from importlib.metadata import PackageNotFoundError, metadata, version

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        needs = metadata("rhlens")
    except PackageNotFoundError:
        yield Check("rhlens", "not installed", False, "install it: pip install -e . in its folder")
        return
    yield Check("rhlens", version("rhlens"))
    python, wanted = platform.python_version(), SpecifierSet(needs["Requires-Python"])
    yield Check("Python", python, wanted.contains(python), f"run it with a Python {wanted}")
    for line in sorted(needs.get_all("Requires-Dist") or []):
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        fix = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Check(requirement.name, "not installed", False, fix)
        else:
            yield Check(requirement.name, found, requirement.specifier.contains(found, prereleases=True), fix)


def machine() -> Iterator[Check]:
    """What there is to compute on."""
    import torch

    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found += ["mps"] if torch.backends.mps.is_available() else []
    yield Check("devices", ", ".join(["cpu", *found]))
    asked = os.environ.get("OMP_NUM_THREADS", "not set")
    yield Check("threads", f"{torch.get_num_threads()} of {os.cpu_count()} CPUs (OMP_NUM_THREADS {asked})")


def hub() -> Iterator[Check]:
    """Whether the Hugging Face hub may be asked, and whether as somebody: never the token itself."""
    from huggingface_hub import constants, get_token

    offline = "offline (HF_HUB_OFFLINE): only models on this disk" if constants.HF_HUB_OFFLINE else "online"
    yield Check("hub", offline)
    yield Check("hub token", "set" if get_token() else "not set: gated models cannot be fetched")


def folders() -> Iterator[Check]:
    """The folders that are written to without being asked for."""
    from huggingface_hub import constants

    for name, folder, variable in (
        ("hub cache", Path(constants.HF_HUB_CACHE), "HF_HUB_CACHE"),
        ("temporary files", Path(tempfile.gettempdir()), "TMPDIR"),
    ):
        there = next(place for place in (folder, *folder.parents) if place.exists())
        ok = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
        yield Check(name, str(folder), ok, f"it cannot be written to: set {variable} to a folder that can")


def trained() -> Iterator[Check]:
    """The weights of the zoo, against the checksums on their cards."""
    from rhlens.zoo.registry import facts_of, models_folder, of_card, trained_models

    for name in trained_models():
        fix = "its files are damaged: install rhlens anew"
        try:
            found = facts_of(models_folder() / name).checksum
            told = of_card(models_folder() / name, lambda card: str(card["checksum"])) or "nothing"
        except (OSError, ValueError) as error:
            yield Check(name, f"unreadable ({error})", False, fix)
        else:
            same = "as on its card" if found == told else f"but {told[:12]} on its card"
            yield Check(name, f"sha256 {found[:12]}, {same}", found == told, fix)


def planted() -> Iterator[Check]:
    """The whole way from a prompt to scores, on the models whose retrieval heads are known."""
    from rhlens.measure.detect import detect
    from rhlens.model.load import load
    from rhlens.tasks.trials import niah
    from rhlens.zoo.registry import MODELS

    for name, model in MODELS.items():
        if model.origin != "planted":
            continue
        fix = "the engine does not find what is there: mend what is wrong above, or report it with these lines"
        wanted = sorted(dict(model.recipe)["copy_heads"])
        try:
            bridge = load(name, "cpu", quiet=True)
            found = sorted(detect(bridge, niah(bridge, [120], 1, needles=2)).retrieval_heads())
        except (ValueError, TypeError, RuntimeError, ArithmeticError, OSError, ImportError) as error:
            yield Check(name, f"cannot be run ({error})", False, fix)
        else:
            yield Check(name, f"retrieval heads {' '.join(map(str, found)) or 'none'}", found == wanted, fix)
