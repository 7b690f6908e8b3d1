"""Entry point of the `clnet` command: registers the commands and turns typed errors into one line."""

from __future__ import annotations

import sys

import typer

from cli.adapt import adapt
from cli.demo import demo
from cli.evaluate import evaluate
from cli.exchange import export, import_
from cli.explain import explain
from cli.generations import drop, rollback
from cli.ingest import ingest
from cli.jobs import jobs
from cli.locate import locate
from cli.new_key import new_key
from cli.regions import regions
from cli.relocalize import relocalize
from cli.serve import serve
from cli.simulate import simulate
from cli.train import train


def build_app() -> typer.Typer:
    """The command line, in the order an operator meets the commands."""
    app = typer.Typer(
        name="clnet",
        help="Tells where a street photo was taken, from a city's orthophoto.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for command in (
        demo, simulate, ingest, jobs, regions, rollback, drop, export, import_, serve, new_key, locate,
        relocalize, train, adapt, evaluate, explain,
    ):  # fmt: skip
        app.command(command.__name__.strip("_").replace("_", "-"))(command)
    return app


def main() -> None:
    """Run the command; a typed error of any room becomes `error: …` on stderr and exit status 1."""
    from cli.errors import expected_errors

    try:
        build_app()()
    except expected_errors() as error:
        message = " ".join(str(error).split())
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
