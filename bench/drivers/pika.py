"""pika's SelectConnection (callbacks): pipelined persistent publishes with confirms, prefetch 256, and one
`multiple` ack every 64 messages. aio-pika costs the broker 3–4 times as much and is no fair baseline."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

import pika

from bench.drivers.common import Level, Result, body_of, made_at_s, options, report, wait_for_start

PREFETCH = 256
ACK_EVERY = 64
PERSISTENT = pika.BasicProperties(delivery_mode=2)


class Driver:
    """One connection with one channel."""

    def __init__(self, given: Namespace) -> None:
        self.given = given
        self.result = Result(given.role)
        self.level = Level(given.level) if given.level else None
        self.started = (0.0, 0.0)
        self.finished = False
        host, port = given.address.split(":")
        self.connection = pika.SelectConnection(
            pika.ConnectionParameters(host, int(port)),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self.opened),
            on_close_callback=lambda connection, _: connection.ioloop.stop(),
        )

    def opened(self, channel: Any) -> None:
        raise NotImplementedError

    @property
    def end_s(self) -> float:
        return self.started[0] + float(self.given.seconds)

    def finish(self) -> None:
        if not self.finished:
            self.finished = True
            report(self.result, self.started)
            self.connection.close()


class Publisher(Driver):
    def opened(self, channel: Any) -> None:
        self.channel = channel
        self.sent: dict[int, float] = {}  # delivery tag → when
        self.tag = self.lowest = 0
        channel.confirm_delivery(self.confirmed, callback=lambda _: None)
        self.started = wait_for_start()
        self.connection.ioloop.call_later(self.given.seconds + 0.01, self.pump)
        if self.given.rate:
            self.tick(0)
        else:
            self.pump()

    def send(self) -> None:
        self.tag += 1
        self.sent[self.tag] = time.monotonic()
        self.channel.basic_publish("", self.given.queue, body_of(self.given.size), PERSISTENT)
        if self.level is not None:
            self.level.published(1)

    def tick(self, number: int) -> None:
        if time.monotonic() < self.end_s:
            self.send()
            due_s = self.started[0] + (number + 1) / self.given.rate
            self.connection.ioloop.call_later(
                max(0.0, due_s - time.monotonic()), lambda: self.tick(number + 1)
            )

    def pump(self) -> None:
        over = self.given.count and self.tag >= self.given.count
        while len(self.sent) < self.given.window and time.monotonic() < self.end_s and not over:
            if self.given.rate:
                return
            if self.level is not None and self.level.under_way > self.given.ahead:
                self.connection.ioloop.call_later(0.001, self.pump)
                return
            self.send()
            over = self.given.count and self.tag >= self.given.count
        if (over or time.monotonic() >= self.end_s) and not self.sent:
            self.finish()

    def confirmed(self, frame: Any) -> None:
        now_s, method = time.monotonic(), frame.method
        if method.NAME != "Basic.Ack":
            raise RuntimeError(f"a publish was refused: {method.NAME}")
        tags = range(self.lowest + 1, method.delivery_tag + 1) if method.multiple else [method.delivery_tag]
        for tag in tags:
            if tag in self.sent:
                self.result.confirm_s.append(now_s - self.sent.pop(tag))
                self.result.messages += 1
        if method.multiple:
            self.lowest = method.delivery_tag
        self.pump()


class Consumer(Driver):
    def opened(self, channel: Any) -> None:
        channel.basic_qos(prefetch_count=PREFETCH, callback=lambda _: self.begin(channel))

    def begin(self, channel: Any) -> None:
        self.started = wait_for_start()
        channel.basic_consume(self.given.queue, self.take)
        self.connection.ioloop.call_later(self.given.seconds, self.over)

    def over(self) -> None:
        if not self.given.count:
            self.result.seconds = 0.0  # the whole time
        self.finish()

    def take(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        self.result.messages += 1
        self.result.seconds = time.monotonic() - self.started[0]
        if self.given.rate:
            self.result.delivered_s.append(time.monotonic() - made_at_s(body))
            channel.basic_ack(method.delivery_tag)
        elif self.result.messages % ACK_EVERY == 0 or self.result.messages == self.given.count:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if self.level is not None:
            self.level.consumed(1)
        if self.given.count and self.result.messages >= self.given.count:
            self.finish()


if __name__ == "__main__":
    given = options()
    (Publisher if given.role == "publish" else Consumer)(given).connection.ioloop.start()
