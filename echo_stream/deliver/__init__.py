"""Who is told: payloads, the outbox, the MQTT connection."""
