"""Questions to be answered at once or after a chain of thought: arithmetic word problems, or the user's own.

The chain of a word problem repeats what the question says before it adds it up, as people do: that part must be
fetched from the context. The answer given at once is worked out inside the model, and is never written in the context.
"""

from __future__ import annotations

import csv
import io
import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from rhlens.tasks import words as w
from rhlens.tasks.files import answerable, each_in, flag_in, one_line, read_text, records, text_in, texts_in

ANSWER_AT_ONCE, STEP_BY_STEP = "\nAnswer:", "\nStep by step:"
CONCLUSION = "Answer:"
"""What the answer follows at the end of a chain of thought."""


@dataclass(frozen=True)
class Problem:
    """A question with its right answer.

    Attributes:
        chain: a solution that ends with the words that lead up to the answer; empty where none is known.
        context: what must be read before the question.
        others: further right answers.
    """

    question: str
    chain: str
    answer: str
    context: str = ""
    others: tuple[str, ...] = ()

    @property
    def held_out(self) -> bool:
        """Whether the nano zoo is never trained on this problem: one in ten, by a checksum of its text."""
        return zlib.crc32(self.question.encode()) % 10 == 0

    @property
    def asked(self) -> str:
        """The question in its frame, after what must be read before it."""
        return f"{self.context}\n\nQuestion: {self.question}".lstrip("\n")

    def prompt(self, chain_of_thought: bool) -> str:
        """What stands before the model's turn."""
        return f"\n\n{self.asked}{STEP_BY_STEP if chain_of_thought else ANSWER_AT_ONCE}"

    def completion(self, chain_of_thought: bool) -> str:
        """What the model should say."""
        return f" {self.chain or CONCLUSION} {self.answer}.\n" if chain_of_thought else f" {self.answer}.\n"


def sample_problem(rng: random.Random, people: int = 3, held_out: bool = True) -> Problem:
    """A random problem about `people` people with 1 to 9 things each."""
    while (problem := _problem(rng, people)).held_out != held_out:
        pass
    return problem


def _problem(rng: random.Random, people: int) -> Problem:
    names, item = rng.sample(w.PEOPLE, people), rng.choice(w.ITEMS)
    numbers = [rng.randint(1, 9) for _ in names]
    parts = [f"{name} has {number} {item}" for name, number in zip(names, numbers, strict=True)]
    question = f"{', '.join(parts[:-1])} and {parts[-1]}. How many {item} do they have?"
    total, chain = numbers[0], f"{names[0]} has {numbers[0]}."
    for name, number in zip(names[1:], numbers[1:], strict=True):
        chain += f" {name} has {number}, and {total} + {number} = {total + number}."
        total += number
    return Problem(question, f"{chain} {CONCLUSION}", str(total))


def read_problems(path: str | Path) -> list[Problem]:
    """Problems from a file of GSM8K, MMLU or MuSiQue; its fields tell which.

    - GSM8K: JSONL with `question` and `answer`, a rationale that ends in `#### 1,234`. The rationale, on one line and
      without calculator annotations, is the chain of thought.
    - MMLU: JSONL or a JSON list with `question`, `choices` and `answer` (a letter, or a place counted from 0), or the
      original `.csv`: question, choices and letter, without a header. Letter, text, and both count as right.
    - MuSiQue: JSONL with `paragraphs`, `question`, `answer` and `answer_aliases`; the paragraphs come before the
      question. What is not `answerable` is left out, and counted on stderr.

    Raises:
        ValueError: the file cannot be read, is of none of these forms, or has no question that can be answered; the
            sentence names the line and what it lacks.
    """
    if Path(path).suffix.lower() == ".csv":
        return list(_mmlu_rows(path))
    return answerable(path, [_problem_in(entry, where) for where, entry in records(path)])


def _problem_in(entry: Any, where: str) -> Problem | None:
    fields = set(entry) if isinstance(entry, dict) else set()
    if "paragraphs" in fields:
        return _musique(entry, where)
    if "choices" in fields:
        return _mmlu(entry, where)
    if {"question", "answer"} <= fields:
        return _gsm8k(entry, where)
    raise ValueError(
        f"{where} is of no known form: GSM8K has the fields question and answer, MMLU question, choices and answer, "
        "MuSiQue paragraphs, question and answer"
    )


def _gsm8k(entry: Any, where: str) -> Problem:
    rationale, _, answer = text_in(entry, "answer", where).rpartition("####")
    answer = one_line(answer)
    if not rationale or not answer:
        raise ValueError(f"{where}: its answer must be a rationale that ends in a number, like #### 1,234")
    plain = answer.replace(",", "")
    numbers = (plain, f"{Decimal(plain):,}") if re.fullmatch(r"-?\d+(\.\d+)?", plain) else (answer,)
    chain = f"{one_line(re.sub('<<[^<>]*>>', '', rationale))} {CONCLUSION}"
    return Problem(text_in(entry, "question", where), chain, numbers[0], others=numbers[1:])


def _mmlu(entry: Any, where: str) -> Problem:
    choices, given = texts_in(entry, "choices", where), entry.get("answer")
    letters = ascii_uppercase[: len(choices)]
    if len(letters) < len(choices):
        raise ValueError(f"{where} has {len(choices)} choices, and there are letters for {len(letters)}: give fewer")
    right = given if type(given) is int else [*letters, given].index(given)  # true is no place
    if not 0 <= right < len(letters):
        raise ValueError(f"{where}: its answer must be a letter from A to {letters[-1]}, or its place counted from 0")
    lettered = [f"{letter}) {choice}" for letter, choice in zip(letters, choices, strict=True)]
    question = f"{text_in(entry, 'question', where)} {' '.join(lettered)}"
    return Problem(question, "", letters[right], others=(lettered[right], choices[right]))


def _mmlu_rows(path: str | Path) -> Iterator[Problem]:
    reader = csv.reader(io.StringIO(read_text(path)))
    try:
        for row in filter(None, reader):
            where = f"{path}, line {reader.line_num}"
            if len(row) != 6:
                raise ValueError(f"{where} needs 6 columns (question, four choices, letter), not {len(row)}")
            yield _mmlu({"question": row[0], "choices": row[1:5], "answer": row[5].strip()}, where)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num} is not CSV ({error}): close its quotation marks") from None


def _musique(entry: Any, where: str) -> Problem | None:
    if not flag_in(entry, "answerable", where, otherwise=True):
        return None
    paragraphs = [text_in(paragraph, "paragraph_text", at) for at, paragraph in each_in(entry, "paragraphs", where)]
    others = texts_in(entry, "answer_aliases", where) if entry.get("answer_aliases") else ()
    answer = one_line(text_in(entry, "answer", where))
    return Problem(text_in(entry, "question", where), "", answer, "\n\n".join(paragraphs), others)
