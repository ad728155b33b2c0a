"""What benchmarks/scaling_model.py promises: the ring's formula, and what follows from it."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "benchmarks" / "scaling_model.py"


@pytest.fixture(scope="module")
def model():
    specification = importlib.util.spec_from_file_location("scaling_model", PATH)
    module = importlib.util.module_from_spec(specification)

    sys.modules["scaling_model"] = module  # where dataclasses look for their annotations
    specification.loader.exec_module(module)
    yield module
    del sys.modules["scaling_model"]


def test_a_ring_of_four_takes_six_hops_and_three_halves_of_the_bytes(model):
    ring = model.Network(4, bandwidth=100.0, latency=0.5)
    # 2 · 3 hops of half a second, and 2 · 3/4 of 200 bytes at 100 a second.
    assert ring.all_reduce(200.0) == pytest.approx(3.0 + 3.0)
    # A byte there for four back: 3/4 of 50 + 200 bytes.
    assert ring.all_reduce(50.0, 200.0) == pytest.approx(3.0 + 1.875)


def test_one_process_sends_nothing(model):
    alone = model.Machine("one", model.ONE)
    assert alone.all_reduce(1e9) == 0
    assert model.speed_up(alone, 1e9, 0.01) == 1


def test_nodes_sum_inside_and_send_each_its_share_across(model):
    inside, across = model.Network(8, 1e3, 0.0), model.Network(4, 1e2, 0.0)
    machine = model.Machine("both", inside, across)
    assert machine.members == 32
    expected = inside.all_reduce(800.0) + across.all_reduce(100.0)
    assert machine.all_reduce(800.0) == pytest.approx(expected)


def test_speed_up_by_hand(model):
    # 2 members, 1000 weights at 4 bytes: 2 · 1/2 · 4000 / 4e5 = 0.01 s beside 0.02 s of computing.
    ring = model.Machine("two", model.ONE, model.Network(2, 4e5, 0.0))
    assert model.speed_up(ring, 1000, 0.02) == pytest.approx(2 * 0.02 / 0.03)
    assert model.speed_up(ring, 1000, 0.02, steps=5) == pytest.approx(2 * 0.1 / 0.11)
    assert model.speed_up(ring, 1000, 0.02, steps=5, overlap=True) == pytest.approx(2)
    # A byte there and a byte back is a quarter; a bit and a byte are 9/64.
    assert model.speed_up(ring, 1000, 0.02, compression="int8") == pytest.approx(0.04 / 0.0225)
    expected = 0.04 / (0.02 + 0.01 * 9 / 64)
    assert model.speed_up(ring, 1000, 0.02, compression="sign") == pytest.approx(expected)


def test_no_form_is_faster_than_all_members_or_slower_than_the_synchronous_one(model):
    for machine in model.MACHINES:
        for weights in (1e4, 1e6, 1e9):
            found = {n: model.speed_up(machine, weights, 0.02, **f) for n, f in model.FORMS.items()}
            assert all(found["synchronous"] <= s <= machine.members for s in found.values())
