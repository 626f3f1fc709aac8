"""`trivet openapi`."""

from __future__ import annotations

import json

import click


@click.command()
@click.option("--page", is_flag=True, help="The page of /docs (HTML) instead.")
def openapi(page: bool) -> None:
    """Print the description of the HTTP API (OpenAPI 3.1). No node is asked."""
    # The server's modules take a while to load; the other commands need none of them.
    from trivet.http import openapi as description
    from trivet.http import page as pages
    from trivet.http.routes import make_router

    document = description.document(make_router())
    click.echo(pages.docs(document) if page else json.dumps(document, ensure_ascii=False, indent=2))
