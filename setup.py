"""Builds the native operators with the package; everything else is in pyproject.toml."""

import importlib.util
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent


def builder():
    """`kernels/build.py`, without importing the package, which needs torch."""
    spec = importlib.util.spec_from_file_location("decant_build", ROOT / "kernels" / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class BuildOperators(build_ext):
    """The CPU library always, the CUDA one where nvcc is. A failure is said, recorded, and ends nothing."""

    def run(self):
        build = builder()
        folder = ROOT if self.editable_mode or self.inplace else Path(self.build_lib)
        for device in ("CPU", "CUDA") if build.find_nvcc() else ("CPU",):
            record = build.build(device, folder / "kernels" / "lib")
            print(f"decant: {device} operators: {record['outcome']}", file=sys.stderr)
            if not record["built"]:
                print(
                    f"decant: WARNING: plain torch will run in their place.\n{record['detail']}",
                    file=sys.stderr,
                )

    def get_outputs(self):
        return [str(path) for path in (Path(self.build_lib) / "kernels" / "lib").glob("*")]

    def get_output_mapping(self):
        return {}


setup(
    ext_modules=[Extension("kernels.native_libraries", sources=[])],
    cmdclass={"build_ext": BuildOperators},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
