"""OpenPack's operations: official ids, names, captions and the usual order in which they are done.

Role: the one place that knows these ids. Nothing outside the recordings step needs them: the manifest carries names.
"""

from __future__ import annotations

NULL_ID = 8100
NULL_NAME = "Null"

NAMES: dict[int, str] = {
    100: "Picking",
    200: "Relocate Item Label",
    300: "Assemble Box",
    400: "Insert Items",
    500: "Close Box",
    600: "Attach Box Label",
    700: "Scan Label",
    800: "Attach Shipping Label",
    900: "Put on Back Table",
    1000: "Fill out Order",
    NULL_ID: NULL_NAME,
}

CAPTIONS: dict[str, str] = {
    "Picking": "picking items from the shelf",
    "Relocate Item Label": "moving item labels onto the order sheet",
    "Assemble Box": "folding a cardboard box open",
    "Insert Items": "putting items into the open box",
    "Close Box": "closing the box with tape",
    "Attach Box Label": "sticking a small label on the box",
    "Scan Label": "scanning the label with a red beam",
    "Attach Shipping Label": "sticking the large shipping label on the box",
    "Put on Back Table": "carrying the box to the back table",
    "Fill out Order": "writing on the order sheet with a pen",
}

LABELS: tuple[str, ...] = tuple(name for number, name in NAMES.items() if number != NULL_ID)
"""The scored names in the order of their ids."""
