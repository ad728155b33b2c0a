"""Where a command trains its runs: on this machine, or on a Dask cluster."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ClusterConfig:
    """Where the runs are trained.

    Args:
        workers: Number of runs at once; 0 means one a processor, or one a worker of --cluster. Runs
            side by side slow each other: take 1 where the seconds matter.
        cluster: Dask cluster that trains the runs: a scheduler's address such as tcp://host:8786,
            its file (.json), or a .yaml file that names a class of clusters and its options.
            Unset: processes of this machine.
        dashboard: Dask's page of the cluster, whose address is printed.
        mirror: URL of a copy of --out, by fsspec, such as s3://bucket/folder. Workers that do not
            see --out keep their checkpoints there. Unset: none.
    """

    workers: int = 0
    cluster: str | None = None
    dashboard: bool = False
    mirror: str | None = None


HERE = ClusterConfig()
