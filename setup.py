"""Builds the CPU kernels with the package; everything else is in pyproject.toml."""

import importlib.util
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
KERNELS = Path("rnnopt/layers/kernels")
_spec = importlib.util.spec_from_file_location("build_kernels", HERE / KERNELS / "build.py")
build_kernels = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build_kernels)


class BuildKernels(build_ext):
    """Plain shared libraries, no Python extension; a failure is a warning, never an error."""

    def run(self):
        in_place = self.inplace or getattr(self, "editable_mode", False)
        folder = HERE / KERNELS if in_place else Path(self.build_lib) / KERNELS
        record = build_kernels.build(folder)
        if record["error"]:
            self.warn(f"rnnopt's CPU kernels: {record['error']}; see `rnnopt doctor`")

    def get_outputs(self):
        return []

    def get_output_mapping(self):
        return {}


setup(
    # Named so that the package counts as made for one platform.
    ext_modules=[
        Extension(
            "rnnopt.layers.kernels.recurrent",
            [str(KERNELS / "recurrent.cpp")],
            depends=[str(KERNELS / path.name) for path in (HERE / KERNELS).glob("*.h")],
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
