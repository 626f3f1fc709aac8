"""The node: event loop, broker use cases, long polls, leader duties, life cycle. The composition root."""
