"""From a name, a folder, a hub id or a TransformerLens model to a TransformerLens model ready for the engine."""

from __future__ import annotations

import copy
import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from rhlens.model.agreement import reference, unlike_attention, unlike_plain
from rhlens.model.checkpoint import (
    LoadError,
    check_folder,
    check_tokenizer,
    check_weights,
    check_whole,
    checked_config,
    file_of,
    promises_bos,
)
from rhlens.model.memory import is_out_of_memory
from rhlens.model.placement import DeviceMap, check_device_map, devices_of, stays_on_cpu
from rhlens.model.twin import pair, sdpa_twin, twin_of
from rhlens.results.files import brief
from rhlens.zoo import registry
from rhlens.zoo.specs import SPECS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    model: str | Path | TransformerBridge,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    quiet: bool = False,
    device_map: DeviceMap | None = None,
    hf_model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> TransformerBridge:
    """A TransformerLens model from an embedded model's name, a local folder, or a Hugging Face hub id.

    Only safetensors weights are read, and no remote code runs. A hub id is looked for in the local cache first. A
    TransformerBridge or HookedTransformer is returned as it is; its prefill then runs on itself, and prompts are made
    with its own tokenizer, which TransformerLens lets add a BOS.

    Args:
        device: `auto` takes a GPU if there is one.
        dtype: `auto` takes float32 (exact) on a CPU and the checkpoint's own on a GPU.
        revision: of a hub id.
        quiet: do not say, on stderr, which device and dtype were chosen.
        device_map: spread one model over several GPUs, as accelerate does: `auto`, or the device of each module.
        hf_model: the model itself, which transformers loaded (quantised, say); it is taken over. `model` then is its
            name, and where its tokenizer is from.
        tokenizer: instead of the checkpoint's own.

    Raises:
        LoadError: nothing of that name, no safetensors weights, or an unsupported architecture.
    """
    if not isinstance(model, str | Path):
        if isinstance(model, PreTrainedModel):
            raise LoadError("this is a model of transformers: give it as rh.load(name, hf_model=model)")
        options = (revision, device_map, hf_model, tokenizer)
        if (device, dtype) != ("auto", "auto") or any(option is not None for option in options):
            raise LoadError("this model is loaded already: move it with model.to(...) instead of device= and dtype=")
        if not quiet and twin_of(model) is None:
            print(f"{model.cfg.model_name}: used as it is, prefill on TransformerLens, in chunks", file=sys.stderr)
        return model
    _check_places(device, dtype, device_map, hf_model)
    with _quiet_libraries(), registry.folder_of(str(model)) as embedded:
        source = str(embedded) if embedded else str(model)
        if embedded is None and (hf_model is None or tokenizer is None):
            _check_source(source, weights=hf_model is None)
        bridge = _boot(source, device, dtype, revision, device_map, hf_model, tokenizer)
        doubt = _unkept_promise(source, bridge.tokenizer, revision)
    bridge.cfg.model_name = Path(source).name if embedded is None else str(model)
    if not quiet:
        prefill = "SDPA twin" if twin_of(bridge) else "TransformerLens, in chunks"
        places = ", ".join(map(str, devices_of(bridge)))
        found = "no GPU found" if places == "cpu" else "a GPU was found"
        why = "as it came" if hf_model is not None else found if device == "auto" and not device_map else "as asked"
        print(f"{model}: {places} ({why}), {next(bridge.parameters()).dtype}, prefill on {prefill}", file=sys.stderr)
        if doubt:
            print(doubt, file=sys.stderr)
    return bridge


def _check_places(device: str, dtype: str, device_map: DeviceMap | None, hf_model: Any) -> None:
    """Raise LoadError for options that do not go together."""
    if hf_model is not None and not isinstance(hf_model, PreTrainedModel):
        raise LoadError(f"hf_model must be a model of transformers, not {type(hf_model).__name__}")
    if hf_model is not None and ((device, dtype) != ("auto", "auto") or device_map is not None):
        raise LoadError("hf_model is loaded already: give device_map= and dtype= to its from_pretrained instead")
    if device_map is not None:
        if device != "auto":
            raise LoadError("device= is one device and device_map= spreads a model over several: give one of them")
        try:
            check_device_map(device_map)
        except ValueError as error:
            raise LoadError(str(error)) from None


def _check_source(source: str, weights: bool = True) -> None:
    if source and os.path.isdir(source):
        if weights:
            check_folder(Path(source))
    elif source in SPECS and source not in registry.MODELS:
        raise LoadError(f"{source} is not shipped: rhlens zoo train {source} --out DIR trains it; then give DIR")
    elif source.count("/") != 1 or source.startswith((".", "/", "~")):
        names = ", ".join(registry.MODELS)
        meant = registry.closest(source.partition("@")[0], registry.MODELS)
        hint = f" (did you mean {meant}?)" if meant else ""
        raise LoadError(
            f"no model {brief(repr(source))}{hint}: give an embedded model ({names}), a folder, or a hub id like "
            "Qwen/Qwen2.5-0.5B"
        )


def _boot(
    source: str, device: str, dtype: str, revision: str | None, device_map: DeviceMap | None, hf: Any, tokenizer: Any
) -> TransformerBridge:
    """The bridge over a checkpoint or a model, paired with its twin where there is one."""
    place = _device(device if not device_map or not stays_on_cpu(device_map) else "cpu")
    written = checked_config(source, revision) if hf is None else {}
    config = _fetch("AutoConfig", source, revision) if hf is None else hf.config
    tokenizer = copy.deepcopy(tokenizer) if tokenizer is not None else _tokenizer(source, revision)
    if why := unlike_attention(config):
        raise _refused(source, config, why)
    if hf is None:
        chosen = _dtype(dtype, place, config)
        check_weights(source, revision, written)
        hf = _read(source, revision, dtype=chosen, device_map=device_map)
        hf = hf.to(place) if device_map is None else hf
    else:
        hf.set_attn_implementation("eager")
    check_tokenizer(source, tokenizer, hf.get_input_embeddings().weight.shape[0])
    bridge = proven_bridge(source, hf.eval(), tokenizer)
    # TransformerLens makes every tokenizer add a BOS, and does so again when one is assigned; a model that was
    # trained without must not get one, so the checkpoint's own is put in place behind the property.
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # `bridge.generate` pads any text it is given
    bridge._tokenizer = tokenizer
    bridge.cfg.tokenizer_prepends_bos = len(tokenizer("").input_ids) > 0
    return bridge


def _unkept_promise(source: str, tokenizer: Any, revision: str | None) -> str | None:
    """What a tokenizer's configuration says of a BOS and the tokenizer does not do, in a sentence."""
    if promises_bos(source, revision) and tokenizer.bos_token_id not in tokenizer("").input_ids:
        return (
            f"{source}: its tokenizer_config.json says add_bos_token, but its tokenizer adds none, so prompts begin "
            f"without {tokenizer.bos_token}; a chat template that writes it still does"
        )
    return None


def _tokenizer(source: str, revision: str | None) -> Any:
    """The checkpoint's tokenizer; of Mistral's own file as transformers converts it, so that it gives offsets."""
    tekken = file_of(source, "tekken.json", revision) if not file_of(source, "tokenizer.json", revision) else None
    if tekken is None:
        return _fetch("AutoTokenizer", source, revision)
    from tokenizers import processors
    from transformers.integrations.mistral import tokenizer as mistral

    try:
        found = mistral.convert_tekken_tokenizer(str(tekken))
    except Exception as error:  # whatever a library raises at files that nobody vouches for
        fix = "add a tokenizer.json, or install mistral-common"
        raise LoadError(f"{tekken} cannot be read ({brief(error)}): {fix}") from None
    bos = str(found.bos_token)  # which Mistral's own code puts before every text
    found.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, found.convert_tokens_to_ids(bos))]
    )
    return found


def _read(source: str, revision: str | None, **options: Any) -> Any:
    """A model from safetensors, whole."""
    options |= {"use_safetensors": True, "attn_implementation": "eager", "output_loading_info": True}
    hf, found = _fetch("AutoModelForCausalLM", source, revision, **options)
    check_whole(source, hf, found)
    return hf


def proven_bridge(source: str, hf: Any, tokenizer: Any) -> TransformerBridge:
    """TransformerLens around a model, once it is proven to compute and show what the plain one does; with its twin.

    Raises:
        LoadError: TransformerLens cannot run it, or runs it otherwise.
    """
    from transformer_lens.model_bridge import TransformerBridge

    try:
        plain, twin = reference(hf), sdpa_twin(hf)
        bridge = TransformerBridge.boot_transformers(
            source, hf_model=hf, tokenizer=copy.deepcopy(tokenizer), dtype=hf.dtype, device=str(hf.device)
        )
        bridge.eval()
        why = unlike_plain(bridge, plain)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        reason = f"TransformerLens cannot run it in {hf.dtype} ({_first_line(error).partition('. ')[0]})"
        raise _refused(source, hf.config, reason) from None
    if why:
        raise _refused(source, hf.config, why)
    pair(bridge, twin, plain)
    return bridge


def _refused(source: str, config: Any, why: str) -> LoadError:
    kind = getattr(config, "model_type", "unknown")
    return LoadError(f"{source} (architecture {kind}) cannot be measured: {why}")


def _fetch(auto_class: str, source: str, revision: str | None, **options: Any) -> Any:
    """`from_pretrained` of a transformers auto class: from the disk if it is there, else from the hub."""
    import transformers

    factory = getattr(transformers, auto_class)
    options |= {"trust_remote_code": False, "revision": revision or "main"}
    if auto_class == "AutoTokenizer":  # mistral-common's, where it is installed, has no offsets and no chat template
        options["mistral_format"] = False
    try:
        return factory.from_pretrained(source, local_files_only=True, **options)
    except Exception as error:  # whatever a library raises at files that nobody vouches for
        if is_out_of_memory(error):
            raise
        if Path(source).is_dir():
            raise LoadError(f"{source} cannot be loaded: {_why(error)} ({auto_class}); get its files anew") from None
    try:
        return factory.from_pretrained(source, **options)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise LoadError(
            f"{brief(source)} is neither on this disk nor to be had from the Hugging Face hub ({brief(error)}): "
            "check the name and the connection, or give a local folder"
        ) from None


def _why(error: Exception) -> str:
    if "ignore_mismatched_sizes" in str(error):
        return "its weights are not of the shapes that its config.json gives"
    return (brief(error) or type(error).__name__).rstrip(".")


def _device(device: str) -> str:
    if device != "auto":
        kind = device.split(":")[0]
        if kind not in ("cpu", "cuda", "mps"):
            raise LoadError(f"unknown device {device!r}: use auto, cpu, cuda, cuda:1 or mps")
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise LoadError(f"device {device!r} cannot be used here ({_first_line(error)}): use auto or cpu") from None
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _dtype(dtype: str, device: str, config: Any) -> torch.dtype:
    if dtype in DTYPES:
        return DTYPES[dtype]
    if dtype != "auto":
        raise LoadError(f"unknown dtype {dtype!r}: use auto, {', '.join(DTYPES)}")
    own = getattr(config, "dtype", None)
    return own if device.startswith("cuda") and isinstance(own, torch.dtype) else torch.float32


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """No progress bars and no advice from transformers while a model of ours is loaded."""
    from transformers.utils import logging as hf_logging

    shown, level = hf_logging.is_progress_bar_enabled(), logging.root.level
    hf_logging.disable_progress_bar()
    logging.root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.root.setLevel(level)
        if shown:
            hf_logging.enable_progress_bar()
