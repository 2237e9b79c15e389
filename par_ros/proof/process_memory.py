# SPDX-License-Identifier: Apache-2.0
"""Memory of a process over time, from /proc/PID/smaps_rollup."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path

# The first tenth warms up: caches fill, the middleware finds its peers.
_WARM_UP_SHARE = 0.1


@dataclass
class ProcessMemory:
    """One process: seconds since the start, resident and anonymous MiB."""

    pid: int
    times_s: list[float] = field(default_factory=list)
    resident_mib: list[float] = field(default_factory=list)
    anonymous_mib: list[float] = field(default_factory=list)

    def add(self, time_s: float) -> None:
        """Read it now. Raises OSError where the process has ended."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
        self.times_s.append(time_s)
        self.resident_mib.append(int(sizes["Rss"]) / 1024)
        self.anonymous_mib.append(int(sizes["Anonymous"]) / 1024)

    def to_json(self) -> dict[str, list[float]]:
        """About a hundred of the samples."""
        return {
            "time_s": [round(value, 1) for value in _thinned(self.times_s)],
            "resident": [round(value, 2) for value in _thinned(self.resident_mib)],
            "anonymous": [round(value, 2) for value in _thinned(self.anonymous_mib)],
        }

    def growth(self) -> float:
        """The last tenth of the samples against the tenth after the warm-up, as a share."""
        num = len(self.resident_mib)
        begin, tenth = int(num * _WARM_UP_SHARE), max(num // 10, 1)
        early = statistics.median(self.resident_mib[begin : begin + tenth])
        return statistics.median(self.resident_mib[-tenth:]) / early - 1.0


def _thinned(values: list[float], num: int = 100) -> list[float]:
    """At most about `num` of them."""
    return values[:: max(len(values) // num, 1)]
