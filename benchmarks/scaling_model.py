"""A model of the speed-up with n processes; pass your own numbers as options.

A gradient takes each process a time c, including its minibatch and the step. After every K-th
gradient, B bytes are averaged by a ring over n members, with bandwidth w and latency a per hop:

    all-reduce(n, B) = 2 (n - 1) a + 2 (n - 1)/n · B/w
    speed-up         = n c / (c + all-reduce / K)                        sequences per second

at a fixed minibatch per process. Nothing overlaps, as in a recurrent layer, whose gradient is
complete only at the end of its backward pass; a commit with overlap runs during K c. Nodes of
several GPUs sum inside, over a ring of the GPUs, and then across, over a ring of the nodes, each
GPU with its share of the bytes. Compressed commits send (n-1)/n of the bytes of a weight twice:
once to the process that averages it and once back.

    python benchmarks/scaling_model.py
    python benchmarks/scaling_model.py --members 64 --bandwidth 50e9 --latency 10e-6 --compute 0.02
"""

import argparse
from dataclasses import dataclass

BYTES = {
    "none": (4.0, 4.0),
    "int8": (1.0, 1.0),
    "sign": (1 / 8, 1.0),
}  # per weight, there and back


@dataclass(frozen=True)
class Network:
    """Members of a ring.

    Args:
        members: number of members.
        bandwidth: bytes per second that each member sends.
        latency: seconds per hop.
    """

    members: int
    bandwidth: float
    latency: float

    def all_reduce(self, there: float, back: float | None = None) -> float:
        """Seconds until all members have the sum.

        Args:
            there: bytes of each member.
            back: bytes of the sum; by default the same.
        """
        n, sent = self.members, there + (there if back is None else back)
        return 2 * (n - 1) * self.latency + (n - 1) / n * sent / self.bandwidth


@dataclass(frozen=True)
class Machine:
    """Nodes of several members each.

    Args:
        name: name in tables.
        inside: the members of a node.
        across: the nodes, with each member's bandwidth to other nodes; None for one node.
    """

    name: str
    inside: Network
    across: Network | None = None

    @property
    def members(self) -> int:
        """Processes altogether."""
        return self.inside.members * (self.across.members if self.across else 1)

    def all_reduce(self, there: float, back: float | None = None) -> float:
        """Seconds, as in `Network`: first inside the nodes, then each member's share across."""
        seconds = self.inside.all_reduce(there, back)
        if self.across is not None:
            n = self.inside.members
            seconds += self.across.all_reduce(there / n, None if back is None else back / n)
        return seconds


def speed_up(
    machine: Machine,
    weights: float,
    compute: float,
    steps: int = 1,
    compression: str = "none",
    overlap: bool = False,
) -> float:
    """Sequences per second relative to one process.

    Args:
        machine: the machine.
        weights: number of weights of the model.
        compute: c, seconds per gradient.
        steps: K, gradients between two all-reduces.
        compression: "none", "int8" or "sign".
        overlap: whether the all-reduce runs during the next K gradients.
    """
    there, back = (weights * each for each in BYTES[compression])
    sending, computing = machine.all_reduce(there, back), steps * compute
    whole = max(computing, sending) if overlap else computing + sending
    return machine.members * computing / whole


ONE = Network(1, 1.0, 0.0)
MACHINES = [
    Machine("8 GPUs, 450 GB/s, 5 µs", Network(8, 450e9, 5e-6)),
    Machine("64 nodes of 1, 400 Gb/s, 10 µs", ONE, Network(64, 50e9, 10e-6)),
    Machine("64 nodes of 8, as both", Network(8, 450e9, 5e-6), Network(64, 50e9, 10e-6)),
    Machine("64 nodes of 1, 10 Gb/s, 30 µs", ONE, Network(64, 1.25e9, 30e-6)),
]
FORMS: dict[str, dict] = {
    "synchronous": {},
    "commit": dict(steps=5),
    "int8": dict(steps=5, compression="int8"),
    "sign": dict(steps=5, compression="sign"),
    "overlap": dict(steps=5, overlap=True),
}


def main() -> None:
    """Reads the arguments, prints a Markdown table of speed-ups."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the same; it takes no time")
    parser.add_argument("--members", type=int, help="members of a ring of your own")
    parser.add_argument("--bandwidth", type=float, default=50e9, help="bytes per second")
    parser.add_argument("--latency", type=float, default=10e-6, help="seconds per hop")
    parser.add_argument("--compute", type=float, default=0.02, help="seconds per gradient")
    parser.add_argument("--weights", type=float, nargs="+", default=[1e5, 1e7, 1e8])
    given = parser.parse_args()
    machines = MACHINES
    if given.members:
        ring = Network(given.members, given.bandwidth, given.latency)
        machines = [Machine(f"{given.members} members", ONE, ring)]
    print(f"Model: speed-ups at {1e3 * given.compute:g} ms per gradient; commits every 5.\n")
    print(f"| machine | weights | all-reduce, ms | {' | '.join(FORMS)} |")
    print("|---|---|---|" + "---|" * len(FORMS))
    for machine in machines:
        for weights in given.weights:
            found = [speed_up(machine, weights, given.compute, **form) for form in FORMS.values()]
            cells = " | ".join(f"{number:.3g}" for number in found)
            seconds = 1e3 * machine.all_reduce(4 * weights)
            print(f"| {machine.name} | {weights:.0e} | {seconds:.2g} | {cells} |")


if __name__ == "__main__":
    main()
