"""The HTTP API (api.md): routes, manners, schemas. Talks to `node.broker` and `machine.views` only."""
