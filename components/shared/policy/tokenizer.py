"""The tiny tokenizer, and the codec that turns text into tokens without ever producing a control token.

Role: `build_tokenizer` makes a byte-level BPE whose added tokens are the label names, the fragments of the answer and
call formats, times in tenths of a second, frame indices, grid boxes and close-up values: an answer is then about ten
tokens long. `TextCodec` wraps any Qwen tokenizer.json.
Guarantees: every text survives encode and decode; text can never contain a control token (`<|im_end|>` written by a
user becomes ordinary bytes).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from components.shared.runtime.artifacts import write_json
from components.shared.runtime.errors import ArtifactError

TOKENIZER_FILE = "tokenizer.json"
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
CONTROL = (END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE, VIDEO)

ROLES = ("system\n", "user\n", "assistant\n")
ANSWER_FRAGMENTS = (
    '{"operation": "',
    '", "start_s": ',
    ', "end_s": ',
    ', "next_operation": "',
    ', "next_operation": null}',
    '{"value": "',
    '"}',
)
CALL_FRAGMENTS = ('{"name": "', '", "arguments": {"frame": ', ', "box": ', "}}", "<think>", "</think>")
TOOL_FRAGMENTS = ("<tool_response>", "</tool_response>")


def grid_boxes(cells: int = 4) -> list[str]:
    """The cells of a square grid in thousandths of the frame, as a call writes them."""
    edges = [round(1000 * index / cells) for index in range(cells + 1)]
    return [f"[{edges[x]}, {edges[y]}, {edges[x + 1]}, {edges[y + 1]}]" for y in range(cells) for x in range(cells)]


def build_tokenizer(
    labels: Sequence[str],
    *,
    choices: Sequence[str] = (),
    operations: Sequence[str] = ("ZOOM_IN",),
    phrases: Sequence[str] = (),
    corpus: Iterable[str] = (),
    num_frames: int = 16,
    duration_s: float = 5.0,
    vocabulary: int = 600,
) -> Tokenizer:
    """Train the tiny tokenizer.

    Args:
        labels: Label names, each one token.
        choices: Close-up values, each one token.
        operations: Names of visual operations, each one token.
        phrases: Fixed sentences of prompts, each one token.
        corpus: Texts the byte pairs are learned from.
        num_frames: Frame indices 0 .. num_frames - 1 are tokens.
        duration_s: Times 0.0 .. duration_s in tenths are tokens.
        vocabulary: Upper bound of byte pairs (256 bytes included).
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(CONTROL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*labels, *phrases, *corpus], trainer)
    tenths = [f"{tenth / 10:.1f}" for tenth in range(round(duration_s * 10) + 1)]
    words = (*ROLES, *ANSWER_FRAGMENTS, *CALL_FRAGMENTS, *TOOL_FRAGMENTS, *labels, *choices, *operations, *phrases)
    words = (*words, *tenths, *(str(index) for index in range(num_frames)), *grid_boxes())
    unique = dict.fromkeys(word for word in words if word)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in unique])
    return tokenizer


class TextCodec:
    """Text to token ids and back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode_special_tokens = True  # control tokens inside a text are split into ordinary pieces
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        self._plain = {number: token.content for number, token in added.items() if not token.special}
        self.control = frozenset(
            number
            for number, token in added.items()
            if token.special or (token.content.startswith("<|") and token.content.endswith("|>"))
        )
        missing = [name for name in CONTROL if tokenizer.token_to_id(name) is None]
        if missing:
            raise ArtifactError(f"the tokenizer lacks {', '.join(missing)}, so it is not one of a Qwen2.5-VL model.")
        self.turn_start, self.turn_end, self.end_of_text = map(self.control_id, (TURN_START, TURN_END, END_OF_TEXT))
        self.image, self.vision_start, self.vision_end = map(self.control_id, (IMAGE, VISION_START, VISION_END))
        self.encode = lru_cache(maxsize=65536)(self._encode)

    @classmethod
    def load(cls, base: Path) -> TextCodec:
        """The codec of a base folder."""
        path = base / TOKENIZER_FILE
        if not path.is_file():
            raise ArtifactError(f"{path} is missing, so the policy cannot read text.", remedy="Run base_model again.")
        return cls(Tokenizer.from_file(str(path)))

    def save(self, base: Path) -> None:
        """Write tokenizer.json and the tokenizer_config.json by which transformers loads it."""
        self._tokenizer.save(str(base / TOKENIZER_FILE))
        write_json(
            base / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": TURN_END,
                "pad_token": END_OF_TEXT,
                "clean_up_tokenization_spaces": False,
            },
        )

    def control_id(self, name: str) -> int:
        """Id of a control token."""
        number = self._tokenizer.token_to_id(name)
        if number is None:
            raise ArtifactError(f"the tokenizer has no token {name}.")
        return number

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens; control tokens are left out."""
        parts: list[str] = []
        run: list[int] = []
        for number in (*ids, None):
            if number is not None and number not in self._plain and number not in self.control:
                run.append(number)
                continue
            if run:
                parts.append(self._tokenizer.decode(run, skip_special_tokens=True))
                run = []
            if number is not None and number in self._plain:
                parts.append(self._plain[number])
        return "".join(parts)
