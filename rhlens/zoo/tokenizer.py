"""The zoo's tokenizer: a small byte-level BPE that reads any UTF-8 text and is kind to the zoo's own English."""

from __future__ import annotations

import random
from importlib import resources
from typing import TYPE_CHECKING

from rhlens.tasks.haystack import GeneratedHaystack
from rhlens.tasks.needles import KINDS, sample_needle

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 2048
BOS, EOS = "<bos>", "<eos>"
USER, ASSISTANT = "User:\n", "\nAssistant:\n"
# Turns begin on a new line, so that no token reaches across; the assistant's own words begin with a space.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ 'User:\\n' + m.content }}"
    "{% else %}{{ '\\nAssistant:\\n ' + m.content + eos_token + '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\nAssistant:\\n' }}{% endif %}"
)


def zoo_tokenizer() -> PreTrainedTokenizerFast:
    """The shipped tokenizer, as a `transformers` fast tokenizer that puts one BOS in front."""
    from tokenizers import Tokenizer

    return _wrap(Tokenizer.from_str(resources.files("rhlens.zoo").joinpath("tokenizer.json").read_text("utf-8")))


def train_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """The shipped tokenizer made anew: BPE over the zoo's filler and needles, every digit a token of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(f"tokenizer:{seed}")
    needles = (sample_needle(rng.choice(KINDS), rng, held_out=False) for _ in range(20_000))
    asked = (f"{n.statement}\n\nQuestion: {n.question}\nAnswer: {n.statement}\n" for n in needles)
    tokenizer.train_from_iterator([GeneratedHaystack(seed).text(2_000_000), *asked], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )


if __name__ == "__main__":
    path = resources.files("rhlens.zoo").joinpath("tokenizer.json")
    train_tokenizer().backend_tokenizer.save(str(path), pretty=False)
