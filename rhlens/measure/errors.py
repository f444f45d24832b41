"""What is wrong with an answer that is not right: the kinds of error that the paper sees (section 4.1, figure 6)."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, lru_cache

from rhlens.measure.words import numbered, words
from rhlens.results.errors import ErrorType

# English, French, German and Spanish words that state no fact alone; they stand in any text, so finding one there
# shows nothing.
_FUNCTION_WORDS = """
a an and are as at be been but by did do does for from had has have he her his i in is it its my no not of on or our
she so that the their them then there they this to was we were what when where which who why will with you your
au aux ce dans de des du elle en est et il la le les ne on ou par pas pour que qui sa se ses son sur un une vend
aus das dem den der die ein eine einem einen einer er es gab hat ich im ist mit nicht sie und von wem zu zum zur
al con del el ella esta está las lo los no por que se si sin su sus un una y ya
"""
_REFUSAL = re.compile(
    r"(?:\b(?:not|no|cannot|unable|never)|n't)\b.{0,40}"
    r"\b(?:mention|specif|provide|state|given|know|sure|information|answer|find|found|determin|say)",
    re.IGNORECASE | re.DOTALL,
)


def error_type(answer: str, said: str, context: str, needle: str = "") -> ErrorType:
    """What kind of answer this is. Words are ROUGE's; function words are told from the others by a list.

    - `correct`: all words of the answer were said (ROUGE-1 recall 1), whatever else was.
    - `no answer`: else, if a refusal was said (in English), or no word but function words and the question's.
    - `hallucination`: else, if some word stands nowhere in the context. Words are whole: a number with one wrong digit
      is such a word.
    - `wrong extraction`: else, if some word stands in the context, but not in the needle.
    - `incomplete`: else; all that was said is of the needle, and part of the answer is missing.

    So an answer that mixes right words with wrong ones counts as wrong, and one invented word outweighs copied ones.

    Args:
        answer: what a right answer says.
        context: the whole prompt.
        needle: statement and question, whose words contradict nothing where they are repeated.
    """
    # Numbers are compared with their signs and points, and a choice as the letter that it is.
    wanted, found = words(numbered(answer)), words(numbered(said))
    if not Counter(wanted) - Counter(found) and (wanted or answer.strip() == said.strip()):
        return "correct"
    letters = {word for word in found if len(word) == 1} if len(answer.strip()) == 1 else set[str]()
    telling = set(found) - _function_words() | letters
    others = telling - set(words(numbered(needle))) - set(wanted)
    if _REFUSAL.search(said.replace("’", "'")) or not (others or telling & set(wanted)):
        return "no answer"
    if others - _words_of(context):
        return "hallucination"
    return "wrong extraction" if others else "incomplete"


@cache
def _function_words() -> frozenset[str]:
    return frozenset(words(_FUNCTION_WORDS))


@lru_cache(maxsize=1024)
def _words_of(context: str) -> frozenset[str]:
    """Every answer to a prompt is held against the same words."""
    return frozenset(words(numbered(context)))
