"""Encoders' shapes, the artifact's round trip, and refusals."""

import json

import numpy as np
import pytest
import torch

from components.shared.encoders.audio import decode_audio
from components.shared.encoders.config import AudioShape, EncoderConfig, TextShape, VisionShape
from components.shared.encoders.encoder import load_encoder
from components.shared.encoders.model import CARD, WEIGHTS, build_model
from components.shared.runtime.errors import ArtifactError, ConfigError, InputError

TINY = EncoderConfig(
    widths=(4, 16),
    num_latents=2,
    perceiver_heads=2,
    vision_tower=VisionShape(image_size=28, patch_size=14, hidden=16, layers=1, heads=2),
    text_tower=TextShape(vocabulary=300, hidden=16, layers=1, heads=2),
    audio_tower=AudioShape(hidden=16, layers=1, heads=2, num_mel_bins=20, seconds=1.0),
)
TEXTS = ["picking from the shelf", "scanning the label"]


def model(**changes):
    torch.manual_seed(0)
    return build_model(TINY.model_copy(update=changes), TEXTS).eval()


def frames(count: int, size: int = 28) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture
def saved(tmp_path):
    model().save(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_round_trip_gives_the_same_embeddings(saved):
    encoder, original = load_encoder(saved), model()
    clip, times = frames(5), [0.0, 0.4, 1.0, 2.0, 4.5]
    got = encoder.embed_clip(clip, times)
    assert {width: (row.shape, row.dtype) for width, row in got.items()} == {
        4: ((4,), np.float32),
        16: ((16,), np.float32),
    }
    with torch.inference_mode():
        text = original.text(TEXTS).mrl[16].numpy()
    assert np.array_equal(encoder.embed_text(TEXTS)[16], text)
    for rows in (*got.values(), *encoder.embed_text(TEXTS).values(), *encoder.embed_frames(frames(2, 64)).values()):
        assert np.allclose(np.linalg.norm(np.atleast_2d(rows), axis=1), 1, atol=1e-5)


def test_text_does_not_depend_on_its_neighbours_in_the_batch(saved):
    encoder = load_encoder(saved)
    together = encoder.embed_text(["scan", "a much longer text with ünknown words, 漢字 too"])[16]
    assert np.allclose(encoder.embed_text(["scan"])[16][0], together[0], atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-3)


def test_clips_are_embedded_alike_alone_and_together(saved):
    encoder = load_encoder(saved)
    clips = [(frames(3), [0, 1, 2]), (frames(4), [0, 1, 2, 3])]
    together = encoder.embed_clips(clips)[4]
    assert np.array_equal(together[1], encoder.embed_clip(*clips[1])[4])
    assert encoder.embed_clips([])[16].shape == (0, 16)


def test_the_order_of_frames_matters_once_pooling_has_learned(saved):
    encoder = load_encoder(saved)
    torch.nn.init.normal_(encoder.model.vision.pool.mix.weight)
    clip = frames(4)
    assert not np.allclose(
        encoder.embed_clip(clip, [0, 1, 2, 3])[16], encoder.embed_clip(clip[::-1], [0, 1, 2, 3])[16], atol=1e-3
    )


@pytest.mark.parametrize("pooling", ["mean", "attention", "perceiver"])
def test_frames_that_pad_a_clip_do_not_count(pooling):
    whole = model(pooling=pooling)
    if whole.vision.pool.mix is not None:
        torch.nn.init.normal_(whole.vision.pool.mix.weight)  # so that what is learned past the mean counts
    features, times = torch.randn(2, 4, 1, 4 * 16), torch.arange(4.0).expand(2, -1)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    dirty = features.masked_fill(~mask[..., None, None], float("nan"))
    clean, found = whole.vision.clip(features, times, mask), whole.vision.clip(dirty, times, mask)
    assert torch.equal(found.pooled, clean.pooled) and torch.equal(found.sequence, clean.sequence)
    alone = whole.vision.clip(features[:1, :2], times[:1, :2])
    assert torch.allclose(alone.pooled[0], clean.pooled[0], atol=1e-5)


def test_wrong_arrays_are_refused(saved):
    encoder = load_encoder(saved)
    with pytest.raises(ValueError, match="float32"):
        encoder.embed_frames(frames(2).astype(np.float32))
    with pytest.raises(ValueError, match="3 frames came with 2 times"):
        encoder.embed_clip(frames(3), [0, 1])


def test_damaged_artifacts_are_refused(saved):
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        load_encoder(saved)
    card = json.loads((saved / CARD).read_text())
    (saved / CARD).write_text(json.dumps(card | {"format": "other"}))
    with pytest.raises(ArtifactError, match="'other'"):
        load_encoder(saved)


def test_audio_ignores_what_lies_past_the_end(tmp_path):
    whole = model(audio=True)
    short = np.random.default_rng(0).normal(size=8000).astype(np.float32)
    mel, mask = whole.audio.mel([short, np.tile(short, 4)])
    assert mel.shape == (2, 20, 50) and mask.sum(1).tolist() == [13, 25]
    torch.nn.init.normal_(whole.audio.pool.mix.weight)  # so that the Perceiver counts
    encoded = whole.audio(mel, mask)
    assert encoded.mrl[16].shape == (2, 16) and not torch.allclose(encoded.pooled[0], encoded.pooled[1])
    features, real = whole.audio.features(mel, mask)
    assert real.sum(1).tolist() == [3, 5], "thirteen states are two tokens and three fifths of one"
    dirty = features.masked_fill(~real[..., None], float("nan"))
    assert torch.equal(whole.audio.embed(dirty, real).pooled, whole.audio.embed(features, real).pooled)
    whole.save(tmp_path / "audio")
    again = load_encoder(tmp_path / "audio").model
    assert torch.allclose(again.audio(mel, mask).pooled, encoded.pooled)


def test_sound_is_decoded_and_resampled(tmp_path):
    import av

    path = tmp_path / "tone.flac"
    tone = (np.sin(np.arange(22050) / 22050 * 2 * np.pi * 440) * 20000).astype(np.int16)[None]
    with av.open(str(path), "w") as out:
        stream = out.add_stream("flac", rate=22050, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        frame.sample_rate = 22050
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)
    sound = decode_audio(path.read_bytes())
    assert abs(len(sound) - 16000) <= 2 and sound.dtype == np.float32
    assert np.argmax(np.abs(np.fft.rfft(sound[:16000]))) == pytest.approx(440, abs=2)
    with pytest.raises(InputError, match="no embedding"):
        decode_audio(b"not a sound")


def test_pretrained_towers_from_a_local_folder(tmp_path):
    first = model()
    first.vision.tower.save_pretrained(tmp_path / "clip")
    shape = TINY.vision_tower.model_copy(update={"pretrained": str(tmp_path / "clip"), "frozen": True})
    torch.manual_seed(1)
    second = build_model(TINY.model_copy(update={"vision_tower": shape}), TEXTS)
    pixels = torch.rand(2, 3, 28, 28)
    assert torch.equal(first.vision.frame_features(pixels), second.eval().vision.frame_features(pixels))
    assert not any(p.requires_grad for p in second.vision.tower.parameters())
    with pytest.raises(ConfigError, match="no revision is given"):
        build_model(TINY.model_copy(update={"vision_tower": VisionShape(pretrained="owner/some-clip")}), TEXTS)


def test_a_sentence_encoder_with_mean_pooling(tmp_path):
    """A BERT folder in hub layout, as SentenceTransformer checkpoints are: mean over real tokens, projected."""
    from transformers import BertConfig, BertModel

    tokenizer = model().text.tokenizer
    bert = BertModel(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
    )
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    text = TextShape(pretrained=str(tmp_path / "bert"), frozen=True)
    torch.manual_seed(0)
    whole = build_model(TINY.model_copy(update={"text_tower": text}), []).eval()
    batch = tokenizer(["scan the label"], return_tensors="pt")
    hidden = bert.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    assert torch.allclose(whole.text(["scan the label"]).pooled, whole.text.projector(hidden.mean(1)), atol=1e-5)
    whole.save(tmp_path / "saved")
    again = load_encoder(tmp_path / "saved")
    assert np.allclose(again.embed_text(TEXTS)[16], whole.text(TEXTS).mrl[16].detach().numpy(), atol=1e-6)


def test_a_whisper_checkpoint_gives_its_encoder(tmp_path):
    """Released checkpoints hold the whole sequence-to-sequence model; only its encoder is taken."""
    from transformers import WhisperForConditionalGeneration

    from components.shared.encoders.audio import tiny_whisper_config

    config = tiny_whisper_config(TINY)
    config.vocab_size, config.decoder_layers, config.decoder_attention_heads, config.decoder_ffn_dim = 60, 1, 2, 16
    config.pad_token_id = config.bos_token_id = config.eos_token_id = config.decoder_start_token_id = 1
    whisper = WhisperForConditionalGeneration(config)
    whisper.save_pretrained(tmp_path / "whisper")
    audio = TINY.audio_tower.model_copy(update={"pretrained": str(tmp_path / "whisper")})
    whole = build_model(TINY.model_copy(update={"audio": True, "audio_tower": audio}), TEXTS).eval()
    mel, _ = whole.audio.mel([np.ones(9000, np.float32)])
    want = whisper.eval().model.encoder(mel).last_hidden_state
    assert torch.equal(whole.audio.tower(mel).last_hidden_state, want)


@pytest.mark.parametrize("widths", [(64, 32), (), (32, 32)])
def test_widths_must_ascend(widths):
    with pytest.raises(ValueError, match="ascending"):
        EncoderConfig(widths=widths)
