"""A conversation as tokens: ids, three-dimensional positions, where images go, which tokens are learned.

Role: Qwen's chat layout, `<|im_start|>role\\n ... <|im_end|>\\n`, a tool's result inside a user turn. Each image is
preceded by its timestamp (or, without one, stands alone in its turn), so that two images are never adjacent.
Positions follow `get_rope_index` of transformers (tested equal): text counts up in all three axes, an image's tokens
share the temporal position and spread over height and width, and the text goes on after the largest of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from components.shared.policy.images import Patching, image_key
from components.shared.policy.interface import Conversation, Message
from components.shared.policy.tokenizer import TextCodec
from components.shared.runtime.errors import InputError


@dataclass(frozen=True)
class Encoded:
    """One conversation, L tokens.

    Attributes:
        ids: int64 (L,).
        is_image: bool (L,), True at image placeholders.
        learn: bool (L,), True at tokens the loss covers.
        positions: int64 (3, L).
        images: The images in order.
        image_keys: Their digests, by which features are looked up and equal conversations are found.
        image_ends: Position of each image's last token.
    """

    ids: np.ndarray
    is_image: np.ndarray
    learn: np.ndarray
    positions: np.ndarray
    images: tuple[np.ndarray, ...] = field(repr=False)
    image_keys: tuple[bytes, ...] = field(repr=False)
    image_ends: tuple[int, ...] = ()

    @property
    def next_position(self) -> int:
        """Position of the token that follows."""
        return int(self.positions.max()) + 1 if self.ids.size else 0


class Layout:
    """Turns conversations into tokens for one tokenizer and image size."""

    def __init__(self, codec: TextCodec, patching: Patching, *, image_markers: bool, system: str = "") -> None:
        self.codec, self.patching, self.image_markers, self.system = codec, patching, image_markers, system

    def encode_all(
        self, conversations: Sequence[Conversation], *, generate: bool = False, beginnings: Sequence[str] = ()
    ) -> list[Encoded]:
        """Encode conversations; an image that several hold (rollouts of one question do) is digested once."""
        digests: dict[int, bytes] = {}
        starts = beginnings or [""] * len(conversations)
        return [
            self.encode(conversation, generate=generate, beginning=start, digests=digests)
            for conversation, start in zip(conversations, starts, strict=True)
        ]

    def encode(
        self,
        conversation: Conversation,
        *,
        generate: bool = False,
        beginning: str = "",
        digests: dict[int, bytes] | None = None,
    ) -> Encoded:
        """Encode a conversation; with `generate` the assistant's header and the beginning of its message follow.

        `digests` are those of images encoded before, by `id`, while somebody holds these images; it grows.
        """
        writer = _Writer(self, {} if digests is None else digests)
        if self.system and not (conversation and conversation[0].role == "system"):
            conversation = (Message("system", self.system), *conversation)
        for index, message in enumerate(conversation):
            writer.message(message, last=index == len(conversation) - 1)
        if generate:
            writer.text((self.codec.turn_start, *self.codec.encode("assistant\n"), *self.codec.encode(beginning)))
        return writer.finish()


class _Writer:
    """Accumulates one conversation."""

    def __init__(self, layout: Layout, digests: dict[int, bytes]) -> None:
        self.layout, self.codec, self.digests = layout, layout.codec, digests
        self.ids: list[int] = []
        self.learn: list[bool] = []
        self.spans: list[tuple[int, int, int]] = []
        self.images: list[np.ndarray] = []

    def text(self, ids: tuple[int, ...], learn: bool = False) -> None:
        self.ids.extend(ids)
        self.learn.extend([learn] * len(ids))

    def message(self, message: Message, *, last: bool) -> None:
        codec = self.codec
        role = "user" if message.role == "tool" else message.role
        self.text((codec.turn_start, *codec.encode(f"{role}\n")))
        if message.role == "tool":
            self.text(codec.encode("<tool_response>"))
        for index, image in enumerate(message.images):
            stamp = f"{message.image_times_s[index]:.1f}" if message.image_times_s else ""
            if index and not stamp:
                stamp = "\n"
            self.text(codec.encode(stamp))
            self.image(image)
        if message.role == "assistant":
            self.assistant(message, last=last)
            return
        self.text(codec.encode(message.text))
        if message.role == "tool":
            self.text(codec.encode("</tool_response>"))
        self.text((codec.turn_end, *codec.encode("\n")))

    def assistant(self, message: Message, *, last: bool) -> None:
        """The policy's own words: exactly the sampled tokens where they are known."""
        codec = self.codec
        if message.token_ids is None:
            self.text((*codec.encode(message.text), codec.turn_end), message.learn)
        else:
            self.text(message.token_ids[: message.forced])
            self.text(message.token_ids[message.forced :], message.learn)
            if not last and (not message.token_ids or message.token_ids[-1] != codec.turn_end):
                self.text((codec.turn_end,))
        if not last:
            self.text(codec.encode("\n"))

    def image(self, image: np.ndarray) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(
                f"an image of shape {image.shape} and type {image.dtype} cannot be shown to the policy.",
                remedy="Give uint8 RGB of shape (height, width, 3).",
            )
        if self.layout.image_markers:
            self.text((self.codec.vision_start,))
        rows, columns = self.layout.patching.token_grid(*image.shape[:2])
        self.spans.append((len(self.ids), rows, columns))
        self.images.append(image)
        self.text((self.codec.image,) * (rows * columns))
        if self.layout.image_markers:
            self.text((self.codec.vision_end,))

    def digest(self, image: np.ndarray) -> bytes:
        if id(image) not in self.digests:
            self.digests[id(image)] = image_key(image)
        return self.digests[id(image)]

    def finish(self) -> Encoded:
        length = len(self.ids)
        positions = np.empty((3, length), np.int64)
        is_image = np.zeros(length, bool)
        cursor = position = 0
        for start, rows, columns in self.spans:
            positions[:, cursor:start] = np.arange(position, position + start - cursor)
            position += start - cursor
            size = rows * columns
            positions[0, start : start + size] = position
            positions[1, start : start + size] = position + np.repeat(np.arange(rows), columns)
            positions[2, start : start + size] = position + np.tile(np.arange(columns), rows)
            is_image[start : start + size] = True
            position += max(rows, columns)
            cursor = start + size
        positions[:, cursor:] = np.arange(position, position + length - cursor)
        ids = np.array(self.ids, np.int64)
        ends = tuple(start + rows * columns - 1 for start, rows, columns in self.spans)
        keys = tuple(self.digest(image) for image in self.images)
        return Encoded(ids, is_image, np.array(self.learn, bool), positions, tuple(self.images), keys, ends)
