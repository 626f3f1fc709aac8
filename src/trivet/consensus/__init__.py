"""The replicated log: PySyncObj contained. The only importer of pysyncobj (design 4)."""
