"""What the clients of a drill do. Everything goes through `trivet.client`, and every call is recorded."""

from chaos.workloads.load import Load
from chaos.workloads.registry import WORKLOADS

__all__ = ["WORKLOADS", "Load"]
