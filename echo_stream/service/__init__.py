"""How the service is kept: logs, systemd, health."""
