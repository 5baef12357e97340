"""Image-text alignment from scratch on real photos: recall on held-out images against chance, with intervals.

    python benchmarks/alignment_images.py --data ../shared/data

Reads flickr8k (captions.csv, images/) and COCO (annotations/*.json, train2017/), 5 captions an image. Images fall into
five folds; a model is trained without one fold and measured on it, for each fold asked for. All captions of its
images stand in the gallery, as is usual for these sets: image -> text asks whether any of an image's own is among the
first k, text -> image whether a caption's image is. The step's own trainer runs its frames stage: crops of an image,
mirrored or not, against a caption of its own. So few images cannot make a good model from scratch; the figure is what
it is. Intervals: bootstrap over held-out images, captions with them.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from math import comb
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
KS, FOLDS, CAPTIONS = (1, 5, 10), 5, 5


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
    return [
        (path, captions[:CAPTIONS])
        for path, captions in sorted(found.items())
        if path.is_file() and len(captions) >= CAPTIONS
    ]


def square(path: Path, size: int) -> np.ndarray:
    """The middle square of a photo, (size, size, 3) RGB."""
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)


def crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square of at least 0.7 of the image's side, somewhere in it, half of the time mirrored."""
    side = round(len(image) * rng.uniform(0.7, 1.0))
    top, left = rng.integers(0, len(image) - side + 1, size=2)
    cut = image[top : top + side, left : left + side]
    return cv2.resize(cut[:, ::-1] if rng.random() < 0.5 else cut, (size, size), interpolation=cv2.INTER_AREA)


def corpus(pairs: Pairs, size: int, crops: int) -> Corpus:
    """One frame a row: for each caption as many crops of its image as asked for; the whole square where that is 0."""
    rng = np.random.default_rng(0)
    rows, labels, caption = [], [], 0
    for path, captions in pairs:
        image = square(path, 2 * size if crops else size)
        for _ in captions:
            rows += [crop(image, size, rng) for _ in range(crops)] or [image]
            labels += [caption] * max(1, crops)
            caption += 1
    count = len(rows)
    return Corpus(
        metas=[None] * count,  # type: ignore[list-item]
        frames=np.stack(rows)[:, None],
        times_s=np.zeros((count, 1), np.float32),
        mask=np.ones((count, 1), bool),
        labels=np.array(labels)[:, None],
        captions=[""] * count,
        sounds=[None] * count,
    )


@torch.inference_mode()
def hits(model: Any, pairs: Pairs, size: int) -> dict[str, np.ndarray]:
    """Which of an image's questions are answered, by question: (images, 1) to text, (images, captions) to images."""
    frames = np.stack([square(path, size) for path, _ in pairs])[:, None]
    images = model.vision.frames(frame_features(model, frames)[:, 0]).mrl
    texts = model.text([caption for _, captions in pairs for caption in captions]).mrl
    owner = torch.tensor([image for image, (_, captions) in enumerate(pairs) for _ in captions])
    found = {}
    for width, rows in images.items():
        table = rows @ texts[width].T  # (images, captions)
        own = owner[None] == torch.arange(len(pairs))[:, None]
        best = table.masked_fill(~own, -2).amax(1, keepdim=True)
        to_text = ((table >= best) & ~own).sum(1)
        to_image = ((table >= table[owner, torch.arange(len(owner))]).sum(0) - 1).reshape(len(pairs), -1)
        for k in KS:
            found[f"image_to_text R@{k} at {width}"] = (to_text < k).numpy()[:, None]
            found[f"text_to_image R@{k} at {width}"] = (to_image < k).numpy()
    return found


def summary(folds: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Recall over the images of all folds, 95 % intervals over images, and chance in a fold's gallery."""
    rng, found = np.random.default_rng(0), {}
    for question in folds[0]:
        each = np.concatenate([fold[question].mean(1) for fold in folds])
        drawn = each[rng.integers(len(each), size=(4000, len(each)))].mean(1)
        low, high = np.percentile(drawn, [2.5, 97.5])
        k = int(question.partition("R@")[2].split()[0])
        chance = float(np.mean([chance_of(len(fold[question]), k, question) for fold in folds]))
        found[question] = {
            "recall": round(float(each.mean()), 3),
            "interval": [round(float(low), 3), round(float(high), 3)],
            "chance": round(chance, 3),
            "beyond": bool(low > chance),
        }
    return found


def chance_of(images: int, k: int, question: str) -> float:
    """Random ranking: k of the images; or any of an image's captions among the first k of all."""
    if question.startswith("text"):
        return k / images
    total = images * CAPTIONS
    return 1 - comb(total - CAPTIONS, k) / comb(total, k)


def trained(train: Pairs, given: argparse.Namespace) -> tuple[Any, float]:
    """A model of these pairs, and its last loss."""
    encoder = EncoderConfig(
        vision_tower=VisionShape(image_size=given.size, tokens="merged"), text_tower=TextShape(vocabulary=2000)
    )
    config = AlignmentConfig(
        encoder=encoder, frame_steps=given.steps, frames_per_step=given.batch, clip_steps=0, w_mrl=0.5, weight_decay=0.2
    )
    torch.manual_seed(0)
    texts = [caption for _, captions in train for caption in captions]
    model = build_model(encoder, texts)
    with tempfile.TemporaryDirectory() as work:
        curve = Trainer(config, model, corpus(train, given.size, given.crops), texts, Path(work), "images").run()
    return model.eval(), curve[-1][1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=56)
    parser.add_argument("--crops", type=int, default=8, help="crops made of an image for each caption; 0: the image")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3], help="of 0 to 4; choices were made on 4")
    given = parser.parse_args()
    pairs, folds, began = read_pairs(given.data), [], time.monotonic()
    for fold in given.folds:
        train = [pair for index, pair in enumerate(pairs) if index % FOLDS != fold]
        model, loss = trained(train, given)
        folds.append(hits(model, pairs[fold::FOLDS], given.size))
        seen = summary([hits(model, train[: len(pairs) // FOLDS], given.size)])["image_to_text R@1 at 128"]["recall"]
        print(
            f"fold {fold}: last loss {loss:.3f}, training images R@1 {seen}, {time.monotonic() - began:.0f} s",
            flush=True,
        )
    print(json.dumps({"num_images": sum(len(next(iter(fold.values()))) for fold in folds), **summary(folds)}, indent=1))


if __name__ == "__main__":
    main()
