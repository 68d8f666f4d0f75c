"""Let eSpeak NG say words in one voice: jobs as JSON on stdin, one WAV file each.

    python speak.py LIBRARY_FOLDER OUT_FOLDER < jobs.json

A program of its own, with the standard library alone: eSpeak NG is under the GPL, so that it runs
in this process and in no other.  It also carries its state from one word to the next, and a new
process for each voice makes the sound depend on that voice's jobs alone.
"""

from __future__ import annotations

import ctypes
import json
import sys
import wave
from pathlib import Path

SYNCHRONOUS, RATE, PITCH, UTF8 = 2, 1, 3, 1  # of speak_lib.h
SUFFIX = "dylib" if sys.platform == "darwin" else "so"
Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def main() -> int:
    folder, out = map(Path, sys.argv[1:])
    library = ctypes.CDLL(str(folder / f"libespeak-ng.{SUFFIX}"))
    heard: list[bytes] = []

    def hear(samples: object, count: int, _events: object) -> int:
        if samples and count > 0:
            heard.append(ctypes.string_at(samples, count * 2))  # type: ignore[arg-type]
        return 0

    callback = Callback(hear)  # a name, so that it lives as long as the library calls it
    rate_hz = library.espeak_Initialize(SYNCHRONOUS, 0, str(folder).encode(), 0)
    if rate_hz <= 0:
        raise SystemExit(f"eSpeak NG did not start ({rate_hz})")
    library.espeak_SetSynthCallback(callback)
    for number, job in enumerate(json.load(sys.stdin)):
        # an unknown voice would leave the one before
        if library.espeak_SetVoiceByName(job["voice"].encode()):
            raise SystemExit(f"eSpeak NG has no voice {job['voice']!r}")
        library.espeak_SetParameter(RATE, job["words_per_minute"], 0)
        library.espeak_SetParameter(PITCH, job["pitch"], 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(number))  # else it is the clock
        heard.clear()
        text = job["text"].encode() + b"\0"
        library.espeak_Synth(text, len(text), 0, 0, 0, UTF8, None, None)
        with wave.open(str(out / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, rate_hz, 0, "NONE", ""))
            file.writeframes(b"".join(heard))
    return 0


if __name__ == "__main__":
    sys.exit(main())
