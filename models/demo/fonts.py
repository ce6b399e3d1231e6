"""The fonts that words are drawn with: families for training, and other families held out for evaluation.

Pillow's Aileron and matplotlib's DejaVu are always there. The other families come from Debian packages:

    apt-get install fonts-liberation fonts-freefont-ttf fonts-open-sans fonts-lato fonts-cantarell \
        fonts-urw-base35 fonts-crosextra-carlito fonts-crosextra-caladea fonts-paratype fonts-linuxlibertine \
        fonts-quicksand fonts-jetbrains-mono fonts-courier-prime fonts-cabin fonts-comfortaa fonts-play \
        fonts-vollkorn fonts-roboto-unhinted fonts-noto-core fonts-inter fonts-firacode \
        fonts-karla fonts-inconsolata

Training works with those that are found, and is worse at reading the fewer they are.
"""

import functools
import pathlib

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

BUILT_IN = "Aileron"
WEIGHTS = ("Regular", "Bold", "Medium", "Roman", "Book", "SemiBold", "Semibold", "")

# family → the beginnings of its file names
TRAINING: dict[str, tuple[str, ...]] = {
    "DejaVu Sans": ("DejaVuSans",),
    "DejaVu Serif": ("DejaVuSerif",),
    "DejaVu Sans Mono": ("DejaVuSansMono",),
    "Liberation Sans": ("LiberationSans",),
    "Liberation Serif": ("LiberationSerif",),
    "Liberation Mono": ("LiberationMono",),
    "FreeSans": ("FreeSans",),
    "FreeSerif": ("FreeSerif",),
    "FreeMono": ("FreeMono",),
    "Open Sans": ("OpenSans",),
    "Lato": ("Lato",),
    "Cantarell": ("Cantarell",),
    "C059": ("C059",),
    "P052": ("P052",),
    "URW Gothic": ("URWGothic",),
    "URW Bookman": ("URWBookman",),
    "Nimbus Sans": ("NimbusSans",),
    "Nimbus Mono": ("NimbusMonoPS",),
    "Carlito": ("Carlito",),
    "PT Sans": ("PTS55F", "PTS75F"),
    "PT Serif": ("PTF55F", "PTF75F"),
    "Libertine": ("LinLibertine_R.", "LinLibertine_RB."),
    "Biolinum": ("LinBiolinum_R.", "LinBiolinum_RB."),
    "Quicksand": ("Quicksand",),
    "JetBrains Mono": ("JetBrainsMono",),
    "Courier Prime": ("CourierPrime",),
    "Cabin": ("Cabin",),
    "Comfortaa": ("Comfortaa",),
    "Play": ("Play",),
    "Vollkorn": ("Vollkorn",),
}
HELD_OUT: dict[str, tuple[str, ...]] = {
    "Roboto": ("Roboto",),
    "Noto Sans": ("NotoSans",),
    "Noto Serif": ("NotoSerif",),
    "Inter": ("Inter",),
    "Fira Code": ("FiraCode",),
    "Caladea": ("Caladea",),
    "Karla": ("Karla",),
    "Inconsolata": ("Inconsolata",),
}


def _folders() -> list[pathlib.Path]:
    import matplotlib

    home = pathlib.Path.home()
    bundled = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [
        bundled,
        pathlib.Path("/usr/share/fonts"),
        pathlib.Path("/usr/local/share/fonts"),
        home / ".fonts",
    ]


@functools.cache
def _files() -> dict[str, pathlib.Path]:
    """Every font file of the machine by its name without suffix; the first one found wins."""
    found: dict[str, pathlib.Path] = {}
    for folder in _folders():
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in (".ttf", ".otf"):
                found.setdefault(path.stem, path)
    return found


def _is_upright(stem: str, start: str) -> bool:
    rest = stem.removeprefix(start.rstrip(".")).strip("-_")
    return stem == start.rstrip(".") or rest in WEIGHTS


@functools.cache
def available(held_out: bool) -> dict[str, tuple[str, ...]]:
    """The families found on this machine, each with the paths of its upright files ("" is Pillow's own
    font).
    """
    wanted = HELD_OUT if held_out else TRAINING
    families: dict[str, tuple[str, ...]] = {} if held_out else {BUILT_IN: ("",)}
    for family, starts in wanted.items():
        paths = sorted(str(p) for stem, p in _files().items() for start in starts if _is_upright(stem, start))
        if paths:
            families[family] = tuple(paths)
    return families


@functools.lru_cache(maxsize=512)
def load(path: str, size: int) -> Font:
    """Load the font file (or Pillow's own, for "") at a size in pixels."""
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)
