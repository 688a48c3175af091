"""The process that ``test_mcap.py`` kills, or whose disk is full: records frames until then, and says how it ended.

``mcap_child.py FILE [LIMIT_BYTES]``; each frame of noise is a JPEG of some 15 kB. Prints the number of each frame when
it was recorded.
"""

from __future__ import annotations

import resource
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from camscribe.runtime.caption import Caption, Sentence, Timings
from camscribe.runtime.errors import SinkError
from camscribe.runtime.stream.counters import Tally
from camscribe.runtime.stream.frame import Captioned, Frame
from camscribe.runtime.stream.mcap import McapSink


def main() -> None:
    if len(sys.argv) > 2:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
    sink = McapSink(Path(sys.argv[1]))
    sink.open(SimpleNamespace(source="test://"))  # type: ignore[arg-type]
    generator, tally = np.random.default_rng(0), Tally()
    sentence = Sentence("a man rides a wave", ("a",), -1.0, -0.5, False, np.zeros((1, 2, 2), np.float32))
    try:
        for number in range(20_000):
            pixels = generator.integers(0, 256, (96, 128, 3), dtype=np.uint8)
            frame = Frame(pixels, "bgr", number, time.monotonic(), time.time_ns(), "noise")
            sink.frame(frame)
            sink.caption(Captioned(frame, Caption((sentence,), Timings(1, 2, 3, 4, 5)), 20.0))
            if number % 50 == 49:
                sink.counts(tally.counts())
            print(number, flush=True)
            time.sleep(0.004)
    except SinkError as error:
        print(error, flush=True)
    sink.close()


if __name__ == "__main__":
    main()
