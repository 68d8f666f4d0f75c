"""Write the readings of a sensor of the kernel (IIO) as CSV: a header, then a line a step.

    python iio.py /sys/bus/iio/devices/iio:device0 --channels accel_x,accel_y,accel_z --rate-hz 50

To record data for training, with `--steps`, as to watch: the units are the same, m/s² and rad/s.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LATE_S = 1.0


class SensorError(Exception):
    """The device has no such channel, or is too slow."""


def channel(device: Path, name: str) -> Callable[[], float]:
    """A function that reads it: (raw + offset) · scale, as the kernel's sysfs-bus-iio says."""
    raw = device / f"in_{name}_raw"
    if not raw.exists():
        found = sorted(p.name[3:-4] for p in device.glob("in_*_raw"))
        has = f"it has {', '.join(found)}" if found else "list the devices: ls /sys/bus/iio/devices"
        raise SensorError(f"{device} has no channel {name}; {has}")

    def attribute(what: str, without: float) -> float:
        """The channel's own, or that of all axes."""
        for owner in (name, name.rsplit("_", 1)[0]):
            path = device / f"in_{owner}_{what}"
            if path.exists():
                return float(path.read_text(encoding="ascii"))
        return without

    offset, scale = attribute("offset", 0), attribute("scale", 1)
    return lambda: (float(raw.read_text(encoding="ascii")) + offset) * scale


def steps(read: list[Callable[[], float]], rate_hz: float) -> Iterator[list[float]]:
    """The readings, `rate_hz` times a second."""
    start = time.monotonic()
    for step in itertools.count(1):
        yield [one() for one in read]
        left_s = start + step / rate_hz - time.monotonic()
        if left_s < -LATE_S:
            raise SensorError(f"the sensor is too slow for {rate_hz:g} readings a second")
        time.sleep(max(0.0, left_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", type=Path, help="/sys/bus/iio/devices/iio:device0")
    parser.add_argument("--channels", required=True, help="accel_x,accel_y,accel_z")
    parser.add_argument("--rate-hz", type=float, required=True, help="steps a second")
    parser.add_argument("--steps", type=int, help="end after so many")
    options = parser.parse_args()
    if not options.rate_hz > 0:
        parser.error("--rate-hz is over 0")
    names = options.channels.split(",")
    try:
        read = [channel(options.device, name) for name in names]
        print(",".join(names), flush=True)  # noqa: T201
        for row in itertools.islice(steps(read, options.rate_hz), options.steps):
            print(",".join(f"{value:.7g}" for value in row), flush=True)  # noqa: T201
    except (SensorError, OSError, ValueError) as error:
        parser.exit(2, f"iio.py: {error}\n")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGPIPE):  # ends without a word, as other filters do
        signal.signal(number, signal.SIG_DFL)
    main()
