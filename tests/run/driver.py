"""A small run that the tests kill: 24 kept parts, a matrix put together from them, and a result file.

Every computation is written down in a log before its part is kept, so that tests can tell what was repeated.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

from steelyard.run import generator, open_run, store

PARTS, ROWS, COLUMNS = 24, 150, 200

store.MAPPED_BYTES = 2**17  # so that the matrix and the kept parts are memory-mapped


def main(out: Path, log: Path, seconds: float) -> None:
    with open_run(out, {"command": "test", "parts": PARTS}, show="quiet") as run:
        values = run.matrix("score/values", (PARTS * ROWS, COLUMNS), np.float64)
        for part in range(PARTS):
            key = f"score/part-{part:03d}"

            def compute(part: int = part) -> dict[str, np.ndarray]:
                append(log, f"computing {part}")
                time.sleep(seconds)
                run.spend(gradients=1)
                return {"values": generator(0, "part", part).standard_normal((ROWS, COLUMNS))}

            values[part * ROWS : (part + 1) * ROWS] = run.keep(key, compute)["values"]
            append(log, f"kept {part}")
        folder = run.path("result.npy")
        np.save(folder, values)
    append(log, "done")


def append(log: Path, line: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
