"""Switch a GPIO pin, such as that of a relay, by the label of the JSON lines on stdin.

… | python react.py --label yes --pin 17 --hold-s 2     # on for two seconds
… | python react.py --label unknown --pin 17            # on until another label comes
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial


@dataclass
class Reaction:
    switch: Callable[[str], object]
    """Called with "on" and "off", in turn."""
    labels: list[str]
    threshold: float = 0.5
    hold_s: float | None = None
    state: str = "off"

    def follow(self, lines: Iterable[str]) -> None:
        """React until the lines end.  Nothing stays on when nobody watches any more."""
        signal.signal(signal.SIGALRM, lambda *_: self.turn("off"))
        try:
            for line in lines:
                self.hear(line)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.turn("off")

    def hear(self, line: str) -> None:
        """Lines without a label and a score, such as the journal's own, count for nothing."""
        try:
            row = json.loads(line)
            wanted = row["label"] in self.labels and row["score"] >= self.threshold
        except (ValueError, TypeError, KeyError):
            return
        if wanted and self.hold_s is not None:
            signal.setitimer(signal.ITIMER_REAL, self.hold_s)  # anew, with each such line
        if wanted or self.hold_s is None:
            self.turn("on" if wanted else "off")

    def turn(self, state: str) -> None:
        if state != self.state:
            self.state = "on"  # until it is off for certain: a signal may end this in between
            self.switch(state)
            self.state = state


def gpio(pin: int, active_low: bool) -> Callable[[str], object]:
    from gpiozero import OutputDevice

    device = OutputDevice(pin, active_high=not active_low)
    return lambda state: device.on() if state == "on" else device.off()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--label", action="append", required=True, help="may be given again")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score (0.5)")
    parser.add_argument("--pin", type=int, help="Broadcom's number; without it, print on and off")
    parser.add_argument("--active-low", action="store_true", help="on is 0 V, as of many relays")
    parser.add_argument("--hold-s", type=float, help="off after so long, not at another label")
    options = parser.parse_args()
    if options.hold_s is not None and not options.hold_s > 0:
        parser.error("--hold-s is over 0")
    say = partial(print, flush=True)
    try:
        switch = say if options.pin is None else gpio(options.pin, options.active_low)
    except Exception as error:  # gpiozero has a type for each way in which pins are lacking
        parser.exit(2, f"react.py: no GPIO ({error}); without --pin it only prints\n")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    Reaction(switch, options.label, options.threshold, options.hold_s).follow(sys.stdin)


if __name__ == "__main__":
    main()
