"""MQTT delivers payloads to the broker: outbox, connection, publisher, commands."""
