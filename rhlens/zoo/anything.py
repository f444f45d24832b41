"""Facts about anything at all, in words of any kind: what makes a nano model copy text it has never seen."""

from __future__ import annotations

import random
from functools import cache

from rhlens.tasks import words as w
from rhlens.tasks.needles import Needle

_OPEN = (
    ("The {} of {} is", "What is the {} of {}?"),
    ("The {} in {} is called", "How is the {} in {} called?"),
    ("The {} that {} likes is", "Which {} does {} like?"),
    ("{} keeps the {} in", "Where does {} keep the {}?"),
    ("{} wrote to {} that", "What did {} write to {}?"),
    ("{} and {} met at", "Where did {} and {} meet?"),
    ("{} needs {} for", "What does {} need {} for?"),
    ("The secret {} of {} was always", "What was always the secret {} of {}?"),
    ("To reach {} from {} you must", "How do you reach {} from {}?"),
    ("{} left {} because", "Why did {} leave {}?"),
    ("{}: {} =", "{}: {}?"),
    ("{} {} has the number", "What number has {} {}?"),
)
_LISTS = (
    w.ADJECTIVES, w.THINGS, w.CONTAINERS, w.ITEMS, w.TRADES, *w.VERBS, w.ADVERBS, w.PREPOSITIONS, w.COLORS, w.SEASONS,
    w.MONTHS, w.DAYS, w.VEHICLES, w.STATES, w.NUMBERS, w.PEOPLE, w.PLACES, w.SPANISH_NOUNS, w.SPANISH_ADJECTIVES,
    w.SPANISH_ROOMS, w.FRENCH_NOUNS, w.FRENCH_ADJECTIVES, w.FRENCH_FRUITS, w.GERMAN_NOUNS, w.GERMAN_THINGS,
    ("the", "a", "of", "and", "in", "with", "under", "de", "la", "und", "der"),
)  # fmt: skip
_LEXICON = sorted({word for words in _LISTS for word in words})
_LATIN = "abcdefghijklmnopqrstuvwxyz"
_CYRILLIC = "абвгдежзийклмнопрстуфхцчшщыьэюя"
_ACCENTED = "áäâàéèêëíîïóöôúüûñçßøåæœ"


def sample_anything(rng: random.Random, wordlike: float = 0.0) -> Needle:
    """A fact whose key and answer are random words, letters, digits or signs, so that any text can be copied.

    Args:
        wordlike: share of the words that no list holds that look like English ones.
    """
    while True:
        statement, question = rng.choice(_OPEN)
        keys = [_phrase(rng, rng.randint(1, 3), wordlike) for _ in range(2)]
        answer = _phrase(rng, rng.randint(1, 8), wordlike)
        cue = _capital(statement.format(*keys))
        if answer in f"{cue} ":
            continue
        needle = Needle("anything", f"{cue} {answer}.", _capital(question.format(*keys)), answer)
        if not needle.held_out and needle.cue == cue:
            return needle


def noise_sentence(rng: random.Random) -> str:
    """Filler of random words and letters, like nothing else in the corpus."""
    return f"{_capital(_phrase(rng, rng.randint(4, 12)))}."


def _phrase(rng: random.Random, n_words: int, wordlike: float = 0.0) -> str:
    strange = rng.choice((0.0, 0.0, 0.2, 1.0))

    def word() -> str:
        if rng.random() >= strange:
            return rng.choice(_LEXICON)
        return _wordlike(rng) if wordlike and rng.random() < wordlike else _strange_word(rng)

    return " ".join(word() for _ in range(n_words))


@cache
def _successors() -> dict[str, str]:
    """For every two letters of a lexicon word, the letters that may follow; a space starts and ends a word."""
    successors: dict[str, str] = {}
    for word in _LEXICON:
        padded = f"  {word} "
        for i in range(len(padded) - 2):
            successors[padded[i : i + 2]] = successors.get(padded[i : i + 2], "") + padded[i + 2]
    return successors


def _wordlike(rng: random.Random) -> str:
    """A word that does not exist but could: each letter follows the two before it as in the lexicon."""
    word = "  "
    while len(word) < 14 and (letter := rng.choice(_successors()[word[-2:]])) != " ":
        word += letter
    return word[2:]


def _strange_word(rng: random.Random) -> str:
    """A word made of letters or digits: the tokenizer splits it into short pieces or single bytes."""
    sort = rng.random()
    if sort < 0.5:
        return "".join(rng.choices(_LATIN, k=rng.randint(2, 8)))
    if sort < 0.7:
        return "".join(rng.choices("0123456789", k=rng.randint(1, 6)))
    if sort < 0.8:
        return "".join(rng.choices(_LATIN.upper() + "0123456789", k=rng.randint(2, 6)))
    if sort < 0.9:
        return "".join(rng.choices(_CYRILLIC, k=rng.randint(2, 6)))
    return "".join(rng.choices(_LATIN, k=3)) + rng.choice(_ACCENTED) + rng.choice(_LATIN)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
