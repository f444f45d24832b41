"""Families of decoder-only models, each with a configuration so small that a random checkpoint is made at once.

What rhlens can do with a family depends on its code, not on its weights: the tests and the table of supported
families (`experiments/support_table.py`) try all of them here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rhlens.zoo.tokenizer import zoo_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Family(NamedTuple):
    """Models that share their code.

    Attributes:
        title: what people call it.
        model_type: of its configuration in transformers.
        settings: of a tiny configuration, beside those that all have.
    """

    title: str
    model_type: str
    settings: dict[str, Any]


_ALL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.3}
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
_GQA = _SHAPE | {"num_key_value_heads": 2}
_HEAD = _GQA | {"head_dim": 8}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
_SLIDING = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16}  # fmt: skip
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT = _SHAPE | {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8,
                    "qk_rope_head_dim": 4, "v_head_dim": 8}  # fmt: skip
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
_DELTA = {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 4,
          "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}  # fmt: skip
_STATES = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
_PER_LAYER = {"vocab_size_per_layer_input": 2048, "hidden_size_per_layer_input": 8}

FAMILIES = {
    "llama": Family("Llama 1, 2", "llama", _SHAPE),
    "llama-gqa": Family("Llama 3, Yi, SmolLM 1 and 2", "llama", _GQA),
    "llama4": Family("Llama 4, text", "llama4_text", _HEAD | _LOCAL_EXPERTS | {
        "intermediate_size_mlp": 48, "no_rope_layers": [1, 0], "attention_chunk_size": 64}),
    "mistral": Family("Mistral", "mistral", _GQA | {"sliding_window": 16}),
    "ministral3": Family("Ministral 3", "ministral3", _HEAD),
    "mixtral": Family("Mixtral", "mixtral", _GQA | {"num_local_experts": 4, "sliding_window": None}),
    "qwen2": Family("Qwen 1.5, 2, 2.5", "qwen2", _GQA),
    "qwen2-moe": Family("Qwen 1.5 MoE, 2 MoE", "qwen2_moe", _GQA | _EXPERTS),
    "qwen3": Family("Qwen 3", "qwen3", _HEAD),
    "qwen3-moe": Family("Qwen 3 MoE", "qwen3_moe", _HEAD | _EXPERTS),
    "qwen3-next": Family("Qwen 3 Next", "qwen3_next", _HEAD | _DELTA | _EXPERTS),
    "qwen3.5": Family("Qwen 3.5, text", "qwen3_5_text", _HEAD | _DELTA),
    "qwen3.5-moe": Family("Qwen 3.5 MoE, text", "qwen3_5_moe_text", _HEAD | _DELTA | _EXPERTS),
    "gemma": Family("Gemma 1", "gemma", _HEAD),
    "gemma2": Family("Gemma 2", "gemma2", _HEAD | {"sliding_window": 16}),
    "gemma3": Family("Gemma 3, text", "gemma3_text", _HEAD | {"sliding_window": 16}),
    "gemma4": Family("Gemma 4, text", "gemma4_text", _HEAD | _SLIDING | _PER_LAYER | {"global_head_dim": 8}),
    "gemma4-shared": Family("Gemma 4 E2B, E4B, text", "gemma4_text", _HEAD | _PER_LAYER | {
        "global_head_dim": 8, "num_hidden_layers": 4, "num_kv_shared_layers": 2, "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "vaultgemma": Family("VaultGemma", "vaultgemma", _HEAD | _SLIDING),
    "recurrent-gemma": Family("RecurrentGemma", "recurrent_gemma", _HEAD | {
        "lru_width": 32, "block_types": ["recurrent", "attention"], "attention_window_size": 64}),
    "phi": Family("Phi 1, 1.5, 2", "phi", _SHAPE),
    "phi3": Family("Phi 3, 3.5, 4", "phi3", _GQA),
    "phimoe": Family("Phi 3.5 MoE", "phimoe", _GQA | {
        "num_local_experts": 4, "architectures": ["PhiMoEForCausalLM"]}),
    "gpt": Family("GPT", "openai-gpt", _GPT),
    "gpt2": Family("GPT-2", "gpt2", _GPT),
    "neo": Family("GPT-Neo", "gpt_neo", {
        "hidden_size": 32, "intermediate_size": 48, "num_layers": 2, "num_heads": 4, "window_size": 16,
        "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 512}),
    "gptj": Family("GPT-J", "gptj", _GPT | {"rotary_dim": 4}),
    "neox": Family("GPT-NeoX, Pythia", "gpt_neox", _SHAPE),
    "gpt-oss": Family("gpt-oss", "gpt_oss", _HEAD | _LOCAL_EXPERTS | _SLIDING),
    "bigcode": Family("GPT-BigCode, StarCoder", "gpt_bigcode", _GPT),
    "starcoder2": Family("StarCoder 2", "starcoder2", _GQA | {"sliding_window": None}),
    "codegen": Family("CodeGen", "codegen", _GPT | {"rotary_dim": 4, "n_ctx": 512}),
    "opt": Family("OPT", "opt", _SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "xglm": Family("XGLM", "xglm", {
        "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 512}),
    "bloom": Family("BLOOM", "bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": Family("MPT", "mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 512}),
    "falcon": Family("Falcon 7B", "falcon", _SHAPE | {"ffn_hidden_size": 48}),
    "falcon-alibi": Family("Falcon RW", "falcon", _SHAPE | {
        "ffn_hidden_size": 48, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "falcon-gqa": Family("Falcon 40B, 180B, Falcon 2", "falcon", _SHAPE | {
        "ffn_hidden_size": 48, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-h1": Family("Falcon H1", "falcon_h1", _GQA | _MAMBA | {"mamba_d_ssm": 64}),
    "falcon-mamba": Family("Falcon Mamba", "falcon_mamba", _STATES),
    "stablelm": Family("StableLM", "stablelm", _GQA),
    "olmo": Family("OLMo", "olmo", _GQA),
    "olmo2": Family("OLMo 2", "olmo2", _GQA),
    "olmo3": Family("OLMo 3", "olmo3", _GQA | _SLIDING),
    "olmoe": Family("OLMoE", "olmoe", _GQA | {"num_experts": 4, "num_experts_per_tok": 2}),
    "flex-olmo": Family("FlexOlmo", "flex_olmo", _GQA | {"num_experts": 4, "num_experts_per_tok": 2}),
    "olmo-hybrid": Family("OLMo Hybrid", "olmo_hybrid", _GQA | _DELTA),
    "granite": Family("Granite", "granite", _GQA),
    "granite-moe": Family("Granite MoE", "granitemoe", _GQA | _LOCAL_EXPERTS),
    "granite-hybrid": Family("Granite 4 hybrid", "granitemoehybrid", _GQA | _MAMBA | _LOCAL_EXPERTS | {
        "layer_types": ["mamba", "attention"], "shared_intermediate_size": 48}),
    "cohere": Family("Cohere Command R", "cohere", _GQA),
    "cohere2": Family("Cohere Command R7B, A", "cohere2", _HEAD | _SLIDING),
    "smollm3": Family("SmolLM 3", "smollm3", _GQA | {"no_rope_layers": [1, 0]}),
    "seed-oss": Family("Seed-OSS", "seed_oss", _HEAD),
    "exaone4": Family("EXAONE 4", "exaone4", _HEAD | _SLIDING),
    "nemotron": Family("Nemotron, Minitron", "nemotron", _HEAD),
    "nemotron-h": Family("Nemotron H", "nemotron_h", _HEAD | {
        "mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "layers_block_type": ["mamba", "attention"]}),
    "apertus": Family("Apertus", "apertus", _GQA),
    "arcee": Family("Arcee AFM", "arcee", _HEAD),
    "afmoe": Family("Arcee Trinity", "afmoe", _HEAD | _SLIDING | _EXPERTS),
    "bitnet": Family("BitNet", "bitnet", _GQA),
    "ernie4.5": Family("ERNIE 4.5", "ernie4_5", _HEAD),
    "ernie4.5-moe": Family("ERNIE 4.5 MoE", "ernie4_5_moe", _GQA | {
        "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_num_shared_experts": 1}),
    "glm": Family("GLM 4 (2024)", "glm", _HEAD),
    "glm4": Family("GLM 4 (2025)", "glm4", _HEAD),
    "glm4-moe": Family("GLM 4.5 to 4.7", "glm4_moe", _HEAD | _ROUTED_EXPERTS),
    "glm4-lite": Family("GLM 4.7 Flash", "glm4_moe_lite", _LATENT | _ROUTED_EXPERTS),
    "glm5": Family("GLM 5", "glm_moe_dsa", _LATENT | _ROUTED_EXPERTS | {
        "index_topk": 8, "index_n_heads": 4, "index_head_dim": 8}),
    "hunyuan": Family("Hunyuan dense", "hunyuan_v1_dense", _HEAD),
    "hrm": Family("HRM text", "hrm_text", _HEAD),
    "jais2": Family("Jais 2", "jais2", _GQA),
    "jetmoe": Family("JetMoE", "jetmoe", _GQA | {"kv_channels": 8, "num_local_experts": 4}),
    "laguna": Family("Laguna", "laguna", _HEAD | _EXPERTS),
    "minimax-m2": Family("MiniMax M2", "minimax_m2", _HEAD | _LOCAL_EXPERTS),
    "modernbert": Family("ModernBERT decoder, Ettin", "modernbert-decoder", _SHAPE | {
        "layer_types": ["full_attention", "sliding_attention"], "local_attention": 32}),
    "nanochat": Family("nanochat", "nanochat", _SHAPE),
    "deepseek2": Family("DeepSeek V2", "deepseek_v2", _LATENT | _ROUTED_EXPERTS | {"first_k_dense_replace": 1}),
    "deepseek3": Family("DeepSeek V3, R1", "deepseek_v3", _LATENT | _ROUTED_EXPERTS | {"n_group": 1, "topk_group": 1}),
    "deepseek4": Family("DeepSeek V4", "deepseek_v4", _HEAD | {"num_key_value_heads": 1, "q_lora_rank": 16}),
    "youtu": Family("Youtu", "youtu", _LATENT),
    "jamba": Family("Jamba", "jamba", _GQA | {
        "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "use_mamba_kernels": False}),
    "bamba": Family("Bamba", "bamba", _GQA | _MAMBA | {"attn_layer_indices": [1]}),
    "zamba2": Family("Zamba 2", "zamba2", _GQA | {
        "layers_block_type": ["mamba", "hybrid"], "mamba_d_state": 8, "n_mamba_heads": 4, "mamba_ngroups": 1,
        "use_mamba_kernels": False, "num_mem_blocks": 1}),
    "lfm2": Family("LFM 2", "lfm2", _GQA | {"layer_types": ["conv", "full_attention"]}),
    "lfm2-moe": Family("LFM 2 MoE", "lfm2_moe", _GQA | _EXPERTS | {
        "layer_types": ["conv", "full_attention"], "num_dense_layers": 1}),
    "mamba": Family("Mamba", "mamba", _STATES),
    "mamba2": Family("Mamba 2", "mamba2", _STATES | {"num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "rwkv": Family("RWKV 4", "rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}),
}  # fmt: skip


def tiny_checkpoint(
    family: str, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None, seed: int = 0, **settings: Any
) -> Path:
    """Write a random checkpoint of a family, whose weights are large enough for attention to have clear maxima.

    Args:
        family: a key of `FAMILIES`.
        settings: of the configuration, instead of the family's.

    Returns:
        `folder`.
    """
    import torch
    import transformers

    tokenizer = tokenizer or zoo_tokenizer()
    settings = _ALL | {"vocab_size": len(tokenizer)} | FAMILIES[family].settings | settings
    written = settings.pop("architectures", None)
    config = transformers.AutoConfig.for_model(FAMILIES[family].model_type, **settings)
    torch.manual_seed(seed)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if written:  # checkpoints of some families name a class that transformers calls otherwise
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": written}))
    tokenizer.save_pretrained(folder)
    return folder
