"""The recursion: z reaches y, depth matters, gradients stop where TRM stops them, halting is a token's own."""

import pytest
import torch

from components.shared.policy.shapes import RecursionShape
from components.shared.policy.trm import Refiner, recurse, supervised_step
from components.shared.policy.trm_decoder import CausalTrm, load_causal_trm, visible
from components.shared.runtime.errors import ArtifactError, ConfigError

SHAPE = RecursionShape(width=16, slots=3, heads=2, layers=2, latent_steps=2, cycles=2, supervised_steps=2)


def refiner(seed=0, **changes):
    torch.manual_seed(seed)
    return Refiner(24, SHAPE.model_copy(update=changes))


def decoder(seed=0, **changes):
    torch.manual_seed(seed)
    return CausalTrm(50, SHAPE.model_copy(update=changes))


@pytest.fixture
def states():
    return torch.randn(5, 7, 24, generator=torch.Generator().manual_seed(1))


def decoded(model, embeds, **more):
    positions = torch.arange(embeds.shape[1])[None].expand(len(embeds), -1)
    return model.model(inputs_embeds=embeds, attention_mask=None, position_ids=positions, **more)


@pytest.mark.parametrize(
    "latent_steps, y, z",
    [
        (1, 2 * (1 + 2 * (0 + 1 + 3)), 2 * (0 + 1 + 3)),
        (2, 2 * (1 + 2 * (8 + 1 + 3)), 2 * (8 + 1 + 3)),
    ],
)
def test_a_round_by_hand(latent_steps, y, z):
    """f(s) = 2s, x = 3, y = 1, z = 0: z <- f(z + (y + x)), then y <- f(y + z)."""
    x, one, zero = torch.tensor(3.0), torch.tensor(1.0), torch.tensor(0.0)
    got = recurse(lambda s: 2 * s, x, one, zero, latent_steps)
    assert [float(value) for value in got] == [y, z]


def test_the_start_of_z_changes_y(states):
    """The failure to avoid: y that never looks at z."""
    model = refiner(cycles=1, supervised_steps=1)
    before = model(states)
    model.z_start.add_(0.5)
    assert (model(states) - before).abs().amax(-1).min() > 1e-3, "every token's answer changes"


def test_the_start_of_z_changes_y_in_the_decoder(states):
    model = decoder(cycles=1, supervised_steps=1)
    embeds = model.model.embed_tokens(torch.randint(50, (2, 6)))
    before = decoded(model, embeds).last_hidden_state
    model.model.z_start.add_(0.5)
    assert (decoded(model, embeds).last_hidden_state - before).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("deeper", [{"latent_steps": 3}, {"cycles": 3}, {"supervised_steps": 3}])
def test_deeper_recursion_changes_the_result(states, deeper):
    plain, deep = refiner(), refiner(**deeper)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), deep.state_dict().values(), strict=True))
    assert not torch.allclose(plain(states), deep(states), atol=1e-3)
    embeds = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(2))
    assert not torch.allclose(
        decoded(decoder(), embeds).last_hidden_state, decoded(decoder(**deeper), embeds).last_hidden_state, atol=1e-3
    )


def test_only_the_last_round_of_a_step_has_a_gradient():
    weight = torch.tensor(0.5, requires_grad=True)
    network = lambda s: weight * s
    x, y, z = torch.tensor(3.0), torch.tensor(1.0), torch.tensor(0.0)
    shape = SHAPE.model_copy(update={"cycles": 3})
    (grad,) = torch.autograd.grad(supervised_step(network, x, y, z, shape)[0], weight)
    with torch.no_grad():
        for _ in range(2):
            y, z = recurse(network, x, y, z, shape.latent_steps)
    (wanted,) = torch.autograd.grad(recurse(network, x, y, z, shape.latent_steps)[0], weight)
    assert torch.equal(grad, wanted)


def test_what_is_carried_to_the_next_step_has_no_gradient(states):
    """The second step's loss teaches as if its start had been given: the same as from constants."""
    model = refiner(cycles=1)
    flat = states.flatten(0, 1)
    x = model.down_proj(flat).unflatten(-1, (3, 16))
    y, z = (start.expand_as(x) for start in (model.y_start, model.z_start))
    with torch.no_grad():
        y, z = supervised_step(model.network, x, y, z, model.shape)
    y, _ = supervised_step(model.network, x, y, z, model.shape)
    wanted = torch.autograd.grad(
        (flat + model.up_proj(y.flatten(1))).square().sum(), model.layers[0].mlp.up_proj.weight
    )
    got = torch.autograd.grad(model.steps(states)[1][0].square().sum(), model.layers[0].mlp.up_proj.weight)
    assert torch.allclose(got[0], wanted[0], rtol=1e-4, atol=1e-5)


def test_every_step_is_supervised(states):
    model = refiner()
    made = model.steps(states)
    assert len(made) == 2
    for refined, halting in made:
        assert halting is None
        (grad,) = torch.autograd.grad(refined.sum(), model.layers[0].self_attn.v_proj.weight, retain_graph=True)
        assert grad.abs().max() > 0


def test_a_token_is_refined_by_itself(states):
    model = refiner()
    other = states.clone()
    other[2, 3] += 1.0
    before, after = model(states), model(other)
    same = torch.ones(5, 7, dtype=torch.bool)
    same[2, 3] = False
    assert torch.allclose(before[same], after[same], atol=1e-6)
    assert not torch.allclose(before[2, 3], after[2, 3], atol=1e-2)
    assert torch.allclose(model(states[2, 3]), before[2, 3], atol=1e-5)


@pytest.mark.parametrize("bias, steps", [(100.0, 1), (-100.0, 4)])
def test_halting_ends_the_recursion(states, bias, steps):
    model = refiner(halting=True, supervised_steps=4)
    with torch.no_grad():
        model.halt.bias.fill_(bias)
        assert len(model.steps(states)) == steps
        plain = refiner_without_halting(model)
        plain.shape = model.shape.model_copy(update={"supervised_steps": steps})
        assert torch.allclose(model(states), plain(states), atol=1e-6)
    assert len(model.steps(states)) == 4, "training supervises every step"


def test_a_halted_token_keeps_its_answer_whatever_the_others_do(states):
    model = refiner(halting=True, supervised_steps=4)
    with torch.no_grad():
        logits = model.steps(states)[0][1].flatten().sort().values
        model.halt.bias.sub_((logits[17] + logits[18]) / 2)  # half of the tokens stop after the first step
        first, last = model.steps(states)[0][0], model(states)
        stopped = model.steps(states)[0][1] > 0
        assert 0 < stopped.float().mean() < 1
        assert torch.equal(last[stopped], first[stopped])
        assert not torch.allclose(last[~stopped], first[~stopped], atol=1e-3)
        alone = torch.stack([model(row) for row in states.flatten(0, 1)]).view_as(last)
        assert torch.allclose(alone, last, atol=1e-5)


def test_a_gradient_does_not_change_where_a_token_halts(states):
    model = refiner(halting=True, supervised_steps=4)
    with torch.no_grad():
        logits = model.steps(states)[0][1].flatten().sort().values
        model.halt.bias.sub_((logits[17] + logits[18]) / 2)
        sampled = model(states)
    scored = model(states)
    assert torch.allclose(scored, sampled, atol=1e-6)
    assert not torch.allclose(scored, refiner_without_halting(model)(states), atol=1e-3)
    grads = torch.autograd.grad(scored.square().sum(), [model.layers[0].mlp.up_proj.weight, model.up_proj.weight])
    assert all(grad.abs().max() > 0 for grad in grads)


def refiner_without_halting(model):
    plain = refiner(supervised_steps=model.shape.supervised_steps)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("halt.")})
    return plain


def test_padding_is_invisible_and_every_token_sees_itself():
    seen = visible(torch.tensor([[0, 0, 1, 1]]), 2, 2, torch.device("cpu"))[0, 0]
    assert seen.tolist() == [[False, False, True, False], [False, False, True, True]]
    padded = visible(torch.tensor([[0, 1]]), 2, 0, torch.device("cpu"))[0, 0]
    assert padded.tolist() == [[True, False], [False, True]]


def test_recomputing_activations_gives_the_same_gradient(states):
    model, embeds = decoder(), torch.randn(2, 6, 16)
    weight = model.model.layers[0].mlp.gate_proj.weight
    gradient = lambda: torch.autograd.grad(decoded(model, embeds).last_hidden_state.square().sum(), weight)[0]
    plain = gradient()
    model.gradient_checkpointing_enable()
    assert torch.allclose(gradient(), plain, atol=1e-6)


def test_a_damaged_decoder_is_refused(tmp_path):
    decoder().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(ArtifactError, match=r"model\.safetensors cannot be loaded"):
        load_causal_trm(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ArtifactError, match="qwen2"):
        load_causal_trm(tmp_path)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises((ConfigError, ValueError), match="multiple of 2"):
        RecursionShape(width=20, heads=4)


def test_the_answer_has_the_last_steps_gradient_and_keeps_nothing_of_the_steps_before(states):
    model, kept = refiner(supervised_steps=3), []
    given = states.clone().requires_grad_(True)
    weights = (given, model.layers[0].mlp.up_proj.weight, model.up_proj.weight)
    expected = torch.autograd.grad(model.steps(given)[-1][0].square().sum(), weights)

    def keep(tensor):
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = model(given)
        whole, kept[:] = sum(kept), []
        model.steps(given)
    got = torch.autograd.grad(answer.square().sum(), weights)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    assert whole < 0.5 * sum(kept)
