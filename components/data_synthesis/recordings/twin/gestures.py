"""What hands, tools and objects do in each operation, as a function of its phase.

Role: `GESTURES[operation](phase, look, step) -> Pose` says where both hands want to be and what they hold; `draw.py`
paints it. Every operation differs from the others in where the hands are, what they hold and how the box looks, and
every pose tells its phase.
Guarantee: pure functions; randomness only through `step.choice`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from components.data_synthesis.recordings.twin.appearance import Look, Point
from components.data_synthesis.recordings.twin.script import Step
from components.shared.work.operations import NULL_ID


@dataclass
class Pose:
    """Where things are at one moment, in design pixels.

    Attributes:
        left, right: Where the helping and the leading hand want to be.
        held: In the leading hand: `scanner`, `tape`, `pen`, `item`, `item_label`, `box_label` or `ship_label`.
        box_at: Centre of the box when it is not at its usual place.
        flaps: 1 fully open flaps, 0 closed.
        unfold: Share of the carton's full size.
        strip: Share of the tape strip that is laid.
        sheet_lines: Share of the lines written.
        beam: Offset of the scanner's beam, None when off.
    """

    left: Point
    right: Point
    held: str | None = None
    box_at: Point | None = None
    flaps: float | None = None
    unfold: float = 1.0
    strip: float | None = None
    sheet_lines: float | None = None
    beam: float | None = None


def mix(a: Point, b: Point, t: float) -> Point:
    """Point between a (t = 0) and b (t = 1)."""
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t


def ease(t: float) -> float:
    """Smooth start and stop, 0..1 to 0..1."""
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)


def _shift(p: Point, dx: float, dy: float) -> Point:
    return p[0] + dx, p[1] + dy


def _side(look: Look) -> float:
    return -1.0 if look.mirrored else 1.0


def pick(phase: float, look: Look, step: Step) -> Pose:
    """Reach to a bin of the shelf, bring an item to the bench."""
    target = look.bins[int(step.choice * 5)]
    staging = look.points["staging"]
    if phase < 0.45:
        t = ease(phase / 0.45)
        right, held = mix(_shift(staging, 0, 20), target, t), None
    else:
        t = ease((phase - 0.45) / 0.55)
        right, held = mix(target, staging, t), "item"
    return Pose(_shift(right, -30 * _side(look), 30), right, held)


def relocate(phase: float, look: Look, step: Step) -> Pose:
    """Peel the label off an item and stick it on the order sheet."""
    start, end = look.points["staging"], look.points["sheet"]
    t = ease((phase - 0.2) / 0.6)
    left = mix(_shift(start, -6, 14), _shift(end, -30 * _side(look), 10), t)
    right = _shift(left, 26 * _side(look), -12 + 3 * math.sin(phase * 18))
    return Pose(left, right, "item_label")


def assemble(phase: float, look: Look, step: Step) -> Pose:
    """Unfold the carton: both hands move apart with its sides."""
    box, (w, h) = look.points["box"], look.box
    grow = 0.25 + 0.75 * ease(phase)
    reach = w * 0.55 * grow
    lift = h * 0.15 * math.sin(phase * 12)
    side = _side(look)
    return Pose(_shift(box, -reach * side, lift), _shift(box, reach * side, -lift), unfold=grow, flaps=ease(phase))


def insert(phase: float, look: Look, step: Step) -> Pose:
    """Carry an item from beside the box into it."""
    box, staging = look.points["box"], look.points["staging"]
    t = ease(phase / 0.8)
    right = mix(staging, _shift(box, 0, 4), t)
    held = "item" if phase < 0.85 else None
    return Pose(_shift(box, -look.box[0] * 0.42 * _side(look), look.box[1] * 0.5), right, held, flaps=1.0)


def close(phase: float, look: Look, step: Step) -> Pose:
    """Fold the flaps in, then lay tape along the seam."""
    box, (w, h) = look.points["box"], look.box
    side = _side(look)
    if phase < 0.35:
        t = ease(phase / 0.35)
        reach = w * 0.7 * (1 - t) + w * 0.1
        return Pose(_shift(box, -reach * side, -h * 0.3), _shift(box, reach * side, h * 0.3), flaps=1 - t)
    t = (phase - 0.35) / 0.65
    right = _shift(box, (t - 0.5) * w * 1.1 * side, 0)
    return Pose(_shift(box, -w * 0.5 * side, h * 0.42), right, "tape", flaps=0.0, strip=t)


def attach_box_label(phase: float, look: Look, step: Step) -> Pose:
    """Take a small label from its printer and stick it on the near corner of the box."""
    start, end = look.points["printer"], label_spot(look)
    t = ease((phase - 0.15) / 0.6)
    right = mix(start, end, t)
    if phase > 0.75:
        right = _shift(right, 6 * math.sin((phase - 0.75) * 40), 0)
    return Pose(_shift(right, -22 * _side(look), 20), right, "box_label" if phase < 0.8 else None)


def scan(phase: float, look: Look, step: Step) -> Pose:
    """Hold the scanner over the box label; its beam sweeps."""
    spot, home = label_spot(look), look.points["scanner"]
    t = ease(min(phase, 1 - phase) / 0.22)
    right = mix(home, _shift(spot, 34 * _side(look), -30), t)
    beam = -1 + 2 * phase if t > 0.6 else None
    return Pose(_shift(spot, -30 * _side(look), 24), right, "scanner", beam=beam)


def attach_shipping_label(phase: float, look: Look, step: Step) -> Pose:
    """Take the large label from its printer, lay it on the box with both hands and smooth it."""
    start, end = look.points["ship_printer"], ship_spot(look)
    t = ease(phase / 0.6)
    centre = mix(start, end, t)
    stroke = 16 * math.sin((phase - 0.6) * 30) if phase > 0.6 else 0.0
    side = _side(look)
    return Pose(_shift(centre, -30 * side, 4 + stroke), _shift(centre, 30 * side, 4 - stroke), "ship_label")


def put_away(phase: float, look: Look, step: Step) -> Pose:
    """Carry the box to the back table with both hands."""
    centre = mix(look.points["box"], look.points["back"], ease(phase))
    reach = look.box[0] * 0.52
    side = _side(look)
    return Pose(_shift(centre, -reach * side, 8), _shift(centre, reach * side, 8), box_at=centre)


def fill_out(phase: float, look: Look, step: Step) -> Pose:
    """Write on the order sheet with the pen."""
    sheet = look.points["sheet"]
    row = int(phase * 4)
    along = phase * 4 - row
    side = _side(look)
    right = _shift(sheet, (-16 + 32 * along) * side + 10 * side, -22 + 12 * row + 2 * math.sin(phase * 60))
    return Pose(_shift(sheet, -34 * side, 26), right, "pen", sheet_lines=phase)


def rest(phase: float, look: Look, step: Step) -> Pose:
    """Nothing of the work: hands at the edge of the bench."""
    sway = 10 * math.sin(phase * 6 + step.choice * 6)
    return Pose(_shift(look.points["rest_l"], -sway, 6), _shift(look.points["rest_r"], sway, 6))


def label_spot(look: Look) -> Point:
    """Where the small label sits on the box."""
    return _shift(look.points["box"], -look.box[0] * 0.27 * _side(look), look.box[1] * 0.26)


def ship_spot(look: Look) -> Point:
    """Where the shipping label sits on the box."""
    return _shift(look.points["box"], look.box[0] * 0.14 * _side(look), -look.box[1] * 0.2)


GESTURES: dict[int, Callable[[float, Look, Step], Pose]] = {
    100: pick, 200: relocate, 300: assemble, 400: insert, 500: close, 600: attach_box_label, 700: scan,
    800: attach_shipping_label, 900: put_away, 1000: fill_out, NULL_ID: rest,
}  # fmt: skip
