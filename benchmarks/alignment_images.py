"""Image-text alignment from scratch on real photos: recall on held-out images against chance, with intervals.

    python benchmarks/alignment_images.py --data ../shared/data

Reads flickr8k (captions.csv, images/) and COCO (annotations/*.json, train2017/), 5 captions an image. Every fifth image
is held out, and each held-out image has one caption in the gallery. The step's own trainer runs its frames stage: an
image against a caption of its own drawn anew each step. So few images cannot make a good model from scratch; the figure
is what it is. Intervals: bootstrap over held-out images.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from components.alignment.config import AlignmentConfig
from components.alignment.corpus import Corpus
from components.alignment.features import frame_features
from components.alignment.trainer import Trainer
from components.shared.encoders.config import EncoderConfig, TextShape, VisionShape
from components.shared.encoders.model import build_model

Pairs = list[tuple[Path, list[str]]]


def read_pairs(data: Path) -> Pairs:
    """(image, its captions) of both sets, by name."""
    found: dict[Path, list[str]] = {}
    with open(data / "flickr8k" / "captions.csv", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(data / "flickr8k" / "images" / row["image"], []).append(row["caption"])
    for path in sorted((data / "coco_mini" / "annotations").glob("*caption*.json")):
        value = json.loads(path.read_text())
        names = {item["id"]: item["file_name"] for item in value["images"]}
        for item in value["annotations"]:
            found.setdefault(data / "coco_mini" / "train2017" / names[item["image_id"]], []).append(item["caption"])
    return [(path, captions) for path, captions in sorted(found.items()) if path.is_file()]


def pixels(path: Path, size: int) -> np.ndarray:
    """The middle square of a photo, (size, size, 3) RGB."""
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)


def corpus(pairs: Pairs, size: int) -> Corpus:
    """One frame an image, repeated with a label for each caption."""
    images = np.stack([pixels(path, size) for path, _ in pairs])
    owners = np.array([index for index, (_, captions) in enumerate(pairs) for _ in captions])
    count = len(owners)
    made = Corpus(
        metas=[None] * count,  # type: ignore[list-item]
        frames=images[owners][:, None],
        times_s=np.zeros((count, 1), np.float32),
        mask=np.ones((count, 1), bool),
        labels=np.arange(count)[:, None],
        captions=[caption for _, captions in pairs for caption in captions],
        sounds=[None] * count,
    )
    return made


@torch.inference_mode()
def recalls(model: Any, pairs: Pairs, size: int) -> dict[str, Any]:
    """R@1, 5, 10 both ways at each width, with chance and 95 % intervals."""
    frames = np.stack([pixels(path, size) for path, _ in pairs])[:, None]
    images = model.vision.frames(frame_features(model, frames)[:, 0]).mrl
    texts = model.text([captions[0] for _, captions in pairs]).mrl
    rng, count = np.random.default_rng(0), len(pairs)
    found: dict[str, Any] = {"num_images": count}
    for width, rows in images.items():
        similarity = (rows @ texts[width].T).numpy()
        for way, table in (("image_to_text", similarity), ("text_to_image", similarity.T)):
            rank = (table >= np.diag(table)[:, None]).sum(axis=1) - 1
            for k in (1, 5, 10):
                hit = rank < k
                drawn = [hit[rng.integers(count, size=count)].mean() for _ in range(2000)]
                low, high = np.percentile(drawn, [2.5, 97.5])
                found[f"{way} R@{k} at {width}"] = {
                    "recall": round(float(hit.mean()), 3),
                    "interval": [round(float(low), 3), round(float(high), 3)],
                    "chance": round(k / count, 3),
                }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=56)
    given = parser.parse_args()
    pairs = read_pairs(given.data)
    held, train = pairs[::5], [pair for index, pair in enumerate(pairs) if index % 5]
    encoder = EncoderConfig(
        vision_tower=VisionShape(image_size=given.size, tokens="merged"), text_tower=TextShape(vocabulary=2000)
    )
    config = AlignmentConfig(
        encoder=encoder, frame_steps=given.steps, frames_per_step=given.batch, clip_steps=0, w_mrl=0.5, weight_decay=0.2
    )
    torch.manual_seed(0)
    texts = [caption for _, captions in train for caption in captions]
    model, began = build_model(encoder, texts), time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        curve = Trainer(config, model, corpus(train, given.size), texts, Path(work), "images").run()
    result = {"num_train_images": len(train), "num_train_captions": len(texts), "last_loss": round(curve[-1][1], 3)}
    result |= {"seconds": round(time.monotonic() - began), **recalls(model.eval(), held, given.size)}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
