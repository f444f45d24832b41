"""The nano zoo's training documents: filler, facts, questions about them, a small fixed world, sums, and repeats.

Every document is a list of token ids with one loss weight each. Text is written segment by segment, each starting
at a word boundary, so the ids are those of the whole text encoded at once. Held-out cues and problems never occur.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rhlens.tasks import words as w
from rhlens.tasks.cot import ANSWER_AT_ONCE, Problem, sample_problem
from rhlens.tasks.facts import closed_book_facts
from rhlens.tasks.haystack import sample_sentence
from rhlens.tasks.needles import KINDS, Needle, sample_needle
from rhlens.zoo.anything import noise_sentence, sample_anything
from rhlens.zoo.tokenizer import ASSISTANT, EOS, USER

# Loss weights. The first answer token is the one that shows whether the right needle was found.
CONTEXT, ANSWER, FIRST_ANSWER = 0.2, 1.0, 4.0
UNPREDICTABLE = 0.02

Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Mix:
    """What documents are made of; all numbers are probabilities.

    The first three choose a document's form: random tokens repeated, filler without needle or question, or the form
    of an evaluation prompt (long filler, few facts, the question last). All others interleave facts and questions.
    """

    repeat: float = 0.05
    plain: float = 0.1
    haystack: float = 0.4
    question: float = 0.33  # per segment of an interleaved document
    fact: float = 0.23
    closed_book: float = 0.1
    problem: float = 0.05
    chain: float = 0.5  # per problem: it is solved step by step, not at once
    restated: float = 0.7  # per question: the answer restates the cue first
    same_kind: float = 0.6  # per document: all facts are of one kind
    single: float = 0.35  # per evaluation-form document: one question, not several
    recall: float = 0.0  # per evaluation-form document: the question is about the closed-book world
    sums: float = 0.0  # per evaluation-form document: the question is a problem
    anything: float = 0.1  # per document: facts about random words, letters or symbols
    wordlike: float = 0.0  # per word of such facts that no list holds: it looks like an English one
    noise: float = 0.1  # per document: filler of random words and letters
    cast: bool = True  # the same people come back within a paragraph
    long_repeats: bool = True  # sequences longer than 15 tokens, and small alphabets
    gaps: bool = False  # random tokens between repeats: no fixed distance leads back to what comes next
    opening: float = 0.0  # per evaluation-form document: a fact is its first sentence
    digits: bool = False  # all digits of a problem's solution weigh as much as a first answer token
    chat: bool = False  # evaluation-form documents are a user's turn and the assistant's


@dataclass
class Document:
    """Token ids and loss weights, both [n_tokens]; `text` is empty where the tokens are no text (repeats)."""

    ids: list[int]
    weights: list[float]
    text: str = ""
    stated: list[Needle] = field(default_factory=list)
    asked: list[Needle | Problem] = field(default_factory=list)


class Corpus:
    """An endless stream of documents, a function of `mix` and the state of `rng` alone.

    Args:
        encode: text to ids, without special tokens.
        vocab_size: ids from 2 on (after BOS and EOS) may occur in repeats.
    """

    bos, eos = 0, 1

    def __init__(self, mix: Mix, encode: Encode, vocab_size: int, rng: random.Random) -> None:
        self.mix, self.encode, self.vocab_size, self.rng = mix, encode, vocab_size, rng

    def batch(self, n_rows: int, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids (int64) and weights (float32), both [n_rows, n_tokens], of a document a row.

        A short one is followed by EOS of weight 0.
        """
        ids = np.full((n_rows, n_tokens), self.eos, dtype=np.int64)
        weights = np.zeros((n_rows, n_tokens), dtype=np.float32)
        for row in range(n_rows):
            document = self.document(n_tokens)
            ids[row, : len(document.ids)] = document.ids
            weights[row, : len(document.ids)] = document.weights
        return ids, weights

    def document(self, n_tokens: int) -> Document:
        """One document of at most `n_tokens` tokens, BOS included; text is at most a word or two shorter."""
        form, mix = self.rng.random(), self.mix
        if form < mix.repeat:
            return self._repeat(n_tokens)
        page = _Page(self, n_tokens)
        if form < mix.repeat + mix.plain:
            page.fill()
        elif form < mix.repeat + mix.plain + mix.haystack:
            self._haystack(page)
        else:
            self._interleaved(page)
        return page.document

    def _repeat(self, n_tokens: int) -> Document:
        """A random sequence over the whole vocabulary, single bytes included, said again until the end."""
        rng, long = self.rng, self.mix.long_repeats
        n = rng.randint(4, max(15, n_tokens // 3) if long else 15)
        if long and rng.random() < 0.4:  # few different tokens: one token back does not tell where one is
            alphabet = rng.sample(range(2, self.vocab_size), rng.randint(3, 12))
            sequence = rng.choices(alphabet, k=n)
        else:
            sequence = rng.choices(range(2, self.vocab_size), k=n)
        if self.mix.gaps:
            return self._gapped(sequence, n_tokens)
        ids = [self.bos, *(sequence * (n_tokens // n + 1))[: n_tokens - 1]]
        return Document(ids, [0.0] + [UNPREDICTABLE] * n + [ANSWER] * (n_tokens - 1 - n))

    def _gapped(self, sequence: list[int], n_tokens: int) -> Document:
        """The sequence again and again, up to 7 random tokens before each time."""
        document, rng = Document([self.bos], [0.0]), self.rng
        again = [UNPREDICTABLE] * len(sequence)
        while len(document.ids) < n_tokens:
            gap = rng.choices(range(2, self.vocab_size), k=rng.randint(0, 7))
            document.ids += [*gap, *sequence]
            document.weights += [UNPREDICTABLE] * len(gap) + again
            again = [UNPREDICTABLE] + [ANSWER] * (len(sequence) - 1)
        return Document(document.ids[:n_tokens], document.weights[:n_tokens])

    def _facts(self, n: int) -> list[Needle]:
        """`n` facts with different cues, often of one kind: each is then a distractor to the others."""
        rng, mix = self.rng, self.mix
        kind = rng.choice(KINDS) if rng.random() < mix.same_kind else None
        anything = rng.random() < mix.anything
        facts: dict[str, Needle] = {}
        while len(facts) < n:
            if anything:
                fact = sample_anything(rng, mix.wordlike)
            else:
                fact = sample_needle(kind or rng.choice(KINDS), rng, held_out=False)
            facts.setdefault(fact.cue, fact)
        return list(facts.values())

    def _haystack(self, page: _Page) -> None:
        """The form of an evaluation prompt: facts at random depths in filler, then questions about some of them."""
        if self.mix.chat:
            page.open_turn()
        facts, tail, reserved = self._exam(page)
        depths = sorted((self.rng.uniform(0, page.size - reserved) for _ in facts), reverse=True)
        if depths and self.mix.opening and self.rng.random() < self.mix.opening:
            depths[-1] = 0.0
        while True:
            while depths and page.n_filler >= depths[-1]:
                depths.pop()
                page.state(facts[len(depths)])
            if not page.filler_sentence(reserved_after=reserved - page.n_stated):
                break
        while depths:
            depths.pop()
            page.state(facts[len(depths)])
        page.fill(reserved_after=reserved - page.n_stated)
        for question in tail:
            page.ask(question)

    def _exam(self, page: _Page) -> tuple[list[Needle], list[_Question], int]:
        """Facts, questions about some of them, and the tokens that both will take at most."""
        rng = self.rng
        while True:
            facts = self._facts(rng.randint(1, max(1, min(6, page.size // 48))))
            most = 1 if self.mix.chat or rng.random() < self.mix.single else min(len(facts), page.size // 80)
            tail = [page.question(fact) for fact in rng.sample(facts, rng.randint(1, max(1, most)))]
            subject = rng.random()
            if subject < self.mix.recall + self.mix.sums:  # nothing in the context answers it
                tail = [page.known() if subject < self.mix.recall else page.problem()]
                facts = facts if rng.random() < 0.5 else []
            reserved = sum(len(part) for question in tail for part, _ in question.parts)
            reserved += sum(len(self.encode(f"\n\n{fact.statement}")) for fact in facts)
            if reserved < page.size:  # a short document has no room for the longest facts
                return facts, tail, reserved

    def _interleaved(self, page: _Page) -> None:
        """Filler, facts and questions in any order, a question about each fact at most once."""
        rng, mix = self.rng, self.mix
        fresh = self._facts(max(2, page.size // 24))
        stated: list[Needle] = []
        segments = ("question", "fact", "known", "problem", "filler")
        shares = [mix.question, mix.fact, mix.closed_book, mix.problem]
        going = True
        while going:
            segment = rng.choices(segments, [*shares, max(0.0, 1 - sum(shares))])[0]
            if segment == "question" and stated:
                going = page.ask(page.question(stated.pop(rng.randrange(len(stated)))))
            elif segment in {"question", "fact"} and fresh and mix.fact:
                going = page.state(fact := fresh.pop())
                stated.append(fact)
            elif segment == "known":
                going = page.state(rng.choice(closed_book_facts())) if rng.random() < 0.3 else page.ask(page.known())
            elif segment == "problem":
                going = page.ask(page.problem())
            else:
                going = page.filler_sentence()
        page.fill()


@dataclass(frozen=True)
class _Question:
    """A question with its answer as (ids, weights) parts, and what it is about."""

    fact: Needle | Problem
    text: str
    parts: list[tuple[list[int], list[float]]]


class _Page:
    """A text document being written, never beyond `size` tokens."""

    def __init__(self, corpus: Corpus, size: int) -> None:
        self.corpus, self.size = corpus, size
        self.document = Document([corpus.bos], [0.0])
        self.n_filler = self.n_stated = 0  # tokens written of each
        rng = corpus.rng
        self._noisy = rng.random() < corpus.mix.noise
        self._left = 0  # sentences of filler until the paragraph ends
        self._new_paragraph()

    def open_turn(self) -> None:
        """Begin a user's turn, which lasts until the question has been asked."""
        ids = self.corpus.encode(USER)
        self.document.ids += ids
        self.document.weights += [0.0] * len(ids)
        self.document.text = USER

    def state(self, fact: Needle) -> bool:
        """Write the fact between two sentences; False where there is no room."""
        n = self._sentence(fact.statement, 0)
        self.n_stated += n
        if n:
            self.document.stated.append(fact)
        return n > 0

    def question(self, fact: Needle) -> _Question:
        """A question in the very form of the evaluation prompt, with its answer."""
        restated = self.corpus.rng.random() < self.corpus.mix.restated
        asked, cue = f"\n\nQuestion: {fact.question}", fact.cue if restated else ""
        if self.corpus.mix.chat:
            return self._graded(fact, f"{asked}{ASSISTANT}{cue}", f" {fact.answer}.{EOS}")
        return self._graded(fact, f"{asked}\nAnswer:{' ' * bool(cue)}{cue}", f" {fact.answer}.\n")

    def known(self) -> _Question:
        """A question about the closed-book world."""
        return self.question(self.corpus.rng.choice(closed_book_facts()))

    def problem(self) -> _Question:
        """A word problem, solved at once or step by step."""
        rng, mix = self.corpus.rng, self.corpus.mix
        problem, chain = sample_problem(rng, rng.choice((2, 3, 3)), held_out=False), rng.random() < mix.chain
        prompt, completion = problem.prompt(chain), problem.completion(chain)
        if mix.chat:
            prompt, completion = f"{prompt.removesuffix(ANSWER_AT_ONCE)}{ASSISTANT}", f"{completion.rstrip()}{EOS}"
        return self._graded(problem, prompt, completion)

    def _graded(self, fact: Needle | Problem, prompt: str, answer: str) -> _Question:
        context, value = self.corpus.encode(prompt), self.corpus.encode(answer)
        weights = [FIRST_ANSWER] + [ANSWER] * (len(value) - 1)
        if answer[1].isdigit():  # a digit's space is a token of its own and tells nothing
            weights[1] = FIRST_ANSWER
        if self.corpus.mix.digits and isinstance(fact, Problem):
            digits = {self.corpus.encode(digit)[0] for digit in "0123456789"}
            weights = [FIRST_ANSWER if i in digits else weight for i, weight in zip(value, weights, strict=True)]
        return _Question(fact, prompt + answer, [(context, [CONTEXT] * len(context)), (value, weights)])

    def ask(self, question: _Question) -> bool:
        """Write a question with its answer; False where there is no room."""
        if len(self.document.ids) + sum(len(ids) for ids, _ in question.parts) > self.size:
            return False
        for ids, weights in question.parts:
            self.document.ids += ids
            self.document.weights += weights
        self.document.text += question.text
        self.document.asked.append(question.fact)
        return True

    def filler_sentence(self, reserved_after: int = 0) -> bool:
        """Write one more sentence of filler; False where there would be fewer than `reserved_after` tokens left."""
        return self._filler(self._draw(), reserved_after) > 0

    def fill(self, reserved_after: int = 0) -> None:
        """Write filler until there is no room for another word of it."""
        while self.filler_sentence(reserved_after):
            pass
        spare = self._draw().split(" ")
        while len(spare) > 1 and not self._filler(" ".join(spare := spare[:-1]), reserved_after):
            pass

    def _draw(self) -> str:
        rng = self.corpus.rng
        if self._noisy and rng.random() < 0.7:
            return noise_sentence(rng)
        if not self.corpus.mix.cast:
            return sample_sentence(rng, [rng.choice(w.PEOPLE)], rng.choice(w.PLACES))
        return sample_sentence(rng, *self._cast)

    def _filler(self, sentence: str, reserved_after: int) -> int:
        n = self._sentence(sentence, reserved_after)
        self.n_filler += n
        self._left -= n > 0
        return n

    def _sentence(self, sentence: str, reserved_after: int) -> int:
        text = self.document.text
        separator = " "
        if text in ("", USER):
            separator = ""
        elif text.endswith("\n"):
            separator = "\n"
        elif self._left <= 0:
            separator = "\n\n"
        ids = self.corpus.encode(separator + sentence)
        if len(self.document.ids) + len(ids) + reserved_after > self.size:
            return 0
        if separator in {"\n", "\n\n"}:
            self._new_paragraph()
        self.document.ids += ids
        self.document.weights += [CONTEXT] * len(ids)
        self.document.text += separator + sentence
        return len(ids)

    def _new_paragraph(self) -> None:
        rng = self.corpus.rng
        self._cast = rng.sample(w.PEOPLE, 2), rng.choice(w.PLACES)
        self._left = rng.randint(4, 8)
