import numpy as np
import torch

from components.shared.policy.interface import Message


def test_logprobs_equal_the_models_own_forward(shared_policy, question):
    """The library's own path (pixels in, its own positions) gives the same log-probabilities."""
    from components.shared.policy.images import patchify

    talk = (question(3), Message("assistant", "Picking Box"))
    encoded = shared_policy.layout.encode(talk)
    patches, grid = patchify(np.stack(encoded.images), shared_policy.patching)
    ids = torch.from_numpy(encoded.ids)[None]
    with torch.no_grad():
        logits = shared_policy.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=torch.from_numpy(encoded.is_image.astype(np.int32))[None],
            pixel_values=patches.flatten(0, 1),
            image_grid_thw=torch.tensor([[1, *grid]] * 3),
        ).logits
        expected = (logits[0, :-1] + shared_policy.allowed).log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        logprobs, mask = shared_policy.token_logprobs([talk])
    assert mask.sum() == len(shared_policy.codec.encode("Picking Box")) + 1
    assert torch.allclose(logprobs[0][mask[0] > 0], expected[mask[0] > 0], atol=1e-4)
