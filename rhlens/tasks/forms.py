"""Prompt forms: how a haystack and a question become one text, as it is or through a chat template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date as Date
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from rhlens.results.files import brief
from rhlens.tasks.spelling import special_ids
from rhlens.tasks.turns import MAX_REASONING_TOKENS, REASONING, Turn, opened_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rhlens.tasks.needles import Needle

TEMPLATE = "{haystack}\n\nQuestion: {question}\nAnswer: {cue}"
MESSAGE = "{haystack}\n\nQuestion: {question}"
"""The same in chat, where the model's own turn is not begun in the user's."""
DAY = "2024-07-26"
"""What templates that print today's date print instead, so that a prompt is the same tomorrow (Llama's own default)."""

_MARK = "\0haystack\0"
_SAID = "\0said\0"
_FIELD = re.compile(r"\{(haystack|question|cue)\}")
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_END_OF_TURN = re.compile("eot|eom|im_end|end_of_(turn|message)")
_DIRECTIVES = "aAbBcdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYzZ"
_ALWAYS_KNOWN = {"messages", "add_generation_prompt", "tools", "documents", "strftime_now", "namespace"}


class Frame(NamedTuple):
    """The text before a haystack and after it, and what stands between the prompt's end and the answer."""

    head: str
    tail: str
    gap: str


@dataclass(frozen=True)
class PromptForm:
    """How a prompt is written and its answer read.

    Args:
        template: a text with `{haystack}`, `{question}` and, at its end, `{cue}`: the needle's own words before the
            answer. In chat it is the user's message, and the cue begins the model's turn. None takes `TEMPLATE` or,
            in chat, `MESSAGE`.
        restate: put the cue; a template without `{cue}` restates nothing, but in chat.
        chat: wrap the prompt in the tokenizer's chat template.
        system: a system message before the user's.
        chat_template_kwargs: what the chat template takes besides, such as `{"enable_thinking": False}`.
        date: what a template prints for today, as YYYY-MM-DD.
        reasoning: a regular expression for what the model says before its answer; None takes that of the models that
            are known (`REASONING`) in chat, and none without.
        stop: texts that end an answer, instead of the end of its first line.
        max_reasoning_tokens: tokens that a model may reason for.

    Raises:
        ValueError: a template without its fields, options of chat without chat, no such date, or what `Turn` refuses.
    """

    template: str | None = None
    restate: bool = True
    chat: bool = False
    system: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: str = DAY
    reasoning: str | None = None
    stop: tuple[str, ...] = ()
    max_reasoning_tokens: int = MAX_REASONING_TOKENS

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        if self.template is not None:
            _check_template(self.template)
        if not isinstance(self.chat_template_kwargs, Mapping):
            raise ValueError(
                f"chat_template_kwargs must be a dictionary like {{'enable_thinking': False}}, not "
                f"{self.chat_template_kwargs!r}"
            )
        if not self.chat and (self.system is not None or self.chat_template_kwargs):
            raise ValueError("a system message and arguments of a chat template need chat=True")
        _day(self.date)
        self.turn("")

    def __hash__(self) -> int:  # a mapping has none
        return hash((self.template, self.restate, self.chat, self.system, self.date, self.reasoning, self.stop))

    @property
    def about(self) -> dict[str, Any]:
        """What is not as it is by default, for a run's record."""
        plain = RESTATED
        return {
            name: value
            for name, value in vars(self).items()
            if value != getattr(plain, name) or (self.chat and name == "date")
        }

    def turn(self, tail: str) -> Turn:
        """How what follows a prompt that ends with `tail` is read."""
        reasoning = self.reasoning if self.reasoning is not None else REASONING if self.chat else ""
        opened = opened_turn(reasoning, tail) if tail else ""
        return Turn(reasoning, opened, self.stop, not self.restate, self.max_reasoning_tokens)

    def frame(self, tokenizer: PreTrainedTokenizerBase, needle: Needle) -> Frame:
        """What stands around the haystack in a prompt that asks for `needle`.

        Raises:
            ValueError: the chat template cannot be rendered so, or does not pass texts on as they are.
        """
        cue = needle.cue if self.restate else ""
        template = self.template if self.template is not None else MESSAGE if self.chat else TEMPLATE
        if "{cue}" not in template and not self.chat:
            cue = ""
        values = {"haystack": _MARK, "question": needle.question, "cue": "" if self.chat else cue}
        text = _FIELD.sub(lambda found: values[found[1]], template)
        if self.chat or not cue:
            text = text.rstrip(" ")  # a space at a prompt's end is a token that no answer begins after
        if self.chat:
            text = self.render(tokenizer, text, cue)
            if text.count(_MARK) != 1:
                raise ValueError("this chat template does not pass a message's text on as it is: drop chat=True")
        head, tail = text.split(_MARK)
        return Frame(head, tail, self._gap(tokenizer, needle, tail, bool(cue)))

    def render(self, tokenizer: PreTrainedTokenizerBase, message: str, said: str = "") -> str:
        """What the chat template makes of a message, up to where the model goes on, `said` included.

        Raises:
            ValueError: there is no template, it knows no such argument, or it cannot be rendered.
        """
        template = self._chat_template(tokenizer)
        messages = [{"role": "user", "content": message}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        if said:
            messages.append({"role": "assistant", "content": said})
        try:
            return str(
                tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=not said,
                    continue_final_message=bool(said), **self.chat_template_kwargs,
                )
            )  # fmt: skip
        except Exception as error:  # a template is a program of somebody else's
            does, else_ = "be rendered", "drop chat=True"
            if said:
                does, else_ = "begin the model's turn with words of ours", "drop chat=True, or ask with restate=False"
            raise ValueError(f"this chat template cannot {does} ({brief(error)}): {else_}") from None

    def _chat_template(self, tokenizer: PreTrainedTokenizerBase) -> str:
        if not tokenizer.chat_template:
            raise ValueError("this tokenizer has no chat template: drop chat=True or set tokenizer.chat_template")
        template = str(tokenizer.get_chat_template())
        known = arguments(template)
        if unknown := [name for name in self.chat_template_kwargs if known and name not in known.read]:
            names = ", ".join(sorted(known.meant if known else ())) or "none"
            raise ValueError(f"this chat template has no argument {unknown[0]!r}; those that it reads are: {names}")
        return _on_day(template, self.date)

    def _gap(self, tokenizer: PreTrainedTokenizerBase, needle: Needle, tail: str, restated: bool) -> str:
        """What a model writes between the prompt and its answer: at most a space."""
        before = needle.statement[: needle.statement.index(needle.answer)]
        own = before[len(before.rstrip()) :]
        if restated:
            return own
        if self.chat:
            return self.gap_in_chat(tokenizer)
        if tail[-1:].isspace() or not tail:
            return ""
        return own or (" " if before.strip() == "" or needle.answer[0].isascii() else "")

    def gap_in_chat(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The space that the chat template writes before a model's words, if any."""
        try:
            opened, whole = self.render(tokenizer, _MARK), self.render(tokenizer, _MARK, _SAID)
        except ValueError:
            return ""
        between = whole[len(opened) :].partition(_SAID)[0] if whole.startswith(opened) else ""
        return between if between.isspace() else ""


def turn_ends(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Special tokens that the tokenizer calls an end of turn, or that its chat template writes after an answer."""
    named = [token for name, token in tokenizer.special_tokens_map.items() if _END_OF_TURN.search(name)]
    ids: Any = tokenizer.convert_tokens_to_ids(list(map(str, named)))
    found = set[int](ids)
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": _SAID}]
        with suppress(Exception):  # a template is a program of somebody else's, and may refuse
            text = str(tokenizer.apply_chat_template(messages, tokenize=False))
            after = tokenizer(text.partition(_SAID)[2].lstrip(), add_special_tokens=False)["input_ids"]
            found.update(after[:1])
    return found & special_ids(tokenizer)


class Arguments(NamedTuple):
    """The names that a chat template reads and does not set first, and those of them that only a caller can mean."""

    read: frozenset[str]
    meant: frozenset[str]


@lru_cache(maxsize=64)
def arguments(template: str) -> Arguments | None:
    """What a chat template can be given besides messages; None where it cannot be parsed."""
    from jinja2 import Environment, TemplateError, meta, nodes

    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(_GENERATION.sub("", template))
    except TemplateError:  # what rendering says is clearer
        return None
    given = set(environment.globals) | _ALWAYS_KNOWN
    read = {name for name in meta.find_undeclared_variables(tree) if not name.endswith("_token")} - given
    stored = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    tested = {test.node.name for test in tree.find_all(nodes.Test) if isinstance(test.node, nodes.Name)}
    return Arguments(frozenset(read), frozenset(read - (stored - tested)))


@lru_cache(maxsize=64)
def _on_day(template: str, day: str) -> str:
    """A template that takes `day` for today."""
    if "strftime_now" not in template:
        return template
    then, steps = _day(day), "format"
    for directive in _DIRECTIVES:
        for spelled in (f"%-{directive}", f"%{directive}"):
            with suppress(ValueError):  # not every system knows every directive
                steps += f".replace({spelled!r}, {then.strftime(spelled)!r})"
    return f"{{% macro strftime_now(format) %}}{{{{ {steps} }}}}{{% endmacro %}}\n{template}"


def _day(text: str) -> Date:
    try:
        return Date.fromisoformat(text)
    except (TypeError, ValueError):
        raise ValueError(f"date must be a day like {DAY}, not {text!r}") from None


def _check_template(template: str) -> None:
    if template.count("{haystack}") != 1 or "{question}" not in template:
        raise ValueError(
            f"a template needs {{haystack}} once, and {{question}}, as {TEMPLATE!r} has them; this one is {template!r}"
        )
    if "{cue}" in template and (template.count("{cue}") > 1 or not template.rstrip(" ").endswith("{cue}")):
        raise ValueError("{cue} begins the answer: put it once, at the very end of the template")


RESTATED = PromptForm()
"""A question and the needle's own words before the answer, as published needle tests ask."""
