"""`trivet …`"""

from __future__ import annotations

import importlib.metadata

import click

from trivet.cli import (
    cluster,
    describing,
    dev,
    flows,
    messages,
    node,
    queues,
    recovering,
    runs,
    schedules,
    topics,
)
from trivet.cli.output import EXIT_HELP


@click.group(
    epilog=EXIT_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(importlib.metadata.version("trivet"), prog_name="trivet")
def main() -> None:
    """A durable, leased work queue that three or five plain machines run together.

    Try it: `trivet dev` in one terminal, `trivet enqueue mail hello` in another."""


for _command in (
    node.init,
    node.serve,
    dev.dev,
    queues.queue,
    messages.enqueue,
    messages.lease,
    messages.ack,
    messages.nack,
    messages.extend,
    messages.release,
    messages.message,
    runs.run,
    queues.dead,
    topics.topic,
    flows.flow,
    schedules.schedule,
    cluster.cluster,
    cluster.health,
    describing.openapi,
    recovering.recover,
):
    main.add_command(_command)
