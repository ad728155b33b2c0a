"""Which tensors FrankWolfe's learnt ball takes for columns of one matrix.

What it does with them is promised in test_learnt_ball.py and test_learnt_norm.py.
"""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given, settings
from stepping import feed, frank_wolfe
from torch import Size, nn

from rnnopt import ElmanRNN, IndRNN, SequenceModel
from rnnopt.optimizers.frank_wolfe.blocks import READOUT, Block, find_blocks


def blocks_of(module, named=True, gates="auto"):
    """The blocks of a module's parameters; those of `named_parameters` or of `parameters`."""
    pairs = list(module.named_parameters())
    names = tuple(name for name, _ in pairs) if named else ()
    return find_blocks(tuple(p.shape for _, p in pairs), gates, names)


def told(module, named=True):
    """(names, gates, name of the twin, scale) of each block."""
    names = [name for name, _ in module.named_parameters()]
    return [
        ([names[i] for i in b.members], b.gates, b.twin if b.twin is None else names[b.twin],
         b.scale)
        for b in blocks_of(module, named)
    ]  # fmt: skip


def is_partition(blocks, shapes):
    """Whether each tensor is in one block, whose tensors have as many rows, in whole gates."""
    assert sorted(i for b in blocks for i in b.positions) == list(range(len(shapes)))
    for block in blocks:
        rows = {shapes[i][0] if len(shapes[i]) else 1 for i in block.positions}
        assert len(rows) == 1
        assert rows.pop() % block.gates == 0
        if block.twin is not None:
            assert shapes[block.twin] == shapes[block.members[-1]]


# -- recurrent layers ------------------------------------------------------------------------------

GATES = {nn.RNN: 1, nn.LSTM: 4, nn.GRU: 3}
kinds = pytest.mark.parametrize("kind", GATES)
either = pytest.mark.parametrize("named", [True, False])


@either
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@kinds
def test_a_layer_is_a_block_and_a_grus_second_bias_a_column(kind, layers, bidirectional, named):
    layer = kind(3, 4, num_layers=layers, bidirectional=bidirectional)
    blocks = blocks_of(layer, named)
    assert len(blocks) == layers * (1 + bidirectional)
    for i, block in enumerate(blocks):
        at = tuple(range(4 * i, 4 * i + 4))
        if kind is nn.GRU:
            assert block == Block(at, 3)
        else:
            assert block == Block(at[:3], GATES[kind], twin=at[3])


@kinds
def test_a_layer_without_biases_needs_names(kind):
    layer = kind(3, 4, num_layers=2, bias=False)
    assert blocks_of(layer) == (Block((0, 1), GATES[kind]), Block((2, 3), GATES[kind]))
    assert blocks_of(layer, named=False) == tuple(Block((i,)) for i in range(4))
    assert blocks_of(layer, False, GATES[kind]) == tuple(Block((i,), GATES[kind]) for i in range(4))


@either
@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_a_cell_is_a_block(kind, named):
    gates = {nn.RNNCell: 1, nn.LSTMCell: 4, nn.GRUCell: 3}[kind]
    expected = Block((0, 1, 2), gates, 3) if gates != 3 else Block((0, 1, 2, 3), 3)
    assert blocks_of(kind(3, 4), named) == (expected,)
    assert blocks_of(kind(3, 4, bias=False)) == (Block((0, 1), gates),)


def test_a_projection_is_a_block_of_its_own():
    # W_hh has the columns of the projection, which do not tell the number of gates.
    layer = nn.LSTM(3, 8, proj_size=2)
    assert told(layer) == [
        (["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"], 1, "bias_hh_l0", 1.0),
        (["weight_hr_l0"], 1, None, READOUT),
    ]
    is_partition(blocks_of(layer, named=False), [p.shape for p in layer.parameters()])
    assert blocks_of(layer, gates=4)[0].gates == 4


def test_layers_of_this_library_are_as_torchs():
    for layers in (1, 2):
        found = blocks_of(ElmanRNN(3, 4, num_layers=layers))
        assert found == blocks_of(nn.RNN(3, 4, num_layers=layers))
    # Its recurrent weights are a vector, which multiplies the state entry by entry.
    assert told(IndRNN(3, 4)) == [
        (["weight_ih_l0", "bias_ih_l0"], 1, None, 1.0),
        (["weight_hh_l0"], 1, None, 1.0),
    ]


@either
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "indrnn"])
def test_every_sequence_model_has_its_cells_and_a_readout(cell, layers, batch_norm, named):
    if batch_norm and cell != "indrnn":
        pytest.skip("only IndRNN has it")
    model = SequenceModel(3, 4, 2, cell=cell, layers=layers, batch_norm=batch_norm)
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    blocks = blocks_of(model, named)
    is_partition(blocks, shapes)
    [readout] = [b for b in blocks if names[b.members[0]] == "output.weight"]
    assert [names[i] for i in readout.members] == ["output.weight", "output.bias"]
    if cell != "indrnn":
        assert len(blocks) == layers + 1
        assert readout.scale == READOUT
        assert [b.gates for b in blocks[:-1]] == [dict(rnn=1, lstm=4, gru=3)[cell]] * layers


@pytest.mark.parametrize("layers", [1, 2])
@kinds
def test_names_and_shapes_say_the_same_of_models_with_biases(kind, layers):
    for bidirectional in (False, True):
        model = nn.Sequential(
            nn.Embedding(7, 3),
            kind(3, 4, num_layers=layers, bidirectional=bidirectional),
            nn.Linear(4 * (1 + bidirectional), 5),
            nn.Linear(5, 2),
        )
        assert blocks_of(model) == blocks_of(model, named=False)
        assert [b.scale for b in blocks_of(model)].count(READOUT) == 1
        assert blocks_of(model)[-1].scale == READOUT


def test_one_number_of_gates_for_all_holds_where_it_divides():
    model = nn.Sequential(nn.LSTM(3, 4), nn.Linear(4, 2))
    assert [b.gates for b in blocks_of(model, gates=4)] == [4, 1]
    assert [b.gates for b in blocks_of(model, gates=2)] == [2, 2]
    assert [b.gates for b in blocks_of(model, gates=1)] == [1, 1]


# -- other networks --------------------------------------------------------------------------------


@either
def test_layers_of_an_mlp_are_blocks_without_a_readout(named):
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2), nn.Linear(2, 2, bias=False))
    assert blocks_of(model, named) == (Block((0, 1)), Block((2, 3)), Block((4,)))


class Attentive(nn.Module):
    """Embedding, LSTM, attention, LayerNorm and a linear layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.recurrent = nn.LSTM(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.output = nn.Linear(4, 2)


@either
def test_of_a_mixed_network_the_last_matrix_is_the_readout(named):
    assert sorted(told(Attentive(), named)) == sorted(
        [
            (["embedding.weight"], 1, None, 1.0),
            (
                ["recurrent.weight_ih_l0", "recurrent.weight_hh_l0", "recurrent.bias_ih_l0"],
                4, "recurrent.bias_hh_l0", 1.0,
            ),
            (["attention.in_proj_weight", "attention.in_proj_bias"], 1, None, 1.0),
            (["attention.out_proj.weight", "attention.out_proj.bias"], 1, None, 1.0),
            (["norm.weight"], 1, None, 1.0),
            (["norm.bias"], 1, None, 1.0),
            (["output.weight", "output.bias"], 1, None, READOUT),
        ]
    )  # fmt: skip


@either
def test_a_convolution_is_a_matrix_of_its_filters(named):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv1d(2, 3, 1, bias=False))
    assert blocks_of(model, named) == (Block((0, 1)), Block((2,)), Block((3,)), Block((4,)))


def test_a_tied_weight_is_in_one_block():
    model = nn.ModuleDict(dict(embedding=nn.Embedding(5, 4), recurrent=nn.GRU(4, 4)))
    model["output"] = nn.Linear(4, 5)
    model["output"].weight = model["embedding"].weight
    shapes = [p.shape for p in model.parameters()]
    for named in (True, False):
        is_partition(blocks_of(model, named), shapes)
    assert (["output.bias"], 1, None, 1.0) in told(model)


def test_scalars_and_empty_tensors_are_blocks():
    shapes = tuple(map(Size, [(), (0,), (4, 0), (4,), (0, 3), (0,), ()]))
    assert find_blocks(shapes, "auto") == (
        Block((0,)), Block((1,)), Block((2, 3)), Block((4, 5)), Block((6,)),
    )  # fmt: skip
    assert find_blocks((), "auto") == ()


def test_tensors_out_of_order_need_names():
    shapes = tuple(map(Size, [(4,), (4, 3), (4,), (4, 4)]))
    names = ("bias_hh", "weight_ih", "bias_ih", "weight_hh")
    assert find_blocks(shapes, "auto", names) == (Block((1, 3, 2), 1, twin=0),)
    names = ("b.bias", "a.weight", "a.bias", "b.weight")
    assert find_blocks(shapes, "auto", names) == (Block((1, 2)), Block((3, 0)))


@pytest.mark.parametrize("lying", [(5,), (), (4, 2), (0,), (16, 1)])
@pytest.mark.parametrize("place", range(4))
def test_names_that_lie_about_shapes_still_part_the_tensors(place, lying):
    # An LSTM of 4 units, one tensor of which is something else.
    shapes = list(map(Size, [(16, 3), (16, 4), (16,), (16,)]))
    shapes[place] = Size(lying)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    for gates in ("auto", 1, 4):
        is_partition(find_blocks(tuple(shapes), gates, names), shapes)


# -- whatever the shapes ---------------------------------------------------------------------------

sizes = st.integers(0, 3) | st.sampled_from([4, 6, 8, 9, 12, 16])
some_shapes = st.lists(st.lists(sizes, max_size=3).map(Size), max_size=9).map(tuple)
WORDS = [
    *(f"{kind}_{side}{end}" for kind in ("weight", "bias") for side in ("ih", "hh")
      for end in ("", "_l0", "_l1_reverse")),
    "weight", "bias", "a.weight", "a.bias", "in_proj_weight", "in_proj_bias", "", "x",
]  # fmt: skip
some_gates = st.just("auto") | st.integers(1, 5)


@given(some_shapes, some_gates)
@example(tuple(map(Size, [(4, 1), (4, 1), (4,), (4,), (4,)])), "auto")
def test_shapes_of_any_kind_are_parted(shapes, gates):
    is_partition(find_blocks(shapes, gates), shapes)


@given(some_shapes, some_gates, st.data())
def test_names_of_any_kind_part_the_shapes(shapes, gates, data):
    words = st.sampled_from(WORDS)
    names = tuple(data.draw(words) for _ in shapes)  # the same one twice, too
    is_partition(find_blocks(shapes, gates, names), shapes)


@settings(max_examples=20)
@given(some_shapes, some_gates, st.data())
def test_any_tensors_are_stepped(shapes, gates, data):
    weights = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    if not weights:
        return
    names = st.sampled_from(WORDS)
    pairs = [(f"{i}.{data.draw(names)}", w) for i, w in enumerate(weights)]
    optimizer = frank_wolfe(pairs, lr=0.1, norm="learnt", gates=gates)
    for _ in range(2):
        feed(optimizer, weights, [torch.ones_like(w) for w in weights])
    for w in weights:
        assert (w < 1).all()  # against gradients that are all positive
