"""One meaning for each colour and line style, told apart by everybody, and the glossary's table says the same."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from sources import ROOT

from pwl_lab.plots import style
from pwl_lab.plots.clock import BASELINE_NAME

# What each group of looks stands for, in the order of the glossary's table.
MEANINGS: dict[str, dict[str, style.Look]] = {
    "network": style.NETWORK,
    "curriculum": style.CURRICULUM,
    "curriculum on strings": style.STRINGS,
    "your own curriculum": {f"number {number}": look for number, look in enumerate(style.SPARE, start=1)},
    "loading order": style.ORDER,
    "degree in the support": {str(degree): look for degree, look in enumerate(style.DEGREE, start=1)},
    "off the support": {"any degree": style.OFF_SUPPORT},
    "progressive loading and its baselines": style.BASELINE,
    "latency": style.LATENCY,
    "converter": style.CONVERTER,
    "loss term": style.LOSS,
    "swap mask": style.MASK,
    "level": style.LEVEL,
}
# Linear RGB as people without the cone for long, or for medium, wavelengths see it (Machado, Oliveira and Fernandes 2009).
EYES = {
    "all cones": np.eye(3),
    "protanopia": np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
    "deuteranopia": np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
}
DASH_WORDS = {"-": "solid", "--": "dashed", "-.": "dash-dot", ":": "dotted"}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def lab(colour, eyes):
    """A colour in CIE L*a*b* as these eyes see it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(EYES[eyes] @ linear, 0, 1) / WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def every_look():
    return [(group, name, look) for group, looks in MEANINGS.items() for name, look in looks.items()]


def test_no_colour_with_its_line_style_means_two_things():
    pairs = [(colour.upper(), str(dashes)) for _, _, (colour, dashes, _) in every_look()]
    twice = [(group, name) for (group, name, _), pair in zip(every_look(), pairs, strict=True) if pairs.count(pair) > 1]
    assert twice == []


@pytest.mark.parametrize(
    ("one", "other"),
    list(
        combinations(
            [
                "curriculum",
                "curriculum on strings",
                "your own curriculum",
                "loading order",
                "degree in the support",
                "loss term",
            ],
            2,
        )
    ),
)
def test_these_groups_share_no_colour(one, other):
    colours = [{look[0].upper() for look in MEANINGS[group].values()} for group in (one, other)]
    assert colours[0] & colours[1] == set()


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize(
    "group",
    [
        "network",
        "curriculum",
        "curriculum on strings",
        "your own curriculum",
        "loading order",
        "degree in the support",
        "progressive loading and its baselines",
        "loss term",
    ],
)
def test_what_stands_in_one_figure_is_told_apart(group, eyes):
    places = {name: lab(look[0], eyes) for name, look in MEANINGS[group].items()}
    close = [pair for pair in combinations(places, 2) if np.linalg.norm(places[pair[0]] - places[pair[1]]) < 9]
    assert close == []
    looks = list(MEANINGS[group].values())
    assert len({(str(dashes), marker) for _, dashes, marker in looks}) == len(looks)  # without any colour, too


@pytest.mark.parametrize("eyes", EYES)
def test_all_curricula_of_notebook_07_are_told_apart(eyes):
    looks = style.CURRICULUM | style.STRINGS
    places = {name: lab(look[0], eyes) for name, look in looks.items()}
    assert min(np.linalg.norm(places[a] - places[b]) for a, b in combinations(places, 2)) >= 9
    assert len({(str(dashes), marker) for _, dashes, marker in looks.values()}) == len(looks)
    drawn = style.looks(["one_shot_soft", "last_block", "untrained", "mine"])
    assert drawn["last_block"] == style.STRINGS["last_block"]
    assert drawn["mine"] == style.SPARE[0]


def test_every_baseline_with_a_name_has_a_look():
    assert list(BASELINE_NAME) == list(style.BASELINE)


def test_the_glossary_has_the_table():
    rows = [line for line in (ROOT / "docs" / "glossary.md").read_text().splitlines() if line.startswith("| ")]
    for group, looks in MEANINGS.items():
        (row,) = [line for line in rows if line.startswith(f"| {group} |")]
        said = [part.strip() for part in row.split("|")[2].split(";")]
        assert said == [
            f"{name} `{look[0]}` {DASH_WORDS.get(str(look[1]), 'other dashes')}" for name, look in looks.items()
        ]
