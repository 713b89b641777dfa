"""Make the font that exported pages carry for their formulas: a part of STIX Two Math, as WOFF.

    pip download --no-deps ziamath==0.13 && unzip ziamath-0.13-py3-none-any.whl     # a package that holds the whole font
    pip install fonttools
    python scripts/math_font.py ziamath/fonts/STIXTwoMath-Regular.ttf

The font is under the SIL Open Font License 1.1, which lies beside it. Its table of mathematical constants and the larger
forms of brackets, roots and sums stay in; what is left out are characters that no formula here is likely to need.
"""

import sys
from pathlib import Path

from fontTools import subset

TARGET = Path(__file__).resolve().parents[1] / "pwl_lab" / "runner" / "templates" / "fonts" / "stix-two-math.woff"
RANGES = [
    (0x20, 0x7E),  # ASCII
    (0x391, 0x3C9),  # Greek
    (0x2190, 0x2195),  # arrows
    (0x21D0, 0x21D5),
    (0x27F5, 0x27FA),
    (0x2200, 0x22FF),  # operators
    (0x2308, 0x230B),  # brackets
    (0x27E8, 0x27EB),
    (0x1D400, 0x1D467),  # bold, italic
    (0x1D49C, 0x1D4B5),  # script capitals
    (0x1D538, 0x1D550),  # double-struck capitals
    (0x1D6FC, 0x1D71B),  # italic Greek
    (0x1D7CE, 0x1D7D7),  # bold digits
]
SINGLE = (
    "\xa0¬±·×÷ϑϕϖϰϱϵ‐–—‖†‡•…′″‾↔↦⏞⏟⨀⨁⨂^ˆ˜¯"
    "ℂℋℎℏℐℒℓℕ℘ℙℚℛℝℤℬℰℱℳℵ"
    "\u2002\u2003\u2004\u2005\u2006\u2009\u200a\u200b\u2061\u2062\u2063"  # spaces and invisible operators
    "\u0302\u0303\u0304\u0307\u0308\u20d7"  # accents
)


def main(source: str) -> None:
    """Write the part of the font in the file `source`, and say how large it is."""
    options = subset.Options()
    options.flavor = "woff"
    options.hinting = False
    options.layout_features = []  # variants for small sizes alone would double it
    options.drop_tables += ["DSIG"]
    options.name_IDs = [0, 1, 2, 3, 4, 5, 6, 7, 13, 14]
    font = subset.load_font(source, options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=[code for a, b in RANGES for code in range(a, b + 1)] + [ord(sign) for sign in SINGLE])
    cutter.subset(font)
    TARGET.parent.mkdir(exist_ok=True)
    subset.save_font(font, str(TARGET), options)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes, {len(font.getGlyphOrder()):,} glyphs")


if __name__ == "__main__":
    main(sys.argv[1])
