"""Guesses, sealed before an experiment and laid beside its result; the course keeps the score."""

import json
from pathlib import Path
from typing import Any

from check import kept
from minclip.files import replacing

Guess = float | str | None


def predict(name: str, guess: Guess, options: tuple[str, ...] = ()) -> None:
    """Seals a guess: a number, or one of the options. The first one counts, until the result is seen."""
    if guess is None:
        print(f"{name}: no guess yet. Write {' or '.join(map(repr, options)) or 'a number'} in place of None")
        return
    if options and guess not in options:
        print(f"{name}: {guess!r} is none of {', '.join(map(repr, options))}")
        return
    if not options and (isinstance(guess, bool) or not isinstance(guess, int | float)):
        print(f"{name}: {guess!r} is not a number")
        return
    guesses = _read()
    guesses.setdefault(name, {"guess": guess})
    _write(guesses)
    print(f"{name}: sealed, {guesses[name]['guess']}")


def reveal(name: str, result: float | str, within: float = 0.0) -> None:
    """Prints a result beside the guess, which is right if it is the same, or a number at most `within` away from it."""
    guesses = _read()
    shown = result if isinstance(result, str) else f"{result:.3g}"
    if name not in guesses:
        print(f"{name}: {shown} (you made no guess)")
        return
    guess = guesses[name]["guess"]
    right = guess == result
    if not isinstance(result, str) and not isinstance(guess, str):
        right = abs(guess - result) <= within
    print(f"{name}: {shown}; your guess: {guess}. {'✔' if right else '✘'} ({settle(name, guess, bool(right))} so far)")


def settle(name: str, guess: Guess, right: bool) -> str:
    """Keeps whether a guess was right, the first one for each name; returns "7 of 9", the score of all."""
    guesses = _read()
    guesses.setdefault(name, {"guess": guess}).setdefault("right", right)
    _write(guesses)
    seen = [entry["right"] for entry in guesses.values() if "right" in entry]
    return f"{sum(seen)} of {len(seen)}"


def score() -> str:
    """One line on all guesses whose results were seen."""
    seen = [entry["right"] for entry in _read().values() if "right" in entry]
    return f"predictions: {sum(seen)} of {len(seen)} right" if seen else "predictions: none yet"


def _file() -> Path:
    return kept.folder() / "predictions.json"


def _read() -> dict[str, dict[str, Any]]:
    try:
        return json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # There is none yet, or it was damaged by hand.


def _write(guesses: dict[str, dict[str, Any]]) -> None:
    """Keeps the guesses, or says why not: the lesson goes on."""
    try:
        kept.folder().mkdir(parents=True, exist_ok=True)
        with replacing(_file()) as temporary:
            temporary.write_text(json.dumps(guesses, indent=1, ensure_ascii=False), encoding="utf-8")
    except OSError as error:
        print(f"(this guess cannot be kept: {error})")
