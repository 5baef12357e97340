"""How rows are put into batches that fit an accelerator's memory; that they are right is tested for every policy."""

import numpy as np
import pytest
import torch

from components.shared.policy import generation
from components.shared.policy.generation import split
from components.shared.policy.layout import Encoded


def row(length, name=0):
    ids = np.full(length, name)
    return Encoded(ids, np.zeros(length, bool), np.zeros(length, bool), np.zeros((3, length), int), (), ())


def cost(rows, part, added):
    longest = max(rows[index].ids.size for index in part)
    return len(part) * (longest + added), len({rows[index].ids.tobytes() for index in part}) * longest


@pytest.mark.parametrize(("cached", "prefilled"), [(100, 10_000), (10_000, 60), (90, 45), (1, 1)])
def test_every_part_fits_and_every_row_is_in_one(cached, prefilled):
    draw = np.random.default_rng(3)
    rows = [row(int(draw.integers(5, 30)), int(draw.integers(6))) for _ in range(40)]
    parts = split(rows, 10, cached, prefilled)
    assert sorted(index for part in parts for index in part) == list(range(40))
    for part in parts:
        tokens, distinct = cost(rows, part, 10)
        assert len(part) == 1 or tokens <= cached
        assert len({rows[index].ids.tobytes() for index in part}) == 1 or distinct <= prefilled


def test_rows_of_one_conversation_stay_together_and_all_is_one_part_where_it_fits():
    rows = [row(10, name) for name in (1, 2, 1, 2, 1, 2)]
    assert split(rows, 0, 10_000, 10_000) == [[0, 2, 4, 1, 3, 5]]
    assert split(rows, 0, 30, 10_000) == [[0, 2, 4], [1, 3, 5]]


def test_parts_say_what_one_batch_says_and_rollouts_of_one_question_never_share_noise(make, question, monkeypatch):
    policy = make("native")
    asked = [(question(1 + index),) for index in range(3)] * 4
    greedy = policy.generate(asked, max_new_tokens=6)
    apart = lambda policy, rows, _: [[index] for index in range(len(rows))]
    monkeypatch.setattr(generation, "batches", apart)
    assert [said.token_ids for said in policy.generate(asked, max_new_tokens=6)] == [said.token_ids for said in greedy]
    one = [(question(1),)] * 6
    sampled = policy.generate(one, temperature=1.0, max_new_tokens=12, seed=4)
    assert len({said.token_ids for said in sampled}) > 1
    again = policy.generate(one, temperature=1.0, max_new_tokens=12, seed=4)
    assert [said.token_ids for said in again] == [said.token_ids for said in sampled]


def test_on_the_cpu_nothing_is_split(make):
    policy = make("native")
    assert policy.device == torch.device("cpu")
    assert generation.batches(policy, [row(2000, name) for name in range(500)], 1000) == [list(range(500))]
