"""Client processes of the bench, one module a client library; each is run as `python -m bench.drivers.NAME ROLE …`."""
