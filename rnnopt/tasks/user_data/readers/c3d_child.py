"""Reads a C3D file by ezc3d in a process of its own: python c3d_child.py FILE ARRAYS MEMORY.

ezc3d crashes on some damaged files, and would take the command that reads them with it. This
process imports ezc3d and numpy alone, and may take MEMORY bytes.
"""

import json
import sys


def main(file: str, arrays: str, memory: int) -> None:
    """Writes points, analog signals, and what is known of them, to an .npz file."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import ezc3d
    import numpy as np

    found = ezc3d.c3d(file)
    groups = found["parameters"]

    def of(group: str, name: str) -> list:
        """A parameter as a list; of names that continue in NAME2, NAME3, … all."""
        values: list = []
        for number in ("", *map(str, range(2, 100))):
            one = groups[group].get(f"{name}{number}") if group in groups else None
            if one is None:
                break
            values += np.asarray(one["value"]).tolist()
        return values

    facts = {
        "labels": of("POINT", "LABELS"), "unit": of("POINT", "UNITS"), "rate": of("POINT", "RATE"),
        "analog_labels": of("ANALOG", "LABELS"), "analog_units": of("ANALOG", "UNITS"),
        "analog_rate": of("ANALOG", "RATE"), "events": of("EVENT", "LABELS"),
        "sides": of("EVENT", "CONTEXTS"), "times": of("EVENT", "TIMES"),
        "first": int(found["header"]["points"]["first_frame"]),
    }  # fmt: skip
    np.savez(
        arrays,
        points=found["data"]["points"][:3],
        analog=found["data"]["analogs"][0],
        facts=np.array(json.dumps(facts)),
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
