"""Opens a benchmark by its name, for the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from types import MappingProxyType

from clnet_model.benchmarks.base import Split
from clnet_model.benchmarks.cvact import cvact
from clnet_model.benchmarks.cvusa import cvusa
from clnet_model.benchmarks.manifest import manifest
from clnet_model.benchmarks.university import university1652
from clnet_model.benchmarks.vigor import vigor
from clnet_model.errors import BadPairs

Loader = Callable[..., Split]
LOADERS: Mapping[str, Loader] = MappingProxyType(
    {"cvusa": cvusa, "cvact": cvact, "vigor": vigor, "university1652": university1652, "manifest": manifest}
)


def open_benchmark(name: str, root: Path, **options: str) -> Split:
    """The split of benchmark `name` in the folder `root` (a file for `manifest`).

    Options are those of the loader, for example `part="test", area="cross"` for vigor.

    Raises:
        BadPairs: no such benchmark, an option that it does not have, or files that cannot be used.
    """
    loader = LOADERS.get(name.lower().replace("-", "").replace("_", ""))
    if loader is None:
        raise BadPairs(f"no benchmark is called {name!r}; choose one of {', '.join(LOADERS)}")
    _, *known = signature(loader).parameters
    unknown = [option for option in options if option not in known]
    if unknown:
        raise BadPairs(f"{name} has no option {unknown[0]!r}; it takes {', '.join(known)}")
    return loader(root, **options)
