"""Options and environment settings that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

import clnet_model

if TYPE_CHECKING:
    from spatial_index.store import Store
    from workers.jobs import Jobs

DEFAULT_STORE = Path("store")


def checkpoint_folder(value: str) -> Path:
    """The folder itself, or the shipped checkpoint of that name where there is no such folder."""
    folder, shipped = Path(value), Path(clnet_model.__file__).parent / "checkpoints"
    by_name = folder.name == value and not folder.exists() and (shipped / value).is_dir()
    return shipped / value if by_name else folder


StoreOption = Annotated[
    Path,
    typer.Option(
        "--store",
        help="Folder of the embedded store; ignored when CLNET_QDRANT_URL is set.",
        show_default=True,
    ),
]
JobsOption = Annotated[
    Path | None,
    typer.Option(
        "--jobs",
        help="Folder of the jobs' records and kept vectors; `jobs` beside the store when left out.",
        show_default=False,
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        help="Folder of a CLNet checkpoint, or the name of a shipped one (clnet-photo-s, the default; "
        "clnet-sim-s, which finds less and embeds faster).",
        show_default=False,
        parser=checkpoint_folder,
        metavar="DIR",
    ),
]


class Settings(BaseSettings):
    """Scale-out is settings alone: point these at a Qdrant server and at a Ray cluster."""

    model_config = SettingsConfigDict(env_prefix="CLNET_", env_ignore_empty=True)

    qdrant_url: str | None = None
    qdrant_api_key: SecretStr | None = None
    qdrant_shards: int | None = None
    """Parts that a cluster spreads each new generation over; the server's own choice when unset."""
    qdrant_replicas: int | None = None
    """Copies of each part; 2 let one node fail."""
    ray_address: str | None = None
    api_keys_file: Path | None = None
    """TOML file of the service's API keys; see docs/serving.md."""
    api_keys: SecretStr | None = None
    """The same as a JSON list, where files are unhandy."""
    api_key: SecretStr | None = None
    """What the client commands present to a service."""
    otlp_endpoint: str | None = None
    """OpenTelemetry collector, e.g. http://127.0.0.1:4317; no traces when unset."""


def jobs_from_options(jobs: Path | None, store: Path) -> Jobs:
    """The jobs in the folder that was named, or beside the store."""
    from workers.jobs import Jobs

    return Jobs(jobs or store.parent / "jobs")


def open_store_from_options(store: Path, *, create: bool = False) -> Store:
    """Open the server store when CLNET_QDRANT_URL is set, else the embedded store in `store`.

    Raises:
        spatial_index.errors.SpatialIndexError: the store is missing, in use, or unreachable.
    """
    from spatial_index.store import open_store

    settings = Settings()
    api_key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
    return open_store(
        directory=store,
        url=settings.qdrant_url,
        api_key=api_key,
        create=create,
        shards=settings.qdrant_shards,
        replicas=settings.qdrant_replicas,
    )
