"""Paints the bench of one recording: a static background once, then a few shapes a frame.

Guarantees: layers from the bench up to the hands, the order's tag last and uncovered; returns the pixel box of every
object it painted. Not guaranteed: physical exactness; the picture is a readable diagram of the work.
"""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

from components.data_synthesis.recordings.twin.appearance import DESIGN, Colour, Look, Point
from components.data_synthesis.recordings.twin.canvas import Canvas, barcode, text_label
from components.data_synthesis.recordings.twin.gestures import Pose, label_spot, ship_spot
from components.data_synthesis.recordings.twin.script import Step

PixelBox = tuple[int, int, int, int]
_RED: Colour = (40, 40, 245)
_TOOLS = {"scanner": (52.0, 30.0), "tape": (50.0, 34.0), "pen": (40.0, 40.0)}
"""Tools and their size (width, height), in design pixels; at home they lie in a holder, half as large."""
_IN_HAND = {"scanner": (0.0, 0.0, 52.0, 30.0), "tape": (1.0, -5.5, 48.0, 31.0), "pen": (12.0, -14.0, 37.0, 45.0)}
"""What a tool covers in the leading hand: its centre from the hand's (to the side, down), width and height."""


@lru_cache(maxsize=4096)
def shade(colour: Colour, factor: float) -> Colour:
    """A darker or lighter colour."""
    b, g, r = (int(min(max(c * factor, 0), 255)) for c in colour)
    return b, g, r


class Bench:
    """Painter of one recording.

    Args:
        look: The person's workplace.
        rng: Generator of this recording (texture, texts).
        width, height: Picture size in pixels.
    """

    def __init__(self, look: Look, rng: np.random.Generator, width: int, height: int) -> None:
        self.look, self.canvas = look, Canvas(width, height)
        self.side = -1.0 if look.mirrored else 1.0
        self.texts: list[tuple[str, PixelBox]] = []
        self._bars: np.ndarray = rng.random(24) < 0.5
        self._ship = barcode(
            round(58 * self.canvas.sx), round(36 * self.canvas.sy), self._bars, look.colours["ship_label"]
        )
        self._labels: dict[int, np.ndarray] = {}
        self.background = self._paint_background(rng)

    def _paint_background(self, rng: np.random.Generator) -> np.ndarray:
        look, canvas, colours = self.look, self.canvas, self.look.colours
        height, width = canvas.pixels.shape[:2]
        canvas.pixels[:] = colours["floor"]
        canvas.rect((224, 26), 448, 58, colours["shelf"])
        for (x, y), colour in zip(look.bins, look.bin_colours, strict=True):
            canvas.rect((x, y), 46, 40, shade(colour, 0.55))
            canvas.rect((x, y), 38, 32, colour)
            for _ in range(5):
                dx, dy = rng.uniform(-13, 13), rng.uniform(-10, 10)
                canvas.rect((x + dx, y + dy), 9, 8, shade(colour, rng.uniform(0.6, 1.4)))
        x, y, w, h = look.bench
        canvas.rect((x + w / 2, y + h / 2), w, h, colours["bench"])
        back = look.points["back"]
        canvas.rect((back[0], back[1]), 62, 190, colours["back_table"])
        for name, size in (("printer", (44, 32)), ("ship_printer", (54, 34))):
            at = look.points[name]
            canvas.rect(at, *size, colours["printer"])
            canvas.rect((at[0], at[1] + size[1] * 0.25), size[0] * 0.7, 6, (210, 210, 210))
        grain = rng.normal(0, look.grain, (height, width, 1))
        gx = np.linspace(-0.5, 0.5, width)[None, :, None] * look.tilt[0]
        gy = np.linspace(-0.5, 0.5, height)[:, None, None] * look.tilt[1]
        lit = canvas.pixels * (1 + gx + gy) + grain
        canvas.pixels[:] = np.clip(lit, 0, 255).astype(np.uint8)
        self._paint_texts(rng)
        return canvas.pixels.copy()

    def _paint_texts(self, rng: np.random.Generator) -> None:
        """Shelf labels: a letter and two digits each."""
        canvas = self.canvas
        w, h = round(32 * canvas.sx), round(13 * canvas.sy)
        for x, y in self.look.bins:
            text = f"{'ABCDEFGH'[int(rng.integers(8))]}{int(rng.integers(10, 100))}"
            canvas.blit(text_label(text, w, h, (225, 230, 230), 0.36 * canvas.sx), (x, y + 22))
            box = canvas.bounds((x, y + 22), 32, 13)
            if box:
                self.texts.append((text, box))

    def order_label(self, order: int) -> np.ndarray:
        """The small box label with the order's number."""
        if order not in self._labels:
            w, h = round(42 * self.canvas.sx), round(28 * self.canvas.sy)
            colour = self.look.colours["box_label"]
            self._labels[order] = text_label(f"B{order % 1000:02d}", w, h, colour, 0.48 * self.canvas.sx)
        return self._labels[order]

    def paint(self, step: Step, pose: Pose, left: Point, right: Point) -> dict[str, PixelBox | None]:
        """Paint one frame without its tag; returns the objects' pixel boxes."""
        np.copyto(self.canvas.pixels, self.background)
        boxes: dict[str, PixelBox | None] = {}
        self._tools(pose, boxes)
        self._sheet(step, pose)
        self._items(step, pose)
        self._box(step, pose, boxes)
        self._body(left, right)
        held_at = self._held(step, pose, left, right, boxes)
        self._hand(self.look.points["shoulder_l"], left)
        self._hand(self.look.points["shoulder_r"], right)
        if held_at is not None:
            self._tool(pose.held or "", held_at)
        size = self.look.hand * 2
        boxes["left_hand"] = self.canvas.bounds(left, size, size)
        boxes["right_hand"] = self.canvas.bounds(right, size, size)
        return boxes

    def _tools(self, pose: Pose, boxes: dict[str, PixelBox | None]) -> None:
        """Tools that nobody holds lie in their holders."""
        for name, (w, h) in _TOOLS.items():
            at = self.look.points[name]
            self.canvas.rect(at, w * 0.6, h * 0.6, shade(self.look.colours["bench"], 0.7))
            if pose.held != name:
                self.canvas.rect(at, w * 0.4, h * 0.36, shade(self.look.colours[name], 0.8))
                boxes[name] = self.canvas.bounds(at, w * 0.4, h * 0.36)

    def _tool(self, name: str, at: Point) -> None:
        """A tool in the leading hand."""
        canvas, colour, s = self.canvas, self.look.colours[name], self.side
        x, y = at
        if name == "scanner":
            canvas.line((x - 14 * s, y + 4), (x + 14 * s, y - 4), 22, colour)
            canvas.rect((x - 14 * s, y + 5), 12, 18, shade(colour, 2.4))
        elif name == "tape":
            canvas.rect((x, y), 46, 20, colour)
            canvas.disc((x + 10 * s, y - 6), 15, colour)
            canvas.disc((x + 10 * s, y - 6), 6, self.look.colours["tape_strip"])
        elif name == "pen":
            canvas.line((x - 2 * s, y + 4), (x + 26 * s, y - 32), 9, colour)

    def _sheet(self, step: Step, pose: Pose) -> None:
        canvas, at, colours = self.canvas, self.look.points["sheet"], self.look.colours
        canvas.rect(at, 62, 74, shade(colours["bench"], 0.5))
        canvas.rect(at, 54, 66, colours["sheet"])
        done = 1.0 if step.before.written else (pose.sheet_lines or 0.0)
        for row in range(4):
            share = min(max(done * 4 - row, 0.0), 1.0)
            if share > 0:
                width = 40 * share
                canvas.rect((at[0] - (20 - width / 2) * self.side, at[1] - 22 + 12 * row), width, 4, colours["pen"])
        for k in range(step.before.sheet_labels):
            canvas.rect((at[0] + (-14 + 14 * k) * self.side, at[1] + 25), 11, 9, colours["item_label"])

    def _items(self, step: Step, pose: Pose) -> None:
        at = self.look.points["staging"]
        colour = self.look.colours["item"]
        shown = step.before.staged + (1 if step.operation == 200 and not step.before.staged else 0)
        if step.operation == 400:
            shown = max(shown - 1, 0)
        for k in range(shown):
            self.canvas.rect((at[0] - 18 + 18 * k, at[1] + 24 + 4 * (k % 2)), 17, 20, shade(colour, 0.6 + 0.08 * k))

    def _box(self, step: Step, pose: Pose, boxes: dict[str, PixelBox | None]) -> None:
        state, op = step.before, step.operation
        present = state.box in {"open", "closed"} or op in {300, 400, 500, 600, 700, 800, 900}
        away = state.box == "away" and op != 900
        if away:
            back = self.look.points["back"]
            boxes["box"] = self.canvas.bounds(back, *self._carton(back, step, pose, open_box=False))
        if not present or away:
            if not away:
                boxes["box"] = None
            return
        at = pose.box_at or self.look.points["box"]
        open_box = op in {300, 400} or (op == 500 and (pose.flaps or 0) > 0.02)
        open_box = open_box or (state.box == "open" and op not in {500, 600, 700, 800, 900})
        boxes["box"] = self.canvas.bounds(at, *self._carton(at, step, pose, open_box=open_box))

    def _carton(self, at: Point, step: Step, pose: Pose, *, open_box: bool) -> tuple[float, float]:
        """Paint the box; returns what it covers with its flaps: width and height."""
        canvas, colour, state = self.canvas, self.look.colours["carton"], step.before
        w, h = self.look.box[0] * pose.unfold, self.look.box[1] * (0.5 + 0.5 * pose.unfold)
        x, y = at
        if open_box:
            flaps = pose.flaps if pose.flaps is not None else 1.0
            out = 20 * flaps
            canvas.rect(at, w + 2 * out, h * 0.86, shade(colour, 1.15))
            canvas.rect(at, w * 0.86, h + 2 * out, shade(colour, 1.08))
            canvas.rect(at, w, h, colour)
            inner = shade(colour, 0.42)
            canvas.rect(at, (w - 10) * max(flaps, 0.15), h - 10, inner)
            for k in range(state.packed):
                dx, dy = (-0.24 + 0.24 * k) * w, (0.1 if k % 2 else -0.12) * h
                canvas.rect((x + dx, y + dy), 17, 20, shade(self.look.colours["item"], 0.55 + 0.08 * k))
            return w + 2 * out, h + 2 * out
        canvas.rect(at, w, h, colour)
        canvas.rect(at, w, 2, shade(colour, 0.6))
        strip = pose.strip if step.operation == 500 and pose.strip is not None else 1.0
        if strip > 0:
            length = w * strip
            canvas.rect((x - (w - length) / 2 * self.side, y), length, 11, self.look.colours["tape_strip"])
        dx, dy = x - self.look.points["box"][0], y - self.look.points["box"][1]
        if state.box_label:
            spot = label_spot(self.look)
            canvas.blit(self.order_label(step.order), (spot[0] + dx, spot[1] + dy))
        if state.shipping_label:
            spot = ship_spot(self.look)
            canvas.blit(self._ship, (spot[0] + dx, spot[1] + dy))
        return w, h

    def _held(
        self, step: Step, pose: Pose, left: Point, right: Point, boxes: dict[str, PixelBox | None]
    ) -> Point | None:
        """Paint what lies under the hand; return where a tool that lies over the hand goes."""
        canvas, colours = self.canvas, self.look.colours
        if pose.held in _TOOLS:
            dx, dy, w, h = _IN_HAND[pose.held]
            boxes[pose.held] = canvas.bounds((right[0] + dx * self.side, right[1] + dy), w, h)
            if pose.beam is not None:
                spot = label_spot(self.look)
                canvas.line(
                    (right[0] - 14 * self.side, right[1] + 8), (spot[0] + 24 * pose.beam, spot[1] + 14), 9, _RED
                )
                canvas.rect((spot[0] + 24 * pose.beam, spot[1]), 12, 44, _RED)
            return right
        if pose.held == "item":
            at = (right[0], right[1] - 14)
            canvas.rect(at, 34, 32, colours["item"])
            boxes["held"] = canvas.bounds(at, 34, 32)
        elif pose.held == "item_label":
            at = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2 - 14)
            canvas.rect(at, 38, 28, colours["item_label"])
            boxes["held"] = canvas.bounds(at, 38, 28)
        elif pose.held == "box_label":
            at = (right[0], right[1] - 16)
            canvas.blit(self.order_label(step.order), at)
            boxes["held"] = canvas.bounds(at, 42, 28)
        elif pose.held == "ship_label":
            at = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
            canvas.blit(self._ship, at)
            boxes["held"] = canvas.bounds(at, 58, 36)
        return None

    def _body(self, left: Point, right: Point) -> None:
        lean = ((left[0] + right[0]) / 2 - DESIGN[0] / 2) * 0.12
        colours = self.look.colours
        centre = (DESIGN[0] / 2 + lean, 350.0)
        self.canvas.rect(centre, 118, 44, colours["sleeve"])
        self.canvas.disc((centre[0], 338), 24, colours["hair"])

    def _hand(self, shoulder: Point, at: Point) -> None:
        dx, dy = at[0] - shoulder[0], at[1] - shoulder[1]
        length = math.hypot(dx, dy) or 1.0
        elbow = (shoulder[0] + dx * 0.62, shoulder[1] + dy * 0.62)
        r, colours = self.look.hand, self.look.colours
        self.canvas.line(shoulder, elbow, r * 1.7, colours["sleeve"])
        self.canvas.line(elbow, at, r * 1.15, shade(colours["skin"], 0.9))
        self.canvas.disc(at, r, colours["skin"])
        ux, uy = dx / length, dy / length
        for spread in (-0.55, 0.0, 0.55):
            tip = (at[0] + (ux - uy * spread) * r * 1.5, at[1] + (uy + ux * spread) * r * 1.5)
            self.canvas.line(at, tip, r * 0.42, shade(colours["skin"], 1.05))


def camera_matrix(look_rng: np.random.Generator, strength: float, width: int, height: int) -> np.ndarray | None:
    """A shifted camera as an affine map (2, 3), None when `strength` is 0."""
    if strength == 0:
        return None
    angle, zoom = look_rng.uniform(-12, 12) * strength, 1 + look_rng.uniform(-0.15, 0.15) * strength
    matrix = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), angle, zoom), np.float64)
    offset = np.zeros((2, 3))
    offset[:, 2] = look_rng.uniform(-0.08, 0.08, 2) * strength * width
    return matrix + offset
