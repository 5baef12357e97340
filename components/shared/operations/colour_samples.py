"""Colours that people have named, by the eleven basic terms of Berlin and Kay (1969): what colours.py compares with.

Two published tables, one of surfaces and one of screens:

- the centroids of the ISCC-NBS blocks (Kelly and Judd, "Color: Universal Language and Dictionary of Names", NBS Special
  Publication 440, 1976), each under the noun of its name; `violet` counts as purple, the six olives are left out;
- the xkcd colour survey of 2010 (public domain, 222,500 people, carried by matplotlib), each under the last word of its
  name; words that are not basic terms (`tan`, `navy`) count as the basic term a dictionary explains them with, others
  (`booger`) are left out.
"""

from __future__ import annotations

import functools

import numpy as np

NAMES = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
EXPLAINED_AS = {
    "grey": "gray taupe slate charcoal silver",
    "red": "maroon burgundy wine crimson scarlet",
    "orange": "peach salmon coral terracotta apricot",
    "yellow": "mustard gold cream lemon ochre ocher",
    "green": "olive lime mint aqua sage emerald jade seafoam aquamarine pea moss",
    "blue": "navy teal turquoise cyan azure cerulean periwinkle indigo",
    "purple": "violet lavender lilac mauve plum magenta fuchsia eggplant aubergine",
    "pink": "rose",
    "brown": "tan beige sand rust chocolate khaki fawn camel sepia umber sienna copper bronze",
}
"""The basic term in a dictionary's explanation of a word: "tan: a light brown"."""
ISCC_NBS = {
    "black": ("222222 202428 28201c 1e2321 25241d 242124 282022 202830 1a2421 291e29 2e1d21"),
    "white": ("f2f3f4 e9e9ed dfede8 f0ead6 eae3e1 e8e3e5"),
    "grey": (
        "81878b 5b504f 51585e 555555 4e5755 5d555b 5c504f 7d8984 b4bcc0 8e8279 b9b8b5 b2beb5 8a8776 bfb9bd 848482 "
        "57554c c1b6b3 8b8589 8f817f bfb8a5"
    ),
    "red": (
        "543d3f 673147 722f37 78184a 841b2d 915f6d 905d5d af868e ad8884 a8516e ab4e52 b3446c bc3f4a 38152c 3f1728 "
        "54133b 5c0923 ce4676 be0032"
    ),
    "orange": (
        "fd943f ffc14f ae6938 be8a3d 9e4732 be6516 c98500 aa381e b4745e fab57f fbc97f d99058 e3a857 cb6d51 fad6a5 "
        "ed872d eaa221 d9603b f38400 f6a600 e25822"
    ),
    "yellow": (
        "e9e450 fada5e a18f60 98943e ab9144 9b9400 af8d13 b9b57d c2b280 eae679 f8de7e b9b459 c9ae5d ebe8a4 f3e5ab "
        "beb72e d4af37 dcd300 f3c300"
    ),
    "green": (
        "00a693 3eb489 bdda57 83d37d 004b49 3a4b47 31362b 1b4d3e 2b3d26 355e3b 00443f 00543d 232f00 467129 00622d "
        "5e716a 515744 8f9779 66ada4 6aab8e c9dc89 93c592 317873 3b7861 4a5d23 8a9a5b 679267 8da399 dadfb7 007a74 "
        "007959 404f00 7e9f2e 44944a 002a29 1c352d 173620 003118 96ded1 8ed1b2 b6e5af c7e6d7 008882 008856 8db600 "
        "27a64c"
    ),
    "blue": (
        "4997d0 239eba 6c79b8 00304e 36454f 004958 252440 00416a 2e8495 272458 536878 4c516d 70a3cc 66aabc 8791bf "
        "436b95 367588 4e5180 91a3b0 8c92ac 0067a5 007791 545aa7 002e3b a1caf1 9cd1dc b3bce2 bcd4e6 c0c8e1 00a1c2 "
        "0085a1 30267a"
    ),
    "purple": (
        "d399e6 7e73b8 50404d 563c5c 5d3954 2f2140 602f6b 702963 32174d 796878 836479 554c69 b695c0 b784a7 8c82b6 "
        "86608e 915c83 604e81 aa98a9 aa8a9e 9690ab 875692 9e4f88 604e97 301934 341731 54194e d5badb dcd0ff d6cadd "
        "c4c3dd 9a4eae 870074 9065ca"
    ),
    "pink": (
        "ffc8d6 c2ac99 c08081 c17e91 c48379 e4717a de6fa1 e66721 c4aead c3a6b1 c7ada3 f9ccca efbbcc f4c2c2 dea5a4 "
        "d597ae d9a6a9 ead8d7 e8ccd7 ecd5c5 ea9399 e68fac f99379 ffb5ba ffb7a5"
    ),
    "brown": (
        "422518 3e322c 43302e 483c32 3b3121 3e1d1e 4b3621 593319 56070c 654522 635147 674c47 7e6d5a a67b5b 958070 "
        "977f73 ae9b82 967117 a87c6d c19a6b 6f4e37 6c541e 79443b 826644 80461b 882d17 996515"
    ),
}
"""sRGB centroids by basic term."""


@functools.lru_cache(maxsize=1)
def named_samples() -> tuple[np.ndarray, np.ndarray]:
    """All samples: uint8 RGB (n, 3) and the index of each one's name in NAMES, (n,)."""
    from matplotlib.colors import XKCD_COLORS

    terms = {word: name for name, words in EXPLAINED_AS.items() for word in words.split()} | {
        name: name for name in NAMES
    }
    pairs = [(code, NAMES.index(name)) for name, codes in ISCC_NBS.items() for code in codes.split()]
    for name, code in XKCD_COLORS.items():
        noun = str(name).removeprefix("xkcd:").replace("/", " ").split()[-1]
        if (term := terms.get(noun)) is not None:
            pairs.append((str(code).removeprefix("#"), NAMES.index(term)))
    colours = np.array([list(bytes.fromhex(code)) for code, _ in pairs], np.uint8)
    return colours, np.array([index for _, index in pairs], np.intp)
