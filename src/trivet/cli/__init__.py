"""The command line. The only importer of uvloop; nobody imports this package."""
