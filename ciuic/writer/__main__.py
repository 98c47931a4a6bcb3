"""The writer process. Started by its path, with the trainer's socket as standard input, by ``ciuic.writer.process``."""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location

if __name__ == "__main__":
    HERE = os.path.dirname(os.path.abspath(__file__))
    ROOT = os.path.dirname(HERE)
    # Neither this folder nor the current one is a place to import from, and ciuic is the one that the trainer runs.
    sys.path[:] = [entry for entry in sys.path if os.path.isabs(entry) and os.path.abspath(entry) != HERE]
    spec = spec_from_file_location("ciuic", os.path.join(ROOT, "__init__.py"), submodule_search_locations=[ROOT])
    assert spec is not None and spec.loader is not None
    sys.modules["ciuic"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["ciuic"])

    from ciuic.writer.service import main

    main()
