"""The parts of a minibatch are the whole together, whatever has ended, and so are their sums."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rnnopt.layers import minibatch_part
from rnnopt.layers.minibatch_part import MinibatchPart, normalize_part, taking
from rnnopt.layers.sequence_model import SequenceModel

lengths_of_some = st.lists(st.integers(1, 9), min_size=1, max_size=12).map(torch.tensor)


@given(lengths=lengths_of_some, processes=st.integers(1, 5), cut=st.lists(st.integers(1, 8)))
def test_parts_cut_anywhere_have_each_sequence_once_and_shares_that_make_the_mean(
    lengths, processes, cut
):
    values = torch.arange(len(lengths), dtype=torch.float64).square() + 1
    for start, end in pairwise(sorted({0, *cut, 9})):
        here = lengths > start
        steps = (lengths[here].clamp(max=end) - start).double()
        wanted = {True: (values[here] * steps).sum() / steps.sum(), False: values[here].mean()}
        found = {True: 0.0, False: 0.0}
        rows = []
        for rank in range(processes if here.any() else 0):
            whole = MinibatchPart.of(len(lengths), lengths, rank, processes)
            going_on, mine = whole.alive(start)
            part = going_on.between(start, end)
            assert len(mine) == len(whole.rows)
            assert mine.sum() == len(part.rows) >= 1
            if part.counts:
                rows += part.rows.tolist()
                own = values[whole.rows[mine]]
                torch.testing.assert_close(own, values[here][part.rows])
                weight = steps[part.rows]
                found[True] += float(
                    part.share(True, processes) * (own * weight).sum() / weight.sum() / processes
                )
                found[False] += float(part.share(False, processes) * own.mean() / processes)
            else:
                assert part.share(True, processes) == part.share(False, processes) == 0
        if here.any():
            assert sorted(rows) == list(range(int(here.sum())))
            assert found == pytest.approx({k: float(v) for k, v in wanted.items()})


def test_sequences_of_one_length_stay_as_they_are():
    part = MinibatchPart.of(5, None, 1, 2)
    assert part.rows.tolist() == [1, 3]
    assert part.alive(4)[0] is part.between(3, 4) is part
    assert part.alive(4)[1].tolist() == [True, True]
    assert part.share(True, 2) == part.share(False, 2) == pytest.approx(4 / 5)


@pytest.mark.parametrize("padded", [False, True])
def test_normalising_all_of_a_minibatch_is_batch_normalisation(padded):
    rng = torch.Generator().manual_seed(0)
    lengths = torch.tensor([4, 1, 3]) if padded else None
    valid = None if lengths is None else (torch.arange(4)[:, None] < lengths)[..., None]
    states = torch.randn(4, 3, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    norms = [nn.BatchNorm1d(2).double() for _ in range(2)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 1, 2, generator=torch.Generator().manual_seed(1))
    found = normalize_part(norms[0], states, valid, MinibatchPart.of(3, lengths, 0, 1))
    true = torch.ones(4, 3, dtype=torch.bool) if valid is None else valid[..., 0]
    expected = torch.zeros_like(states)
    expected[true] = norms[1](states[true])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(norms[0].state_dict(), norms[1].state_dict())
    grads = [
        torch.autograd.grad(y.pow(3).sum(), states, create_graph=True)[0] for y in (found, expected)
    ]
    torch.testing.assert_close(*grads)
    torch.testing.assert_close(*(torch.autograd.grad(g.square().sum(), states)[0] for g in grads))


def test_a_single_step_has_no_variance():
    with pytest.raises(ValueError, match="more than one step, got 1"):
        normalize_part(
            nn.BatchNorm1d(2), torch.ones(1, 1, 2), None, MinibatchPart.of(1, None, 0, 1)
        )


def test_a_sequence_that_does_not_count_is_in_no_sum(monkeypatch):
    sent = []
    monkeypatch.setattr(minibatch_part, "sums", lambda own: sent.append(own[0]) or [own[0] + 3])
    normalize_part(nn.BatchNorm1d(2), torch.ones(4, 1, 2), None, MinibatchPart.of(1, None, 1, 2))
    assert all(not values.any() for values in sent)
    assert len(sent) == 2


def test_dropout_of_the_parts_is_that_of_the_whole():
    inputs = torch.randn(5, 7, 3)
    model = SequenceModel(3, 4, 2, dropout=0.5)

    def outputs(part, rows):
        torch.manual_seed(4)
        with taking(model, part):
            return model(inputs[:, rows])

    whole = outputs(None, torch.arange(7))
    for rank in range(2):
        part = MinibatchPart.of(7, None, rank, 2)
        torch.testing.assert_close(outputs(part, part.rows), whole[part.rows])
    assert model._minibatch_part is None
