"""What runs came to, without the clock: for tests of which two must be the same."""

import json

import torch

from rnnopt.runs.folder import RunFolder


def without_clock(record):
    """A record or result without its seconds, those of records inside it included."""
    kept = {k: v for k, v in record.items() if k != "seconds"}
    return {k: without_clock(v) if isinstance(v, dict) else v for k, v in kept.items()}


def curves(folder):
    """The records of a folder."""
    return [without_clock(record) for record in RunFolder.open(folder).read_records()]


def records_of(folder):
    """The records of a folder as text, in which NaN equals NaN."""
    return [json.dumps(record) for record in curves(folder)]


def records_on_the_way(training, stop=lambda: False):
    """The records of a training as it runs; NaN equals NaN in their `repr`."""
    return [without_clock(p.record) for p in training.run(stop) if p.record]


def result_of(folder):
    """The result of a folder."""
    return without_clock(RunFolder.open(folder).read_result())


def what_came(folder):
    """Records, result and best weights of a folder, as text."""
    weights = RunFolder.open(folder).read_weights()
    listed = {name: weight.tolist() for name, weight in weights.items()}
    return json.dumps([curves(folder), result_of(folder), listed])


def assert_same_run(one, other):
    assert records_of(one) == records_of(other)
    assert result_of(one) == result_of(other)
    first, second = (RunFolder.open(folder).read_weights() for folder in (one, other))
    assert_equal_states(first, second, "weights")


def assert_equal_states(one, other, place="state"):
    """Asserts that nested states are equal to the bit, but for the clock."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        left_out = {"seconds", "differentiable"}  # torch adds the second as it loads
        keys = one.keys() - left_out
        assert keys == other.keys() - left_out, place
        for key in keys:
            assert_equal_states(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal_states(a, b, f"{place}.{i}")
    else:
        assert one == other or (one != one and other != other), place
