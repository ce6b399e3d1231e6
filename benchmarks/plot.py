"""Draw what compare.py wrote: tokens/s and time to the first token over streams, a line for each server.

usage: python benchmarks/plot.py RESULTS.jsonl docs/images/speed.png
"""

import argparse
import json
import pathlib
import statistics
from collections import defaultdict

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

AXES = {"tok_s": "tokens/s", "ttft_p50_ms": "time to first token, median, ms"}


def main() -> None:
    """Read the runs, draw one row of plots for each kind of model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("picture", type=pathlib.Path)
    arguments = parser.parse_args()
    values: dict[tuple[str, str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    machine = ""
    for line in arguments.results.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        machine = row["machine"]
        for key in AXES:
            if row[key] is not None:
                values[row["kind"], key, row["server"]][row["streams"]].append(row[key])
    kinds = sorted({kind for kind, _, _ in values})
    figure, plots = plt.subplots(
        len(kinds), len(AXES), figsize=(10, 3.6 * len(kinds)), squeeze=False, layout="constrained"
    )
    for row_index, kind in enumerate(kinds):
        for column, (key, label) in enumerate(AXES.items()):
            plot = plots[row_index][column]
            for (of_kind, of_key, server), by_streams in sorted(values.items()):
                if (of_kind, of_key) == (kind, key):
                    streams = sorted(by_streams)
                    medians = [statistics.median(by_streams[count]) for count in streams]
                    plot.plot(streams, medians, marker="o", label=server)
            plot.set(title=f"{kind}: {label}", xlabel="streams", xscale="log", ylim=(0, None))
            ticks = sorted(
                {count for (of_kind, _, _), by in values.items() if of_kind == kind for count in by}
            )
            plot.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
            plot.minorticks_off()
            plot.grid(alpha=0.3)
    plots[0][0].legend()
    figure.suptitle(machine, fontsize=9)
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()
