"""Mutation testing: how many small changes to a folder of rhlens its own fast tests notice. `make mutate` runs this.

mutmut makes the mutants, notes which tests reach which function, and forks one process a mutant out of one that has
everything imported; here a seeded sample of them is drawn, and what was found is counted. mutmut leaves alone what has
a decorator (properties, context managers), class bodies, constants of modules, f-strings and docstrings.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDERS = ("results", "tasks", "measure")
BUDGET = 20.0
"""Seconds of tests that a mutant may have to survive, as measured once: those that reach it, the fastest first."""
PATIENCE = 5
"""How many times as long as measured a mutant may take by the clock, if its tests wait rather than work."""
LEAST = 0.85
"""Share of the mutants below which it is an error."""
CAUGHT = ("killed", "timeout", "segfault")
KNOWN = {
    r'^-.*"[^"]* [^"]*".*\n\+.*(XX|"[^"]*[A-Z]{3}[^"]*")': "words of a sentence: tests look for some of them",
    r"strict=True": "both sides are of one length, as the lines before see to",
    r"kind=\"stable\"|dtype=object|dtype=float|verbose=False|truncation=False": "says what holds without it here",
    r"BATCH_TOKENS|SHARED_ROWS|rows_at_once|islice|n_chars|tried|lru_cache|make_room": "speed and memory only",
}
"""What survivors that are no gap have in their diff, and why no test can or should tell them: they still count."""


def in_workspace(folder: str) -> None:
    """Go to a folder of its own for what mutmut writes, with links to what it reads."""
    work = ROOT / "build" / "mutation" / folder
    work.mkdir(parents=True, exist_ok=True)
    for name in ("rhlens", "tests", "pyproject.toml"):
        link = work / name
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT / name)
    os.chdir(work)
    os.environ |= {"PYTHONPATH": str(work / "mutants"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    sys.path[:] = [p for p in sys.path if Path(p).resolve() not in (ROOT, ROOT / "tests")]


def mutants_of(folder: str) -> tuple[Any, list[str]]:
    """mutmut's runner, which then knows what tests there are, and the names of all mutants of a folder."""
    from mutmut import __main__ as mutmut
    from mutmut.mutation.data import SourceFileMutationData

    config = mutmut.config()
    config.only_mutate = [f"rhlens/{folder}/*.py"]
    config.pytest_add_cli_args_test_selection = [f"tests/{folder}"]
    os.environ["MUTANT_UNDER_TEST"] = "mutant_generation"
    Path("mutants").mkdir(exist_ok=True)
    with mutmut.CatchOutput(spinner_title=f"Mutating rhlens/{folder}"):
        mutmut.copy_src_dir()
        mutmut.copy_also_copy_files()
        mutmut.setup_source_paths()
        mutmut.create_mutants(1)
    runner = mutmut.get_mutant_runner(1)
    mutmut.collect_or_load_stats(runner, apply_config_invalidation=True)
    mutmut.run_forced_fail_test(runner)
    files = [SourceFileMutationData(path=path) for path in mutmut.walk_mutatable_files()]
    for file in files:
        file.load()
    return runner, sorted(name for file in files for name in file.exit_code_by_key)


def tried(runner: Any, name: str) -> str:
    """What became of a mutant: killed, timeout, survived, or that no fast test reaches it."""
    from mutmut import __main__ as mutmut

    state, config = mutmut.state(), mutmut.config()
    function = mutmut.mangled_name_from_mutant_name(name)
    took = state.duration_by_test
    reaching = sorted(state.tests_by_mangled_function_name.get(function, ()), key=took.__getitem__)
    spent = list(accumulate(took[test] for test in reaching))
    tests = reaching[: bisect_right(spent, BUDGET)]
    if not tests:
        return "untested"
    expected = spent[len(tests) - 1]
    limit = ceil((expected + config.timeout_constant) * config.timeout_multiplier)
    runner.submit(name, tests, limit, PATIENCE * expected)  # the limit is of CPU seconds: a busy machine kills nothing
    return mutmut.status_by_exit_code[runner.wait_for_result().exit_code]


def explained(diff: str) -> str:
    """Why a mutant with this diff may survive, or that it may not."""
    changed = "\n".join(line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---"))
    return next((reason for pattern, reason in KNOWN.items() if re.search(pattern, changed)), "not explained")


def report(found: dict[str, str], n_mutants: int, folder: str) -> float:
    """Print how many mutants were killed, and write the others and what they change to `survivors.diff`."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from scipy.stats import binomtest

    counts = Counter(found.values())
    caught = sum(counts[status] for status in CAUGHT)
    ends = binomtest(caught, len(found)).proportion_ci(method="wilson")
    told = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    print(
        f"rhlens/{folder}: {caught / len(found):.1%} [{ends.low:.1%}, {ends.high:.1%}] of {len(found)} mutants killed, "
        f"drawn from {n_mutants} ({told})"
    )
    left = {name: get_diff_for_mutant(name) for name, status in found.items() if status not in CAUGHT}
    reasons = {name: explained(diff) for name, diff in left.items()}
    for reason, n in Counter(reasons.values()).most_common():
        print(f"  {n} others: {reason}")
    diffs = [f"# {name}: {found[name]}; {reasons[name]}\n{diff}\n" for name, diff in left.items()]
    Path("survivors.diff").write_text("\n".join(diffs), encoding="utf-8")
    print(f"  what they change: {Path.cwd().relative_to(ROOT)}/survivors.diff", flush=True)
    return caught / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", choices=FOLDERS)
    parser.add_argument("--sample", type=int, default=200, help="mutants to draw; 0 takes all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only mutants with this in their name")
    options = parser.parse_args()
    in_workspace(options.folder)
    runner, names = mutants_of(options.folder)
    names = [name for name in names if options.only in name]
    drawn = random.Random(options.seed).sample(names, min(options.sample or len(names), len(names)))
    found = {}
    for i, name in enumerate(drawn, 1):
        found[name] = tried(runner, name)
        print(f"{i}/{len(drawn)} {found[name]:9} {name}", flush=True)
    sys.exit(report(found, len(names), options.folder) < LEAST)


if __name__ == "__main__":
    main()
