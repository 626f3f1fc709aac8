"""The brokers that are compared: each as three nodes on loopback, started and ended by the bench."""

from bench.brokers.nats import Nats, NatsC
from bench.brokers.port import Broker, Unavailable
from bench.brokers.rabbit import Rabbit
from bench.brokers.trivet import Trivet

BROKERS: dict[str, type[Broker]] = {
    "trivet": Trivet,
    "nats-always": Nats,
    "nats-always-c": NatsC,
    "rabbit": Rabbit,
}

__all__ = ["BROKERS", "Broker", "Unavailable"]
