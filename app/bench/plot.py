"""A load as a picture: how its times are spread, and what went on at each moment."""

from collections.abc import Sequence

from app.bench.load import Answer
from app.flags import SettingsError


def check(path: str) -> None:
    """Raises SettingsError where matplotlib is not installed, before a load is run for a picture."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        hint = "pip install matplotlib"
        raise SettingsError(f"--plot {path}: this needs matplotlib, which is not installed: {hint}") from None


def draw(answers: Sequence[Answer], title: str, path: str) -> None:
    """Write a PNG; raises OSError where that cannot be."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    good = [answer for answer in answers if not answer.error]
    figure, (spread, moments) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for label, values in {
        "first token": [answer.first for answer in good if answer.first is not None],
        "end to end": [answer.seconds for answer in good],
    }.items():
        if values:
            spread.ecdf(values, label=label)
    spread.set(xlabel="seconds", ylabel="share of requests", xlim=(0, None), title="times")
    spread.grid(alpha=0.3)
    if good:
        spread.legend(loc="lower right")
    for answer in answers:
        colour = "tab:red" if answer.error else "tab:green" if answer.picture else "tab:blue"
        ends = (answer.start, answer.start + answer.seconds)
        moments.plot(ends, (answer.number,) * 2, color=colour, linewidth=1)
        if answer.first is not None:
            moments.plot(answer.start + answer.first, answer.number, "k|", markersize=4)
    name = "blue: text, green: with a picture, red: failed; | first token"
    moments.set(xlabel="seconds", ylabel="request", title=name)
    moments.title.set_fontsize(9)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110, format="png")
    pyplot.close(figure)
