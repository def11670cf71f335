"""Ctrl-C and SIGTERM ask a training to stop after its step, so that it can save first."""

import signal
import sys
import threading
from types import FrameType


class Interruption:
    """`requested` becomes true when Ctrl-C or SIGTERM comes inside the `with` block; a second Ctrl-C stops at once.

    `patient`: a second Ctrl-C changes nothing. (torchrun sends one more to every process when it gets one itself.)
    Outside of the main thread, which alone gets signals, nothing is ever requested.
    """

    def __init__(self, patient: bool = False) -> None:
        self.requested, self._patient = False, patient

    def __enter__(self) -> "Interruption":
        signals = [signal.SIGINT, signal.SIGTERM] if threading.current_thread() is threading.main_thread() else []
        self._before = {number: signal.signal(number, self._request) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT and not self._patient:
            raise KeyboardInterrupt
        self.requested = True
        print("\nfinishing the step and saving", file=sys.stderr)
