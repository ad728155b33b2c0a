"""One training that test_sharded.py starts with different numbers of processes.

`run(where, FOLDER, RESUMED, SAVED, ENDS)` trains each learner of sharded_checks
from the beginning, or from the distributed checkpoints FOLDER/RESUMED.LEARNER, writes checkpoints
FOLDER/SAVED.LEARNER in mid-cycle, and the whole weights at the end to FOLDER/ENDS. "-" means none.
"""

import torch
import torch.distributed.checkpoint as dcp
from distributed_checks import network
from sharded_checks import FSDP_STEPS, LEARNERS, sharded, train, weights_of
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

SAVE_AT = 7  # in mid-cycle of three inner steps, and of two steps of aSNAQ's average


def checkpoint(model, optimizer, flatten):
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    optimizer.zero_grad()
    return dict(
        model=get_model_state_dict(model),
        optimizer=get_optimizer_state_dict(model, optimizer, options=options),
    )


def run(where, folder, resumed, saved, ends):
    found = {}
    for name, build in LEARNERS.items():
        flatten = name == "with_adam"
        model = sharded(network(seed=0 if resumed == "-" else 5), where[1])
        optimizer = build(model.parameters())
        start = 0
        if resumed != "-":
            state = checkpoint(model, optimizer, flatten)
            dcp.load(state, checkpoint_id=folder / f"{resumed}.{name}")
            set_model_state_dict(model, state["model"])
            options = StateDictOptions(flatten_optimizer_state_dict=flatten)
            set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
            start = SAVE_AT
        train(model, optimizer, where, range(start, SAVE_AT))
        if saved != "-":
            dcp.save(
                checkpoint(model, optimizer, flatten), checkpoint_id=folder / f"{saved}.{name}"
            )
        train(model, optimizer, where, range(SAVE_AT, FSDP_STEPS))
        found[name] = weights_of(model)
    if where[0] == 0:
        torch.save(found, folder / ends)
