"""The project's scripts as modules."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

from sources import ROOT


def load_script(name: str) -> ModuleType:
    """A script by its name without `.py`; its work begins in `main` alone. It may import others, as when it is run."""
    folder = ROOT / "scripts"
    sys.path.insert(0, str(folder))
    spec = spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module
