"""`clnet new-key`: an API key for the service, and what the service must know of it."""

from __future__ import annotations

from typing import Annotated

import typer


def new_key(
    name: Annotated[
        str, typer.Argument(help="Who uses it, as the audit log calls them.", show_default=False)
    ],
    scope: Annotated[list[str] | None, typer.Option(help="locate, ingest or admin; may be repeated.")] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(help="Quota; none when left out.", show_default=False)
    ] = None,
) -> None:
    """Make an API key: the key itself is shown once, the table goes into CLNET_API_KEYS_FILE."""
    import json

    from serving.auth import digest_of, keys_in_text
    from serving.auth import new_key as make

    key = make()
    entry: dict[str, object] = {"name": name, "sha256": digest_of(key), "scopes": scope or ["locate"]}
    if requests_per_minute is not None:
        entry["requests_per_minute"] = requests_per_minute
    keys_in_text(json.dumps([entry]), "the options")
    typer.echo(f"# give this to {name}, it is not shown again: {key}", err=True)
    typer.echo("[[keys]]")
    for field, value in entry.items():
        typer.echo(f"{field} = {json.dumps(value, ensure_ascii=False)}")  # as TOML writes it
